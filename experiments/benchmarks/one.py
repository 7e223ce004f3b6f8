"""One stage in a process of its own, so that its memory is its own; prints one line of JSON.

python -m experiments.benchmarks.one nodes-ig --features 4096
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from dataclasses import asdict, fields
from typing import Any

import torch

from experiments.benchmarks.stages import STAGES, Work
from experiments.benchmarks.workload import Shape, random_model, random_task


def seconds(work: Work, device: str) -> tuple[float, float]:
    """(CPU, wall) seconds of one call."""
    if device != "cpu":
        torch.cuda.synchronize()
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.process_time() - cpu, time.perf_counter() - wall


def peak_gigabytes() -> float:
    """Of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure(name: str, shape: Shape, size: int, rounds: int, device: str) -> dict[str, Any]:
    """The stage once for its memory, then in turns with its floor."""
    spliced, task = random_model(shape, device), random_task(shape)
    built = peak_gigabytes()
    work, floor = STAGES[name].prepare(spliced, task, size)
    prepared = peak_gigabytes()
    cold, _ = seconds(work, device)
    peak = peak_gigabytes()
    pairs = [(seconds(work, device), seconds(floor, device) if floor else None) for _ in range(rounds)]
    found = {
        "stage": name,
        "size": size,
        **asdict(shape),
        "cold_cpu_seconds": cold,
        "cpu_seconds": statistics.median(mine[0] for mine, _ in pairs),
        "wall_seconds": statistics.median(mine[1] for mine, _ in pairs),
        "gigabytes_built": built,
        "gigabytes_prepared": prepared,
        "gigabytes_peak": peak,
        "gigabytes_weights": shape.bytes / 2**30,
    }
    if floor:
        found["floor_cpu_seconds"] = statistics.median(other[0] for _, other in pairs if other)
        found["ratio"] = statistics.median(mine[0] / other[0] for mine, other in pairs if other)
    if device != "cpu":
        found["gigabytes_device"] = torch.cuda.max_memory_allocated() / 2**30
    return found


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--size", type=int, default=0, help="nodes, circuits: what the stage counts")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    for entry in fields(Shape):
        parser.add_argument(f"--{entry.name}", type=type(entry.default), default=entry.default)
    options = vars(parser.parse_args())
    torch.set_num_threads(1)
    shape = Shape(**{entry.name: options[entry.name] for entry in fields(Shape)})
    print(json.dumps(measure(options["stage"], shape, options["size"], options["rounds"], options["device"])))


if __name__ == "__main__":
    main()
