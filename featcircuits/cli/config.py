"""Settings of the commands: one dataclass each is the options, the help and the saved record."""

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
from featcircuits.inputs.defaults import DRAWS, KEEP_EDGES, KEEP_NODES
from featcircuits.inputs.ranges import LARGEST_SEED, MOST, MOST_ROWS, Range, check_kind, check_number
from featcircuits.inputs.renamed import told
from featcircuits.selection import DEFAULT_SELECTION, SELECTIONS


def option(default: Any, help: str, least: float = 0, most: float = MOST, *, above: bool = False) -> Any:
    """A field with its help text, and the range of its number, where it is one."""
    return field(default=default, metadata={"help": help, "range": Range(least, most, above)})


def either(names: Iterable[str]) -> str:
    """The names of a table in a sentence."""
    *others, last = names
    return f"{', '.join(others)} or {last}"


class Config:
    """Checking, reading and writing, shared by the settings below."""

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for setting in fields(self):  # type: ignore[arg-type]
            _check(setting.name, getattr(self, setting.name), hints[setting.name], setting.metadata["range"])

    @classmethod
    def read(cls, path: Path, given: Mapping[str, Any]) -> Self:
        """From a JSON file, overridden by what was `given`; unknown keys and wrong types are refused."""
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
        write_json(path, asdict(self))  # type: ignore[call-overload]


def _check(where: str, value: Any, hint: Any, within: Range) -> None:
    kinds = get_args(hint) or (hint,)
    check_kind(where, value, *kinds)
    if type(value) in (int, float):
        check_number(where, value, within, kinds[0])


@dataclass(frozen=True)
class TraceConfig(Config):
    """Everything that decides a traced circuit."""

    suite: str = option("grammar-4l", "Suite of dictionaries: a name (see `featcircuits suites`) or a folder.")
    sites: str = option("", "Only these sites of the suite, comma-separated: mlp_3, resid, resid_*, attn_0-5.")
    model: str | None = option(None, "Model: hub name or folder. Default: the one that the suite names.")
    task: str = option("agreement_rc", "A task of the suite (its training file is used), or a JSONL file.")
    limit: int = option(0, "Use only the first N examples; 0 for all.")
    hold_out: float = option(0.0, "Hold out this share of the file, such as 0.3; `evaluate` then uses it.", most=1)
    prepend: str = option("", "Text in front of every prompt, mostly a special token such as '<|endoftext|>'.")
    keep_wrong: bool = option(False, "Go on where the model answers fewer than 60 % of the examples right.")
    only_right: bool = option(False, "Use only the examples that the model answers right (on both sides of a pair).")
    metric: str | None = option(
        None, "logit_difference, log_probability, probability, probability_difference or kl. Default: the task's own."
    )
    aggregate: str = option("none", "Positions: 'none' keeps each as nodes of its own, 'sum', or 'role'.")
    nodes: str | None = option(
        None,
        f"Estimator of node effects: {either(ESTIMATORS)}; options after colons, ig-chain:steps=3 "
        "(docs/choosing.md). Default: secant for pairs, relp elsewhere.",
    )
    edges: str = option(
        "same", "Estimator of edge effects: same, another that has edges (options too), or 'none' for nodes alone."
    )
    baseline: str = option("paired", "What patching puts in: the corrupted run ('paired'), 'zero', 'mean' or 'noise'.")
    select: str = option(
        DEFAULT_SELECTION,
        f"Which nodes come first: {either(SELECTIONS)}, options after colons (docs/selection.md).",
    )
    start_layer: int = option(
        0, "Layers before this one will be given when the circuit is evaluated: their nodes come last.", least=0
    )
    error_effects: str = option(
        "estimated", "Effects of error terms: 'estimated' as those of features, or 'exact' patches."
    )
    keep_nodes: str | None = option(
        None, f"Which nodes to keep: top=N, threshold=X or cumulative=SHARE. Default: {KEEP_NODES}."
    )
    keep_edges: str | None = option(None, f"Which edges to keep, by the same rules. Default: {KEEP_EDGES}.")
    batch_size: int = option(0, "Examples of one batch; 0: as many as fit, at most 16.", most=MOST_ROWS)
    device: str | None = option(None, "cpu, cuda, cuda:N, or auto (over all). Default: where the model loads.")
    dtype: str | None = option(None, "float32, float64, bfloat16 or float16. Default: the model's own.")
    check_place: bool = option(True, "Refuse dictionaries whose files say that they belong to another site.")
    offload: str | None = option(
        None, "Where a suite larger than memory stays between uses: 'cpu' (beside a GPU) or 'disk'."
    )
    seed: int = option(0, "Seed of everything random.", most=LARGEST_SEED)
    check_fit: bool = option(True, "Refuse dictionaries that explain less than the mean, warn of any at a wrong site.")


