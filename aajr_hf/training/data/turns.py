"""Which parts of a rendered conversation are no actions of the agent, although they stand inside what is trained on."""

from __future__ import annotations

import itertools
import os.path
from typing import Any

from .rendering import Rendering, rendering_of
from .template import Messages, Template


def not_actions(
    template: Template,
    rendering: Rendering,
    messages: Messages,
    tools: list[dict[str, Any]] | None,
    completion: int | None,
    **options,
) -> list[tuple[int, int]]:
    """
    Return the spans `[begin, end)` of characters that are no actions: turns of the assistant with the `weight` 0, and
    what others say between its turns of a completion, with all markup from the end of one turn to the begin of the
    next.

    Args:
        template: The chat template.
        rendering: The rendering of the messages.
        messages, tools: As in [`canonical_row`].
        completion: Number of the completion's first message; None if the row has no completion, and the markup of the
            template or nothing says who speaks.
        options: Further arguments of the template.
    """

    def begin(turn: int) -> int:
        return _reached(template, rendering, messages[:turn], tools, add_generation_prompt=True, **options)

    def end(turn: int) -> int:
        if turn == len(messages) - 1:
            return len(rendering.text)
        return _reached(template, rendering, messages[: turn + 1], tools, **options)

    # From the end of what others say, because a template may count markup before the answer as the assistant's.
    spans = [(end(turn - 1), end(turn)) for turn, message in enumerate(messages) if message.get("weight") == 0]
    if completion is None:
        return spans
    said = itertools.groupby(range(completion, len(messages)), lambda turn: messages[turn]["role"] == "assistant")
    for by_assistant, group in said:
        turns = list(group)
        if not by_assistant:
            following = turns[-1] + 1
            last = begin(following) if following < len(messages) else len(rendering.text)
            spans.append((end(turns[0] - 1), last))
    return spans


def _reached(template: Template, rendering: Rendering, messages: Messages, tools, **options) -> int:
    """
    Return where these first messages end in the rendering of all. They are rendered alone, and what follows their last
    part is looked for after the same part of all messages: a template may write earlier turns in another way when more
    follow.
    """
    if not messages:
        return 0

    def render(messages: Messages, tools) -> str:
        return template.render(template.adapted(messages), tools=tools, **options)

    alone = rendering_of(render, messages, tools)
    pairs = [
        (part.span[1], whole.span[1])
        for part, whole in zip(alone.parts, rendering.parts, strict=False)
        if part.span and whole.span and part.message >= 0
    ]
    last, reached = max(pairs, default=(0, 0))
    return reached + len(os.path.commonprefix([alone.text[last:], rendering.text[reached:]]))
