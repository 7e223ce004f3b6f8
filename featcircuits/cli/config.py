"""Settings of the commands: one dataclass per command defines the options, the help and the saved record."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self, get_args, get_type_hints

from featcircuits.errors import InputError, known, shortened
from featcircuits.estimators import ESTIMATORS
from featcircuits.evaluation import ABLATIONS
from featcircuits.files.reading import read_json
from featcircuits.files.writing import write_json
from featcircuits.inputs.defaults import DRAWS, EDGE_NODES, KEEP_EDGES, KEEP_NODES, MOST_EDGE_ROWS
from featcircuits.inputs.ranges import LARGEST_SEED, MOST, MOST_ROWS, Range, check_kind, check_number
from featcircuits.inputs.renamed import told
from featcircuits.selection import DEFAULT_SELECTION, SELECTIONS
from featcircuits.tasks.table import METRICS


def option(default: Any, help: str, least: float = 0, most: float = MOST, *, above: bool = False) -> Any:
    """A field with its help text and, if it is a number, its range."""
    return field(default=default, metadata={"help": help, "range": Range(least, most, above)})


def either(names: Iterable[str]) -> str:
    """The names of a table as part of a sentence."""
    *others, last = names
    return f"{', '.join(others)} or {last}"


class Config:
    """Checks, reading and writing, shared by the settings below."""

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for setting in fields(self):  # type: ignore[arg-type]
            _check(setting.name, getattr(self, setting.name), hints[setting.name], setting.metadata["range"])

    @classmethod
    def read(cls, path: Path, given: Mapping[str, Any]) -> Self:
        """Settings from a JSON file, overridden by `given`; raises `InputError` for unknown keys and wrong types."""
        record = read_json(path, "config file")
        if not isinstance(record, dict):
            raise InputError(f"{path}: a config is a JSON object, found {type(record).__name__}")
        settings = get_type_hints(cls)
        if old := [message for name in record if (message := told(name, settings)) is not None]:
            raise InputError(f"{path}: {'; '.join(old)}")
        if unknown := sorted(set(record) - set(settings)):
            raise InputError(f"{path}: unknown setting {shortened(unknown[0])}; {known(settings, unknown[0])}")
        ranges = {setting.name: setting.metadata["range"] for setting in fields(cls)}  # type: ignore[arg-type]
        for name, value in record.items():
            _check(f"{path}: {name}", value, settings[name], ranges[name])
        return cls(**{**record, **given})

    def write(self, path: Path) -> None:
        """Write the settings as JSON."""
        write_json(path, asdict(self))  # type: ignore[call-overload]


def _check(where: str, value: Any, hint: Any, within: Range) -> None:
    kinds = get_args(hint) or (hint,)
    check_kind(where, value, *kinds)
    if type(value) in (int, float):
        check_number(where, value, within, kinds[0])


@dataclass(frozen=True)
class TraceConfig(Config):
    """All settings that determine a traced circuit."""

    suite: str = option("grammar-4l", "Suite of dictionaries: a name (see `featcircuits suites`) or a folder.")
    sites: str = option("", "Only these sites of the suite, comma-separated: mlp_3, resid, resid_*, attn_0-5.")
    model: str | None = option(None, "Model: hub name, folder or GGUF file. Default: the suite's model.")
    task: str = option("agreement_rc", "A task of the suite (its training file is used), or a JSONL file.")
    limit: int = option(0, "Use only the first N examples; 0 for all.")
    hold_out: float = option(0.0, "Hold out this share of the file, such as 0.3, for `evaluate`.", most=1)
    prepend: str = option("", "Text in front of every prompt, usually a special token such as '<|endoftext|>'.")
    keep_wrong: bool = option(False, "Go on even if the model answers fewer than 60 % of the examples right.")
    only_right: bool = option(False, "Use only the examples that the model answers right (for pairs, both prompts).")
    metric: str | None = option(None, f"{either(METRICS)}. Default: the task's own.")
    aggregate: str = option(
        "none", "How positions become places: 'none' (each is one), 'sum' (all are one) or 'role' (each role is one)."
    )
    nodes: str | None = option(
        None,
        f"Estimator of node effects: {either(ESTIMATORS)}; options after colons, ig-chain:steps=3 "
        "(docs/choosing.md). Default: secant for pairs, relp elsewhere.",
    )
    edges: str = option(
        "same", "Estimator of edge effects: same, another that has edges (options too), or 'none' for nodes alone."
    )
    target: str | None = option(
        None, "Explain a feature in place of the answers: resid_2/303@5; several of one site and place joined by +."
    )
    baseline: str = option(
        "paired", "Where patched values come from: the corrupted run ('paired'), 'zero', 'mean' or 'noise'."
    )
    select: str = option(
        DEFAULT_SELECTION,
        f"The order of nodes: {either(SELECTIONS)}, options after colons (docs/selection.md).",
    )
    start_layer: int = option(
        0, "The evaluation will start at this layer: the nodes of earlier layers come last.", least=0
    )
    error_effects: str = option(
        "estimated", "Effects of error nodes: 'estimated' like those of features, or 'exact' by patching."
    )
    keep_nodes: str | None = option(
        None, f"Which nodes to keep: top=N, threshold=X, cumulative=SHARE or influence=SHARE. Default: {KEEP_NODES}."
    )
    keep_edges: str | None = option(None, f"Which edges to keep, by the same kinds of rules. Default: {KEEP_EDGES}.")
    batch_size: int = option(0, "Examples per batch; 0: as many as fit, at most 16.", most=MOST_ROWS)
    device: str | None = option(None, "cpu, cuda, cuda:N, or auto (over all). Default: where the model loads.")
    dtype: str | None = option(None, "float32, float64, bfloat16 or float16. Default: the model's own.")
    check_place: bool = option(True, "Refuse dictionaries whose files name another site.")
    offload: str | None = option(
        None, "Where to keep a suite larger than memory between uses: 'cpu' (with a GPU) or 'disk'."
    )
    seed: int = option(0, "Seed of everything random.", most=LARGEST_SEED)
    check_fit: bool = option(
        True, "Refuse dictionaries that explain less than the mean would, and warn of those at a wrong site."
    )
    stability: int = option(
        0, "Resample the prompts N times: how often is each node and edge chosen? 0: not; 200 is enough.", most=100_000
    )


@dataclass(frozen=True)
class EvaluateConfig(Config):
    """All settings that determine an evaluation of a run."""

    task: str | None = option(
        None, "A task of the suite (its test file is used), or a JSONL file. Default: the run's, or what it held out."
    )
    limit: int = option(0, "Use only the first N examples; 0 for all.")
    keep_wrong: bool = option(False, "Go on even if the model answers fewer than 60 % of the examples right.")
    only_right: bool = option(False, "Use only the examples that the model answers right (for pairs, both prompts).")
    ablation: str = option("mean", f"Values of nodes outside the circuit: {either(ABLATIONS)} (the corrupted twin).")
    error_nodes: str = option("as-circuit", "Error nodes: 'as-circuit', 'keep' all, or 'remove' all.")
    start_layer: int | None = option(
        None, "Do not ablate layers before this one (Marks et al.: the first third). Default: as in the trace."
    )
    sizes: str = option("", "Circuit sizes of the curve, comma-separated. Default: 15, evenly on a log axis.")
    draws: int = option(DRAWS, "Random circuits at each size of the curve.", most=1000)
    controls: bool = option(
        False, "Also draw the curve under every ablation and beside every control (docs/checks.md); takes minutes."
    )
    batch_size: int = option(0, "Examples per batch; 0: as many as fit, at most 32.", most=MOST_ROWS)
    device: str | None = option(None, "cpu, cuda, cuda:N, or auto (over all). Default: where the model loads.")
    seed: int = option(0, "Seed of resampling and of the random circuits.", most=LARGEST_SEED)
    check: bool = option(True, "Refuse a model, suite or tokenizer other than those of the trace.")


@dataclass(frozen=True)
class EdgesConfig(Config):
    """All settings that determine how a run's edges are judged."""

    task: str | None = option(
        None, "A task of the suite (its test file is used), or a JSONL file. Default: the run's, or what it held out."
    )
    limit: int = option(0, "Use only the first N examples; 0 for all.")
    keep_wrong: bool = option(False, "Go on even if the model answers fewer than 60 % of the examples right.")
    only_right: bool = option(False, "Use only the examples that the model answers right (for pairs, both prompts).")
    ablations: str = option(
        "", f"What missing edges carry, comma-separated: {either(ABLATIONS)}. Default: paired for pairs, else mean."
    )
    order: str = option("absolute", "The order of edges: 'absolute' (by |effect|) or 'signed' (positive ones first).")
    sizes: str = option("", "Numbers of edges, comma-separated. Default: 12, evenly on a log axis.")
    draws: int = option(DRAWS, "Random edge circuits at each size.", most=1000)
    start_layer: int | None = option(None, "Do not ablate layers before this one. Default: as in the trace.")
    most_rows: int = option(MOST_EDGE_ROWS, "Refuse to run more forward rows than this under one ablation.", least=1)
    batch_size: int = option(0, "Examples per batch; 0: as many as fit, at most 32.", most=MOST_ROWS)
    device: str | None = option(None, "cpu, cuda, cuda:N, or auto (over all). Default: where the model loads.")
    seed: int = option(0, "Seed of resampling and of random edges.", most=LARGEST_SEED)
    check: bool = option(True, "Refuse a model, suite or tokenizer other than those of the trace.")


