"""suite.toml files, paths that lead out of a suite, and suites that do not belong to their model."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

from safetensors.torch import load_file, save_file

import featcircuits as fc
from featcircuits.suites import load_suite
from tests.bad_inputs.case import Case, command
from tests.bad_inputs.shared import SUITE, shipped, tiny
from tests.test_belonging import swapped
from tests.test_suite_files import GROUP, SITE, weights_in
from tests.test_suites import HEAD, suite_of
from tests.tiny import random_dictionary

LAYERS = "layers = [0, 2]\n"


def record(text: str) -> None:
    suite_of(Path(), text)


def without_hashes(name: str) -> Path:
    """A copy of the shipped suite's sites, whose content is then all that there is to judge by."""
    folder = Path(shutil.copytree(SUITE, "mine", ignore=shutil.ignore_patterns("model", "tasks")))
    lines = (folder / "suite.toml").read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if not line.startswith(("sha256", "n_features"))]
    (folder / "suite.toml").write_text("\n".join(kept), encoding="utf-8")
    return folder / "sites" / f"{name}.safetensors"


def loaded() -> None:
    fc.load(shipped().model, "mine")


def exchanged() -> None:
    """The check of the fit, which the hashes would come before."""
    one, other = (shipped().dictionaries[site] for site in ("resid_1", "resid_2"))
    spliced = replace(shipped(), dictionaries={**shipped().dictionaries, "resid_1": other, "resid_2": one})
    task = fc.Task.from_jsonl(SUITE / "tasks" / "agreement_rc_train.jsonl", shipped().tokenizer)
    fc.check_suite(spliced, task.take(8))


def narrowed() -> None:
    path = without_hashes("mlp_1")
    tensors = load_file(path)
    cut = {"W_enc": tensors["W_enc"][:64], "W_dec": tensors["W_dec"][:, :64], "b_dec": tensors["b_dec"][:64]}
    save_file({name: tensor.contiguous() for name, tensor in {**tensors, **cut}.items()}, path)
    loaded()


