"""The rooms of the package, as docs/architecture.md has them: which imports which."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "featcircuits"
ROW = re.compile(r"^\| `(\w+)` \| [^|]+ \| ([^|]+) \|$", re.MULTILINE)


def rooms() -> dict[str, set[str]]:
    """Room -> the rooms that it may import, from the page's table, from the ground up."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = page.split("## Rooms")[1].split("\n## ")[0]
    return {room: set(re.findall(r"`(\w+)`", imports)) for room, imports in ROW.findall(table)}


def imported(path: Path) -> Iterator[str]:
    """The rooms of this package that a module imports, wherever in it, also for types alone."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "featcircuits":
            names = [f"featcircuits.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        yield from (name.split(".")[1] for name in names if name.startswith("featcircuits."))


def test_every_room_has_a_row_and_every_row_a_room() -> None:
    found = {path.relative_to(PACKAGE).with_suffix("").parts[0] for path in PACKAGE.rglob("*.py")}
    assert found - {"__init__", "__main__"} == set(rooms())


def test_rows_import_only_rows_above_them() -> None:
    above: set[str] = set()
    for room, imports in rooms().items():
        assert imports <= above, f"{room} imports {imports - above}, which is not above it"
        above.add(room)


def test_each_room_imports_what_its_row_says() -> None:
    for room, allowed in rooms().items():
        files = [PACKAGE / f"{room}.py"] if (PACKAGE / f"{room}.py").exists() else (PACKAGE / room).rglob("*.py")
        arrows = {(other, str(path.relative_to(PACKAGE))) for path in files for other in imported(path)}
        upward = {(other, path) for other, path in arrows if other not in allowed | {room}}
        assert not upward, f"{room} may not import {sorted(upward)}"
        assert {other for other, _ in arrows} - {room} == allowed, f"{room}: the row lists rooms that it does not use"
