"""A model, a task, effects and a circuit that do not belong together are refused, and what differs is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
import transformers

import featcircuits as fc
from featcircuits.checks.paths import explained_effect
from featcircuits.estimators.ig import IntegratedGradients
from featcircuits.model.fingerprints import fingerprint_of, tokenizer_fingerprint
from featcircuits.provenance import belonging
from featcircuits.provenance.belonging import identity_in, identity_of
from featcircuits.splicing.spliced import SplicedModel
from tests.tiny import VOCABULARY, random_dictionary, random_task, spliced_model, tiny_model, traced

SITES = ["embed", "mlp_0", "resid_0", "resid_1", "resid_2"]


class Made(NamedTuple):
    """Everything of one model and task."""

    model: SplicedModel
    task: fc.Task
    effects: Any
    circuit: fc.Circuit


@pytest.fixture(scope="module")
def made() -> Made:
    model, task = small_model(), random_task(3)
    effects = fc.node_effects(model, task, "atp")
    circuit = traced(model, task, nodes="atp", keep_nodes="top=30")
    return Made(model, task, effects, circuit)


def small_model(seed: int = 0) -> SplicedModel:
    return spliced_model(tiny_model("gpt2", dtype=torch.float32), sites=SITES, seed=seed)


def swapped(model: SplicedModel) -> SplicedModel:
    first, second = model.dictionaries["resid_0"], model.dictionaries["resid_1"]
    return replace(model, dictionaries={**model.dictionaries, "resid_0": second, "resid_1": first})


def noised(model: SplicedModel) -> SplicedModel:
    other = small_model()
    with torch.no_grad():
        for parameter in other.model.parameters():
            parameter.add_(1e-3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    return other


def one_weight(model: SplicedModel) -> SplicedModel:
    other = small_model()
    other.model.transformer.h[1].mlp.c_fc.weight.data[0, 0] += 1  # past autograd's count of versions
    return other


def other_suite(model: SplicedModel) -> SplicedModel:
    return small_model(seed=7)


def scaled(model: SplicedModel) -> SplicedModel:
    changed = random_dictionary(seed=9)
    return replace(model, dictionaries={**model.dictionaries, "resid_1": changed.to("cpu", torch.float32)})


OTHERS = {
    swapped: r"dictionary of resid_0 \(the one that was there is at resid_1 now\) and of 1 more sites is not the one",
    noised: "the model's weights differ from those that it was made with",
    one_weight: "the model's weights differ",
    other_suite: "the dictionary of embed and of 4 more sites is not the one that it was made with",
    scaled: "the dictionary of resid_1 is not the one that it was made with",
}
DOORS: dict[str, Callable[..., Any]] = {
    "evaluate": lambda model, made, **o: fc.evaluate(model, made.circuit, made.task, sizes=(), **o),
    "ranking": lambda model, made, **o: fc.evaluate(
        model, replace(made.circuit, manifest={}), made.task, ranking=made.circuit, sizes=(5,), draws=0, **o
    ),
    "explained_effect": lambda model, made, **o: explained_effect(model, made.task, made.circuit, **o),
    "illusion": lambda model, made, **o: fc.illusion(model, made.task, made.circuit, each=False, **o),
    "edge_effects": lambda model, made, **o: fc.edge_effects(model, made.task, made.effects, node_threshold=1.0, **o),
    "effects of edges": lambda model, made, **o: fc.edge_effects(
        model, made.task, made.circuit.nodes, effects=made.effects, **o
    ),
    "select": lambda model, made, **o: fc.select(model, made.task, made.effects, **o),
    "bound_missed": lambda model, made, **o: fc.bound_missed(
        model, made.task, made.effects, list(made.circuit.nodes), samples=10, **o
    ),
}


@pytest.mark.parametrize("other", OTHERS, ids=lambda other: other.__name__)
@pytest.mark.parametrize("door", DOORS)
def test_what_was_made_on_another_model_is_refused(made: Made, door: str, other: Callable[..., SplicedModel]) -> None:
    with pytest.raises(fc.InputError, match=OTHERS[other]) as caught:
        DOORS[door](other(made.model), made)
    message = str(caught.value)
    assert message.startswith(("circuit: ", "ranking: ", "effects: "))
    assert message.endswith("or pass check=False")


@pytest.mark.parametrize("door", DOORS)
def test_what_belongs_together_passes_and_check_says_otherwise(made: Made, door: str) -> None:
    DOORS[door](made.model, made)
    DOORS[door](small_model(), made)  # loaded again, it is the same
    DOORS[door](swapped(made.model), made, check=False)


def test_weights_that_change_in_place_are_noticed() -> None:
    model = small_model()
    first = identity_of(model)
    assert identity_of(model) == first
    weight = next(model.model.parameters())
    changes: list[Callable[[], Any]] = [
        lambda: weight.data.add_(1e-2),
        lambda: weight.detach().mul_(1.01),
        lambda: setattr(weight, "data", weight.data + 1e-2),
        lambda: model.model.transformer.h[0].mlp.c_fc.weight.data.neg_(),
    ]
    seen = {first.weights}
    for change in changes:
        change()
        assert (now := identity_of(model).weights) not in seen
        seen.add(now)
    marks = identity_of(model).dictionaries
    model.dictionaries["resid_1"].tensors()["W_dec"].mul_(1.01)
    changed = identity_of(model).dictionaries
    assert {site for site in marks if marks[site] != changed[site]} == {"resid_1"}


@pytest.mark.parametrize("row", [0, 3, 7, -1])
def test_a_single_row_that_changes_past_autograd_is_noticed(row: int) -> None:
    model = fc.load()
    marks = identity_of(model)
    model.dictionaries["resid_2"].tensors()["W_enc"].data[row] += 3
    now = identity_of(model)
    assert {site for site in marks.dictionaries if marks.dictionaries[site] != now.dictionaries[site]} == {"resid_2"}
    model.model.gpt_neox.layers[1].mlp.dense_h_to_4h.weight.data[row, 5] += 1.0
    assert identity_of(model).weights != marks.weights


@pytest.mark.parametrize("edited", [(slice(None), 700), (300, slice(None))])
def test_a_row_or_column_of_a_large_matrix_that_changes_past_autograd_is_noticed(edited: tuple[Any, Any]) -> None:
    matrix = torch.randn(400, 1000, generator=torch.Generator().manual_seed(0))
    seen = belonging._glance({"W_enc": matrix})
    assert belonging._glance({"W_enc": matrix}) == seen
    matrix.data[edited] *= 1.5
    assert belonging._glance({"W_enc": matrix}) != seen


def test_a_fingerprint_survives_a_change_of_dtype_but_for_float16(made: Made) -> None:
    weights = {dtype: identity_of(in_dtype(dtype)) for dtype in (torch.float32, torch.float64, torch.bfloat16)}
    assert len({identity.weights for identity in weights.values()}) == 1
    assert len({tuple(identity.dictionaries.values()) for identity in weights.values()}) == 1
    fc.evaluate(in_dtype(torch.bfloat16), made.circuit, made.task, sizes=())
    with pytest.raises(fc.InputError, match="dtype is float16 and was float32, and weights in float16 cannot be comp"):
        fc.evaluate(in_dtype(torch.float16), made.circuit, made.task, sizes=())
    whole = torch.tensor([3, 4])
    assert fingerprint_of({"k": whole}.items()) != fingerprint_of({"k": whole + 1}.items())


def in_dtype(dtype: torch.dtype) -> SplicedModel:
    sites = {name: random_dictionary(seed=number) for number, name in enumerate(SITES)}
    model = tiny_model("gpt2", dtype=torch.float32)
    return fc.load(model, sites, dtype=dtype, check=dtype != torch.float16)


def test_a_circuit_is_evaluated_on_the_sites_that_it_was_traced_with(made: Made) -> None:
    fewer = made.model.only(["resid_0", "resid_1", "resid_2"])
    with pytest.raises(fc.InputError, match="there is no dictionary at embed, mlp_0, where it was made with one"):
        fc.evaluate(fewer, made.circuit, made.task)
    circuit = traced(fewer, made.task, nodes="atp", keep_nodes="top=20")
    with pytest.raises(
        fc.InputError, match=r"a dictionary at embed, mlp_0, where it was made without; take model.only"
    ):
        fc.evaluate(made.model, circuit, made.task)
    assert fc.evaluate(made.model, circuit, made.task, sizes=(), check=False).n_nodes == circuit.n_nodes
    assert fc.evaluate(made.model.only(["resid_0", "resid_1", "resid_2"]), circuit, made.task, sizes=()).n_nodes > 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mlp_1/3@0", "the suite has no dictionary at mlp_1"),
        ("resid_1/24@0", "the dictionary of resid_1 has 24 features"),
        ("resid_1/999999999@0", "the dictionary of resid_1 has 24 features"),
        ("resid_9/error@0", "the suite has no dictionary at resid_9"),
    ],
)
def test_nodes_that_the_suite_lacks_are_refused_also_without_a_manifest(made: Made, name: str, message: str) -> None:
    node = fc.Node.parse(name)
    circuit = fc.Circuit({node: next(iter(made.circuit.nodes.values()))}, {}, made.task.places, "none")
    for call in (
        lambda: fc.evaluate(made.model, circuit, made.task, check=False),
        lambda: fc.evaluate(made.model, made.circuit, made.task, ranking=circuit),
        lambda: fc.evaluate(made.model, made.circuit, made.task, ranking=[name]),
        lambda: explained_effect(made.model, made.task, circuit),
        lambda: fc.illusion(made.model, made.task, circuit),
        lambda: fc.patch(made.model, made.task, [name]),
    ):
        with pytest.raises(fc.InputError, match=message):
            call()


def test_a_circuit_without_a_manifest_is_compared_with_nothing(made: Made) -> None:
    bare = replace(made.circuit, manifest={})
    assert identity_in({}) == (None, None, {})
    assert identity_in({"model": 3, "suite": {"sites": ["x"]}, "task": None}) == (None, None, {})
    assert identity_in({"suite": {"sites": {"mlp_0": 3, "mlp_1": {"fingerprint": 4}}}}) == (None, None, {})
    assert fc.evaluate(swapped(made.model), bare, made.task, sizes=()).n_nodes == bare.n_nodes


# --- tasks


def token_doors(model: SplicedModel, task: fc.Task) -> list[Callable[[], Any]]:
    circuit = fc.Circuit({}, {}, task.places, "none")
    return [
        lambda: fc.node_effects(model, task, "atp"),
        lambda: fc.edge_effects(model, task, ["resid_1/3@0"], "atp"),
        lambda: fc.trace(model, task, check_fit=False),
        lambda: fc.evaluate(model, circuit, task),
        lambda: fc.patch(model, task, ["resid_1/3@0"]),
        lambda: explained_effect(model, task, circuit),
        lambda: fc.illusion(model, task, circuit),
        lambda: fc.agree(model, task, ["atp"]),
        lambda: fc.audit(model, task),
        lambda: fc.check_suite(model, task, check_fit=False),
    ]


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (
            fc.Task.from_tokens([[1, 2, VOCABULARY]], [[1, 3, 4]], [5], [6]),
            f"token id {VOCABULARY} is not in the model's vocabulary of {VOCABULARY}",
        ),
        (fc.Task.from_tokens([[1, 2, 3]], [[1, 3, 10**12]], [5], [6]), "token id 1000000000000 is not in the model's"),
        (
            fc.Task.from_tokens([[1, 2, 3]], [[1, 3, 4]], [50256], [6]),
            "token id 50256 is not in the model's vocabulary",
        ),
        (fc.Task.from_tokens([[1] * 65], [[2] * 65], [5], [6]), "longest prompt has 65 tokens, and the model 64 pos"),
    ],
)
def test_ids_and_lengths_that_the_model_does_not_have_are_refused(made: Made, task: fc.Task, message: str) -> None:
    for call in token_doors(made.model, task):
        with pytest.raises(fc.InputError, match=message):
            call()


def test_padding_is_refused_where_it_is_used_with_an_id_that_the_model_does_not_have(made: Made) -> None:
    ids = ([[1, 2, 3], [1, 2]], [[1, 3, 3], [1, 3]], [5, 5], [6, 6])
    padded = fc.Task.from_tokens(*ids, aggregate="sum", pad_id=VOCABULARY)
    with pytest.raises(fc.InputError, match=rf"padded with id {VOCABULARY}, .* as by task.with_options\(pad_id=0\)"):
        fc.node_effects(made.model, padded, "atp")
    fc.node_effects(made.model, padded.with_options(pad_id=0), "atp")
    fc.node_effects(made.model, made.task.with_options(pad_id=VOCABULARY), "atp")  # nothing is padded


def words(*names: str) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers

    backend = Tokenizer(models.WordLevel({name: number for number, name in enumerate(names)}, unk_token=names[0]))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, unk_token=names[0])


def test_a_task_of_another_tokenizer_is_refused(made: Made, tmp_path: Any) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(
        '{"clean_prefix": "a b", "patch_prefix": "a c", "clean_answer": " c", "patch_answer": " b"}\n', encoding="utf-8"
    )
    own, other = words("<unk>", "a", "b", "c"), words("<unk>", "c", "b", "a")
    model = replace(made.model, tokenizer=own)
    task, foreign = fc.Task.from_jsonl(path, own), fc.Task.from_jsonl(path, other)
    fc.node_effects(model, task, "atp")
    fc.node_effects(model, fc.Task.from_jsonl(path, words("<unk>", "a", "b", "c")), "atp")
    for changed in (foreign, foreign.with_options(aggregate="sum"), foreign.take(1)):
        with pytest.raises(fc.InputError, match="tokenised with a tokenizer other than the model's"):
            fc.node_effects(model, changed, "atp")
    fc.node_effects(model, foreign, "atp", check=False)
    fc.node_effects(made.model, foreign, "atp")  # a model without a tokenizer has nothing to compare


def test_what_changes_no_ids_changes_no_fingerprint_of_a_tokenizer() -> None:
    own = words("<unk>", "a", "b", "c")
    mark = tokenizer_fingerprint(own)
    own(["a b", "c"], padding=False, truncation=True, max_length=1)
    own.pad_token = "<unk>"
    own(["a b", "c"], padding=True)
    own.add_special_tokens({"additional_special_tokens": ["<new>"]})
    assert tokenizer_fingerprint(own) == mark
    assert tokenizer_fingerprint(words("<unk>", "a", "b")) != mark
    assert tokenizer_fingerprint(object()) is None


# --- arguments of another type


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: fc.trace(m.model, "pairs.jsonl"), "task is 'pairs.jsonl' of type str; give a Task"),
        (lambda m: fc.trace("gpt2", m.task), "model is 'gpt2' of type str; give a SplicedModel, as made by fc.load"),
        (lambda m: fc.trace(m.model.model, m.task), "of type GPT2LMHeadModel; give a SplicedModel"),
        (lambda m: fc.trace(m.model, m.task, keep_nodes=100), "a pruning rule is a text, found 100; give 'top=100'"),
        (lambda m: fc.trace(m.model, m.task, nodes=5), "estimator is 5, but must be of type str"),
        (lambda m: fc.trace(m.model, m.task, select=5), "selection rule is 5, but must be of type str"),
        (lambda m: fc.trace(m.model, m.task, seed=-1), "seed is -1; it must be at least 0"),
        (lambda m: fc.trace(m.model, m.task, seed=1.5), "seed is 1.5, but must be of type int"),
        (lambda m: fc.evaluate(m.model, m.task, m.circuit), "task is of type Circuit"),
        (lambda m: fc.evaluate(m.model, "circuit.safetensors", m.task), "give a Circuit, as made by fc.trace"),
        (lambda m: fc.evaluate(m.model, m.circuit, "pairs.jsonl"), "give a Task, as made by fc.Task.from_jsonl"),
        (lambda m: fc.evaluate(m.model, m.circuit, m.task, draws=10**9), "draws is 1000000000; it must be at least 0"),
        (lambda m: fc.evaluate(m.model, m.circuit, m.task, draws=True), "draws is True"),
        (lambda m: fc.node_effects(m.task, m.model), "model is of type Task"),
        (lambda m: IntegratedGradients(steps="5"), "steps is '5', but must be of type int"),
        (lambda m: IntegratedGradients(steps=True), "steps is True, but must be of type int"),
        (lambda m: IntegratedGradients(steps=10**8), "steps is 100000000; it must be at least 1"),
        (lambda m: IntegratedGradients(quadrature=5), "quadrature is 5, but must be of type str"),
        (lambda m: fc.edge_effects(m.model, m.task, "resid_1/3@0"), "give a list of nodes or names"),
        (lambda m: fc.edge_effects(m.model, m.task, m.circuit), "give a list of nodes or names"),
        (lambda m: fc.edge_effects(m.model, m.task, [3]), "3 is not a node"),
        (lambda m: fc.edge_effects(m.model, m.task, m.effects, node_threshold="1"), "node_threshold is '1'"),
        (lambda m: fc.edge_effects(m.model, m.task, m.effects, node_threshold=1.0, batch_size=1), "leave it out"),
        (
            lambda m: fc.edge_effects(m.model, m.task, [], effects=m.circuit),
            "give a NodeEffects, as made by fc.node_eff",
        ),
        (lambda m: fc.patch(m.model, m.task, "resid_1/3@0"), "give a list of nodes or names"),
        (lambda m: fc.patch(m.model, m.task, m.circuit), "give a list of nodes or names"),
        (lambda m: fc.select(m.model, m.task, m.circuit), "effects is of type Circuit"),
        (lambda m: fc.bound_missed(m.model, m.task, m.circuit, []), "effects is of type Circuit"),
        (lambda m: explained_effect(m.model, m.circuit, m.task), "task is of type Circuit"),
        (lambda m: fc.illusion(m.model, m.task, "resid_1/3@0"), "give a list of nodes or names"),
        (lambda m: fc.agree(m.model, "pairs.jsonl"), "give a Task"),
        (lambda m: fc.audit("gpt2", m.task), "give a SplicedModel"),
        (lambda m: fc.check_suite("gpt2", m.task), "give a SplicedModel"),
        (lambda m: fc.export.gexf(m.task, "x.gexf"), "give a Circuit"),
        (lambda m: fc.export.graphml("circuit", "x.graphml"), "give a Circuit"),
        (lambda m: fc.export.json(None, "x.json"), "give a Circuit"),
        (lambda m: fc.symmetric_replacement("pairs.jsonl", None, []), "give a Task"),
        (lambda m: fc.Circuit.load(5), "path is 5; give the path of a circuit file"),
        (lambda m: fc.Circuit.load("."), "this is a folder; give a file"),
        (lambda m: fc.Circuit.load("missing.safetensors"), "no such circuit file"),
        (lambda m: m.circuit.save(None), "path is None; give the path of a circuit file"),
        (lambda m: fc.evaluate(m.model, m.circuit, m.task, ranking=m.circuit, sizes=()), "leave out one of the two"),
        (lambda m: fc.agree(m.model, m.task, ["atp"], bases=["whole"], edge_nodes=5), "leave edge_nodes out too"),
        (lambda m: m.model.only("resid_1"), r"give a list, such as \['resid_2'\]"),
        (lambda m: m.model.only([3]), "unknown site 3"),
        (lambda m: m.model.dictionaries["resid_9"], "there is no dictionary resid_9 here; there are: embed, mlp_0"),
        (lambda m: m.model.dictionaries["stream"], "unknown site 'stream'"),
        (lambda m: m.effects.features(3), "unknown site 3"),
    ],
)
def test_an_argument_of_another_type_ends_in_one_message(
    made: Made, call: Callable[[Made], Any], message: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(fc.InputError, match=message) as caught:
        call(made)
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_names_stand_for_sites_and_nodes_in_every_door(made: Made) -> None:
    model: Any = made.model
    assert model.dictionaries["resid_1"] is model.dictionaries[fc.Site.parse("resid_1")]
    assert "resid_1" in model.dictionaries
    assert "resid_9" not in model.dictionaries
    assert model.only(["resid_1", "embed"]).sites == tuple(map(fc.Site.parse, ("embed", "resid_1")))
    nodes = list(made.circuit.nodes)[:3]
    names = list(map(str, nodes))
    assert repr(fc.patch(model, made.task, names)) == repr(fc.patch(model, made.task, nodes))
    assert [e.effect for e in fc.illusion(model, made.task, names)] == [
        e.effect for e in fc.illusion(model, made.task, nodes)
    ]
    edges = [list(fc.edge_effects(model, made.task, given, "atp").edges()) for given in (names, nodes)]
    assert edges[0] == edges[1]
    curves = [
        fc.evaluate(model, made.circuit, made.task, ranking=given, sizes=(2,), draws=0).curve
        for given in (names, nodes)
    ]
    assert curves[0] is not None
    assert curves[1] is not None
    assert curves[0].faithfulness == curves[1].faithfulness


# --- ledgers


def test_a_ledger_of_another_model_task_or_method_is_refused(made: Made) -> None:
    from featcircuits.runs.ledger import InMemory

    ledger = InMemory()
    first = fc.node_effects(made.model, made.task, "atp", ledger=ledger)
    again = fc.node_effects(small_model(), made.task, "atp", ledger=ledger)
    assert list(first.nodes()) == list(again.nodes())
    others: list[Callable[[], Any]] = [
        lambda: fc.node_effects(noised(made.model), made.task, "atp", ledger=ledger),
        lambda: fc.node_effects(swapped(made.model), made.task, "atp", ledger=ledger),
        lambda: fc.node_effects(made.model, random_task(3, seed=1), "atp", ledger=ledger),
        lambda: fc.node_effects(made.model, made.task.with_options(metric="kl"), "atp", ledger=ledger),
        lambda: fc.node_effects(made.model, made.task.with_options(aggregate="sum"), "atp", ledger=ledger),
        lambda: fc.node_effects(made.model, made.task, "relp", ledger=ledger),
        lambda: fc.node_effects(made.model, made.task, "ig:steps=1", ledger=ledger),
        lambda: fc.node_effects(made.model, made.task, "atp", baseline="zero", ledger=ledger),
        lambda: fc.node_effects(made.model, made.task, "atp", error_effects="exact", ledger=ledger),
        lambda: fc.node_effects(made.model, made.task, "atp", batch_size=1, ledger=ledger),
        lambda: traced(made.model, made.task, nodes="atp", ledger=ledger),  # keeps no single examples
    ]
    for other in others:
        with pytest.raises(fc.InputError, match="the ledger holds batch 0 of nodes of another model, task or settings"):
            other()


def test_a_trace_takes_from_a_ledger_what_is_its_own(made: Made) -> None:
    from featcircuits.runs.ledger import InMemory

    ledger = InMemory()
    options: dict[str, Any] = {"nodes": "atp", "keep_nodes": "top=30", "ledger": ledger}
    circuit = traced(made.model, made.task, **options)
    assert traced(made.model, made.task, **options) == circuit == made.circuit
    for changed in ({"keep_nodes": "top=20"}, {"edges": "relp"}):
        with pytest.raises(fc.InputError, match="batch 0 of edges of another"):
            traced(made.model, made.task, **{**options, **changed})
    for changed in ({"select": "helpful"}, {"seed": 1}):
        with pytest.raises(fc.InputError, match="batch 0 of order of another"):
            traced(made.model, made.task, **{**options, **changed})


@pytest.mark.parametrize(
    "call",
    [
        lambda m, size: fc.node_effects(m.model, m.task, "atp", batch_size=size),
        lambda m, size: fc.trace(m.model, m.task, batch_size=size),
        lambda m, size: fc.evaluate(m.model, m.circuit, m.task, batch_size=size),
        lambda m, size: fc.patch(m.model, m.task, list(m.circuit.nodes)[:1], batch_size=size),
        lambda m, size: explained_effect(m.model, m.task, m.circuit, batch_size=size),
        lambda m, size: explained_effect(m.model, m.task, m.circuit, max_rows=size),
        lambda m, size: fc.evaluate(m.model, m.circuit, m.task, max_rows=size),
        lambda m, size: fc.illusion(m.model, m.task, m.circuit, max_rows=size),
    ],
)
@pytest.mark.parametrize("size", [0, -1, 2.0, "8", True, 10**12, 10**400])
def test_sizes_out_of_range_are_refused(made: Made, call: Callable[..., Any], size: Any) -> None:
    with pytest.raises(
        fc.InputError, match=r"(batch_size|max_rows) is .*(must be at least 1|must be of type int)"
    ) as caught:
        call(made, size)
    assert len(str(caught.value)) < 200


def test_dictionaries_that_were_made_already_cannot_be_offloaded(made: Made) -> None:
    with pytest.raises(fc.InputError, match="dictionaries that were made already stay where they are"):
        fc.load(made.model.model, dict(made.model.dictionaries), offload="cpu")


def test_a_metric_undoes_no_soft_cap_but_the_models() -> None:
    model = spliced_model(tiny_model("llama"))
    with pytest.raises(fc.InputError, match="undoes a final soft cap of 30, and the model has none; give cap=0"):
        fc.node_effects(model, random_task(1, 4, metric="demeaned_logit:cap=30"), "atp")