def changed_bit() -> None:
    Path("mine").mkdir()
    shutil.copytree(SUITE, "mine", ignore=shutil.ignore_patterns("model", "tasks"), dirs_exist_ok=True)
    path = Path("mine/sites/mlp_1.safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    loaded()


def missing() -> None:
    without_hashes("mlp_1").unlink()
    loaded()


def truncated() -> None:
    path = without_hashes("mlp_1")
    path.write_bytes(path.read_bytes()[:1000])
    loaded()


def of_another_kind() -> None:
    weights_in(Path("d.safetensors"))
    suite_of(Path(), HEAD + SITE + 'kind = "jumprelu"\n').dictionaries()


def linked() -> None:
    Path("suite").mkdir()
    weights_in(Path("elsewhere/d.safetensors"))
    Path("suite/sites").symlink_to(Path("elsewhere").absolute())
    suite_of(Path("suite"), HEAD + SITE.replace("d.safe", "sites/d.safe")).dictionaries()


RECORDS = {
    "a suite.toml with a table twice": HEAD + SITE + SITE,
    "`tasks.a = true`": HEAD + SITE + "[tasks]\na = true\n",
    "a number for a task's file": HEAD + SITE + "[tasks.a]\ntrain = 3\n",
    "a negative size of the model": HEAD + "hidden_size = -1\n" + SITE,
    "a list for the model's fingerprint": HEAD + "fingerprint = []\n" + SITE,
    "a suite's name of two lines": HEAD.replace('"small"', '"a\\nb"') + SITE,
    "a suite of a later format": HEAD.replace("format = 1", "format = 2") + SITE,
    "a suite without dictionaries": HEAD,
    "a site `resid_05`": HEAD + '[sites."resid_05"]\nsource = "x"\n',
    "a site `neuron_1`": HEAD + '[sites."neuron_1"]\nsource = "x"\n',
    "a site of layer 1,000": HEAD + '[sites.resid_1000]\nsource = "x"\n',
    "a site without a source": HEAD + "[sites.resid_1]\nl0 = 3\n",
    "a site with two sources": HEAD + SITE + 'release = "r"\nid = "x"\n',
    "a misspelt key of a site": HEAD + SITE + 'sha265 = "0"\n',
    "a width of 10^12": HEAD + SITE + "width = 1000000000000\n",
    "`l0 = nan`": HEAD + SITE + "l0 = nan\n",
    "a text for `true`": HEAD + SITE + 'before_gain = "yes"\n',
    "`layers = [0, 1000000]`": HEAD + GROUP + "layers = [0, 1000000]\n",
    "`layers = [2, 0]`": HEAD + GROUP + "layers = [2, 0]\n",
    "a group without `{layer}`": HEAD + GROUP.replace("{layer}", "1") + LAYERS,
    "two values for three layers": HEAD + GROUP + LAYERS + "l0 = [1, 2]\n",
    "one site in two groups": HEAD + (GROUP + LAYERS) * 2,
    "a repository with `..` in it": HEAD + "[sites.embed]\nrepo = 'a/../b'\npath = 'x'\n",
    "a path of a repository that leads out of it": HEAD + "[sites.embed]\nrepo = 'a/b'\npath = '../../x'\n",
}

SOURCES = ("../d.safetensors", "/etc/passwd", "x/../../d.safetensors")


def outside(source: str) -> None:
    suite_of(Path(), HEAD + SITE.replace("d.safetensors", source)).dictionaries()


def model_outside() -> None:
    weights_in(Path("d.safetensors"))
    suite_of(Path(), HEAD.replace('"model"', '"../model"') + SITE)
    fc.load(suite=Path())


def sites(given: object) -> None:
    fc.load(shipped().model, SUITE, sites=given)  # type: ignore[arg-type]


CASES = [
    *(Case(tried, partial(record, text)) for tried, text in RECORDS.items()),
    *(Case(f"a dictionary of the suite at `{source}`", partial(outside, source)) for source in SOURCES),
    Case("a folder of sites that is a link to elsewhere", linked),
    Case("a suite whose model lies outside of its folder", model_outside),
    Case("a file of a suite that is missing", missing),
    Case("a file of a suite that is cut off", truncated),
    Case("a file of a suite with one bit changed", changed_bit),
    Case("a dictionary of another kind than the suite says", of_another_kind),
    Case("a dictionary of another width than the model", narrowed),
    Case("two sites of a suite swapped", exchanged),
    Case(
        "two sites swapped since the circuit was traced",
        lambda: fc.evaluate(swapped(tiny().model), tiny().circuit, tiny().task),
    ),
    Case("a suite of another model", lambda: fc.load(tiny().model.model, SUITE)),
    Case("a suite's name with a typing error", lambda: load_suite("grammar_4l")),
    Case("a suite of no name", lambda: load_suite("")),
    Case("a suite's name with an escape code", lambda: load_suite("\x1b[31m")),
    Case("a folder that is no suite", lambda: fc.load(shipped().model, Path())),
    Case("a number for a suite", lambda: fc.load(suite=3)),  # type: ignore[arg-type]
    Case("no dictionaries at all", lambda: fc.load(tiny().model.model, {})),
    Case("a path in place of a dictionary", lambda: fc.load(tiny().model.model, {"embed": "embed.safetensors"})),  # type: ignore[dict-item]
    Case(
        "a dictionary at a site that there is not", lambda: fc.load(tiny().model.model, {"MLP_1": random_dictionary()})
    ),
    Case("a dictionary behind the last layer", lambda: fc.load(tiny().model.model, {"resid_99": random_dictionary()})),
    Case("a choice of sites that none fits", partial(sites, "mlp3")),
    Case("a choice of layers that there are not", partial(sites, "resid_20-30")),
    Case("a suite that is not there, on the command line", partial(command, "trace", "--suite", "nowhere")),
]
