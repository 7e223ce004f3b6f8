"""Writes the page: `python -m tests.bad_inputs > docs/bad-inputs.md`."""

from __future__ import annotations

import sys

from tests.bad_inputs.case import said
from tests.bad_inputs.page import page, shown

if __name__ == "__main__":
    sys.stdout.write(page(lambda case: shown(said(case))))
