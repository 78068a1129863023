"""
Draw the README's figure: what the adversary does to a prompt, and what the penalty does about it.

    python scripts/figure.py      # writes docs/figures/aajr-light.svg and aajr-dark.svg
"""

from __future__ import annotations

import math
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "figures"
COLORS = {
    "light": {
        "text": "#1c2024",
        "faint": "#5a626b",
        "line": "#b9c0c8",
        "box": "#f3f5f7",
        "ascent": "#b3261e",
        "calm": "#00664b",
    },
    "dark": {
        "text": "#e6e8eb",
        "faint": "#a3abb4",
        "line": "#5a626b",
        "box": "#20242a",
        "ascent": "#ff8a80",
        "calm": "#5fd3ae",
    },
}
TOKENS = ("capacity", "15", "need", "2")
# Center and radius of the ball, and the points of the ascent in it, in pixels.
BALL, RADIUS = (330, 118), 74
ASCENT = ((0, 0), (30, -22), (56, -30), (68, -28))
# The logits: where the answer is, how far a step along the ascent moves it without the penalty, and with it.
LOGITS, WITHOUT, WITH, SIDE = (600, 150), (128, -84), (38, -25), (46, 18)


def arrow(start: tuple[float, float], end: tuple[float, float], color: str, width: float = 2.5, dash: str = "") -> str:
    """Return a line with a head."""
    angle, size = math.atan2(end[1] - start[1], end[0] - start[0]), 9
    wings = [
        (end[0] - size * math.cos(angle + turn), end[1] - size * math.sin(angle + turn)) for turn in (0.45, -0.45)
    ]
    head = " ".join(f"{x:.1f},{y:.1f}" for x, y in (end, *wings))
    style = f' stroke-dasharray="{dash}"' if dash else ""
    line = f'<line x1="{start[0]}" y1="{start[1]}" x2="{end[0]}" y2="{end[1]}" stroke="{color}" stroke-width="{width}"{style}/>'
    return f'{line}<polygon points="{head}" fill="{color}"/>'


def text(x: float, y: float, said: str, color: str, size: int = 14, anchor: str = "middle") -> str:
    return f'<text x="{x}" y="{y}" fill="{color}" font-size="{size}" text-anchor="{anchor}">{said}</text>'


def shifted(place: tuple[float, float], by: tuple[float, float]) -> tuple[float, float]:
    return place[0] + by[0], place[1] + by[1]


def figure(theme: str) -> str:
    """Return the figure as SVG."""
    c = COLORS[theme]
    parts = [text(96, 24, "what the agent reads", c["faint"])]
    for i, token in enumerate(TOKENS):
        y = 48 + 40 * i
        parts.append(f'<rect x="40" y="{y}" width="112" height="30" rx="6" fill="{c["box"]}" stroke="{c["line"]}"/>')
        parts.append(text(96, y + 20, token, c["text"]))
    parts.append(arrow((166, 118), (244, 118), c["line"], 2))
    parts.append(text(330, 24, "ascent on its embeddings", c["faint"]))
    parts.append(
        f'<circle cx="{BALL[0]}" cy="{BALL[1]}" r="{RADIUS}" fill="{c["box"]}" stroke="{c["line"]}" stroke-dasharray="5 4"/>'
    )
    points = [shifted(BALL, point) for point in ASCENT]
    parts += [arrow(*pair, c["ascent"]) for pair in zip(points, points[1:], strict=False)]
    parts.append(f'<circle cx="{BALL[0]}" cy="{BALL[1]}" r="4" fill="{c["text"]}"/>')
    parts += [
        text(318, 138, "s", c["text"]),
        text(352, 86, "u", c["ascent"]),
        text(330, 218, "radius &#949;", c["faint"]),
    ]
    parts.append(arrow((420, 118), (498, 118), c["line"], 2))
    parts.append(text(640, 24, "what the logits do", c["faint"]))
    ends = {name: shifted(LOGITS, by) for name, by in (("without", WITHOUT), ("with", WITH), ("side", SIDE))}
    parts.append(arrow(LOGITS, ends["without"], c["ascent"], 2.5, "6 4"))
    parts.append(arrow(LOGITS, ends["side"], c["line"], 2.5))
    parts.append(arrow(LOGITS, ends["with"], c["calm"], 3.5))
    parts.append(f'<circle cx="{LOGITS[0]}" cy="{LOGITS[1]}" r="4" fill="{c["text"]}"/>')
    parts += [
        text(738, 60, "J u before", c["ascent"], anchor="start"),
        text(648, 134, "J u with AAJR", c["calm"], anchor="start"),
        text(652, 186, "other directions: no penalty", c["faint"], anchor="start"),
        text(LOGITS[0] - 4, 174, "answer", c["text"]),
    ]
    body = "\n".join(parts)
    label = "An adversary moves the embeddings of a prompt by gradient ascent; AAJR shortens J u, the change of the logits along it."
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 850 236" width="850" height="236" role="img" aria-label="{label}" '
        f'font-family="system-ui, sans-serif">\n{body}\n</svg>\n'
    )


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for theme in COLORS:
        (FOLDER / f"aajr-{theme}.svg").write_text(figure(theme))


if __name__ == "__main__":
    main()
