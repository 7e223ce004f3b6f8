"""Command-line options from a settings dataclass: one source for defaults, help and record."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import typer

from featcircuits.cli.config import Config
from featcircuits.errors import InputError
from featcircuits.inputs.ranges import read_number
from featcircuits.inputs.renamed import RENAMED, told


def with_settings(settings: type[Config]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command one option per field of `settings`, and `--config` for a file of them.

    The command itself takes `config`, the settings from three sources: first the command line,
    then the file, then the defaults.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        def run(config: Path | None = None, **values: Any) -> None:
            for word, message in old.items():
                if values.pop(word) is not None:
                    raise InputError(message)
            given = {name: _read(name, values.pop(name), hints[name]) for name in names if values[name] is not None}
            values = {name: value for name, value in values.items() if name not in names}
            chosen = settings(**given) if config is None else settings.read(config, given)
            command(config=chosen, **values)

        own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "config"]
        names = [field.name for field in fields(settings)]  # type: ignore[arg-type]
        hints = get_type_hints(settings)
        old = {word: message for word in RENAMED if (message := told(word, names)) is not None}
        parameters = [*own, _config_parameter(), *_parameters(settings), *map(_hidden, old)]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        run.__name__, run.__doc__ = command.__name__, command.__doc__
        return run

    return decorate


def _config_parameter() -> inspect.Parameter:
    help = "JSON file of settings (a run's config.json repeats it); options given here override it."
    return _keyword("config", Annotated[Path | None, typer.Option(help=help)])


def _parameters(settings: type[Config]) -> list[inspect.Parameter]:
    hints = get_type_hints(settings)
    return [
        _keyword(
            field.name,
            Annotated[
                (str if _number(hints[field.name]) else hints[field.name]) | None,  # None stands for "not given"
                typer.Option(
                    help=field.metadata["help"],
                    show_default=_shown(field.default),
                    rich_help_panel="Settings",
                    metavar=_METAVARS.get(_number(hints[field.name])),
                ),
            ],
        )
        for field in fields(settings)  # type: ignore[arg-type]
    ]


def _hidden(word: str) -> inspect.Parameter:
    """A hidden option of earlier versions, which only names the one that replaced it."""
    return _keyword(word, Annotated[str | None, typer.Option(hidden=True)])


_METAVARS = {int: "INTEGER", float: "FLOAT"}


def _read(name: str, value: Any, hint: Any) -> Any:
    """The value of an option; a number must be plain digits, while typer accepts underscores, blanks and more."""
    kind = _number(hint)
    return value if kind is None else read_number(name, value, kind)


def _number(hint: Any) -> type | None:
    """The type of a setting that is a number; None for other settings."""
    return next((kind for kind in (int, float) if kind in (hint, *get_args(hint))), None)


def _shown(default: Any) -> str | bool:
    return False if default in (None, "") else str(default)


def _keyword(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
