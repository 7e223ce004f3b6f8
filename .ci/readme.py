"""Runs the commands of the Makefile's demo, README.md and docs/index.md, and the README's Python, in this folder."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(sys.argv[1])
BIN = Path(sys.executable).parent
REFUSED = {
    "suites train": "pip install 'featcircuits[train]'",  # the extra is not installed here
    "--suite gemma-2-2b": "google/gemma-2-2b",  # nor is there a hub
}
"""Part of a command -> part of the one line that it ends in here."""
STAND_INS = {"FOLDER": f"{ROOT}/saes/grammar-4l/model", "FILE": "text.txt"}


def commands() -> list[str]:
    """Those of `make demo`, of README.md and of docs/index.md, in their order."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    demo = re.findall(r"^\t\$\(BIN\)/(featcircuits .*)", makefile, re.MULTILINE)
    pages = "".join((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/index.md"))
    shown = re.findall(r"^    ((?:featcircuits|torchrun) .*)", pages, re.MULTILINE)
    assert len(demo) >= 3, "the demo has commands"
    assert len(shown) >= 12, "README.md and docs/index.md have commands"
    return [line.replace("$(RUN)", "runs/demo") for line in demo] + shown


def run(line: str) -> str:
    """What it prints. The exit code must be 0, or 2 with the message that is expected here."""
    words = [STAND_INS.get(word, word) for word in shlex.split(line, comments=True)]
    done = subprocess.run([str(BIN / words[0]), *words[1:]], capture_output=True, text=True, check=False)
    expected = next((message for part, message in REFUSED.items() if part in line), None)
    right = done.returncode == 0 if expected is None else done.returncode == 2 and expected in done.stderr
    print(f"{'ok' if right else 'WRONG'}: {line}", flush=True)
    if not right:
        sys.exit(f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def check_sample(shown: str, printed: str) -> None:
    """Every line of the README's sample is printed, but for spaces, and with decimals that differ by at most 1 %."""
    lines = [line.split() for line in printed.splitlines()]
    for line in filter(None, map(str.split, shown.splitlines())):
        if not any(alike(line, other) for other in lines):
            sys.exit(f"nothing printed is like the README's sample: {' '.join(line)}")
    print("ok: the sample output", flush=True)


def alike(shown: list[str], printed: list[str]) -> bool:
    return len(shown) == len(printed) and all(map(same_word, shown, printed))


def same_word(shown: str, printed: str) -> bool:
    number = re.compile(r"[-+]?\d+\.\d+")
    if number.sub("#", shown) != number.sub("#", printed):
        return False
    pairs = zip(map(float, number.findall(shown)), map(float, number.findall(printed)), strict=True)
    return all(abs(a - b) <= max(0.01 * abs(a), 0.001) for a, b in pairs)


def main() -> None:
    os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1")
    Path("saes").symlink_to(ROOT / "saes")
    shutil.copy(ROOT / "saes/grammar-4l/tasks/ioi_train.jsonl", "pairs.jsonl")
    Path("text.txt").write_text("The boy that the girls like is here .\n" * 400, encoding="utf-8")
    printed = "".join(map(run, commands()))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for sample in re.findall(r"```text\n(.*?)```", readme, re.DOTALL):
        check_sample(sample, printed)
    code = "\n".join(re.findall(r"```python\n(.*?)```", readme, re.DOTALL))
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    print("ok: the Python example", flush=True)


main()
