"""Plots that are not drawn: drawing takes half of the time of a small evaluation. tests/evaluation draws all of them."""

from __future__ import annotations

import struct
import zlib

import pytest

from aajr_hf.evaluation.comparison import plots as comparison_plots
from aajr_hf.evaluation.monitoring import report as monitoring_report
from aajr_hf.evaluation.reporting import plots, shared_directions, stability_plots
from aajr_hf.evaluation.tool_calls import report as tool_calls_report

_DRAWING = (plots, shared_directions, stability_plots, comparison_plots, monitoring_report, tool_calls_report)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


# One black pixel.
PIXEL = b"\x89PNG\r\n\x1a\n" + b"".join(
    [
        _chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)),
        _chunk(b"IDAT", zlib.compress(b"\0\0\0\0")),
        _chunk(b"IEND", b""),
    ]
)


def save_a_pixel(figure, file, **_) -> None:
    """In place of `matplotlib.figure.Figure.savefig`."""
    file.write(PIXEL)


def draw_nothing(monkeypatch) -> None:
    """Make each plot a single pixel."""
    for module in _DRAWING:
        monkeypatch.setattr(module, "render", lambda *_: PIXEL)
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", save_a_pixel)


@pytest.fixture(autouse=True)
def no_drawing(monkeypatch):
    """Each plot is a single pixel."""
    draw_nothing(monkeypatch)
