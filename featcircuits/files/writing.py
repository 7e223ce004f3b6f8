"""Files and folders that appear whole or not at all, and one message where they cannot be written.

Everything is written to a draft in the same folder, brought to the disk, and renamed. A draft is locked
by the process that writes it, so the draft of a killed process is recognised, and removed by the next
command that writes into the folder.
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
"""Written where an output is tried: a full disk often still takes an empty file."""

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
    errno.EXDEV: "it would lie on another file system than its own folder; choose another place",
    errno.EBUSY: "it is in use by the system; choose another name",
    errno.EIO: "the disk reports an error; check it, or choose a place on another disk",
    errno.EMFILE: "too many files are open; raise the limit (ulimit -n)",
}


@contextmanager
def write_errors(path: str | Path) -> Iterator[None]:
    """Errors of the operating system become one `InputError` that names `path` and a remedy."""
    try:
        yield
    except OSError as error:
        reason = _REASONS.get(error.errno or 0, error.strerror or first_line(error))
        raise InputError(f"{_shown(path)} cannot be written: {reason}") from None


def write_whole(path: str | Path, content: bytes, *, overwrite: bool = True) -> None:
    """Write a file so that no reader ever sees a part of it; raises `InputError` where it cannot be."""
    with whole_file(path, overwrite=overwrite) as draft:
        draft.write_bytes(content)


def write_json(path: str | Path, value: Any, *, overwrite: bool = True) -> None:
    """Indented JSON, whole or not at all."""
    write_whole(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode(), overwrite=overwrite)


@contextmanager
def whole_file(path: str | Path, *, overwrite: bool = True) -> Iterator[Path]:
    """A draft to write that becomes `path` if all goes well, and vanishes if not.

    Without `overwrite` a file that exists is refused, even one that appeared in the meantime.
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
    """A folder to fill that becomes `folder` if all goes well, and vanishes if not.

    Folders above it are made. An empty folder is replaced, one that holds something never.
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
    """A folder for files that all get into `folder`, or none of them.

    Once they are complete, a rename decides that they count. If the process is killed while they
    are moved, `recover` moves the others. `instead_of` names files of an earlier set: those that
    the new one lacks are removed with the move.
    """
    target = usable(folder)
    with write_errors(folder):
        recover(target)
        with _draft_folder(target) as draft:
            yield draft
            for name in instead_of:
                if not (draft / name).exists():
                    (draft / name).mkdir()  # an empty folder stands for a file to remove
            sync_tree(draft)
            ready = draft.with_suffix(".ready")
            os.rename(draft, ready)
            sync(target)
            _move_out(ready)


def recover(folder: Path) -> None:
    """Finish what a killed process had ready for `folder`, and remove what it left half-written."""
    with write_errors(folder):
        for path in _own(folder, _READY):
            _move_out(path)
        clean(folder)


def clean(folder: Path) -> None:
    """Remove drafts whose process is gone; those that cannot be told from living ones stay."""
    for path in _own(folder, _DRAFT):
        with suppress(OSError), _opened(path) as handle:
            if lock(handle):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def check_writable(path: str | Path) -> None:
    """Try an output before long work: a file is made beside it, written to and removed.

    Folders that are missing above it are made for the trial, and removed again.
    """
    target = usable(path)
    with write_errors(path):
        if target.is_dir() and os.path.ismount(target):  # the question also tells whether the name is too long
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
    """With those above it; a file that is in the way is called that."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), error.filename) from None


def check_space(folder: Path, needed: float, what: str, less: str = "free some space") -> None:
    """Refuse what takes more bytes than the disk has free; `what` begins the sentence, `less` is a remedy."""
    while not folder.exists():
        folder = folder.parent
    usage = shutil.disk_usage(folder)
    if usage.total and needed > usage.free:
        raise InputError(
            f"{what} take about {_size(needed)}, and the disk of {folder} has {_size(usage.free)} free; "
            f"{less}, or choose a place on another disk"
        )


def check_replaceable(path: Path, overwrite: bool) -> None:
    """Refuse a path that is no plain file, and one that exists unless it may be replaced."""
    with write_errors(path):
        if path.exists() and not path.is_file():
            raise InputError(f"{_shown(path)} exists and is not a plain file; choose another name")
        if path.exists() and not overwrite:
            raise InputError(f"{_shown(path)} exists; choose another name or pass overwrite=True (--overwrite)")
        if not path.parent.is_dir():
            raise InputError(f"{_shown(path)}: the folder {_shown(path.parent)} does not exist; make it first")


def usable(path: str | Path) -> Path:
    """The full path that a name stands for, links followed; raises `InputError` for what no file can be called."""
    try:
        if "\0" in os.fspath(path):
            raise ValueError
        os.fsencode(path)
        return Path(os.path.realpath(path))
    except (ValueError, TypeError):
        raise InputError(f"{shortened(path)} is no name for a file; choose another") from None


def sync(path: Path) -> None:
    """Bring a file's content, or a folder's names, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP):  # what cannot be synced, such as some folders
            raise
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """Every file and folder below, and the folder itself."""
    for path in sorted(folder.iterdir()):
        sync_tree(path) if path.is_dir() else sync(path)
    sync(folder)


def _into_place(draft: Path, target: Path, overwrite: bool) -> None:
    if overwrite:
        os.replace(draft, target)
        return
    try:
        os.link(draft, target)  # unlike a rename, fails where another process was quicker
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
    """Every file into the folder above; another process may be doing the same."""
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
    """A new empty file, locked until the block ends, and removed if it is still there then."""
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
    """A draft and its locked handle; one that another process took for abandoned before it was locked is made anew."""
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
