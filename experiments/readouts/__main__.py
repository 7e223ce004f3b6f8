"""Readouts on planted models and on the shipped one; prints records and writes readouts.json.

    python -m experiments.readouts --out runs/readouts

The planted models show what the shipped one does not: it answers nearly everything right, so there is nothing for
back-patching to fix, and its grammar has neither counts, labels in context, nor negated facts.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

import featcircuits as fc
from experiments.readouts import planted, shipped
from featcircuits.files.writing import write_json
from featcircuits.runs.folder import check_free


def main() -> None:
    """Run all experiments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--draws", type=int, default=100)
    options = parser.parse_args()
    check_free(options.out)
    torch.manual_seed(0)
    model = fc.load()
    record: dict[str, Any] = {
        "planted: two hops": planted.back_patching(),
        "planted: overwritten count": planted.overwriting(),
        "planted: label fixation": planted.fixation(),
        "planted: negation": planted.negations(),
        "planted: recall and reasoning apart": planted.dissociation(False, options.draws),
        "planted: recall and reasoning shared": planted.dissociation(True, options.draws),
        "shipped: right answers": shipped.right_everywhere(model),
        "shipped: selectivity": shipped.dissociation(model, draws=options.draws),
        "shipped: sunk heads": shipped.sunk_heads(model),
        "shipped: number as a steering vector": shipped.steering(model),
    }
    for name, found in record.items():
        print(f"\n{name}\n{json.dumps(found, indent=1)}")
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / "readouts.json", record)


if __name__ == "__main__":
    main()
