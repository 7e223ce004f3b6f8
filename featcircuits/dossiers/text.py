"""Text as numbered documents, which are tokenised when they are asked for: rows, a file, or a `datasets` folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featcircuits.errors import InputError, first_line, shortened
from featcircuits.provenance.belonging import check_task, checked_rows
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.tasks.encoding import Encoder
from featcircuits.tasks.task import Task
from featcircuits.tasks.token_rows import Rows, once, read_lines, rows_of, sha256_of

POSITIONS = 1 << 20
"""More than a document has: a place in the text is its document's number times this, plus the position."""
CHUNK = 1024
"""Documents that are tokenised at once."""


@dataclass(frozen=True)
class Text:
    """`encoded(numbers)` gives the token ids of some documents, in order; a document may have none."""

    name: str
    sha256: str
    n_documents: int
    encoded: Callable[[Sequence[int]], Rows]

    def chunks(self) -> list[range]:
        """The documents' numbers, so many at a time."""
        return [range(i, min(i + CHUNK, self.n_documents)) for i in range(0, self.n_documents, CHUNK)]

    def rows(self, numbers: Iterable[int]) -> Mapping[int, Sequence[int]]:
        """Number -> token ids of some documents, each chunk of them tokenised at once."""
        wanted = sorted(set(numbers))
        parts = (wanted[i : i + CHUNK] for i in range(0, len(wanted), CHUNK))
        return {n: row for part in parts for n, row in zip(part, self.encoded(part), strict=True)}

    def sample(self, count: int) -> Rows:
        """About `count` documents evenly spread over the text, those without a token left out."""
        numbers = range(0, self.n_documents, max(1, self.n_documents // count))[:count]
        return [list(row) for row in self.rows(numbers).values() if row]


def text_of(spliced: SplicedModel, text: Any, longest: int, column: str = "text") -> Text:
    """A task's prompts, rows of token ids, a text file (a document per line), or a folder that `datasets` saved.

    Documents of files and folders are cut to `longest` tokens; `column` of the folder holds them. Raises
    `InputError` for what is none of these, and for text without a token.
    """
    if isinstance(text, Text):
        return text
    if isinstance(text, Task):
        check_task(spliced, text)
        return _of_rows(rows_of(text), text.name)
    if not isinstance(text, (str, Path)):
        return _of_rows(checked_rows(spliced, text), "rows of tokens")
    path, encode = Path(text), _encoding(spliced, text, longest)
    found = _of_folder(path, column, encode) if path.is_dir() else _of_file(path, encode)
    if not any(found.sample(CHUNK)):
        raise InputError(f"{shortened(path, 300)}: the text holds no token of the model's")
    return found


def _of_rows(rows: Rows, name: str) -> Text:
    if not any(rows):
        raise InputError("the text holds no token; give rows of token ids, as of tokenizer(lines)")
    if (longest := max(map(len, rows))) >= POSITIONS:
        raise InputError(f"a row of the text has {longest} tokens; a document may have {POSITIONS - 1}")
    return Text(name, sha256_of(rows), len(rows), lambda numbers: [rows[n] for n in numbers])


def _of_file(path: Path, encode: Callable[[list[str]], Rows]) -> Text:
    lines = read_lines(path)
    return Text(path.name, _hash([path]), len(lines), lambda numbers: encode([lines[n] for n in numbers]))


def _of_folder(path: Path, column: str, encode: Callable[[list[str]], Rows]) -> Text:
    """Documents stay in their file, which is mapped into memory."""
    dataset = _saved(path)
    if column not in dataset.column_names:
        raise InputError(
            f"{path}: the data set has no column {shortened(column)}; its columns: {', '.join(dataset.column_names)}"
        )
    if not len(dataset) or not isinstance(dataset[0][column], str):
        raise InputError(f"{path}: column {column!r} holds no text; name the one that does")
    mark = _hash(sorted(path.glob("*.arrow")))
    return Text(path.name, mark, len(dataset), lambda numbers: encode(dataset.select(list(numbers))[column][:]))


def _saved(path: Path) -> Any:
    try:
        from datasets import Dataset, load_from_disk
    except ImportError:
        raise InputError(f"{path}: reading a data set's folder needs datasets: pip install datasets") from None
    try:
        found = load_from_disk(str(path))
    except Exception as error:  # what damaged files make the library raise has no bounds
        raise InputError(f"{path}: not a folder that datasets' save_to_disk wrote ({first_line(error)})") from None
    if not isinstance(found, Dataset):
        raise InputError(f"{path}: this data set has parts; give the folder of one: {', '.join(map(str, found))}")
    return found


def _hash(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _encoding(spliced: SplicedModel, text: str | Path, longest: int) -> Callable[[list[str]], Rows]:
    tokenizer = spliced.tokenizer
    if tokenizer is None:
        raise InputError(f"{shortened(Path(text), 300)}: the model has no tokenizer to read text with")
    front = list(Encoder.of(tokenizer).front)
    most = getattr(spliced.model.config.get_text_config(), "max_position_embeddings", None) or longest
    length = min(longest, most)
    return lambda lines: [once(front, ids)[:length] for ids in tokenizer(lines)["input_ids"]]


def sorted_batches(rows: Mapping[int, Sequence[int]], size: int) -> Iterator[list[int]]:
    """Numbers of documents that have tokens, `size` of like length at a time."""
    order = sorted((n for n, row in rows.items() if row), key=lambda n: len(rows[n]))
    yield from (order[i : i + size] for i in range(0, len(order), size))