@dataclass(frozen=True)
class CompareConfig(Config):
    """All settings that determine a comparison of runs."""

    places: str = option("keep", "'keep': a feature at two places is two nodes; 'sum': one, wherever it is.")
    match: str | None = option(
        None,
        "Match features of other dictionaries with those of the first run: by 'decoder' (cosine) or by 'activation' "
        "(correlation on the first run's prompts).",
    )
    least: float = option(0.7, "The least cosine or correlation of a match.", above=True, most=1)
    batch_size: int = option(0, "Examples per batch; 0: as many as fit.", most=MOST_ROWS)
    device: str | None = option(None, "cpu, cuda, cuda:N, or auto (over all). Default: where the model loads.")
    check: bool = option(True, "Refuse circuits whose dictionaries differ, unless they are matched.")


@dataclass(frozen=True)
class AgreeConfig(Config):
    """All settings that determine a comparison of estimators with exact patching."""

    suite: str = option("grammar-4l", "Suite of dictionaries: a name (see `featcircuits suites`) or a folder.")
    sites: str = option("", "Only these sites of the suite, comma-separated: mlp_3, resid, resid_*, attn_0-5.")
    model: str | None = option(None, "Model: hub name, folder or GGUF file. Default: the suite's model.")
    task: str = option("agreement_rc", "A task of the suite (its training file is used), or a JSONL file.")
    limit: int | None = option(
        None, "Use only the first N examples; 0 for all. Default: at most 20, since exact patching runs every node."
    )
    prepend: str = option("", "Text in front of every prompt, usually a special token such as '<|endoftext|>'.")
    keep_wrong: bool = option(False, "Go on even if the model answers fewer than 60 % of the examples right.")
    only_right: bool = option(False, "Use only the examples that the model answers right (for pairs, both prompts).")
    metric: str | None = option(None, "As for trace. Default: the task's own.")
    aggregate: str = option("none", "As for trace; single effects are compared in any case.")
    estimators: str = option(
        "", "Estimators, comma-separated, with options after colons: atp,ig:steps=3:quadrature=gauss. Default: all."
    )
    bases: str = option("features,whole", "What counts as a node: features, neurons, whole (module outputs).")
    top: int = option(100, "How many of the strongest nodes the overlap counts.", least=1)
    edge_nodes: int | None = option(
        None,
        f"Compare edges among this many of the strongest features and error nodes; 0 for none. Default: {EDGE_NODES}.",
    )
    pictures: str = option("png", "Format of the pictures: png, pdf or svg.")
    batch_size: int = option(0, "Examples per batch; 0: as many as fit, at most 16.", most=MOST_ROWS)
    device: str | None = option(None, "cpu, cuda, cuda:N, or auto (over all). Default: where the model loads.")
    dtype: str | None = option(None, "float32, float64, bfloat16 or float16. Default: the model's own.")
    check_place: bool = option(True, "Refuse dictionaries whose files name another site.")