@dataclass(frozen=True)
class EvaluateConfig(Config):
    """Everything that decides an evaluation of a run."""

    task: str | None = option(
        None, "A task of the suite (its test file is used), or a JSONL file. Default: the run's, or what it held out."
    )
    limit: int = option(0, "Use only the first N examples; 0 for all.")
    keep_wrong: bool = option(False, "Go on where the model answers fewer than 60 % of the examples right.")
    only_right: bool = option(False, "Use only the examples that the model answers right (on both sides of a pair).")
    ablation: str = option("mean", f"What nodes outside the circuit become: {either(ABLATIONS)} (the corrupted twin).")
    error_nodes: str = option("as-circuit", "Error nodes: 'as-circuit', all of them 'keep', or all 'remove'.")
    start_layer: int | None = option(
        None, "Layers before this one are given (Marks et al.: the first third). Default: that of the trace."
    )
    sizes: str = option("", "Circuit sizes of the curve, comma-separated. Default: 15, evenly on a log axis.")
    draws: int = option(DRAWS, "Random circuits at each size of the curve.", most=1000)
    batch_size: int = option(32, "Examples of one batch.", least=1, most=MOST_ROWS)
    device: str | None = option(None, "cpu, cuda, cuda:N, or auto (over all). Default: where the model loads.")
    seed: int = option(0, "Seed of resampling and of the random circuits.", most=LARGEST_SEED)
    check: bool = option(True, "Refuse a model, suite or tokenizer other than those of the trace.")


@dataclass(frozen=True)
class AgreeConfig(Config):
    """Everything that decides a comparison of estimators with exact patching."""

    suite: str = option("grammar-4l", "Suite of dictionaries: a name (see `featcircuits suites`) or a folder.")
    sites: str = option("", "Only these sites of the suite, comma-separated: mlp_3, resid, resid_*, attn_0-5.")
    model: str | None = option(None, "Model: hub name or folder. Default: the one that the suite names.")
    task: str = option("agreement_rc", "A task of the suite (its training file is used), or a JSONL file.")
    limit: int | None = option(
        None, "Use only the first N examples; 0 for all. Default: 20 at most, as exact patching is one forward a node."
    )
    prepend: str = option("", "Text in front of every prompt, mostly a special token such as '<|endoftext|>'.")
    keep_wrong: bool = option(False, "Go on where the model answers fewer than 60 % of the examples right.")
    only_right: bool = option(False, "Use only the examples that the model answers right (on both sides of a pair).")
    metric: str | None = option(None, "As for trace. Default: the task's own.")
    aggregate: str = option("none", "Positions: 'none', 'sum' or 'role'; single effects are compared in any case.")
    estimators: str = option(
        "", "Estimators, comma-separated, with options after colons: atp,ig:steps=3:quadrature=gauss. Default: all."
    )
    bases: str = option("features,whole", "What counts as a node: features, neurons, whole (module outputs).")
    top: int = option(100, "How many of the strongest nodes the overlap counts.", least=1)
    edge_nodes: int | None = option(
        None,
        "Edges are compared among so many of the strongest features and errors; 0 for none. Default: {EDGE_NODES}.",
    )
    pictures: str = option("png", "Format of the pictures: png, pdf or svg.")
    batch_size: int = option(0, "Examples of one batch; 0: as many as fit, at most 16.", most=MOST_ROWS)
    device: str | None = option(None, "cpu, cuda, cuda:N, or auto (over all). Default: where the model loads.")
    dtype: str | None = option(None, "float32, float64, bfloat16 or float16. Default: the model's own.")
    check_place: bool = option(True, "Refuse dictionaries whose files say that they belong to another site.")


@dataclass(frozen=True)
class CheckConfig(Config):
    """Everything that decides a check of a suite."""

    suite: str = option("grammar-4l", "Suite of dictionaries: a name (see `featcircuits suites`) or a folder.")
    model: str | None = option(None, "Model: hub name or folder. Default: the one that the suite names.")
    sites: str = option("", "Only these sites of the suite, comma-separated: mlp_3, resid, resid_*, attn_0-5.")
    task: str | None = option(
        None, "A task of the suite (its training file is used), or a JSONL file. Default: the suite's first task."
    )
    prepend: str = option("", "Text in front of every prompt, mostly a special token such as '<|endoftext|>'.")
    text: str | None = option(None, "A text file instead of a task: one sentence or document a line.")
    limit: int = option(0, "Use only the first N examples or lines; 0 for all.")
    longest: int | None = option(None, "Tokens of a line of --text at most. Default: 128.", least=2)
    device: str | None = option(None, "cpu, cuda or cuda:N. Default: where the model loads.")
    dtype: str | None = option(None, "float32, float64, bfloat16 or float16. Default: the model's own.")
    check_place: bool = option(True, "Refuse dictionaries whose files say that they belong to another site.")
    offload: str | None = option(
        None, "Where a suite larger than memory stays between uses: 'cpu' (beside a GPU) or 'disk'."
    )
    check_fit: bool = option(True, "Refuse dictionaries that do not fit their site before the long measurements.")
    keep_sinks: bool = option(False, "Measure sink tokens (BOS, or over 10 times the median's norm) like all others.")


