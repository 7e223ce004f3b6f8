"""Training a suite: from text to a folder, through interruptions, with every recipe; and what is refused."""

from __future__ import annotations

import shutil
from collections import namedtuple
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import featcircuits as fc
from featcircuits.dictionaries import jumprelu
from featcircuits.errors import InputError
from featcircuits.health import measure
from featcircuits.model.architecture import architecture_of
from featcircuits.model.sites import parse_all
from featcircuits.model.tokens import Tokens
from featcircuits.progress import silent
from featcircuits.sources import sha256
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.suites import load_suite
from featcircuits.tasks.token_rows import Rows, token_batches
from featcircuits.training import Recipe, activations, rounds, sample_rows, suite_record, train, train_suite, trainer
from featcircuits.training.activations import collect, opened, shape_at, shuffled
from featcircuits.training.text import parted
from tests.tiny import VOCABULARY, tiny_model

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # sae_lens's own, on import
RECIPE = Recipe(features=24, k=3, steps=12, batch_size=32)
SITES = ("embed", "attn_1", "resid")
TRAINED = ["embed", "resid_0", "attn_1", "resid_1", "resid_2"]


def bare_model(family: str = "gpt_neox_parallel") -> SplicedModel:
    model = tiny_model(family, dtype=torch.float32)
    return SplicedModel(model, architecture_of(model), {})


