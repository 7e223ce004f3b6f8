"""Files and folders that appear whole or not at all, and one message if they cannot be written.

Everything is written to a draft in the same folder, flushed to the disk, and renamed. The process that writes a
draft locks it, so the next command that writes into the folder recognises the draft of a killed process
and removes it.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from featcircuits.errors import InputError, first_line, shortened
from featcircuits.files.locks import lock

_DRAFT = re.compile(r"\.featcircuits-[0-9a-f]{8}\.draft|\.featcircuits\.lock")
_READY = re.compile(r"\.featcircuits-[0-9a-f]{8}\.ready")
_TRIAL = bytes(4096)
"""Bytes written to test an output, since a full disk often still accepts an empty file."""

_REASONS = {
    errno.EACCES: "you may not write there; choose another place, or ask for permission",
    errno.EPERM: "you may not write there; choose another place, or ask for permission",
    errno.EROFS: "the file system is read-only; choose another place",
    errno.ENOSPC: "the disk is full; free some space, or choose a place on another disk",
    errno.EDQUOT: "your quota of disk space is used up; free some space, or choose a place on another disk",
    errno.EFBIG: "the file would be larger than the system allows; raise the limit (ulimit -f), or choose another disk",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
    errno.ENOTDIR: "a part of its path is a file, not a folder; choose another place",
    errno.EISDIR: "a folder of that name is in the way; choose another name",
    errno.EEXIST: "something of that name is in the way; choose another name, or remove it first",
    errno.ENOTEMPTY: "a folder of that name exists and is not empty; choose another name, or remove it first",
    errno.ENOENT: "the folder does not exist; make it first",
    errno.ELOOP: "its path goes through links that lead in a circle; choose another place",
    errno.EXDEV: "it would be on another file system than its own folder; choose another place",
    errno.EBUSY: "it is in use by the system; choose another name",
    errno.EIO: "the disk reports an error; check it, or choose a place on another disk",
    errno.EMFILE: "too many files are open; raise the limit (ulimit -n)",
}


@contextmanager
def write_errors(path: str | Path) -> Iterator[None]:
    """Turn errors of the operating system into one `InputError` that names `path` and a remedy."""
    try:
        yield
    except OSError as error:
        reason = _REASONS.get(error.errno or 0, error.strerror or first_line(error))
        raise InputError(f"{_shown(path)} cannot be written: {reason}") from None


def write_whole(path: str | Path, content: bytes, *, overwrite: bool = True) -> None:
    """Write a file so that no reader ever sees a part of it; raises `InputError` if it cannot be written."""
    with whole_file(path, overwrite=overwrite) as draft:
        draft.write_bytes(content)


def write_json(path: str | Path, value: Any, *, overwrite: bool = True) -> None:
    """Write indented JSON, whole or not at all."""
    write_whole(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode(), overwrite=overwrite)


@contextmanager
def whole_file(path: str | Path, *, overwrite: bool = True) -> Iterator[Path]:
    """A draft to write; it becomes `path` if the block succeeds, and is removed if not.

    Without `overwrite` an existing file is refused, even one that appeared in the meantime.
    """
    target = usable(path)
    check_replaceable(target, overwrite)
    with write_errors(path):
        clean(target.parent)
        with _draft(target.parent) as draft:
            yield draft
            sync(draft)
            _into_place(draft, target, overwrite)
            sync(target.parent)


@contextmanager
def whole_folder(folder: str | Path) -> Iterator[Path]:
    """A folder to fill; it becomes `folder` if the block succeeds, and is removed if not.

    Folders above it are made. An empty folder is replaced, but never one that is not empty.
    """
    target = usable(folder)
    with write_errors(folder):
        make_folder(target.parent)
        clean(target.parent)
        with _draft_folder(target.parent) as draft:
            yield draft
            sync_tree(draft)
            os.rename(draft, target)
            sync(target.parent)


@contextmanager
def together(folder: str | Path, instead_of: Collection[str] = ()) -> Iterator[Path]:
    """A folder for files that are then moved into `folder`, either all of them or none.

    Once they are complete, a rename marks them as valid. If the process is killed while it
    moves them, `recover` moves the others. `instead_of` names files of an earlier set: the move removes those that
    the new set lacks.
    """
    target = usable(folder)
    with write_errors(folder):
        recover(target)
        with _draft_folder(target) as draft:
            yield draft
            for name in instead_of:
                if not (draft / name).exists():
                    (draft / name).mkdir()  # an empty folder marks a file to remove
            sync_tree(draft)
            ready = draft.with_suffix(".ready")
            os.rename(draft, ready)
            sync(target)
            _move_out(ready)


def recover(folder: Path) -> None:
    """Finish moves into `folder` that a killed process began, and remove what it left half-written."""
    with write_errors(folder):
        for path in _own(folder, _READY):
            _move_out(path)
        clean(folder)


def clean(folder: Path) -> None:
    """Remove drafts whose process is gone; drafts stay if that cannot be told."""
    for path in _own(folder, _DRAFT):
        with suppress(OSError), _opened(path) as handle:
            if lock(handle):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def check_writable(path: str | Path) -> None:
    """Test an output before long work: make a file beside it, write to it and remove it.

    Missing folders above it are made for the test, and removed again.
    """
    target = usable(path)
    with write_errors(path):
        if target.is_dir() and os.path.ismount(target):  # this also tells whether the name is too long
            raise InputError(f"{_shown(path)} is where a file system is mounted; choose a folder inside it")
        missing = [folder for folder in target.parents if not folder.exists()]
        try:
            make_folder(target.parent)
            clean(target.parent)
            with _draft(target.parent) as draft:
                draft.write_bytes(_TRIAL)
                sync(draft)
        finally:
            for folder in missing:
                with suppress(OSError):
                    folder.rmdir()


def make_folder(folder: Path) -> None:
    """Make a folder and those above it; a message says if a file is in the way."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), error.filename) from None


