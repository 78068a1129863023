"""The documentation: links that lead somewhere, and a README that is short."""

from __future__ import annotations

import re

import figure
import pytest

from tests.support import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def anchor(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    lost = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?:|mailto:", link):
            continue
        path, _, place = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists():
            lost.append(link)
        elif place and target.suffix == ".md":
            headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), flags=re.MULTILINE)
            lost += [link] if place not in map(anchor, headings) else []
    assert lost == []


def test_every_page_is_linked_from_the_readme_or_from_a_page():
    linked = set()
    for page in PAGES:
        for link in re.findall(r"\]\(([^)\s#]+)", page.read_text(encoding="utf-8")):
            linked.add((page.parent / link).resolve())
    assert [str(page) for page in PAGES if page.parent != ROOT and page.resolve() not in linked] == []


def test_the_readme_is_read_in_one_sitting():
    assert len((ROOT / "README.md").read_bytes()) <= 9 * 1024


def test_the_figures_are_those_that_the_script_draws():
    for theme in figure.COLORS:
        assert (ROOT / "docs" / "figures" / f"aajr-{theme}.svg").read_text() == figure.figure(theme)