@dataclass(frozen=True)
class FeaturesConfig(Config):
    """Everything that decides dossiers of features."""

    suite: str = option("", "All features of this suite, a name or a folder, in place of a run's nodes.")
    sites: str = option("", "Only these sites of the suite, comma-separated: mlp_3, resid, resid_*, attn_0-5.")
    model: str | None = option(None, "Model: hub name or folder. Default: the one that the suite names.")
    text: str | None = option(
        None, "A text file with a document per line, or a folder written by `datasets`. Default: the suite's own text."
    )
    column: str = option("text", "Column of the folder that holds the documents.")
    task: str | None = option(None, "Also the values on a task: one of the suite, or a JSONL file. Of runs: their own.")
    prepend: str = option("", "Text in front of every prompt, mostly a special token such as '<|endoftext|>'.")
    longest: int = option(128, "Tokens of a document at most; the rest is cut.", least=2, most=1 << 16)
    contexts: int = option(20, "Strongest contexts of each feature.", least=1, most=1000)
    samples: int = option(10, "Contexts of each feature drawn at random.", most=1000)
    before: int = option(16, "Tokens of a context before its own.", most=1024)
    after: int = option(8, "Tokens of a context after it.", most=1024)
    tokens: int = option(10, "Tokens with the largest shares of a feature's activation.", least=1, most=1000)
    logits: int = option(10, "Tokens that a feature promotes most, and as many that it suppresses.", least=1, most=1000)
    neighbours: int = option(5, "Features that write almost the same, of this and the next layer; 0: none.", most=100)
    coactive: int = option(10, "Features that are most often active with it; 0 for none.", most=100)
    device: str | None = option(None, "cpu, cuda, cuda:N, or auto (over all). Default: where the model loads.")
    dtype: str | None = option(None, "float32, float64, bfloat16 or float16. Default: the model's own.")
    check_place: bool = option(True, "Refuse dictionaries whose files say that they belong to another site.")
    offload: str | None = option(
        None, "Where a suite larger than memory stays between uses: 'cpu' (beside a GPU) or 'disk'."
    )


@dataclass(frozen=True)
class DataConfig(Config):
    """Everything that decides a check of a task."""

    suite: str = option("grammar-4l", "Suite whose model and tasks are meant: a name or a folder.")
    model: str | None = option(None, "Model: hub name or folder. Default: the one that the suite names.")
    split: str = option("train", "Which file of a suite's task: train or test.")
    limit: int = option(0, "Use only the first N examples; 0 for all.")
    prepend: str = option("", "Text in front of every prompt, mostly a special token such as '<|endoftext|>'.")
    metric: str | None = option(None, "As for trace. Default: the task's own.")
    device: str | None = option(None, "cpu, cuda, cuda:N, or auto (over all). Default: where the model loads.")
    dtype: str | None = option(None, "float32, float64, bfloat16 or float16. Default: the model's own.")


@dataclass(frozen=True)
class TrainConfig(Config):
    """Everything that decides a trained suite."""

    model: str | None = option(None, "Model: folder or hub name.")
    text: str | None = option(None, "A text file to train on: one sentence or document a line.")
    sample: int = option(0, "Train on N texts that the model writes itself instead.", most=10_000_000)
    longest: int = option(128, "Tokens of a line, or of a text that the model writes, at most.", least=2)
    sites: str = option("embed,attn,mlp,resid", "Where to train, comma-separated: resid, attn_z_3, mlp_0-5.")
    architecture: str = option("batchtopk", "batchtopk, jumprelu or matryoshka.")
    features: int = option(512, "Features of a dictionary; those that die are left out.", least=1, most=1 << 20)
    k: float = option(10.0, "Mean number of active features a token.", most=1 << 20, above=True)
    steps: int = option(2000, "Training steps of a dictionary.", least=1)
    batch_size: int = option(1024, "Tokens of one step.", least=1, most=1 << 24)
    learning_rate: float = option(1e-3, "Of Adam, after the warm-up.", most=10, above=True)
    keep_sinks: bool = option(
        False, "Train on sink tokens (BOS, or over 10 times the median's norm) and measure them like all others."
    )
    name: str | None = option(None, "The suite's name. Default: the folder's.")
    licence: str | None = option(None, "Licence to record, such as MIT.")
    device: str | None = option(None, "cpu, cuda or cuda:N. Default: where the model loads.")
    dtype: str | None = option(None, "float32, float64, bfloat16 or float16. Default: the model's own.")
    seed: int = option(0, "Seed of the text, the weights and the order of tokens.", most=LARGEST_SEED)