def check_space(folder: Path, needed: float, what: str, less: str = "free some space") -> None:
    """Raise `InputError` if `needed` bytes do not fit on the disk; `what` begins the message, `less` is a remedy."""
    while not folder.exists():
        folder = folder.parent
    usage = shutil.disk_usage(folder)
    if usage.total and needed > usage.free:
        raise InputError(
            f"{what} take about {_size(needed)}, and the disk of {folder} has {_size(usage.free)} free; "
            f"{less}, or choose a place on another disk"
        )


def check_replaceable(path: Path, overwrite: bool) -> None:
    """Raise `InputError` for a path that is not a plain file, or that exists unless it may be replaced."""
    with write_errors(path):
        if path.exists() and not path.is_file():
            raise InputError(f"{_shown(path)} exists and is not a plain file; choose another name")
        if path.exists() and not overwrite:
            raise InputError(f"{_shown(path)} exists; choose another name or pass overwrite=True (--overwrite)")
        if not path.parent.is_dir():
            raise InputError(f"{_shown(path)}: the folder {_shown(path.parent)} does not exist; make it first")


def usable(path: str | Path) -> Path:
    """The full path of a name, with links followed; raises `InputError` for a text that cannot be a file's name."""
    try:
        if "\0" in os.fspath(path):
            raise ValueError
        os.fsencode(path)
        return Path(os.path.realpath(path))
    except (ValueError, TypeError):
        raise InputError(f"{shortened(path)} is not a valid name for a file; choose another") from None


def sync(path: Path) -> None:
    """Flush a file's content, or a folder's names, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (
            errno.EINVAL,
            errno.EBADF,
            errno.ENOTSUP,
        ):  # such as some folders
            raise
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """Flush every file and folder below, and the folder itself."""
    for path in sorted(folder.iterdir()):
        sync_tree(path) if path.is_dir() else sync(path)
    sync(folder)


def _into_place(draft: Path, target: Path, overwrite: bool) -> None:
    if overwrite:
        os.replace(draft, target)
        return
    try:
        os.link(draft, target)  # unlike a rename, this fails if another process was faster
    except FileExistsError:
        check_replaceable(target, overwrite)
        raise
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV):
            raise
        check_replaceable(target, overwrite)  # a file system without hard links
        os.replace(draft, target)
    else:
        draft.unlink()


def _move_out(ready: Path) -> None:
    """Move every file into the folder above; another process may be doing the same."""
    for path in sorted(ready.iterdir()):
        with suppress(FileNotFoundError):
            if path.is_dir():
                (ready.parent / path.name).unlink(missing_ok=True)
                path.rmdir()
            else:
                os.replace(path, ready.parent / path.name)
    sync(ready.parent)
    with suppress(FileNotFoundError):
        ready.rmdir()


def _own(folder: Path, pattern: re.Pattern[str]) -> list[Path]:
    try:
        entries = (entry for entry in os.scandir(folder) if pattern.fullmatch(entry.name) and not entry.is_symlink())
        return sorted(Path(entry.path) for entry in entries)
    except OSError:
        return []


@contextmanager
def _draft(folder: Path) -> Iterator[Path]:
    """A new empty file, locked until the block ends and then removed if it still exists."""
    path, handle = _new(folder, lambda path: os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666))
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


@contextmanager
def _draft_folder(folder: Path) -> Iterator[Path]:
    """The same for a folder."""

    def made(path: Path) -> int:
        path.mkdir()
        return os.open(path, os.O_RDONLY)

    path, handle = _new(folder, made)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(handle)


def _new(folder: Path, make: Any) -> tuple[Path, int]:
    """A draft and its locked handle; it is made again if another process removed it before it was locked."""
    while True:
        path = folder / f".featcircuits-{secrets.token_hex(4)}.draft"
        with suppress(FileExistsError):
            try:
                handle = make(path)
            except FileNotFoundError:
                if not folder.is_dir():
                    raise
                continue
            if lock(handle) is not False and path.exists():
                return path, handle
            os.close(handle)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    handle = os.open(path, os.O_RDONLY)
    try:
        yield handle
    finally:
        os.close(handle)


def _shown(path: str | Path) -> str:
    return shortened(Path(path), 300)


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
