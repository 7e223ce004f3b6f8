"""Settings of the commands: one dataclass each is the options, the help and the saved record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self, get_args, get_type_hints

from featcircuits.errors import InputError, known, shortened
from featcircuits.reading import read_json
from featcircuits.writing import write_json


def option(default: Any, help: str, least: int | None = None) -> Any:
    """A field with its help text, and the least number that makes sense."""
    return field(default=default, metadata={"help": help, "least": least})


class Config:
    """Checking, reading and writing, shared by the settings below."""

    def __post_init__(self) -> None:
        for setting in fields(self):  # type: ignore[arg-type]
            value, least = getattr(self, setting.name), setting.metadata["least"]
            if least is not None and value is not None and value < least:
                raise InputError(f"{setting.name} is {value}; it must be at least {least}")

    @classmethod
    def read(cls, path: Path, given: Mapping[str, Any]) -> Self:
        """From a JSON file, overridden by what was `given`; unknown keys and wrong types are refused."""
        record = read_json(path, "config file")
        if not isinstance(record, dict):
            raise InputError(f"{path}: a config is a JSON object, found {type(record).__name__}")
        settings = get_type_hints(cls)
        if unknown := sorted(set(record) - set(settings)):
            raise InputError(f"{path}: unknown setting {shortened(unknown[0])}; {known(settings, unknown[0])}")
        for name, value in record.items():
            _check_type(path, name, value, settings[name])
        return cls(**{**record, **given})

    def write(self, path: Path) -> None:
        write_json(path, asdict(self))  # type: ignore[call-overload]


def _check_type(path: Path, name: str, value: Any, hint: Any) -> None:
    kinds = get_args(hint) or (hint,)
    if type(value) not in kinds and not (type(value) is int and float in kinds):
        raise InputError(f"{path}: {name} is {shortened(value)}, but must be of type {kinds[0].__name__}")


@dataclass(frozen=True)
class TraceConfig(Config):
    """Everything that decides a traced circuit."""

    suite: str = option("grammar-4l", "Suite of dictionaries: a name (see `featcircuits suites`) or a folder.")
    sites: str = option("", "Only these sites of the suite, comma-separated: mlp_3, resid, resid_*, attn_0-5.")
    model: str | None = option(None, "Model: hub name or folder. Default: the one that the suite names.")
    task: str = option("agreement_rc", "A task of the suite (its training file is used), or a JSONL file.")
    limit: int = option(0, "Use only the first N examples; 0 for all.", least=0)
    hold_out: float = option(0.0, "Hold out this share of the file, such as 0.3; `evaluate` then uses it.", least=0)
    prepend: str = option("", "Text in front of every prompt, mostly a special token such as '<|endoftext|>'.")
    keep_wrong: bool = option(False, "Go on where the model answers fewer than 60 % of the examples right.")
    only_right: bool = option(False, "Use only the examples that the model answers right (on both sides of a pair).")
    metric: str | None = option(
        None, "logit_difference, log_probability, probability, probability_difference or kl. Default: the task's own."
    )
    aggregate: str = option("none", "Positions: 'none' keeps each as nodes of its own, 'sum', or 'role'.")
    nodes: str | None = option(
        None,
        "Estimator of node effects: secant, relp, ig, atp, exact or another of docs/choosing.md; options after "
        "colons, ig-chain:steps=3. Default: secant for pairs, relp elsewhere.",
    )
    edges: str = option(
        "same", "Estimator of edge effects: same, another that has edges (options too), or 'none' for nodes alone."
    )
    steps: int | None = option(None, "Points of integrated gradients, where --nodes has any. Default: the method's.")
    rule: str | None = option(
        None, "Quadrature of these: left (as Marks et al.), midpoint or gauss. Default: the method's."
    )
    rules: str | None = option(
        None, "Propagation rules of --nodes relp: default, with_ah, or names joined by +. Default: the method's."
    )
    baseline: str = option("paired", "What patching puts in: the corrupted run ('paired'), 'zero', 'mean' or 'noise'.")
    select: str = option(
        "effect",
        "Which nodes come first: effect, helpful, ratio, ranks, iterated, mask or greedy, options after colons.",
    )
    start_layer: int = option(
        0, "Layers before this one will be given when the circuit is evaluated: their nodes come last.", least=0
    )
    errors: str = option("estimated", "Effects of error terms: 'estimated' as those of features, or 'exact' patches.")
    keep_nodes: str = option("top=150", "Which nodes to keep: top=N, threshold=X or cumulative=SHARE.")
    keep_edges: str = option("top=1000", "Which edges to keep, by the same rules.")
    batch_size: int = option(0, "Examples of one batch; 0: as many as fit, at most 16.", least=0)
    device: str | None = option(None, "cpu, cuda, cuda:N, or auto (over all). Default: where the model loads.")
    dtype: str | None = option(None, "float32, float64, bfloat16 or float16. Default: the model's own.")
    check_place: bool = option(True, "Refuse dictionaries whose files say that they belong to another site.")
    offload: str | None = option(
        None, "Where a suite larger than memory stays between uses: 'cpu' (beside a GPU) or 'disk'."
    )
    seed: int = option(0, "Seed of everything random.", least=0)
    check_fit: bool = option(True, "Refuse dictionaries that explain less than the mean, warn of any at a wrong site.")


@dataclass(frozen=True)
class EvaluateConfig(Config):
    """Everything that decides an evaluation of a run."""

    task: str | None = option(
        None, "A task of the suite (its test file is used), or a JSONL file. Default: the run's, or what it held out."
    )
    limit: int = option(0, "Use only the first N examples; 0 for all.", least=0)
    keep_wrong: bool = option(False, "Go on where the model answers fewer than 60 % of the examples right.")
    only_right: bool = option(False, "Use only the examples that the model answers right (on both sides of a pair).")
    ablation: str = option(
        "mean", "What nodes outside the circuit become: mean, zero, resample, or paired (the corrupted twin)."
    )
    errors: str = option("nodes", "Error terms: 'nodes' as the circuit says, all 'keep', or all 'remove'.")
    start_layer: int | None = option(
        None, "Layers before this one are given (Marks et al.: the first third). Default: that of the trace.", least=0
    )
    sizes: str = option("", "Circuit sizes of the curve, comma-separated. Default: 15, evenly on a log axis.")
    draws: int = option(5, "Random circuits at each size of the curve.", least=0)
    batch_size: int = option(32, "Examples of one batch.", least=1)
    device: str | None = option(None, "cpu, cuda, cuda:N, or auto (over all). Default: where the model loads.")
    seed: int = option(0, "Seed of resampling and of the random circuits.", least=0)


@dataclass(frozen=True)
class AgreeConfig(Config):
    """Everything that decides a comparison of estimators with exact patching."""

    suite: str = option("grammar-4l", "Suite of dictionaries: a name (see `featcircuits suites`) or a folder.")
    sites: str = option("", "Only these sites of the suite, comma-separated: mlp_3, resid, resid_*, attn_0-5.")
    model: str | None = option(None, "Model: hub name or folder. Default: the one that the suite names.")
    task: str = option("agreement_rc", "A task of the suite (its training file is used), or a JSONL file.")
    limit: int = option(20, "Use only the first N examples; 0 for all. Exact patching is one forward a node.", least=0)
    prepend: str = option("", "Text in front of every prompt, mostly a special token such as '<|endoftext|>'.")
    keep_wrong: bool = option(False, "Go on where the model answers fewer than 60 % of the examples right.")
    only_right: bool = option(False, "Use only the examples that the model answers right (on both sides of a pair).")
    metric: str | None = option(None, "As for trace. Default: the task's own.")
    aggregate: str = option("none", "Positions: 'none', 'sum' or 'role'; single effects are compared in any case.")
    methods: str = option(
        "", "Estimators, comma-separated, with options after colons: atp,ig:steps=3:rule=gauss. Default: all."
    )
    bases: str = option("features,whole", "What counts as a node: features, neurons, whole (module outputs).")
    top: int = option(100, "How many of the strongest nodes the overlap counts.", least=1)
    edge_nodes: int = option(40, "Edges are compared among so many of the strongest nodes; 0 for none.", least=0)
    pictures: str = option("png", "Format of the pictures: png, pdf or svg.")
    batch_size: int = option(16, "Examples of one batch.", least=1)
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
    limit: int = option(0, "Use only the first N examples or lines; 0 for all.", least=0)
    longest: int = option(128, "Tokens of a line at most.", least=2)
    device: str | None = option(None, "cpu, cuda or cuda:N. Default: where the model loads.")
    dtype: str | None = option(None, "float32, float64, bfloat16 or float16. Default: the model's own.")
    check_place: bool = option(True, "Refuse dictionaries whose files say that they belong to another site.")
    offload: str | None = option(
        None, "Where a suite larger than memory stays between uses: 'cpu' (beside a GPU) or 'disk'."
    )
    check_fit: bool = option(True, "Refuse dictionaries that do not fit their site before the long measurements.")
    keep_sinks: bool = option(False, "Measure sink tokens (BOS, or over 10 times the median's norm) like all others.")


@dataclass(frozen=True)
class DataConfig(Config):
    """Everything that decides a check of a task."""

    suite: str = option("grammar-4l", "Suite whose model and tasks are meant: a name or a folder.")
    model: str | None = option(None, "Model: hub name or folder. Default: the one that the suite names.")
    split: str = option("train", "Which file of a suite's task: train or test.")
    limit: int = option(0, "Use only the first N examples; 0 for all.", least=0)
    prepend: str = option("", "Text in front of every prompt, mostly a special token such as '<|endoftext|>'.")
    metric: str | None = option(None, "As for trace. Default: the task's own.")
    device: str | None = option(None, "cpu, cuda, cuda:N, or auto (over all). Default: where the model loads.")
    dtype: str | None = option(None, "float32, float64, bfloat16 or float16. Default: the model's own.")


@dataclass(frozen=True)
class TrainConfig(Config):
    """Everything that decides a trained suite."""

    model: str | None = option(None, "Model: folder or hub name.")
    text: str | None = option(None, "A text file to train on: one sentence or document a line.")
    sample: int = option(0, "Train on N texts that the model writes itself instead.", least=0)
    longest: int = option(128, "Tokens of a line, or of a text that the model writes, at most.", least=2)
    sites: str = option("embed,attn,mlp,resid", "Where to train, comma-separated: resid, attn_z_3, mlp_0-5.")
    architecture: str = option("batchtopk", "batchtopk, jumprelu or matryoshka.")
    features: int = option(512, "Features of a dictionary; those that die are left out.")
    k: float = option(10.0, "Mean number of active features a token.")
    steps: int = option(2000, "Training steps of a dictionary.")
    batch_size: int = option(1024, "Tokens of one step.")
    learning_rate: float = option(1e-3, "Of Adam, after the warm-up.")
    keep_sinks: bool = option(
        False, "Train on sink tokens (BOS, or over 10 times the median's norm) and measure them like all others."
    )
    name: str | None = option(None, "The suite's name. Default: the folder's.")
    licence: str | None = option(None, "Licence to record, such as MIT.")
    device: str | None = option(None, "cpu, cuda or cuda:N. Default: where the model loads.")
    dtype: str | None = option(None, "float32, float64, bfloat16 or float16. Default: the model's own.")
    seed: int = option(0, "Seed of the text, the weights and the order of tokens.", least=0)