def random_rows(count: int = 40, seed: int = 0) -> Rows:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, 9, (count,), generator=generator).tolist()
    return [torch.randint(1, VOCABULARY, (length,), generator=generator).tolist() for length in lengths]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A suite that no test changes."""
    out = tmp_path_factory.mktemp("suites") / "mine"
    train_suite(bare_model(), random_rows(), out, RECIPE, sites=SITES, name="mine", licence="MIT", text="random.txt")
    return out


@pytest.mark.slow
def test_a_trained_suite_is_complete_and_loads(trained: Path) -> None:
    assert set(files(trained)) == {"README.md", "suite.toml", *(f"sites/{site}.safetensors" for site in TRAINED)}
    assert [path.name for path in trained.parent.iterdir()] == ["mine"]
    found = load_suite(trained)
    assert list(found.sites) == TRAINED
    for site, row in found.sites.items():
        assert row["sha256"] == sha256(trained / "sites" / f"{site}.safetensors")
    spliced = fc.load(bare_model().model, trained)
    assert list(map(str, spliced.sites)) == TRAINED
    with pytest.raises(InputError, match="belongs to another model"):
        fc.load(tiny_model("gpt_neox_parallel", seed=1), trained)


@pytest.mark.slow
def test_the_record_and_the_card_hold_the_figures_on_held_out_rows(trained: Path) -> None:
    rows, found = random_rows(), load_suite(trained)
    spliced = fc.load(bare_model().model, trained)
    figures, _ = measure(spliced, rows[-4:])
    card = (trained / "README.md").read_text(encoding="utf-8")
    for site, figure in figures.items():
        row = {key: value for key, value in found.sites[str(site)].items() if key not in ("source", "sha256", "kind")}
        assert row == {**figure.record(), "sink_tokens_training": 0}
        assert f"| `{site}` | {figure.n_features} | {figure.l0:.1f} | {figure.variance_unexplained:.2%} |" in card
    text = (trained / "suite.toml").read_text(encoding="utf-8")
    assert f"tokens_held_out = {sum(map(len, rows[-4:]))}" in text
    assert f"tokens = {sum(map(len, rows[:-4]))}" in text
    assert 'text = "random.txt"' in text
    assert "| `architecture` | batchtopk |" in card
    assert "| `keep_sinks` | False |" in card


@pytest.mark.slow
def test_another_seed_gives_other_weights_and_the_same_seed_the_same(trained: Path, tmp_path: Path) -> None:
    for seed, same in ((0, True), (1, False)):
        out = tmp_path / str(seed)
        train_suite(bare_model(), random_rows(), out, replace(RECIPE, seed=seed), sites=["resid_1"])
        again, before = (load_file(folder / "sites/resid_1.safetensors") for folder in (out, trained))
        assert torch.equal(again["b_dec"], before["b_dec"]) is same


Watch = Callable[[Iterable[Any], str, int], Iterable[Any]]


def interrupting(stage: str, after: int, begun: list[str]) -> Watch:
    """Stops in a loop of this name after so many items; notes the loops that were entered."""

    def watch(items: Iterable[Any], description: str, total: int) -> Iterator[Any]:
        begun.append(description)
        for number, item in enumerate(items):
            if description == stage and number == after:
                raise KeyboardInterrupt
            yield item

    return watch


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "after", "again"),
    [
        ("activations", 0, ["activations", *TRAINED]),
        ("embed", 5, TRAINED),
        ("attn_1", 0, ["attn_1", "resid_1", "resid_2"]),
        ("resid_2", 11, ["resid_2"]),
        ("figures", 0, []),
    ],
)
def test_an_interrupted_training_goes_on_and_ends_the_same(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, after: int, again: list[str]
) -> None:
    """Every file is the uninterrupted one's, byte for byte, and no finished site is trained again."""
    monkeypatch.setattr(trainer, "CHECKPOINT_SECONDS", 0.0)
    options: dict[str, Any] = {"sites": SITES, "name": "mine", "licence": "MIT", "text": "random.txt"}
    out, begun = tmp_path / "mine", []
    kept = stage != "activations"
    says = "interrupted; run the same command again" if kept else "interrupted before anything was finished"
    with pytest.raises(InputError, match=says):
        train_suite(bare_model(), random_rows(), out, RECIPE, progress=interrupting(stage, after, []), **options)
    assert [path.name for path in tmp_path.iterdir()] == [".mine.partial"] * kept
    if kept:
        with pytest.raises(InputError, match="other settings, data or versions"):
            train_suite(bare_model(), random_rows(), out, replace(RECIPE, k=4), **options)
    steps: dict[str, int] = {}

    def counting(items: Iterable[Any], description: str, total: int) -> Iterator[Any]:
        begun.append(description)
        steps[description] = total
        yield from items

    train_suite(bare_model(), random_rows(), out, RECIPE, progress=counting, **options)
    assert [name for name in begun if name not in ("sink tokens", "means", "figures")] == again
    if stage in TRAINED:
        assert steps[stage] == RECIPE.steps - after
    assert files(out) == files(trained)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_long_text_is_trained_on_in_parts_that_are_each_collected_once(tmp_path: Path) -> None:
    """Interrupted between two sites of the second part and within a site of the third; every row is read once."""
    recipe, begun, read = replace(RECIPE, store_tokens=70, steps=14), [], []
    bare, stages = bare_model(), ["embed", "mlp_1"]
    handle = bare.model.register_forward_pre_hook(
        lambda _, args, given: read.extend(given["attention_mask"].sum(1).tolist()), with_kwargs=True
    )
    for stage, after in (("mlp_1, part 2 of 3", 0), ("embed, part 3 of 3", 2)):
        watch = interrupting(stage, after, begun)
        with pytest.raises(InputError, match="interrupted"):
            train_suite(bare, random_rows(), tmp_path / "mine", recipe, sites=stages, progress=watch)
    again = interrupting("", 0, begun)
    handle.remove()
    train_suite(bare, random_rows(), tmp_path / "mine", recipe, sites=stages, progress=again)
    rows, _ = parted(bare, random_rows(), recipe, "")
    assert sorted(read) == sorted(map(len, rows))
    assert begun[:9] == [
        "activations", "embed, part 1 of 3", "mlp_1, part 1 of 3", "activations", "embed, part 2 of 3",
        "mlp_1, part 2 of 3", "mlp_1, part 2 of 3", "activations", "embed, part 3 of 3",
    ]  # fmt: skip
    train_suite(bare, random_rows(), tmp_path / "at_once", recipe, sites=stages, name="mine")
    train_suite(bare, random_rows(), tmp_path / "alone", recipe, sites=["mlp_1"])
    assert files(tmp_path / "mine") == files(tmp_path / "at_once")
    assert files(tmp_path / "alone")["sites/mlp_1.safetensors"] == files(tmp_path / "mine")["sites/mlp_1.safetensors"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone", "at_once", "mine"]
    found = rounds.rounds_of(rows, recipe)
    assert [part.steps for part in found] == [range(4), range(4, 9), range(9, 14)]
    with pytest.raises(InputError, match="a part of the text has .* tokens, and a batch 32; store more"):
        rounds.rounds_of(rows, replace(recipe, store_tokens=20))


@pytest.mark.parametrize(("scale", "part"), [(1e-8, "too small"), (1e6, "too large")])
def test_activations_that_half_precision_cannot_hold_are_refused(tmp_path: Path, scale: float, part: str) -> None:
    bare = bare_model()
    with torch.no_grad():
        bare.model.get_input_embeddings().weight *= scale
    with pytest.raises(InputError, match=f"embed: activations of mean norm .* are {part} for float16; .*--store"):
        train_suite(bare, random_rows(), tmp_path / "mine", RECIPE, sites=["embed"])


@pytest.mark.slow
def test_half_precision_costs_no_quality() -> None:
    x = sparse_sums(4000)
    recipe = Recipe(features=32, k=3, steps=400, batch_size=128, learning_rate=5e-3)
    left = [share_left(trained_on(stored, recipe), x) for stored in (x, x.half())]
    assert left[1] == pytest.approx(left[0], rel=0.2)  # another seed differs as much


def trained_on(x: Tensor, recipe: Recipe) -> dict[str, Tensor]:
    tensors = trainer.train(x, recipe)
    assert tensors is not None
    return tensors


def test_a_site_whose_features_all_die_costs_none_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All others are trained, and leaving it out ends with them, none of them trained again."""
    begun: list[str] = []

    def fake(activations: Tensor, recipe: Recipe, *, name: str, **_: Any) -> dict[str, Tensor]:
        begun.append(name)
        x = activations[: 0 if name == "attn_1" else 3].clone()
        none = torch.zeros(len(x))
        return {
            "W_enc": x.T.contiguous(),
            "b_enc": none,
            "W_dec": x,
            "b_dec": x.new_zeros(x.shape[1]),
            "threshold": none.clone(),
        }

    monkeypatch.setattr(rounds, "train", fake)
    out = tmp_path / "mine"
    with pytest.raises(
        InputError, match="every feature died in training at attn_1; repeat the call without these sites"
    ):
        train_suite(bare_model(), random_rows(), out, RECIPE, sites=SITES)
    assert begun == TRAINED
    found = train_suite(bare_model(), random_rows(), out, RECIPE, sites=["embed", "resid"])
    assert (begun, list(found["sites"])) == (TRAINED, ["embed", "resid_0", "resid_1", "resid_2"])
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    train_suite(bare_model(), random_rows(), tmp_path / "other", RECIPE, sites=["embed", "resid"], name="mine")
    assert files(out) == files(tmp_path / "other")


def sparse_sums(count: int) -> Tensor:
    """Sums of 3 of 24 directions in 16 dimensions."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(24, 16, generator=generator), dim=1)
    chosen = torch.rand(count, 24, generator=generator).argsort(1)[:, :3]
    amounts = torch.zeros(count, 24).scatter(1, chosen, 1 + torch.rand(count, 3, generator=generator))
    return amounts @ directions + 0.5


def share_left(tensors: dict[str, Tensor], x: Tensor) -> float:
    """Variance of x that a trained dictionary leaves unexplained."""
    dictionary = jumprelu(**tensors)
    error = x - dictionary.decode(dictionary.encode(x))
    return (error.square().sum() / (x - x.mean(0)).square().sum()).item()


@pytest.mark.slow
@pytest.mark.parametrize("n_dead", [0, 3, 20])
@pytest.mark.parametrize("name", ["BatchTopK", "MatryoshkaBatchTopK"])
def test_a_sparse_step_has_the_loss_and_the_gradients_of_sae_lens(name: str, n_dead: int) -> None:
    import sae_lens
    from sae_lens.saes.sae import TrainStepInput

    from featcircuits.training import sparse

    widths: dict[str, Any] = {} if name == "BatchTopK" else {"matryoshka_widths": [10, 20, 40]}
    config = getattr(sae_lens, f"{name}TrainingSAEConfig")(
        d_in=16, d_sae=40, k=3.5, device="cpu", dtype="float64", topk_threshold_lr=0.05, **widths
    )
    torch.manual_seed(0)
    theirs = getattr(sae_lens, f"{name}TrainingSAE")(config)
    ours = (sparse.SparseBatchTopK if name == "BatchTopK" else sparse.SparseMatryoshka)(config)
    with torch.no_grad():
        theirs.W_dec.mul_(torch.rand(40, 1) + 0.5)
        theirs.b_enc.normal_(0, 0.1)
        theirs.b_dec.normal_()
    ours.load_state_dict(theirs.state_dict())
    step = TrainStepInput(
        sae_in=torch.randn(64, 16, dtype=torch.float64), coefficients={}, n_training_steps=0, is_logging_step=False,
        dead_neuron_mask=torch.arange(40) < n_dead,
    )  # fmt: skip
    found = []
    for sae in (theirs, ours):
        out = sae.training_forward_pass(step)
        out.loss.backward()
        numbers = (out.loss, out.feature_acts.to_dense(), out.sae_out, sae.topk_threshold)
        found.append((*numbers, *(weight.grad for weight in sae.parameters())))
    for a, b in zip(*found, strict=True):
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-12)
    assert all(weight.grad.abs().max() > 0.1 for weight in theirs.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("bound", [0.0, 0.5, 5.0])
def test_the_largest_activations_do_not_depend_on_where_the_search_begins(bound: float) -> None:
    from featcircuits.training.sparse import largest

    acts = torch.randn(20, 30, generator=torch.Generator().manual_seed(0))
    for count in (7, 100, 500):
        found, values = largest(acts, count, bound), acts.flatten().topk(count).values
        assert torch.equal(acts[found.token, found.feature].sort(descending=True).values, values[values > 0])
        assert torch.equal((found.token * 30 + found.feature).sort().values, found.token * 30 + found.feature)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["batchtopk", "jumprelu", "matryoshka"])