@dataclass(frozen=True)
class CheckConfig(Config):
    """All settings that determine a check of a suite."""

    suite: str = option("grammar-4l", "Suite of dictionaries: a name (see `featcircuits suites`) or a folder.")
    model: str | None = option(None, "Model: hub name, folder or GGUF file. Default: the suite's model.")
    sites: str = option("", "Only these sites of the suite, comma-separated: mlp_3, resid, resid_*, attn_0-5.")
    task: str | None = option(
        None, "A task of the suite (its training file is used), or a JSONL file. Default: the suite's first task."
    )
    prepend: str = option("", "Text in front of every prompt, usually a special token such as '<|endoftext|>'.")
    text: str | None = option(None, "A text file instead of a task: one sentence or document per line.")
    limit: int = option(0, "Use only the first N examples or lines; 0 for all.")
    longest: int | None = option(None, "The most tokens of a line of --text. Default: 128.", least=2)
    device: str | None = option(None, "cpu, cuda or cuda:N. Default: where the model loads.")
    dtype: str | None = option(None, "float32, float64, bfloat16 or float16. Default: the model's own.")
    check_place: bool = option(True, "Refuse dictionaries whose files name another site.")
    offload: str | None = option(
        None, "Where to keep a suite larger than memory between uses: 'cpu' (with a GPU) or 'disk'."
    )
    check_fit: bool = option(True, "Before the long measurements, refuse dictionaries that do not fit their site.")
    keep_sinks: bool = option(False, "Measure sink tokens (BOS, or over 10 times the median norm) like all others.")


