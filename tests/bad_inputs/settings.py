"""Options and numbers: names that are not known, numbers without sense, choices that do nothing."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import featcircuits as fc
from tests.bad_inputs.case import Case, command, commands
from tests.bad_inputs.shared import tiny


def config(text: str) -> None:
    Path("config.json").write_text(text, encoding="utf-8")
    command("trace", "--config", "config.json")


def kept(rule: str) -> None:
    fc.trace(tiny().model, tiny().task, keep_nodes=rule, check_fit=False)


CONFIGS = {
    "a config that is a list": "[1]",
    "a config with a setting that there is not": '{"node": "ig"}',
    "a config with a text for a number": '{"limit": "ten"}',
    "a config with words of earlier versions": '{"nodes": "ig", "steps": 10, "errors": "exact"}',
    "a config with a setting twice": '{"limit": 1, "limit": 2}',
    "a config with an infinite number": '{"hold_out": Infinity}',
    "a config with `true` for a number": '{"limit": true}',
    "a config with a number beyond its range": '{"batch_size": 1000000}',
}

RULES = ("best", "top=", "top=0", "top=1.5", "top=-3", "threshold=nan", "cumulative=2", "top=3=4", "")

OPTIONS = commands(
    "trace --limit -3",
    "trace --limit 5000",
    "trace --limit 1_0",
    "trace --limit ٣",
    "trace --limit 1e3",
    "trace --limit 05",
    "trace --seed -1",
    "trace --seed 4294967296",
    "trace --batch-size 1000000",
    "trace --hold-out 1.5",
    "trace --nodes igg",
    "trace --nodes ig:steps=30000:quadrature=gauss",
    "trace --nodes ig:steps=100000000",
    "trace --nodes ig:steps=1_0",
    "trace --nodes ig:step=5",
    "trace --nodes ig:steps=3:steps=4",
    "trace --nodes ig:quadrature=simpson",
    "trace --nodes ig:steps=0",
    "trace --nodes secant:steps=10",
    "trace --nodes relp:quadrature=left",
    "trace --nodes relp:rules=nonsense",
    "trace --nodes ig:rule=gauss",
    "trace --steps 4",
    "trace --errors exact",
    "trace --edges igg",
    "trace --nodes blend",
    "trace --edges none --keep-edges top=5",
    "trace --select best",
    "trace --select mask:steps=1000000",
    "trace --baseline median",
    "trace --error-effects none",
    "trace --metric loss",
    "trace --aggregate mean",
    "trace --task gender",
    "trace --keep-edges top=1.5",
    "trace --keep-wrong --only-right",
    "trace --prepend <|endoftext|>",
    "agree --estimators igg",
    "agree --estimators atp,ig:steps=1001",
    "agree --bases heads",
    "agree --pictures gif",
    "agree --top 0",
    "agree --batch-size -1",
    "suites check --longest 9",
    "suites check --limit -3",
    "suites check --text a.txt --task ioi",
    "data check ioi --split dev",
)

CASES = [
    *OPTIONS,
    Case("a seed of 400 digits", partial(command, "trace", "--seed", "9" * 400)),
    Case("`--keep-nodes top=` with 400 digits", partial(command, "trace", "--keep-nodes", "top=" + "9" * 400)),
    *(Case(f"`keep_nodes={rule!r}`", partial(kept, rule)) for rule in RULES),
    *(Case(tried, partial(config, text)) for tried, text in CONFIGS.items()),
    Case("a config that is not there", partial(command, "trace", "--config", "nowhere.json")),
]
