"""Whatever is written appears whole or not at all, and what prevents it is said in one line."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from featcircuits.circuit.circuit import Circuit, NodeScore
from featcircuits.cli.config import EvaluateConfig
from featcircuits.errors import InputError
from featcircuits.export import EXPORTERS
from featcircuits.files import writing
from featcircuits.files.locks import claimed, differences, held
from featcircuits.model.nodes import Node

ONE = Circuit({Node.parse("resid_0/1"): NodeScore(1.0)}, {}, (None,), "sum")

WRITERS: dict[str, Callable[[Path], None]] = {
    "bytes": lambda path: writing.write_whole(path, b"new"),
    "json": lambda path: writing.write_json(path, {"a": 1}),
    "circuit": lambda path: ONE.save(path, overwrite=True),
    "config": lambda path: EvaluateConfig().write(path),
    **{
        name: (lambda path, write=exporter.write: write(ONE, path, overwrite=True))
        for name, exporter in EXPORTERS.items()
        if not exporter.folder
    },
}
SUFFIXES = {name: exporter.suffix for name, exporter in EXPORTERS.items()}
"""Of writers whose format follows from the suffix, among others."""

REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "quota of disk space is used up",
    errno.EFBIG: "larger than the system allows",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "you may not write there",
    errno.EIO: "the disk reports an error",
    errno.EMFILE: "too many files are open",
    errno.ESTALE: os.strerror(errno.ESTALE),
}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


def failing(code: int) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("call", ["fsync", "open", "replace"])
def test_a_file_that_cannot_be_written_leaves_the_old_one_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: str, call: str
) -> None:
    path = tmp_path / f"file{SUFFIXES.get(writer, '')}"
    path.write_bytes(b"old")
    monkeypatch.setattr(f"os.{call}", failing(errno.ENOSPC))
    with pytest.raises(InputError, match=rf"{path.name} cannot be written: the disk is full; free some space"):
        WRITERS[writer](path)
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == [path.name]


@pytest.mark.parametrize("code", REASONS)
def test_each_error_of_the_system_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    for number, write in enumerate(
        (
            lambda: writing.write_whole(tmp_path / "file", b"new"),
            lambda: filled(writing.whole_folder(tmp_path / "folder"), "a"),
            lambda: filled(writing.together(tmp_path), "a"),
            lambda: writing.check_writable(tmp_path / "new" / "file"),
        )
    ):
        monkeypatch.setattr("os.fsync", failing(code))
        with pytest.raises(InputError) as caught:
            write()
        monkeypatch.undo()
        assert REASONS[code] in str(caught.value), number
        assert str(tmp_path) in str(caught.value)
        assert "\n" not in str(caught.value)
        assert names(tmp_path) == []


def filled(context: Any, *files: str) -> None:
    with context as draft:
        for name in files:
            (draft / name).write_text(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("n" * 300, "the name is too long"),
        ("a-file/out", "a part of its path is a file"),
        ("a-file/deeper/out", "a part of its path is a file"),
        ("circle/out", "cannot be written: "),
        ("nul\0", "not a valid name for a file"),
        ("surrogate\ud800", "not a valid name for a file"),
    ],
)
def test_names_that_no_output_can_have_are_refused_before_work(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "a-file").write_text("")
    (tmp_path / "circle").symlink_to("circle")
    before = names(tmp_path)
    for tried in (writing.check_writable, WRITERS["bytes"], lambda path: filled(writing.whole_folder(path), "a")):
        with pytest.raises(InputError, match=message if tried is writing.check_writable else None):
            tried(tmp_path / name)
        assert names(tmp_path) == before


def test_a_trial_of_an_output_leaves_nothing(tmp_path: Path) -> None:
    writing.check_writable(tmp_path / "new" / "newer" / "out")
    assert names(tmp_path) == []
    (tmp_path / "out").mkdir()
    writing.check_writable(tmp_path / "out")
    assert names(tmp_path) == ["out"]


def test_the_root_of_a_file_system_cannot_be_replaced() -> None:
    with pytest.raises(InputError, match=r"/proc is where a file system is mounted; choose a folder inside it"):
        writing.check_writable("/proc")


@pytest.mark.parametrize("target", ["/dev/null", "/dev/full", "."])
def test_what_is_no_plain_file_is_never_replaced(tmp_path: Path, target: str) -> None:
    for number, (name, write) in enumerate(WRITERS.items()):
        link = tmp_path / f"{number}{SUFFIXES.get(name, '')}"
        link.symlink_to(target)
        for path in (link, *([Path(target)] if name not in SUFFIXES else [])):
            with pytest.raises(InputError, match="is not a plain file"):
                write(path)
        assert link.is_symlink()
    assert Path(target).exists()


def test_a_link_to_a_file_stays_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to("file")
    writing.write_whole(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "new"


def test_a_file_that_appeared_meanwhile_is_not_replaced_unasked(tmp_path: Path) -> None:
    path = tmp_path / "file"
    writer = writing.whole_file(path, overwrite=False)
    writer.__enter__().write_text("mine")
    path.write_text("theirs")
    with pytest.raises(InputError, match="exists; choose another name"):
        writer.__exit__(None, None, None)
    assert path.read_text() == "theirs"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOTSUP])
def test_a_file_system_without_hard_links_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    monkeypatch.setattr("os.link", failing(code))
    writing.write_whole(tmp_path / "file", b"new", overwrite=False)
    assert names(tmp_path) == ["file"]
    with pytest.raises(InputError, match="exists"):
        writing.write_whole(tmp_path / "file", b"newer", overwrite=False)


def test_a_file_system_without_locks_or_syncing_of_folders_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fcntl.flock", failing(errno.ENOLCK))
    monkeypatch.setattr("os.fsync", failing(errno.EINVAL))
    writing.write_whole(tmp_path / "file", b"new")
    filled(writing.whole_folder(tmp_path / "folder"), "a")
    with claimed(tmp_path / "lock", tmp_path, {}), claimed(tmp_path / "lock", tmp_path, {}):
        pass
    (tmp_path / ".featcircuits-00000000.draft").write_text("whose?")
    writing.clean(tmp_path)
    assert names(tmp_path) == [".featcircuits-00000000.draft", "a", "file", "folder"]


def fails_after_a_file(folder: Path) -> None:
    with writing.together(folder) as draft:
        (draft / "more").write_text("")
        raise KeyError


def test_several_files_together_replace_an_earlier_set(tmp_path: Path) -> None:
    filled(writing.together(tmp_path), "report", "picture", "other")
    filled(writing.together(tmp_path, instead_of=("report", "picture", "settings")), "report", "settings")
    assert names(tmp_path) == ["other", "report", "settings"]
    with pytest.raises(KeyError):
        fails_after_a_file(tmp_path)
    assert names(tmp_path) == ["other", "report", "settings"]


def test_what_was_ready_when_the_process_was_killed_is_moved_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(writing.together(tmp_path), "report", "picture")
    replace = os.replace

    def killed_at_the_second(source: Path, target: Path) -> None:
        if source.name == "settings":
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr("os.replace", killed_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        filled(writing.together(tmp_path, instead_of=("report", "picture")), "report", "settings")
    monkeypatch.undo()
    assert len([name for name in names(tmp_path) if name.endswith(".ready")]) == 1
    writing.recover(tmp_path)
    assert names(tmp_path) == ["report", "settings"]


def killed_while(folder: Path, what: str) -> None:
    """Another process that is killed inside one of the contexts of `writing`."""
    code = (
        "import os, signal, sys; from pathlib import Path; from featcircuits.files import writing\n"
        f"folder = Path(sys.argv[1])\nwith writing.{what} as draft:\n"
        "    (draft / 'a' if draft.is_dir() else draft).write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], timeout=60, check=False)
    assert done.returncode == -9


@pytest.mark.parametrize("what", ["whole_file(folder / 'x')", "whole_folder(folder / 'x')", "together(folder)"])
def test_drafts_of_killed_processes_are_removed_by_the_next_and_living_ones_stay(tmp_path: Path, what: str) -> None:
    killed_while(tmp_path, what)
    assert [name for name in names(tmp_path) if name != "a"][0].endswith(".draft")
    with writing.whole_file(tmp_path / "living") as draft:
        writing.write_whole(tmp_path / "other", b"")
        draft.write_text("whole")
    assert names(tmp_path) == ["living", "other"]


def test_a_claim_names_its_owner_and_what_differs(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with claimed(lock, tmp_path / "R", {"nodes": "atp", "limit": 4}):
        assert held(lock)
        with (
            pytest.raises(InputError) as caught,
            claimed(lock, tmp_path / "R", {"nodes": "ig:steps=1", "limit": 4}),
        ):
            pass
    message = str(caught.value)
    assert f"process {os.getpid()} on " in message
    assert "with other settings (nodes is 'atp' there and 'ig:steps=1' here)" in message
    assert "wait until it ends, or choose another output" in message
    assert not held(lock)
    assert names(tmp_path) == []


def test_a_claim_ends_with_its_process(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from featcircuits.files.locks import claimed\n"
        "with claimed(Path(sys.argv[1]), Path('R'), {}):\n    os._exit(3)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, tmp_path / "lock"], timeout=60, check=False).returncode == 3
    assert json.loads((tmp_path / "lock").read_text())["pid"] != os.getpid()
    with claimed(tmp_path / "lock", tmp_path, {}):
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_links_in_a_foreign_folder_lead_nowhere(tmp_path: Path, link: Callable[[Path, Path], None]) -> None:
    """A run folder from somebody else must not have the user's own files written or moved."""
    mine, run = tmp_path / "mine", tmp_path / "run"
    mine.mkdir()
    run.mkdir()
    (mine / "file").write_text("mine")
    (run / ".featcircuits-00000000.ready").symlink_to(mine)
    (run / ".featcircuits-00000001.draft").symlink_to(mine)
    link(mine / "file", run / "lock")
    writing.recover(run)
    with pytest.raises((InputError, OSError)), claimed(run / "lock", run, {}):
        pass
    assert (mine / "file").read_text() == "mine"


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff", b"[" * 100_000, b'{"pid": "' + b"9" * 10_000 + b'"}'])
def test_a_damaged_record_of_the_owner_does_not_matter(tmp_path: Path, content: bytes) -> None:
    with claimed(tmp_path / "lock", tmp_path / "R", {}):
        (tmp_path / "lock").write_bytes(content)
        with pytest.raises(InputError, match="is writing .*R; wait until it ends") as caught:
            claimed(tmp_path / "lock", tmp_path / "R", {}).__enter__()
        assert len(str(caught.value)) < 500


def test_differences_are_named_in_words_and_cut_short() -> None:
    first = {"a": {"x": 1, "y": (1, 2)}, "b": None, "same": 0}
    second = {"a": {"x": 2, "y": [1, 2]}, "b": "x" * 100, "same": 0}
    assert differences(first, second, "there", "here").startswith(
        "a.x is 1 there and 2 here; b is not given there and 'xx"
    )
    assert len(differences(first, second, "there", "here")) < 110
    assert differences(first, {}, "there", "here", most=1) == "a.x is 1 there and not given here; 2 more"
    assert differences(first, first, "there", "here") == ""


def test_space_is_compared_with_what_is_needed(tmp_path: Path) -> None:
    writing.check_space(tmp_path / "not" / "there", 1000, "the parts")
    with pytest.raises(InputError, match=r"^the parts take about 1000000000.0 GB, and the disk of .* GB free"):
        writing.check_space(tmp_path / "not" / "there", 1e18, "the parts")