def test_every_architecture_learns_sparse_features(architecture: str) -> None:
    """Sums of 3 of 24 directions: explained by about 3 features per token."""
    x = sparse_sums(4000)
    recipe = Recipe(architecture, features=32, k=3, steps=400, batch_size=128, learning_rate=5e-3)
    tensors = trained_on(x, recipe)
    dictionary = jumprelu(**tensors)
    features = dictionary.encode(x)
    assert share_left(tensors, x) < 0.25
    assert 2 < (features > 0).sum(1).float().mean() < 5
    assert torch.allclose(tensors["W_dec"].norm(dim=1), torch.ones(dictionary.n_features), atol=1e-5)
    assert (tensors["threshold"] >= 0).all()


def test_features_that_hardly_any_token_activates_are_left_out() -> None:
    x = torch.eye(2).repeat(50, 1)
    weights = {
        "W_enc": torch.tensor([[1.0, 0.0, -1.0], [0.0, 0.0, 0.0]]),
        "b_enc": torch.zeros(3),
        "W_dec": torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]),
        "b_dec": torch.zeros(2),
        "threshold": torch.full((3,), 0.5),
    }
    kept = trainer.without_dead(weights, x)
    assert torch.equal(kept["W_dec"], weights["W_dec"][:1])
    assert kept["W_enc"].shape == (2, 1)


