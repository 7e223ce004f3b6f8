"""Text to train on or to measure with, and recipes of a training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from featcircuits.tasks.token_rows import read_rows
from featcircuits.training import train_suite
from tests.bad_inputs.case import Case, command
from tests.bad_inputs.shared import MODEL, tokenizer
from tests.test_training import RECIPE, bare_model, random_rows


def text(content: bytes, reader: Callable[[], Any] | None = tokenizer) -> None:
    Path("text.txt").write_bytes(content)
    read_rows(Path("text.txt"), reader and reader(), longest=8)


def recipe(sites: Any = None, **changes: Any) -> None:
    train_suite(
        bare_model(),
        random_rows(),
        Path("mine"),
        replace(RECIPE, **changes),
        **({} if sites is None else {"sites": sites}),
    )


def into_something() -> None:
    Path("mine").mkdir()
    Path("mine/file").touch()
    recipe()


def trained(*options: object) -> None:
    Path("text.txt").write_text("The author is here\n", encoding="utf-8")
    command("suites", "train", *options, "-o", "out")


TRAIN: dict[str, tuple[Any, ...]] = {
    "`suites train` without a model": ("--text", "text.txt"),
    "`suites train` without a text": ("--model", MODEL),
    "`suites train --text` of a file that is not there": ("--model", MODEL, "--text", "nowhere.txt"),
    "`suites train --k nan`": ("--model", MODEL, "--sample", "9", "--k", "nan"),
    "`suites train --k 900` of 512 features": ("--model", MODEL, "--sample", "9", "--k", "900"),
    "`suites train --learning-rate 11`": ("--model", MODEL, "--sample", "9", "--learning-rate", "11"),
    "`suites train --features 2000000`": ("--model", MODEL, "--sample", "9", "--features", "2000000"),
    "`suites train --sample -4`": ("--model", MODEL, "--sample", "-4"),
    "`suites train --longest 1`": ("--model", MODEL, "--text", "text.txt", "--longest", "1"),
    "`suites train --architecture gated`": ("--model", MODEL, "--sample", "9", "--architecture", "gated"),
}

CASES = [
    *(Case(tried, partial(trained, *options)) for tried, options in TRAIN.items()),
    Case("a text without a word", partial(text, b"\n \n")),
    Case("a text in another encoding", partial(text, b"caf\xe9\n")),
    Case("a text with the character NUL", partial(text, b"a\0b\n")),
    Case("a folder as a text", lambda: read_rows(Path(), tokenizer(), 8)),
    Case("a text, and no tokenizer", partial(text, b"The author\n", reader=None)),
    Case("more active features than there are", partial(recipe, k=25)),
    Case("a training of no steps", partial(recipe, steps=0)),
    Case("a batch larger than the text", partial(recipe, batch_size=4096)),
    Case("sites to train that the model lacks", partial(recipe, sites=["resid_3"])),
    Case("no sites to train", partial(recipe, sites=[])),
    Case("a suite to train into a folder that holds something", into_something),
    Case("a text to measure with that is not there", partial(command, "suites", "check", "--text", "nowhere.txt")),
]
