"""What reaches a terminal: text from users as it is, in any encoding."""

from __future__ import annotations

import os
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from rich.text import Text

from featcircuits.circuit.circuit import Circuit, NodeScore
from featcircuits.cli.output import PlainConsole, printable
from featcircuits.cli.tables import edge_table, node_table
from featcircuits.model.nodes import METRIC, Node
from featcircuits.model.sites import Site

ROOT = Path(__file__).parents[1]
ROLES = ("[/x]", "[red]a", "[bold", ":smile:", "[link=file:///etc/passwd]b[/link]", "\\[x]")


def shown(*things: object, terminal: bool = False) -> str:
    stream = StringIO()
    console = PlainConsole(
        file=stream, width=160, force_terminal=terminal, color_system="standard" if terminal else None
    )
    console.print(*things)
    return stream.getvalue()


@pytest.mark.parametrize("role", ROLES)
def test_names_are_no_markup(role: str) -> None:
    node = Node(Site.parse("resid_1"), 3, role)
    circuit = Circuit({node: NodeScore(1.5, 0.1)}, {(node, METRIC): -0.5}, (role,), "role")
    for table in (node_table(circuit), edge_table(circuit)):
        assert f"resid_1/3@{role}" in shown(table)
        assert f"resid_1/3@{role}" in shown(table, terminal=True)
    assert shown(role) == f"{role}\n"


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("\x1b[31mred", "\\x1b[31mred"),
        ("bell\x07 back\x08 return\r", "bell\\x07 back\\x08 return\\r"),
        ("\x9b31m", "\\x9b31m"),
        ("right to left \u202e", "right to left \\u202e"),
        ("half \ud800", "half \\ud800"),
        ("two\nlines", "two\nlines"),
        ("Zürich ± 1 ≤ 2 日本", "Zürich ± 1 ≤ 2 日本"),
    ],
)
def test_what_a_terminal_would_obey_is_written_out(text: str, written: str) -> None:
    assert printable(text) == written
    assert shown(text) == f"{written}\n"


def test_colours_still_come_from_styles() -> None:
    assert "\x1b[31m" in shown(Text("bad", style="red"), terminal=True)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_no_encoding_ends_a_run(encoding: str, tmp_path: Path) -> None:
    task = tmp_path / "täsk 日本.jsonl"
    lines = (ROOT / "saes" / "grammar-4l" / "tasks" / "agreement_simple_train.jsonl").read_text(encoding="utf-8")
    task.write_text("".join(lines.splitlines(keepends=True)[:2]), encoding="utf-8")
    arguments = ["trace", "--task", task, "--nodes", "atp", "--edges", "none", "-o", tmp_path / "run"]
    done = subprocess.run(
        [sys.executable, "-m", "featcircuits", *map(str, arguments)],
        capture_output=True, env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "task" not in done.stderr.decode(encoding)
    assert b"\\u65e5\\u672c" in done.stdout
    assert (tmp_path / "run" / "circuit.safetensors").is_file()
