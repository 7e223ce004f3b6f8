"""Numbers of independent implementations of the published definitions (tests/golden/README.md)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import transformers
from safetensors import safe_open
from torch import Tensor

import featcircuits as fc
from featcircuits.evaluation.ablated import NEVER, AblatedModel, Subgraph
from featcircuits.evaluation.ablations import Ablation, Resample, prepared_ablation
from featcircuits.evaluation.faithfulness import Reference, faithfulness
from featcircuits.evaluation.scope import scope_of
from featcircuits.model.sites import Site
from featcircuits.splicing.spliced import SplicedModel

FOLDER = Path(__file__).parent / "golden"
SFC = ("sfc_gpt_neox_parallel", "sfc_gpt_neox_sequential")
RAW = ("gpt2", "gpt_neox_parallel", "gpt_neox_sequential", "llama", "gemma2")
EVALUATIONS = ("eval_gpt_neox_parallel", "eval_llama")
TOLERANCE = 1e-5


class Golden(NamedTuple):
    metadata: dict[str, str]
    tensors: dict[str, Tensor]

    def at(self, prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): t for name, t in self.tensors.items() if name.startswith(prefix)}

    def sites(self, prefix: str) -> list[str]:
        return sorted({name.split("/")[0] for name in self.at(prefix)})

    def model(self) -> transformers.PreTrainedModel:
        architecture = getattr(transformers, self.metadata.get("architecture", "GPTNeoXForCausalLM"))
        config = architecture.config_class(**json.loads(self.metadata["config"]))
        config._attn_implementation = "eager"
        model = architecture(config)
        missing, unexpected = model.load_state_dict(self.at("model/"), strict=False)
        assert not unexpected
        assert all("rotary" in name or name == "lm_head.weight" for name in missing)
        return model

    def task(self) -> fc.Task:
        names = ("clean_ids", "corrupted_ids", "clean_answer", "corrupted_answer")
        return fc.Task.from_tokens(*(self.tensors[f"input/{name}"] for name in names))

    def spliced(self) -> SplicedModel:
        jump = "sae/embed/threshold" in self.tensors
        make = fc.dictionaries.jumprelu if jump else fc.dictionaries.relu
        return fc.load(self.model(), {site: make(**self.at(f"sae/{site}/")) for site in self.sites("sae/")})


def golden(name: str) -> Golden:
    with safe_open(FOLDER / f"{name}.safetensors", "pt") as file:
        return Golden(file.metadata(), {key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118


def distance(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return (a - b).abs().max().item()


@pytest.mark.parametrize("estimator", ["atp", "ig", "exact"])
@pytest.mark.parametrize("name", SFC)
def test_node_effects(name: str, estimator: str) -> None:
    file = golden(name)
    found = fc.node_effects(file.spliced(), file.task(), estimator=estimator)
    for site in file.sites(f"expect/{estimator}/nodes/"):
        expected = file.at(f"expect/{estimator}/nodes/{site}/")
        assert distance(found.features(site), expected["features"]) < TOLERANCE, site
        assert distance(found.error(site), expected["error"]) < TOLERANCE, site
    total = file.tensors["expect/metric_corrupted"] - file.tensors["expect/metric_clean"]
    assert distance(found.total_effect, total) < TOLERANCE


@pytest.mark.parametrize("estimator", ["atp", "ig"])
@pytest.mark.parametrize("name", SFC)
def test_edge_effects(name: str, estimator: str) -> None:
    file = golden(name)
    spliced, task = file.spliced(), file.task()
    threshold = float(file.metadata["node_threshold"])
    effects = fc.node_effects(spliced, task, estimator=estimator)
    found = fc.edge_effects(spliced, task, effects, estimator=estimator, node_threshold=threshold)
    for arc, expected in edges_of(file, estimator).items():
        ours = dense(*found.coo(*arc.split("->")), task, spliced)
        assert distance(ours, dense(expected["index"], expected["value"], task, spliced)) < TOLERANCE, arc


def edges_of(file: Golden, estimator: str) -> dict[str, dict[str, Tensor]]:
    arcs = file.sites(f"expect/{estimator}/edges/")
    assert len(arcs) > 5
    return {arc: file.at(f"expect/{estimator}/edges/{arc}/") for arc in arcs}


def dense(index: Tensor, value: Tensor, task: fc.Task, spliced: SplicedModel) -> Tensor:
    """[downstream position, downstream node, upstream position, upstream node]; errors come last."""
    nodes = spliced.dictionaries[Site.parse("embed")].n_features + 1
    table = torch.zeros(task.longest, nodes, task.longest, nodes)
    table[tuple(index.long())] = value.float()
    return table


@pytest.mark.parametrize(
    ("estimator", "rules"),
    [
        ("atp", "gradient"),
        ("relp:rules=gradient", "gradient"),
        ("relp", "default"),
        ("relp:rules=with_ah", "with_ah"),
    ],
)
@pytest.mark.parametrize("name", RAW)
def test_coefficients_at_whole_activations(name: str, estimator: str, rules: str) -> None:
    """With identity dictionaries an effect is the coefficient at the raw activation times its change."""
    file = golden(f"relp_{name}")
    sites = file.sites("activation/clean/")
    width = file.tensors["activation/clean/embed"].shape[-1]
    spliced = fc.load(file.model(), {site: fc.dictionaries.identity(width) for site in sites})
    found = fc.node_effects(spliced, file.task(), estimator=estimator)
    for site in sites:
        change = file.tensors[f"activation/corrupted/{site}"] - file.tensors[f"activation/clean/{site}"]
        expected = change * file.tensors[f"expect/{rules}/coefficient/{site}"]
        assert distance(found.features(site), expected) < TOLERANCE * expected.abs().max().item(), site


@pytest.mark.parametrize("name", ["gpt_neox_parallel", "llama"])
def test_relevance_of_features_errors_and_edges(name: str) -> None:
    file = golden(f"relp_features_{name}")
    spliced, task = file.spliced(), file.task()
    found = fc.node_effects(spliced, task, estimator="relp")
    for site in file.sites("sae/"):
        expected = file.at(f"expect/relp/nodes/{site}/")
        for ours, kind in ((found.features(site), "features"), (found.error(site), "error")):
            assert distance(ours, expected[kind]) < TOLERANCE * expected[kind].abs().max().item(), site
    edges = fc.edge_effects(spliced, task, found, node_threshold=float(file.metadata["node_threshold"]))
    for arc, expected in edges_of(file, "relp").items():
        ours = dense(*edges.coo(*arc.split("->")), task, spliced)
        theirs = dense(expected["index"], expected["value"], task, spliced)
        assert distance(ours, theirs) < TOLERANCE * theirs.abs().max().item(), arc


ERROR_NODES = {"nodes": "as-circuit"}
"""What the files call a way with error nodes that has another name here"""


@pytest.mark.parametrize("name", EVALUATIONS)
def test_ablated_runs(name: str) -> None:
    """Every scope x ablation x treatment of errors, circuits and complements."""
    file = golden(name)
    spliced, task = file.spliced(), file.task()
    names = json.loads(file.metadata["circuits"])
    model_metric = file.tensors["expect/metric_model"].mean().item()
    for scope_name, settings in json.loads(file.metadata["scopes"]).items():
        scope = scope_of(spliced, settings["start_layer"], settings["embed"])
        subgraphs = _subgraphs(file, scope, names)
        for ablation in json.loads(file.metadata["ablations"]):
            prepared = _ablation(file, scope, task, ablation)
            for errors in json.loads(file.metadata["errors"]):
                run = AblatedModel(
                    scope, prepared, ERROR_NODES.get(errors, errors), settings["start_layer"], batch_size=4
                )
                metric = run.metric(task, subgraphs)
                expected = file.at(f"expect/{scope_name}/{ablation}/{errors}/")
                inside, complement = expected["metric"], expected["metric_complement"]
                assert distance(metric, torch.cat([inside, complement, expected["metric_empty"][None]])) < 2e-4
                *scores, empty = metric.mean(-1).tolist()
                reference = Reference(model_metric, empty)
                shares = torch.tensor([faithfulness(m, reference) for m in scores], dtype=torch.float64)
                assert distance(shares, torch.cat([expected["faithfulness"], expected["completeness"]])) < 3e-5


def _subgraphs(file: Golden, scope: SplicedModel, names: list[str]) -> list[Subgraph]:
    """Each circuit, each complement, and the empty one."""
    circuits = []
    for name in names:
        masks = {str(site): file.at(f"circuit/{name}/{site}/") for site in scope.sites}
        kept = {s: torch.cat([m["features"], m["error"][:, None]], dim=1) for s, m in masks.items()}
        circuits.append({site: torch.where(kept[str(site)], 0, NEVER).int() for site in scope.sites})
    complements = [Subgraph(ranks, 1, complement=True) for ranks in circuits]
    return [*(Subgraph(ranks, 1) for ranks in circuits), *complements, Subgraph(circuits[0], 0)]


def _ablation(file: Golden, scope: SplicedModel, task: fc.Task, name: str) -> Ablation:
    if name == "resample":
        return Resample(file.tensors["input/resample_rows"].tolist())
    if name == "resample_by_site":
        rows = file.tensors["input/resample_rows_by_site"].tolist()
        return Resample(dict(zip(json.loads(file.metadata["sites"]), rows, strict=True)))
    return prepared_ablation(name, scope, task, 4, 0)