@dataclass(frozen=True)
class FeaturesConfig(Config):
    """All settings that determine dossiers of features."""

    suite: str = option("", "Dossiers of all features of this suite (a name or a folder) instead of a run's nodes.")
    sites: str = option("", "Only these sites of the suite, comma-separated: mlp_3, resid, resid_*, attn_0-5.")
    model: str | None = option(None, "Model: hub name, folder or GGUF file. Default: the suite's model.")
    text: str | None = option(
        None,
        "A text file with one document per line, or a folder written by `datasets`. Default: the suite's own text.",
    )
    column: str = option("text", "The folder's column with the documents.")
    task: str | None = option(
        None, "Add the values on a task of the suite, or on a JSONL file. Runs use their own task."
    )
    prepend: str = option("", "Text in front of every prompt, usually a special token such as '<|endoftext|>'.")
    longest: int = option(128, "The most tokens of a document; the rest is cut off.", least=2, most=1 << 16)
    contexts: int = option(20, "How many of each feature's strongest contexts to keep.", least=1, most=1000)
    samples: int = option(10, "How many random contexts of each feature to keep.", most=1000)
    before: int = option(16, "Tokens of a context before the active one.", most=1024)
    after: int = option(8, "Tokens of a context after the active one.", most=1024)
    tokens: int = option(
        10, "How many tokens with the largest shares of a feature's activation to keep.", least=1, most=1000
    )
    logits: int = option(
        10, "How many tokens that a feature promotes most, and suppresses most, to keep.", least=1, most=1000
    )
    neighbours: int = option(
        5, "How many features that write almost the same, in this and the next layer; 0: none.", most=100
    )
    coactive: int = option(10, "How many features that are most often active together with it; 0 for none.", most=100)
    device: str | None = option(None, "cpu, cuda, cuda:N, or auto (over all). Default: where the model loads.")
    dtype: str | None = option(None, "float32, float64, bfloat16 or float16. Default: the model's own.")
    check_place: bool = option(True, "Refuse dictionaries whose files name another site.")
    offload: str | None = option(
        None, "Where to keep a suite larger than memory between uses: 'cpu' (with a GPU) or 'disk'."
    )


