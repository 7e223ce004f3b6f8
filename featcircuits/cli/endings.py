"""The end of a command that is stopped by an error: one line, never a traceback."""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

from typer.core import TyperGroup

from featcircuits.cli.output import printable
from featcircuits.errors import InputError, first_line

_MEMORY = re.compile(r"out of memory|can(no|')t allocate memory", re.IGNORECASE)
"""How torch says that there is no memory left; it does not have its own error for this on every device."""


class Commands(TyperGroup):
    """The group of commands, whose errors end in one line."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command, with errors and warnings as one line each."""
        with one_line():
            return super().invoke(ctx)


@contextmanager
def one_line() -> Iterator[None]:
    """End the program with a message for errors that a user can fix; others are faults and keep their traceback."""
    with warnings.catch_warnings():
        warnings.showwarning = _warned
        try:
            yield
            sys.stdout.flush()
        except InputError as error:
            _end(str(error))
        except KeyboardInterrupt:
            _end("interrupted", 130)
        except BrokenPipeError:  # nothing reads the output any more
            _discard_output()
            raise SystemExit(1) from None
        except OSError as error:
            _discard_output()
            _end(f"{error.filename or 'the output'}: {error.strerror or first_line(error)}")
        except (MemoryError, RuntimeError) as error:
            if not isinstance(error, MemoryError) and not _MEMORY.search(str(error)):
                raise
            _end(
                f"out of memory ({first_line(error)}); give a smaller --batch-size, fewer --sites, "
                "or another --device; finished batches of the old size cannot be used then"
            )


def _end(message: str, code: int = 2) -> NoReturn:
    sys.stderr.write(f"Error: {printable(message)}\n")
    raise SystemExit(code) from None


def _discard_output() -> None:
    """Discard output that could not be printed, so that it does not fail again when Python ends."""
    try:
        sys.stdout.flush()
    except OSError:
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _warned(message: Warning | str, *where: object, **options: object) -> None:
    """Print a warning as one line, without the place in the code that it comes from."""
    sys.stderr.write(f"Warning: {printable(' '.join(str(message).split()))}\n")
