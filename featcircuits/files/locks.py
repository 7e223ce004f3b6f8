"""Locks that tell which process owns an output, and that end with the process that holds them."""

from __future__ import annotations

import errno
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from featcircuits.errors import InputError, shortened
from featcircuits.files.reading import parse_json

_UNLOCKABLE = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EINVAL}
"""The errors of file systems without locks."""
_NO_LINKS = getattr(os, "O_NOFOLLOW", 0)
"""Never open a lock file through a link: in a foreign folder it could lead to one of the user's files."""


def lock(handle: int) -> bool | None:
    """Lock an open file or folder for this process; False if another holds it, None if there are no locks."""
    try:
        import fcntl
    except ImportError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _UNLOCKABLE:
            return None
        raise
    return True


@contextmanager
def claimed(path: Path, output: Path, settings: Mapping[str, Any]) -> Iterator[None]:
    """Hold the lock file `path` for the block, with this process and its `settings` in it.

    Raises `InputError` if another process holds it: the message names that process, the `output` that it is
    writing, and the settings that differ. The folder of the lock file is made. On a file system
    without locks this holds nothing.
    """
    handle = _taken(path, output, settings)
    try:
        owner = {"pid": os.getpid(), "host": socket.gethostname(), "started": _now(), "settings": dict(settings)}
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(owner).encode(), 0)
        yield
    finally:
        with suppress(OSError):  # the folder may be gone
            if _is(handle, path):
                path.unlink()
        os.close(handle)


def held(path: Path) -> bool:
    """Whether a living process holds the lock file."""
    try:
        handle = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        return lock(handle) is False
    finally:
        os.close(handle)


def _taken(path: Path, output: Path, settings: Mapping[str, Any]) -> int:
    """The locked handle of the lock file; another process may remove the file between opening and locking."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | _NO_LINKS, 0o666)
        except FileNotFoundError:
            continue
        try:
            if lock(handle) is False:
                raise InputError(_refusal(_owner(handle), output, settings))
            if os.fstat(handle).st_nlink > 1:
                raise InputError(f"{path} is a link to another file; remove it first")
            if _is(handle, path):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _is(handle: int, path: Path) -> bool:
    """Whether the open file is still the file at that path."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def _owner(handle: int) -> Mapping[str, Any]:
    """What the holder wrote about itself; empty if it has not written yet."""
    for _ in range(20):
        with suppress(InputError, UnicodeDecodeError):
            found = parse_json(os.pread(handle, 1 << 20, 0).decode(), "the lock")
            if isinstance(found, dict):
                return found
        time.sleep(0.02)
    return {}


def _refusal(owner: Mapping[str, Any], output: Path, settings: Mapping[str, Any]) -> str:
    who = "another process"
    if owner:
        pid, host, started = (shortened(owner.get(name)).strip("'") for name in ("pid", "host", "started"))
        who = f"process {pid} on {host}, started {started},"
    theirs = owner.get("settings")
    other = differences(theirs, settings, "there", "here") if isinstance(theirs, dict) else ""
    with_other = f" with other settings ({other})" if other else ""
    return f"{who} is writing {output}{with_other}; wait until it ends, or choose another output"


def differences(theirs: Mapping[str, Any], ours: Mapping[str, Any], there: str, here: str, most: int = 4) -> str:
    """The entries in which two nested records differ, as text: "nodes is 'atp' there and 'ig' here"; "" for none."""
    first, second = _flat(theirs), _flat(ours)
    names = [name for name in {**first, **second} if first.get(name) != second.get(name)]
    shown = [
        f"{name} is {_short(first.get(name))} {there} and {_short(second.get(name))} {here}" for name in names[:most]
    ]
    more = [f"{len(names) - most} more"] if len(names) > most else []
    return "; ".join(shown + more)


def _flat(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, Mapping):
            found.update(_flat(value, f"{prefix}{name}."))
        else:
            found[f"{prefix}{name}"] = list(value) if isinstance(value, tuple) else value
    return found


def _short(value: Any) -> str:
    return "not given" if value is None else shortened(value, 40)


def _now() -> str:
    return datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
