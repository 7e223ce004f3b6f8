"""What keeps the project in order: versions agree, workflows run what .ci/run runs, the lock is complete."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import featcircuits as fc

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def read_yaml(*parts: str) -> Any:
    return yaml.safe_load(ROOT.joinpath(*parts).read_text(encoding="utf-8"))


def steps(workflow: str) -> set[str]:
    """The commands that a workflow runs, those of its matrix one by one."""
    found: set[str] = set()
    for job in read_yaml(".github", "workflows", workflow)["jobs"].values():
        matrix = job.get("strategy", {}).get("matrix", {})
        for step in job["steps"]:
            found |= set(matrix["step"]) if step.get("run") == "${{ matrix.step }}" else {step.get("run")}
    return found - {None}


def ci_commands() -> set[str]:
    """The commands of .ci/run, its preparations left out."""
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    return {line.strip() for line in lines if line.strip().startswith(("make ", ".ci/"))}


def test_the_workflows_together_run_what_ci_runs() -> None:
    assert steps("tests.yml") | steps("docs.yml") == ci_commands()
    assert ".ci/run" in steps("release.yml")


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a clone")
def test_no_file_of_the_repository_is_ignored() -> None:
    """git, ruff and the builder of wheels all leave out what .gitignore names."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--ignored", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert listed.stdout == ""


def test_every_target_that_is_spoken_of_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    texts = [ROOT / "CONTRIBUTING.md", ROOT / "README.md", ROOT / ".ci" / "run", *WORKFLOWS]
    lines = [line for text in texts for line in text.read_text(encoding="utf-8").splitlines()]
    spoken = {name for line in lines for call in re.findall(r"\bmake((?: [a-z]+)+)", line) for name in call.split()}
    assert spoken
    assert spoken <= targets


def test_a_release_has_one_version() -> None:
    headings = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert headings[1].split(" - ")[0] == PROJECT["version"]
    assert all(re.fullmatch(r"\d+\.\d+\.\d+( - \d{4}-\d\d-\d\d)?", heading) for heading in headings[1:])
    assert str(read_yaml("CITATION.cff")["version"]) == PROJECT["version"]


def test_the_citation_has_what_its_format_asks_for() -> None:
    citation = read_yaml("CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["cff-version"] == "1.2.0"
    assert citation["license"] == PROJECT["license"]
    people = [*citation["authors"], *(person for work in citation["references"] for person in work["authors"])]
    assert all({"name"} == set(person) or {"family-names", "given-names"} == set(person) for person in people)
    assert all({"type", "title", "authors"} <= set(work) for work in citation["references"])


def test_the_hooks_run_what_is_installed_and_fetch_nothing() -> None:
    repositories = read_yaml(".pre-commit-config.yaml")["repos"]
    hooks = [hook for repository in repositories for hook in repository["hooks"]]
    assert [repository["repo"] for repository in repositories] == ["local"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8").replace("$(BIN)", ".venv/bin")
    for hook in hooks:
        assert hook["language"] == "system"
        assert hook["entry"].replace(" --force-exclude", "") in makefile, "lint and types run the same"
    assert len(hooks) == len(re.findall(r"\.venv/bin/(?:ruff|basedpyright)", makefile))


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def installed(requirements: list[str], extras: frozenset[str], seen: set[tuple[str, frozenset[str]]]) -> Iterator[str]:
    """The names of what is required here with these extras, and what that requires, as far as it is installed."""
    environments = [{"extra": extra} for extra in extras] or [{"extra": ""}]
    for requirement in map(Requirement, requirements):
        marker, name = requirement.marker, canonicalize_name(requirement.name)
        key = (name, frozenset(requirement.extras))
        if key in seen or not (marker is None or any(map(marker.evaluate, environments))):
            continue
        seen.add(key)
        try:
            further = requires(name) or []
        except PackageNotFoundError:
            continue
        yield name
        yield from installed(further, key[1], seen)


def test_the_lock_pins_all_that_is_required_and_names_no_place_to_get_it() -> None:
    locked = {canonicalize_name(name): version for name, version in pins().items()}
    own = [line for extra in PROJECT["optional-dependencies"].values() for line in extra]
    needed = set(installed(PROJECT["dependencies"] + own, frozenset(), set())) - {"featcircuits"}
    cuda = {name for name in needed if name.startswith(("nvidia-", "cuda-")) or name == "triton"}
    assert needed - cuda - set(locked) == set()
    assert locked["torch"] == "2.13.0"
    for requirement in map(Requirement, PROJECT["dependencies"] + own):
        if requirement.name != "featcircuits":
            assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)], prereleases=True)
    assert not re.search(r"://|@|index|find-links", "".join(f"{name}{version}" for name, version in pins().items()))


def test_the_navigation_of_the_site_has_every_page() -> None:
    """MkDocs itself says so too, but only when the site is built."""
    listed = set(re.findall(r": ([\w/.-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE))
    docs = ROOT / "docs"
    pages = {path.relative_to(docs).as_posix() for path in docs.rglob("*.md")}
    notebooks = {path.relative_to(docs).with_suffix(".md").as_posix() for path in docs.rglob("*.ipynb")}
    outside = {name for name in listed if (ROOT / name).is_file()}
    assert listed - outside == pages | notebooks


def test_the_reference_has_every_public_name() -> None:
    text = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    described = {name.split(".")[-1] for name in re.findall(r"^::: ([\w.]+)$", text, re.MULTILINE)}
    described |= set(re.findall(r"^## fc\.(\w+)$", text, re.MULTILINE))
    assert set(fc.__all__) <= described


@pytest.mark.parametrize("path", sorted(ROOT.glob(".ci/*.py")), ids=lambda path: path.name)
def test_scripts_of_ci_need_nothing_but_python(path: Path) -> None:
    """They run in environments that lack the tests' packages."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {module.split(".")[0] for module in modules} <= sys.stdlib_module_names
