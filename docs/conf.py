"""
The site: README.md, the other pages of the repository's root, and docs/.

    bash scripts/docs.sh       # writes outputs/site/index.html

The root of the repository is the source folder, so that one relative link works on GitHub and in the site. A page that
`PAGES` does not name, and a link that leads nowhere, end the build.
"""

from __future__ import annotations

import re
import shutil
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Heading of the navigation -> its pages, in order.
PAGES = {
    "Start": ["docs/get-started", "docs/quickstart", "docs/choosing", "docs/report", "docs/troubleshooting"],
    "Train": [
        *(
            "docs/models",
            "docs/training",
            "docs/recipes",
            "docs/data",
            "docs/rows",
            "docs/tool-calls",
            "docs/adapters",
        ),
        *("docs/methods", "docs/many-gpus", "docs/examples"),
    ],
    "Evaluate": ["docs/evaluation", "docs/worlds", "docs/limitations"],
    "Operate": ["docs/hub", "docs/reliability", "docs/monitoring", "docs/pipeline", "docs/guard"],
    "Understand": ["docs/glossary", "docs/theory", "docs/performance", "docs/does-it-pay"],
    "Results": [f"docs/results/{page.stem}" for page in sorted((ROOT / "docs" / "results").glob("*.md"))],
    "Reference": [
        *("docs/reference/python", "docs/reference/objective", "docs/reference/environments"),
        *("docs/reference/configuration", "docs/reference/commands"),
        *("docs/reference/metrics", "docs/reference/result-files"),
    ],
    "Project": ["CONTRIBUTING", "CHANGELOG", "SECURITY"],
}

_PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

project = _PROJECT["name"]
release = _PROJECT["version"]
language = "en"
extensions = ["myst_parser"]
root_doc = "README"
include_patterns = ["*.md", "docs/**.md"]
exclude_patterns = [".*", "aajr_hf", "outputs", "recipes", "scripts", "tests", "build", "dist"]
html_theme = "furo"
html_title = f"{project} {release}"
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_show_copyright = False
html_theme_options = {"navigation_with_keys": True}
myst_heading_anchors = 4  # links to headings as GitHub writes them


def _navigation() -> str:
    trees = [
        "\n".join(("```{toctree}", ":hidden:", f":caption: {caption}", "", *(f"/{page}" for page in pages), "```"))
        for caption, pages in PAGES.items()
    ]
    return "\n\n".join(trees)


def _for_the_site(app, page: str, source: list[str]) -> None:
    """Add what GitHub would show as code: the navigation, and images that follow the reader's choice of theme."""
    if page != root_doc:
        return
    pictures = re.compile(
        r'<picture>\s*<source [^>]*srcset="([^"]*)">\s*<img src="([^"]*)" alt="([^"]*)">\s*</picture>'
    )
    image = "```{{image}} {}\n:class: only-{}\n:alt: {}\n```"
    text = pictures.sub(
        lambda m: f"{image.format(m[2], 'light', m[3])}\n\n{image.format(m[1], 'dark', m[3])}", source[0]
    )
    source[0] = f"{text}\n\n{_navigation()}\n"


def _write_index(app, error: Exception | None) -> None:
    if error is None and app.builder.name == "html":
        shutil.copyfile(Path(app.outdir) / "README.html", Path(app.outdir) / "index.html")


def setup(app) -> dict[str, bool]:
    app.connect("source-read", _for_the_site)
    app.connect("build-finished", _write_index)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