@dataclass(frozen=True)
class InterveneConfig(Config):
    """All settings that determine what is measured of interventions, besides the interventions."""

    task: str | None = option(
        None, "A task of the suite (its test file is used), or a JSONL file. Default: the run's task."
    )
    limit: int | None = option(None, "Use only the first N examples; 0 for all. Default: at most 50.")
    estimator: str | None = option(
        None, f"What predicts the change: {either(ESTIMATORS)}. Default: as in trace, or RelP by what is held."
    )
    downstream: str = option(
        "", "Later features whose change to predict by edges, comma-separated, or 'circuit' for all of the run's."
    )
    controls: int = option(10, "How many other features, and random directions, to change in the same way.", most=1000)
    tokens: int = option(5, "How many tokens' changes to print.", most=1000)
    batch_size: int = option(0, "Examples per batch; 0: as many as fit, at most 16.", most=MOST_ROWS)
    device: str | None = option(None, "cpu, cuda, cuda:N, or auto (over all). Default: where the model loads.")
    seed: int = option(0, "Seed of random directions and of resampling.", most=LARGEST_SEED)


@dataclass(frozen=True)
class GenerateConfig(Config):
    """All settings that determine what is generated, besides the prompts and the interventions."""

    max_new_tokens: int = option(20, "The most tokens to add to each prompt.", least=1, most=1 << 16)
    temperature: float = option(0.0, "0 takes the likeliest token; above that, tokens are drawn.", most=1000)
    watch: str = option("", "Features whose values to print at each step, comma-separated: resid_2/303.")
    device: str | None = option(None, "cpu, cuda, cuda:N, or auto (over all). Default: where the model loads.")
    seed: int = option(0, "Seed of drawn tokens.", most=LARGEST_SEED)


@dataclass(frozen=True)
class DataConfig(Config):
    """All settings that determine a check of a task."""

    suite: str = option("grammar-4l", "Suite with the model and the tasks: a name or a folder.")
    model: str | None = option(None, "Model: hub name, folder or GGUF file. Default: the suite's model.")
    split: str = option("train", "Which file of a suite's task: train or test.")
    limit: int = option(0, "Use only the first N examples; 0 for all.")
    prepend: str = option("", "Text in front of every prompt, usually a special token such as '<|endoftext|>'.")
    metric: str | None = option(None, "As for trace. Default: the task's own.")
    device: str | None = option(None, "cpu, cuda, cuda:N, or auto (over all). Default: where the model loads.")
    dtype: str | None = option(None, "float32, float64, bfloat16 or float16. Default: the model's own.")


@dataclass(frozen=True)
class TrainConfig(Config):
    """All settings that determine a trained suite."""

    model: str | None = option(None, "Model: hub name, folder or GGUF file.")
    text: str | None = option(None, "A text file to train on: one sentence or document per line.")
    sample: int = option(0, "Train on N texts that the model writes itself instead.", most=10_000_000)
    longest: int = option(128, "The most tokens of a line, or of a text that the model writes.", least=2)
    sites: str = option("embed,attn,mlp,resid", "Where to train, comma-separated: resid, attn_z_3, mlp_0-5.")
    architecture: str = option("batchtopk", "batchtopk, jumprelu or matryoshka.")
    features: int = option(512, "Features per dictionary; those that die are left out.", least=1, most=1 << 20)
    k: float = option(10.0, "Mean number of active features per token.", most=1 << 20, above=True)
    steps: int = option(2000, "Training steps per dictionary.", least=1)
    batch_size: int = option(1024, "Tokens per step.", least=1, most=1 << 24)
    learning_rate: float = option(1e-3, "Learning rate of Adam, after the warm-up.", most=10, above=True)
    keep_sinks: bool = option(
        False, "Train on sink tokens (BOS, or over 10 times the median norm) and measure them like all others."
    )
    held_out: int = option(8192, "Measure on the text's last tenth, but on at most this many tokens.", least=2)
    store: str = option("float16", "Precision of the stored activations: float16 or float32.")
    store_tokens: int = option(
        500_000, "Train on a longer text in parts of this many tokens, one after another.", least=1
    )
    name: str | None = option(None, "The suite's name. Default: the folder's.")
    licence: str | None = option(None, "Licence to record, such as MIT.")
    device: str | None = option(None, "cpu, cuda or cuda:N. Default: where the model loads.")
    dtype: str | None = option(None, "float32, float64, bfloat16 or float16. Default: the model's own.")
    seed: int = option(0, "Seed of the text, the weights and the order of tokens.", most=LARGEST_SEED)
