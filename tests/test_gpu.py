"""What runs on a GPU equals what runs on the CPU: every estimator, family and dictionary kind, edges and evaluation."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

import featcircuits as fc
from featcircuits.estimators import ESTIMATORS
from featcircuits.evaluation.ablations import ABLATIONS
from featcircuits.selection import SELECTIONS
from featcircuits.splicing.spliced import SplicedModel
from tests.tiny import ALL_SITES, FAMILIES, KINDS, random_dictionary, random_task, spliced_model, tiny_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
]
SITES = ["embed", "attn_0", "mlp_0", "resid_0", "attn_1", "mlp_1", "resid_1", "resid_2"]
TOLERANCE: dict[str, float] = {"rtol": 1e-3, "atol": 2e-5}
"""Families compute some norms in float32 whatever the dtype, which the two devices round differently by up to 3e-6."""


def on_both(family: str = "llama", kind: str = "relu", sites: list[str] | None = None) -> tuple[SplicedModel, ...]:
    """The same random float64 model and dictionaries on the CPU and on the GPU."""
    model, names = tiny_model(family), sites or SITES
    kinds = [kind if "transcoder" not in kind or name.startswith("mlp") else "relu" for name in names]
    made = {name: random_dictionary(own, seed=i) for i, (name, own) in enumerate(zip(names, kinds, strict=True))}
    return fc.load(deepcopy(model), made), fc.load(deepcopy(model), made, device="cuda")


def assert_equal_effects(here: Any, there: Any) -> None:
    for site in here.sites:
        torch.testing.assert_close(there.features(site), here.features(site), **TOLERANCE)
        torch.testing.assert_close(there.error(site), here.error(site), **TOLERANCE)


@pytest.mark.parametrize("name", [name for name in ESTIMATORS if name != "blend"])
@pytest.mark.parametrize("family", ["gpt2", "gemma2", "llama"])
def test_node_effects(name: str, family: str) -> None:
    here, there = (fc.node_effects(spliced, random_task(), name) for spliced in on_both(family))
    assert_equal_effects(here, there)


@pytest.mark.parametrize("family", FAMILIES)
def test_families(family: str) -> None:
    for name in ("secant", "relp"):
        here, there = (fc.node_effects(spliced, random_task(), name) for spliced in on_both(family))
        assert_equal_effects(here, there)


@pytest.mark.parametrize("kind", KINDS)
def test_kinds(kind: str) -> None:
    here, there = (fc.node_effects(spliced, random_task(), "secant") for spliced in on_both("gpt2", kind))
    assert_equal_effects(here, there)


def found_on(spliced: SplicedModel, **options: Any) -> tuple[fc.Circuit, fc.Circuit]:
    """A small circuit, and the ranking of all nodes."""
    found = fc.trace(spliced, random_task(6), check_fit=False, keep_nodes="top=30", **options)
    return found.circuit, found.ranking


@pytest.mark.parametrize("nodes", ["atp", "ig", "relp", "secant"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_edges(nodes: str, family: str) -> None:
    (here, _), (there, _) = (found_on(spliced, nodes=nodes) for spliced in on_both(family))
    assert list(there.nodes) == list(here.nodes)
    assert set(there.edges) == set(here.edges)
    for edge, weight in here.edges.items():
        assert there.edges[edge] == pytest.approx(weight, rel=1e-3, abs=2e-6)


def test_exact_edges() -> None:
    (here, _), (there, _) = (found_on(spliced, edges="exact") for spliced in on_both())
    assert list(there.edges.values()) == pytest.approx([here.edges[edge] for edge in there.edges], rel=1e-3, abs=2e-6)


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_evaluation(ablation: str) -> None:
    reports = []
    for spliced in on_both():
        circuit, ranking = found_on(spliced)
        reports.append(
            fc.evaluate(spliced, circuit, random_task(10, seed=5), ablation=ablation, ranking=ranking, draws=2, seed=3)
        )
    here, there = reports
    assert there.faithfulness == pytest.approx(here.faithfulness, rel=1e-5)
    assert there.completeness == pytest.approx(here.completeness, rel=1e-5)
    assert there.curve.faithfulness == pytest.approx(here.curve.faithfulness, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("rule", SELECTIONS)
def test_selection(rule: str) -> None:
    here, there = (found_on(spliced, edges=None, select=rule)[1] for spliced in on_both())
    assert len(set(list(there.nodes)[:30]) & set(list(here.nodes)[:30])) >= 28


def test_checks_of_a_circuit() -> None:
    found = []
    for spliced in on_both(sites=["resid_0", "mlp_1", "resid_1"]):
        task = random_task(4)
        circuit, _ = found_on(spliced)
        node = next(iter(circuit.nodes))
        paths = fc.explained_effect(spliced, task, circuit)
        found.append((fc.patch(spliced, task, [node]), paths, fc.illusion(spliced, task, [node])))
    (patched, paths, illusion), (patched_there, paths_there, illusion_there) = found
    assert str(patched_there)[:40] == str(patched)[:40]
    assert type(paths_there) is type(paths)
    assert len(illusion_there) == len(illusion)


def test_attention_outputs_before_their_projection() -> None:
    here, there = (fc.node_effects(spliced, random_task(), "secant") for spliced in on_both(sites=list(ALL_SITES)))
    assert_equal_effects(here, there)


@pytest.mark.parametrize("offload", ["cpu", "disk", None])
def test_the_shipped_suite(offload: str | None) -> None:
    """Where its weights stay between uses changes nothing."""
    path = Path(__file__).parents[1] / "saes/grammar-4l/tasks/agreement_simple_train.jsonl"
    circuits = []
    for device in ("cpu", "cuda"):
        spliced = fc.load(device=device, offload=offload if device == "cuda" else None)
        task = fc.Task.from_jsonl(path, spliced.tokenizer).take(8)
        circuits.append(fc.trace(spliced, task, edges=None, keep_nodes="top=40").circuit)
    here, there = circuits
    assert len(set(here.nodes) & set(there.nodes)) >= 39
    for node in set(here.nodes) & set(there.nodes):
        assert there.nodes[node].effect == pytest.approx(here.nodes[node].effect, rel=1e-3)


def test_low_precision_runs_and_stays_close() -> None:
    """bfloat16 on the GPU beside float32 there: the strongest nodes are mostly the same."""
    path = Path(__file__).parents[1] / "saes/grammar-4l/tasks/agreement_simple_train.jsonl"
    rankings = []
    for dtype in ("float32", "bfloat16"):
        spliced = fc.load(device="cuda", dtype=dtype)
        task = fc.Task.from_jsonl(path, spliced.tokenizer).take(8)
        rankings.append(list(fc.trace(spliced, task, edges=None).ranking.nodes)[:40])
    assert len(set(rankings[0]) & set(rankings[1])) >= 36


def test_spliced_models_stay_on_their_device() -> None:
    spliced = spliced_model(tiny_model("gpt2").to("cuda"))
    assert spliced.device.type == "cuda"
    effects = fc.node_effects(spliced, random_task(), "atp")
    assert effects.features("resid_1").device.type == "cpu"


@pytest.mark.parametrize("kind", ["topk", "layer_norm", "transcoder"])
def test_dossiers(kind: str) -> None:
    rows = torch.randint(1, 6, (40, 9), generator=torch.Generator().manual_seed(0)).tolist()
    both = on_both("gpt2", kind, ["embed", "attn_z_0", "mlp_1", "resid_1"])
    here, there = (fc.features(spliced, rows) for spliced in both)
    for name in here:
        one, other = here[name], there[name]
        assert (one.n_active, one.top_tokens[:1], one.label) == (other.n_active, other.top_tokens[:1], other.label)
        assert one.mean == pytest.approx(other.mean, rel=1e-5)
        activations = [[context.activation for context in dossier.contexts] for dossier in (one, other)]
        assert activations[0] == pytest.approx(activations[1], rel=1e-4)
        assert [t.logit for t in one.promoted] == pytest.approx([t.logit for t in other.promoted], rel=1e-4)
        assert [n.value for n in one.neighbours] == pytest.approx([n.value for n in other.neighbours], rel=1e-4)
