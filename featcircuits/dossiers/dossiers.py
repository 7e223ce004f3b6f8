"""Dossiers on disk: read one at a time, and only beside the dictionaries that they were made with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from featcircuits.dossiers.records import Dossier, dossier_of
from featcircuits.dossiers.schema import CONTEXTS, FEATURES, TASK
from featcircuits.errors import InputError, check_file, first_line, shortened
from featcircuits.files.reading import read_json
from featcircuits.inputs.keyed import MissingKey
from featcircuits.model.nodes import Node
from featcircuits.model.sites import in_ranges

if TYPE_CHECKING:
    from featcircuits.splicing.spliced import SplicedModel

FORMAT = 1
MANIFEST = "manifest.json"
TABLES = {"features.parquet": FEATURES, "contexts.parquet": CONTEXTS, "task.parquet": TASK}
FOLDER = "dossiers"
"""Of a run or a suite, where its dossiers are."""


@dataclass(frozen=True, eq=False)
class Dossiers:
    """`dossiers["resid_2/303"]` is a feature's record; names and nodes both do, and places do not matter.

    Row groups of the tables hold the same features, so that one feature is read without the others.
    """

    manifest: Mapping[str, Any]
    tables: tuple[pq.ParquetFile, ...] = field(repr=False)
    """Of features, contexts and the task."""

    @classmethod
    def open(cls, folder: str | Path, model: SplicedModel | None = None) -> Self:
        """The dossiers of a folder, or of a run or suite that has them.

        Raises `InputError` where there are none, where they are damaged, and where the `model` is given and it or one
        of its dictionaries is another than they were made with.
        """
        given = Path(folder)
        path = given if (given / MANIFEST).is_file() and not (given / FOLDER).is_dir() else given / FOLDER
        manifest = read_json(
            path / MANIFEST, f"manifest of dossiers; make them with `featcircuits features` ({MANIFEST})"
        )
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT or "text" not in manifest:
            raise InputError(f"{shortened(path, 300)}: not dossiers in format {FORMAT}; make them again")
        found = cls(manifest, tuple(_opened(path / name, schema) for name, schema in TABLES.items()))
        if model is not None:
            found.check(model)
        return found

    def check(self, model: SplicedModel) -> None:
        """Refuse a model whose weights or dictionaries are others than those that the dossiers were made with."""
        from featcircuits.provenance.belonging import check_same, identity_in

        check_same("dossiers", identity_in(self.manifest), model)

    def fits(self, manifest: Mapping[str, Any]) -> bool:
        """Whether a circuit's manifest names the same model and the same dictionaries at the sites that both have."""
        from featcircuits.provenance.belonging import identity_in

        own, other = identity_in(self.manifest), identity_in(manifest)
        return own.weights == other.weights and all(
            own.dictionaries.get(site, mark) == mark for site, mark in other.dictionaries.items()
        )

    def __getitem__(self, name: str | Node) -> Dossier:
        node = Node.parse(name)
        group, row = self._at(node)
        features, contexts, task = self._group(group)
        own = pc.field("feature") == node.feature
        return dossier_of(
            features.slice(row, 1).to_pylist()[0], contexts.filter(own).to_pylist(), task.filter(own).to_pylist()
        )

    def __contains__(self, name: object) -> bool:
        try:
            return self._key(Node.parse(name)) in self._index  # type: ignore[arg-type]
        except InputError:
            return False

    def __iter__(self) -> Iterator[str]:
        """Names, in the order of sites and features."""
        return (f"{site}/{feature}" for site, feature in self._index)

    def _repr_html_(self) -> str:
        """What notebooks show: what was read, and the first labels."""
        from featcircuits.dossiers.html import labels_html

        return labels_html(self.manifest["text"], self.labels)

    def __len__(self) -> int:
        return len(self._index)

    @cached_property
    def labels(self) -> Mapping[str, str]:
        """Name -> default label, of every feature."""
        return dict(zip(self, _column(self.tables[0], "label"), strict=True))

    def label(self, name: str | Node) -> str | None:
        """Of a feature, wherever its node stands; None for errors and features without a dossier."""
        node = Node.parse(name)
        return self.labels.get(f"{node.site}/{node.feature}")

    @cached_property
    def _index(self) -> Mapping[tuple[str, int | None], tuple[int, int]]:
        """(site, feature) -> row group, row in it."""
        table, parts = self.tables[0], range(self.tables[0].num_row_groups)
        at = [(group, row) for group in parts for row in range(table.metadata.row_group(group).num_rows)]
        return dict(zip(zip(_column(table, "site"), _column(table, "feature"), strict=True), at, strict=True))

    def _at(self, node: Node) -> tuple[int, int]:
        found = self._index.get(self._key(node))
        if found is None:
            sites = in_ranges({site for site, _ in self._index})
            what = "error terms have none" if node.is_error else f"there are {len(self)} of features of {sites}"
            raise MissingKey(f"there is no dossier of {node._replace(place=None)}; {what}")
        return found

    @staticmethod
    def _key(node: Node) -> tuple[str, int | None]:
        return str(node.site), node.feature

    @cached_property
    def _group(self) -> Callable[[int], list[pa.Table]]:
        """Row group -> its part of each table; the last few are remembered."""

        @lru_cache(maxsize=4)
        def read(group: int) -> list[pa.Table]:
            with _damage():
                return [table.read_row_group(group) for table in self.tables]

        return read


def _column(table: pq.ParquetFile, name: str) -> list[Any]:
    with _damage():
        return table.read([name]).column(0).to_pylist()


def _opened(path: Path, schema: pa.Schema) -> pq.ParquetFile:
    check_file(path, "table of dossiers")
    with _damage(path):
        found = pq.ParquetFile(path)
    if missing := [name for name in schema.names if name not in found.schema_arrow.names]:
        raise InputError(f"{shortened(path, 300)}: column {missing[0]!r} is missing; make the dossiers again")
    return found


@contextmanager
def _damage(path: str | Path = "the dossiers") -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        shown = shortened(path, 300) if isinstance(path, Path) else path
        raise InputError(f"{shown}: a table is damaged ({first_line(error)}); make the dossiers again") from None
