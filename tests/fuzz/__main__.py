"""`make fuzz`: many cases over two processes; what is found is printed with the command that repeats it."""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

from tests.fuzz.cases import Finding, planned, run_case
from tests.fuzz.targets import SLOW, TARGETS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", choices=[*TARGETS, *SLOW])
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    began, found = time.monotonic(), dict[str, Finding]()
    cases = list(planned(options.cases, options.seed, options.target))
    with ProcessPoolExecutor(options.processes, multiprocessing.get_context("spawn")) as pool:
        findings = pool.map(run_case, *zip(*cases, strict=True), chunksize=20)
        for number, finding in enumerate(findings, 1):
            if finding is not None and (key := f"{finding.target}: {finding.what}") not in found:
                found[key] = finding
                repeat = f"python -m tests.fuzz --target {finding.target} --cases 1 --seed {finding.seed}"
                say(f"\n== {key}\n{finding.details}\nrepeat: {repeat}")
            if number % 2000 == 0:
                say(f"{number}/{len(cases)} cases, {len(found)} findings, {time.monotonic() - began:.0f} s")
    counts = ", ".join(f"{count} {target}" for target, count in Counter(target for target, _ in cases).items())
    say(f"{len(cases)} cases ({counts}), {len(found)} findings")
    return 1 if found else 0


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
