"""The commands of `featcircuits labels`, after their options are read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from featcircuits.cli.output import console, say
from featcircuits.cli.watch import watching
from featcircuits.errors import InputError
from featcircuits.files.writing import check_replaceable
from featcircuits.inputs.names import check_name
from featcircuits.labels import Label, command, default_labels, export_labels, import_labels, made, read, write


def make_labels(source: Path, output: Path, line: str | None, name: str, add: bool) -> None:
    """Make a label for each feature that has a dossier."""
    from featcircuits.dossiers.dossiers import Dossiers

    check_name(name, "the source of the labels (name)")
    earlier, dossiers = _earlier(output, add), Dossiers.open(source)
    if line is None:
        _finish([*earlier, *default_labels(dossiers.labels)], output, add, len(dossiers))
        return
    labeller = command(line)
    have = {label.name for label in earlier if label.source == name}
    missing = [feature for feature in dossiers if feature not in have]
    found: list[Label] = []
    try:
        with watching(console) as progress:
            _collect(made((dossiers[one] for one in progress(missing, "labels", len(missing))), labeller, name), found)
    except (InputError, KeyboardInterrupt) as error:
        if not found:
            raise
        write([*earlier, *found], output, overwrite=add)
        reason = str(error) if isinstance(error, InputError) else "interrupted"
        raise InputError(f"{reason} ({len(found)} labels are in {output}; --add resumes from them)") from None
    _finish([*earlier, *found], output, add, len(found))


def _collect(labels: Iterator[Label], found: list[Label]) -> None:
    """Collect labels one by one, so that those made before an error are kept."""
    for label in labels:
        found.append(label)


def bring_labels(form: str, source: Path, output: Path, at: str | None, add: bool) -> None:
    """Read labels from another program's file or folder."""
    earlier, found = _earlier(output, add), import_labels(form, source, at=at)
    _finish([*earlier, *found], output, add, len(found))


def write_labels(form: str, source: Path, output: Path, into: str | None, overwrite: bool) -> None:
    """Write labels to another program's file or folder."""
    found = read(source)
    export_labels(form, found, output, into=into, overwrite=overwrite)
    say(f"{len(found)} labels in {output}")


def _earlier(output: Path, add: bool) -> list[Label]:
    """The labels already in the file, which must not exist unless labels are added to it."""
    check_replaceable(output, add)
    return read(output) if output.exists() else []


def _finish(labels: Sequence[Label], output: Path, add: bool, count: int) -> None:
    """Write the labels; if a feature has several of one source, the last is kept, in the order of the last ones."""
    kept = {(label.name, label.source): label for label in reversed(labels)} if add else {}
    write(reversed(kept.values()) if add else labels, output, overwrite=add)
    say(f"{count} labels in {output}")
