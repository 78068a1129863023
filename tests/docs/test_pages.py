"""The documentation: links that lead somewhere, a README that is short, and its Python, which runs."""

from __future__ import annotations

import re

import figure
import pytest

from tests.support import ROOT
from tests.support.tiny import WORDS, tiny_model

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


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch):
    """As written, but for the model, which needs a hub, and the number of steps."""
    monkeypatch.chdir(tmp_path)
    tiny_model(vocab_size=len(WORDS)).float().save_pretrained("model")
    WORDS.save_pretrained("model")
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    for written, here in (
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "model"),
        ("max_steps=20", "max_steps=2, use_cpu=True"),
    ):
        assert code.count(written) == 1
        code = code.replace(written, here)
    exec(code, {})
    assert (tmp_path / "outputs" / "my-agent" / "model.safetensors").is_file()


def test_the_figures_are_those_that_the_script_draws():
    for theme in figure.COLORS:
        assert (ROOT / "docs" / "figures" / f"aajr-{theme}.svg").read_text() == figure.figure(theme)
