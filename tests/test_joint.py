"""Joint effects of circuits and groups beside the sum over single nodes."""

from __future__ import annotations

from dataclasses import replace

import pytest

import featcircuits as fc
from experiments.planted.motifs import MOTIFS
from featcircuits.validation.joint import Joint
from tests.tiny import random_task, spliced_model, tiny_model


def _both(name: str) -> tuple[Joint, Joint]:
    """The joint effects of a planted circuit, and of its two sources."""
    motif = MOTIFS[name]
    sources = {"both": [motif.node("embed/A@1"), motif.node("embed/B@2")]}
    whole, group = fc.joint_effects(motif.spliced, motif.circuit, motif.task, groups=sources, check=False)
    assert (whole.name, group.name, group.n_nodes) == ("circuit", "both", 2)
    return whole, group


def test_redundant_nodes_lose_more_together_and_needed_ones_less() -> None:
    whole, either = _both("or")
    assert either.lost == pytest.approx(1.0, abs=1e-5)
    assert either.lost_alone == pytest.approx(0.0, abs=0.2)
    assert whole.restored == pytest.approx(1.0, abs=1e-5)
    whole, both = _both("and")
    assert both.lost == pytest.approx(1.0, abs=1e-5)
    assert both.lost_alone > 1.5
    assert whole.restored == pytest.approx(1.0, abs=1e-5)
    assert whole.restored_alone == pytest.approx(0.0, abs=1e-5)  # what a node alone computes is from ablated nodes
    assert whole.restored_interval is not None


def test_what_is_lost_is_what_patching_loses() -> None:
    spliced, task = spliced_model(tiny_model("llama"), sites=["mlp_0", "resid_1"]), random_task(6)
    circuit = fc.trace(spliced, task, nodes="atp", keep_nodes="top=6", edges=None, check_fit=False).circuit
    group = list(circuit.nodes)[:3]
    found = fc.joint_effects(spliced, circuit, task, groups={"three": group})
    report = fc.evaluate(spliced, circuit, task, ablation="paired", sizes=())
    gap = report.F_model - report.F_empty
    for joint, nodes in zip(found, (circuit.nodes, group), strict=True):
        patched = fc.patch(spliced, task, nodes)
        (metric,) = patched.F_clean
        assert joint.lost * gap == pytest.approx(patched.joint.noising[metric].change, abs=1e-5)
        alone = sum(one.noising[metric].change for one in patched.single)
        assert joint.lost_alone * gap == pytest.approx(alone, abs=1e-5)
    assert found[0].restored == pytest.approx(report.faithfulness, abs=1e-5)
    assert found[0].lost_interval is not None
    middle = sum(found[0].lost_interval) / 2
    assert middle == pytest.approx(found[0].lost - found[0].lost_alone, abs=1e-6)


def test_one_node_alone_is_its_own_sum_and_groups_out_of_scope_are_left_out() -> None:
    spliced, task = spliced_model(tiny_model("llama"), sites=["mlp_0", "resid_1"]), random_task(6)
    circuit = fc.trace(spliced, task, nodes="atp", keep_nodes="top=6", edges=None, check_fit=False).circuit
    early = [node for node in circuit.nodes if node.site.layer == 0]
    late = [node for node in circuit.nodes if node.site.layer == 1][:1]
    if not early or not late:
        pytest.fail("the circuit must have nodes in both layers")
    grouped = replace(circuit, groups={"early": early, "late": late})
    found = {joint.name: joint for joint in fc.joint_effects(spliced, grouped, task, start_layer=1)}
    assert [*found] == ["circuit", "late"]
    one = found["late"]
    assert (one.lost, one.restored) == (pytest.approx(one.lost_alone), pytest.approx(one.restored_alone))


def test_what_cannot_be_measured_is_refused() -> None:
    motif = MOTIFS["or"]
    spliced, task, circuit = motif.spliced, motif.task, motif.circuit
    with pytest.raises(fc.InputError, match="unknown ablation"):
        fc.joint_effects(spliced, circuit, task, ablation="none", check=False)
    single = replace(task, examples=tuple(replace(one, corrupted=None) for one in task.examples))
    with pytest.raises(fc.InputError, match="pairs"):
        fc.joint_effects(spliced, circuit, single, check=False)
