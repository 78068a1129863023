"""The site: it is built without a warning, from all pages, with search and both themes."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.support import ROOT

pytest.importorskip("furo", reason='the extra "docs" is not installed: pip install -c constraints.txt -e ".[docs]"')
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    # As scripts/docs.sh does.
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--keep-going", "-c", "docs", "."]
    done = subprocess.run([*command, str(folder)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_is_built(site):
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    built = {str(file.relative_to(site).with_suffix("")) for file in site.rglob("*.html")}
    assert {str(page.relative_to(ROOT).with_suffix("")) for page in pages} <= built


def test_the_first_page_is_the_readme_with_the_navigation_search_and_both_themes(site):
    first = (site / "index.html").read_text(encoding="utf-8")
    assert first == (site / "README.html").read_text(encoding="utf-8")
    assert 'href="docs/reference/metrics.html"' in first and 'action="search.html"' in first
    assert re.search(r'class="only-light"[^>]*aajr-light.svg', first) and "theme-toggle" in first
    assert re.search(r'class="only-dark"[^>]*aajr-dark.svg', first)


def test_search_finds_a_metric_and_a_function(site):
    words = (site / "searchindex.js").read_text(encoding="utf-8")
    assert "boundary_fract" in words and "projected_gradient_asc" in words


def test_links_that_leave_the_pages_lead_to_files(site):
    page = site / "docs" / "recipes.html"
    links = re.findall(r'href="([^":#?]+)[#?"]', page.read_text(encoding="utf-8"))
    assert sum(link.endswith(".yaml") for link in links) > 20
    assert [link for link in links if not (page.parent / link).exists()] == []
