"""Every stage, or how one grows, each measurement in a process of its own.

    python -m experiments.benchmarks --out runs/benchmarks              # the table of stages
    python -m experiments.benchmarks --growth tokens --out runs/growth  # one axis
    python -m experiments.benchmarks --growth all --out runs/growth

Writes `benchmarks.json` and `benchmarks.md` into the folder: CPU seconds of one thread, peak memory,
the floor, and the figures of the published implementation on the same shapes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers

from experiments.benchmarks.stages import STAGES


class Axis(NamedTuple):
    """What grows, through which values, seen in which stages."""

    option: str
    values: tuple[int, ...]
    stages: tuple[str, ...]


AXES = {
    "nodes": Axis("size", (50, 100, 400, 1000, 5000), ("edges-100", "job")),
    "width": Axis("features", (4096, 16384, 32768, 131072), ("nodes-relp", "edges-100")),
    "batch": Axis("batch", (1, 4, 16, 64), ("nodes-relp", "nodes-ig", "edges-100")),
    "layers": Axis("layers", (2, 6, 12), ("nodes-relp", "nodes-ig", "edges-100")),
    "tokens": Axis("tokens", (5, 16, 64, 256, 1024), ("nodes-relp", "edges-100")),
    "sizes": Axis("size", (1, 5, 15, 30), ("curve",)),
}


def measured(stage: str, options: dict[str, Any]) -> dict[str, Any]:
    """One stage in its own process; a failure becomes part of the result."""
    arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "experiments.benchmarks.one", stage, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        return {"stage": stage, **options, "failed": (done.stderr.strip().splitlines() or ["killed"])[-1]}
    return {**json.loads(done.stdout), **options}


def work(growth: str, stages: Iterable[str], options: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(stage, options) of every measurement."""
    if not growth:
        yield from ((stage, options) for stage in stages)
    for name in AXES if growth == "all" else filter(None, [growth]):
        axis = AXES[name]
        for stage in axis.stages:
            for value in axis.values:
                yield stage, {**options, axis.option: value}


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "processor": model[0].split(":", 1)[1].strip() if model else platform.processor(),
        "processors": os.cpu_count(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "threads": 1,
    }


COLUMNS = ("stage", "CPU s", "floor s", "x floor", "published s", "times faster", "peak GB", "weights GB", "shape")


def row(found: dict[str, Any]) -> list[str]:
    """A result as a line of the table."""
    axes = ("size", "layers", "features", "batch", "tokens")
    shape = ", ".join(f"{key} {found[key]}" for key in axes if found.get(key))
    if "failed" in found:
        return [found["stage"], found["failed"], *[""] * 6, shape]
    public = STAGES[found["stage"]].public_seconds if is_published(found) else None
    seconds = found["cpu_seconds"]
    return [
        found["stage"],
        f"{seconds:.2f}",
        f"{found['floor_cpu_seconds']:.2f}" if "ratio" in found else "",
        f"{found['ratio']:.2f}" if "ratio" in found else "",
        f"{public:.1f}" if public else "",
        f"{public / seconds:.0f}" if public else "",
        f"{found['gigabytes_peak']:.2f}",
        f"{found['gigabytes_weights']:.2f}",
        shape,
    ]


def is_published(found: dict[str, Any]) -> bool:
    """Whether the published figures are of this shape."""
    default = {"layers": 6, "width": 512, "features": 32768, "batch": 4, "tokens": 5, "size": 0, "dtype": "float32"}
    default["family"] = "pythia"
    return all(found.get(name) == value for name, value in default.items())


def table(results: Iterable[dict[str, Any]]) -> str:
    lines = [COLUMNS, ["---"] * len(COLUMNS), *map(row, results)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main() -> None:
    """Parse, measure, write after each measurement."""
    parser = argparse.ArgumentParser(description="Benchmarks of every stage.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--stages", nargs="*", default=list(STAGES), choices=STAGES)
    parser.add_argument("--growth", default="", choices=["", "all", *AXES])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    options.out.mkdir(parents=True)
    results: list[dict[str, Any]] = []
    for stage, given in work(options.growth, options.stages, {"device": options.device, "rounds": options.rounds}):
        results.append(measured(stage, given))
        print(*row(results[-1]), sep="\t", flush=True)
        record = {"machine": machine(), "results": results}
        (options.out / "benchmarks.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        (options.out / "benchmarks.md").write_text(table(results), encoding="utf-8")


if __name__ == "__main__":
    main()