@pytest.mark.parametrize("family", ["gpt_neox_parallel", "gemma2"])
def test_one_pass_collects_every_site(family: str, tmp_path: Path) -> None:
    """Activations of real tokens in the order of batches, as a plain forward of each row gives them."""
    bare, rows = bare_model(family), random_rows(30)
    sites = parse_all(["embed", "attn_z_0", "attn_1", "mlp_2", "resid_2"])
    calls: list[int] = []
    bare.model.register_forward_pre_hook(lambda *_: calls.append(1))
    collect(bare, rows, sites, tmp_path / "x", silent)
    assert len(calls) == 1
    ordered = sorted(rows, key=len)
    for site in sites:
        found = opened(tmp_path / "x", site, shape_at(bare, rows, site)[1])
        alone = [bare.record(Tokens.pad([row], 0), [site])[1][site][0] for row in ordered]
        assert torch.allclose(found, torch.cat(alone), atol=1e-4), site
        assert (tmp_path / "x" / str(site)).stat().st_size == found.numel() * 4


def test_the_pass_ends_at_the_last_site_that_is_needed(tmp_path: Path) -> None:
    bare, rows = bare_model(), random_rows(30)
    ran: list[int] = []
    for number, layer in enumerate(bare.architecture.layers(bare.model)):
        layer.register_forward_pre_hook(lambda *_, number=number: ran.append(number))
    collect(bare, rows, parse_all(["embed", "mlp_1"]), tmp_path / "x", silent)
    assert ran == [0, 1]


def test_a_bounded_part_of_the_text_is_held_out_and_no_more_is_read_than_steps_use() -> None:
    bare, rows = bare_model(), [[i % 9 + 1] * 4 for i in range(400)]
    bare.model.config.bos_token_id = 2
    for recipe, used, held in (
        (replace(RECIPE, steps=100), 360, 40),
        (replace(RECIPE, steps=100, held_out=30), 393, 7),
        (replace(RECIPE, steps=10, held_out=2), 90, 1),
    ):
        seen, held_out = parted(bare, rows, recipe, "text")
        assert held_out == rows[-held:]
        n_tokens = sum(4 - (row[0] == 2) for row in seen)
        if recipe.steps == 10:
            assert 320 <= n_tokens < 324
            assert abs(len(seen) - used) < 10
        else:
            assert seen == rows[:used]


