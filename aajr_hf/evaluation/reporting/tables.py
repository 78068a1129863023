"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich import box
from rich.table import Table
from rich.text import Text


def plain_table(title: str | None = None, caption: str | None = None, *, gap: int = 1) -> Table:
    """Return an empty table with `gap` spaces between its columns."""
    return Table(
        title=title,
        title_justify="left",
        caption=caption,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, gap, 0, 0),
        pad_edge=False,
        show_edge=False,
    )


def text_table(
    headers: Sequence[str],
    rows: Iterable[Sequence[str]],
    title: str | None = None,
    caption: str | None = None,
    *,
    left: int = 1,
    gap: int = 1,
) -> Table:
    """Return a table of texts. The first `left` columns are left-aligned, the others right-aligned; long texts fold."""
    table = plain_table(title, caption, gap=gap)
    for i, header in enumerate(headers):
        table.add_column(header, justify="left" if i < left else "right", overflow="fold")
    for row in rows:
        # Text, not str: a run's name is not markup.
        table.add_row(*map(Text, row))
    return table
