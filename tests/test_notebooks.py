"""The notebooks of the documentation run, and print what is committed."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest

from experiments.notebooks import NOTEBOOKS, executed

NUMBER = re.compile(r"[-+]?\d+\.\d+")


def texts(notebook: nbformat.NotebookNode) -> list[str]:
    """What each cell prints."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return ["".join(output.get("text", "") for output in cell.outputs) for cell in cells]


def pictures(notebook: nbformat.NotebookNode) -> list[int]:
    """How many pictures each cell shows."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [sum("image/png" in output.get("data", {}) for output in cell.outputs) for cell in cells]


# what the kernel's own libraries warn of
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_prints_what_is_committed(path: Path) -> None:
    """The same words, and nearly the same decimals: what is trained on the way differs a little by machine."""
    shown, printed = nbformat.read(path, as_version=4), executed(path)
    assert pictures(printed) == pictures(shown)
    for before, now in zip(texts(shown), texts(printed), strict=True):
        assert NUMBER.sub("#", now).split() == NUMBER.sub("#", before).split()
        numbers = [[float(number) for number in NUMBER.findall(text)] for text in (now, before)]
        assert numbers[0] == pytest.approx(numbers[1], rel=0.02, abs=0.1)


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_is_small_and_free_of_noise(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert path.stat().st_size < 100_000
    assert not any(output.get("name") == "stderr" for cell in notebook.cells for output in cell.get("outputs", []))
    assert notebook.cells[0].cell_type == "markdown"
    assert notebook.cells[0].source.startswith("# ")
