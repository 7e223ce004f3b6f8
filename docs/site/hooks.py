"""What the site has beyond the pages of docs/. MkDocs calls these functions by name.

Pages that live outside docs/ become pages of the site: the suites' cards, CONTRIBUTING.md and CHANGELOG.md. Notebooks
become pages with their committed outputs. Links keep the form that leads somewhere in the repository, too.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page
from nbconvert import MarkdownExporter

ROOT = Path(__file__).parents[2]
OUTSIDE = {
    path.relative_to(ROOT).as_posix(): path
    for path in [ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(ROOT.glob("saes/*/README.md"))]
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for name, path in OUTSIDE.items():
        # only some cards are in the navigation; all are reached from the page of suites
        inclusion = InclusionLevel.NOT_IN_NAV if name.startswith("saes/") else InclusionLevel.INCLUDED
        files.append(File.generated(config, name, content=path.read_text("utf-8"), inclusion=inclusion))
    for file in list(files):
        if file.src_uri.endswith(".ipynb"):
            for name, content in notebook_page(Path(config.docs_dir), PurePosixPath(file.src_uri)).items():
                files.append(File.generated(config, name, content=content))
    return files


def notebook_page(docs: Path, name: PurePosixPath) -> dict[str, str | bytes]:
    """The Markdown page of a notebook and the pictures that it shows, by their names in the site."""
    notebook = nbformat.read(docs / name, as_version=4)
    text, resources = MarkdownExporter().from_notebook_node(notebook, {"output_files_dir": "", "unique_key": name.stem})
    shown = {str(name.parent / picture): data for picture, data in resources["outputs"].items()}
    return {str(name.with_suffix(".md")): text, **shown}


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """On the site docs/ is the root, and notebooks are pages."""
    name = page.file.src_uri
    if name in OUTSIDE:
        markdown = re.sub(r"\]\(((?:\.\./)*)docs/", r"](\1", markdown)
    else:
        up = "../" * name.count("/")
        outside = "|".join({re.escape(path.split("/")[0]) for path in OUTSIDE})
        markdown = re.sub(rf"\]\({re.escape('../' + up)}({outside})\b", rf"]({up}\1", markdown)
    return re.sub(r"(\]\([^):]*)\.ipynb\b", r"\1.md", markdown)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Refuse a page that loads a script, a style or a picture from elsewhere."""
    loaded = re.findall(r'<(?:script|link|img|iframe)\b[^>]*?\b(?:src|href)="?(https?://[^" >]+)', output)
    if loaded:
        raise PluginError(f"{page.file.src_uri} loads {loaded[0]}; a page may load only what the site has")
    return output
