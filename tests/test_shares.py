"""The share of |effect| that errors carry."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

import featcircuits as fc
from featcircuits.circuit.circuit import NodeScore
from featcircuits.circuit.shares import error_shares, shares_line
from featcircuits.cli import app
from tests.tiny import random_task, spliced_model, tiny_model


def test_errors_are_counted_by_kind_of_site_and_whole_outputs_left_out() -> None:
    effects = {"embed/error@0": 9.0, "mlp_0/3@0": -1.0, "mlp_0/error@1": 2.0, "mlp_1/error@0": -1.0, "resid_1/2@0": 0.5}
    nodes = {fc.Node.parse(name): NodeScore(effect) for name, effect in effects.items()}
    suite = {"sites": {"embed": {"n_features": 0}, "mlp_0": {"n_features": 5}}}
    shares = error_shares(fc.Circuit(nodes, {}, (0, 1), "none", {"suite": suite}))
    assert shares == {"mlp": 0.75, "resid": 0.0}
    line = shares_line(shares)
    assert "mlp 75%, resid 0%" in line
    assert "at mlp the dictionaries do not explain" in line
    assert "explain" not in shares_line({"mlp": 0.5})


def test_a_trace_records_the_shares_of_its_ranking() -> None:
    spliced, task = spliced_model(tiny_model("gpt2"), sites=["mlp_0", "resid_1"]), random_task(4)
    found = fc.trace(spliced, task, keep_nodes="top=5", edges=None, check_fit=False)
    assert found.circuit.manifest["error_share"] == pytest.approx(error_shares(found.ranking))
    assert {*found.circuit.manifest["error_share"]} == {"mlp", "resid"}


def test_both_commands_print_them(tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    commands = (
        ["trace", "--limit", "4", "--keep-nodes", "top=10", "--edges", "none", "--output", run],
        ["evaluate", run, "--limit", "4", "--sizes", "5"],
    )
    for command in commands:
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 0, done.output
        assert "share of |effect| that errors carry: embed" in " ".join(done.output.split())
