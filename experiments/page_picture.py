"""The screenshot of the demo's page in README.md and docs/page.md, made after `make demo`.

python -m experiments.page_picture runs/demo docs/pictures/page.png
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

NODE = "resid_2/303@5"


def main() -> None:
    """Open the page, select the strongest node, take the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("picture", type=Path)
    options = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1280, "height": 800})
        tab.goto((options.run / "circuit.html").resolve().as_uri())
        tab.fill("#search", NODE)
        tab.press("#search", "Enter")
        tab.fill("#search", "")
        tab.wait_for_timeout(500)
        tab.screenshot(path=options.picture)
        browser.close()


if __name__ == "__main__":
    main()