@pytest.mark.parametrize("keep_sinks", [False, True])
def test_sinks_are_not_among_the_activations(tmp_path: Path, keep_sinks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """BOS at the head of a row is left out everywhere, a huge token where it is huge; elsewhere in a row BOS counts."""
    monkeypatch.setattr(activations, "MOVED", 7)
    bare, rows = bare_model(), [[2, 3, 2, 5], *random_rows(30), [1, 4, 4], [2, 6], [4, 1, 7]]
    bare.model.config.bos_token_id = 2
    with torch.no_grad():
        bare.model.get_input_embeddings().weight[1] *= 1000  # token 1
    sites = parse_all(["embed", "attn_1", "resid_2"])
    collect(bare, rows, sites, tmp_path / "x", silent, keep_sinks=keep_sinks)
    ordered = sorted(rows, key=len)
    for site in sites:
        alone = torch.cat([bare.record(Tokens.pad([row], 0), [site])[1][site][0] for row in ordered])
        huge = (1,) if str(site) != "attn_1" else ()
        usual = [not (place == 0 and id == 2) and id not in huge for row in ordered for place, id in enumerate(row)]
        kept = alone if keep_sinks else alone[torch.tensor(usual)]
        found = opened(tmp_path / "x", site, alone.shape[1])
        assert found.shape == kept.shape, site
        assert torch.allclose(found, kept, rtol=1e-4, atol=1e-3), site


@pytest.mark.slow
def test_training_tells_how_many_sinks_were_left_out(tmp_path: Path) -> None:
    bare, rows = bare_model(), [[2, *row] for row in random_rows()]
    bare.model.config.bos_token_id = 2
    found = train_suite(bare, rows, tmp_path / "mine", RECIPE, sites=["attn_1"])
    site = found["sites"]["attn_1"]
    assert (site["sink_tokens"], site["sink_tokens_training"]) == (4, 36)
    assert found["recipe"]["keep_sinks"] is False
    card = (tmp_path / "mine" / "README.md").read_text(encoding="utf-8")
    assert "| 4 (36) |" in card
    assert load_suite(tmp_path / "mine").sites["attn_1"]["sink_tokens_training"] == 36
    kept = train_suite(bare, rows, tmp_path / "kept", replace(RECIPE, keep_sinks=True), sites=["attn_1"])
    site = kept["sites"]["attn_1"]
    assert (site["sink_tokens"], site["sink_tokens_training"]) == (0, 0)
    assert "held-out tokens, attention sinks among them." in (tmp_path / "kept" / "README.md").read_text()
    assert load_file(tmp_path / "kept/sites/attn_1.safetensors")["W_enc"].shape[0] == 16


def test_a_batch_larger_than_what_the_sinks_leave_is_refused(tmp_path: Path) -> None:
    """Without BOS, and at a site where half of the tokens but one are sinks."""
    bare, rows = bare_model(), [[2, 3]] * 50
    bare.model.config.bos_token_id = 2
    with pytest.raises(InputError, match="45 tokens in 45 rows are left to train on"):
        train_suite(bare, rows, tmp_path / "mine", replace(RECIPE, batch_size=64))
    bare.model.config.bos_token_id = None
    with torch.no_grad():
        bare.model.get_input_embeddings().weight[2] *= 1000
    with pytest.raises(InputError, match=r"embed: only 45 of 90 tokens are not attention sinks, .*--keep-sinks"):
        train_suite(bare, rows, tmp_path / "mine", replace(RECIPE, batch_size=64), sites=["embed"])


@pytest.mark.slow
def test_without_sinks_the_other_tokens_are_explained_far_better() -> None:
    """The same recipe on the same text: one token in ten is huge, takes the budget, and decides the scale."""
    x = sparse_sums(4000)
    sinks = 300 * torch.nn.functional.normalize(torch.randn(400, 16, generator=torch.Generator().manual_seed(1)))
    recipe = Recipe(features=32, k=3, steps=400, batch_size=128, learning_rate=5e-3)
    left = [share_left(trained_on(text, recipe), x) for text in (torch.cat([x, sinks]), x)]
    assert left[1] < 0.25 < 0.5 < left[0]


def test_batches_are_permutations_and_can_be_skipped() -> None:
    x = torch.arange(10.0)[:, None]
    batches = shuffled(x, 5, seed=3)
    first = [next(batches) for _ in range(4)]
    for a, b in (first[:2], first[2:]):
        assert sorted(torch.cat([a, b]).flatten().tolist()) == list(range(10))
    later = shuffled(x, 5, seed=3, skip=3)
    assert torch.equal(next(later), first[3])


def test_a_disk_without_room_is_refused_before_the_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 5, 5))
    with pytest.raises(InputError, match=r"0.1 MB, and the disk of .* 0.0 MB free; store fewer tokens at once"):
        train_suite(bare_model(), random_rows(), tmp_path / "mine", RECIPE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "options", "part"),
    [
        ({"architecture": "gated"}, {}, "unknown architecture 'gated'; known: batchtopk, jumprelu, matryoshka"),
        ({"k": 25}, {}, "k is 25; .* number of features, 24"),
        ({"k": 0}, {}, "k is 0"),
        ({"steps": 0}, {}, "steps is 0"),
        ({"store": "float8"}, {}, "unknown store 'float8'; known: float16, float32"),
        ({"learning_rate": 0.0}, {}, "learning_rate is 0.0"),
        ({"batch_size": 4096}, {}, "tokens in 36 rows are left to train on, and a batch has 4096"),
        ({}, {"sites": ["resid_3"]}, "no site fits 'resid_3'"),
        ({}, {"sites": ["residual"]}, "no site fits 'residual'"),
        ({}, {"sites": "mlp_in_0"}, "no site fits 'mlp_in_0'"),
        ({}, {"sites": []}, "no sites were given"),
    ],
)
def test_bad_recipes_and_sites_are_refused(
    tmp_path: Path, change: dict[str, Any], options: dict[str, Any], part: str
) -> None:
    with pytest.raises(InputError, match=part):
        train_suite(bare_model(), random_rows(), tmp_path / "mine", replace(RECIPE, **change), **options)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("kept")
    with pytest.raises(InputError, match="is not empty"):
        train_suite(bare_model(), random_rows(), tmp_path / "mine", RECIPE)
    assert files(tmp_path) == {"mine/file": b"kept"}


