"""Prints `name==version` for the lower bound of every requirement of a pyproject.toml, torch left out."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["project"]
extras = project["optional-dependencies"]
for requirement in [*project["dependencies"], *extras["train"], *extras["devices"], *extras["dev"]]:
    found = re.fullmatch(r"([\w-]+)>=([\d.]+)(,<[\d.]+)?", requirement)
    if found is None:
        assert requirement.startswith("featcircuits["), requirement
    elif found[1] != "torch":
        print(f"{found[1]}=={found[2]}")
