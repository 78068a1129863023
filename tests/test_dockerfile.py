"""The image: what it installs is what is tested, and what it copies is what git tracks."""

from __future__ import annotations

import re

from tests.support import ROOT


def test_the_image_leaves_out_what_git_ignores():
    """Without this, an environment or trained agents beside the code would be copied into the image."""
    left_out = {line.removeprefix("**/") for line in (ROOT / ".dockerignore").read_text().splitlines()}
    ignored = [line.rstrip("/") for line in (ROOT / ".gitignore").read_text().splitlines()]
    ignored = [line for line in ignored if line and not line.startswith(("#", "*.py", "*.log"))]
    assert len(ignored) > 10 and {*ignored, ".git"} <= left_out


def test_the_image_installs_the_tested_versions():
    text = (ROOT / "Dockerfile").read_text()
    assert "$(grep '^torch==' constraints.txt)" in text and "-c constraints.txt ." in text
    assert len(re.findall(r"^torch==\S+$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)) == 1