def test_without_the_extra_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(suite_record, "version", absent)
    with pytest.raises(InputError, match=r"pip install 'featcircuits\[train\]'"):
        train_suite(bare_model(), random_rows(), tmp_path / "mine", RECIPE)


def test_sites_by_kind_and_by_name() -> None:
    found = train.sites_named(bare_model(), ["resid", "attn_z_1", "embed", "resid_0"])
    assert list(map(str, found)) == ["embed", "resid_0", "attn_z_1", "resid_1", "resid_2"]


def test_sampled_text_is_drawn_from_the_model() -> None:
    """Against sampling without a cache; and another seed gives another text."""
    bare = bare_model()
    with pytest.raises(InputError, match="no BOS token"):
        sample_rows(bare, 3, 5, seed=0)
    bare.model.config.bos_token_id = 2
    rows = sample_rows(bare, 3, 5, seed=0)
    generator, ids = torch.Generator().manual_seed(0), torch.full((3, 1), 2)
    with torch.no_grad():
        for _ in range(4):
            chances: Tensor = bare.model(input_ids=ids, use_cache=False).logits[:, -1].softmax(-1)
            ids = torch.cat([ids, torch.multinomial(chances, 1, generator=generator)], 1)
    assert rows == ids.tolist()
    assert rows != sample_rows(bare, 3, 5, seed=1)


def test_toml_reads_back() -> None:
    import tomllib

    table = {"a": 1, "b": 'x "y"', "t": {"n": 0.5, "files": {"a.b": "c"}, "empty": {}}}
    assert tomllib.loads(suite_record.toml_text(table)) == {
        "a": 1,
        "b": 'x "y"',
        "t": {"n": 0.5, "files": {"a.b": "c"}},
    }


def test_token_batches_hold_every_row_once() -> None:
    rows = random_rows(11)
    batches = token_batches(rows, 4)
    assert [len(batch) for batch in batches] == [4, 4, 3]
    found = [ids[mask > 0].tolist() for batch in batches for ids, mask in zip(batch.ids, batch.mask, strict=True)]
    assert found == sorted(rows, key=len)
