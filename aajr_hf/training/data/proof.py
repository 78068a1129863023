"""Proof that what a row says stands in the text that is trained on: templates leave out what they do not know."""

from __future__ import annotations

import json
import re
from typing import Any

from trl import supports_tool_calling

from .rendering import Part, Rendering, rendering_of, written
from .roles import OBSERVED_ROLES
from .template import Messages, Template
from .tool_schema import RowError


def proved(
    template: Template,
    messages: Messages,
    tools: list[dict[str, Any]] | None,
    places: list[str],
    **options,
) -> Rendering:
    """
    Render canonical messages, and make sure that the text of each message, the name and the arguments of each call, the
    name of each tool and each result stand in what the template writes, in their order.

    Args:
        template: The chat template.
        messages, tools: As in [`canonical_row`].
        places: How error messages call each message.
        options: Further arguments of the template.

    Returns:
        The rendering. Thoughts before the last message of a user may be missing in it, because templates leave them
        out of earlier turns ([`left_out`]).

    Raises:
        RowError: if something is lost; the message names the message, the field and the template.
    """

    def render(messages: Messages, tools: list[dict[str, Any]] | None) -> str:
        return template.render(template.adapted(messages), tools=tools, **options)

    _check_results(template, messages, places)
    rendering = rendering_of(render, messages, tools)
    _check_parts(rendering, template, messages, places)
    _check_order(rendering, template, messages, places)
    _check_values(rendering, template, places)
    return rendering


def left_out(rendering: Rendering) -> bool:
    """Whether the template leaves out a thought of an earlier turn."""
    return any(part.span is None for part in rendering.parts)


def _check_parts(rendering: Rendering, template: Template, messages: Messages, places: list[str]) -> None:
    users = [number for number, message in enumerate(messages) if message["role"] in OBSERVED_ROLES["user"]]
    for part in rendering.parts:
        if part.span or part.is_reasoning and part.message < max(users, default=-1):
            continue
        where = "" if part.message < 0 else f"{places[part.message]} ({messages[part.message]['role']}): "
        raise RowError(
            f"{where}the {part.field} {_short(part.text)} would not be trained on as it is, because {template.name} "
            f"leaves it out or changes it: {_remedy(part, template, messages)}"
        )


def _remedy(part: Part, template: Template, messages: Messages) -> str:
    if part.message < 0 or part.call is not None or messages[part.message]["role"] == "tool":
        says = "" if supports_tool_calling(template.processing_class) else " (this one does not support tool calls)"
        return f"use a chat template that writes tools, calls and results{says} (`chat_template_path`), or remove them"
    if part.is_reasoning:
        return "use a chat template that writes it (`chat_template_path`), or remove it"
    if part.field == "`name`":
        return "write it into the `content`, or remove it"
    return "use a chat template that writes it (`chat_template_path`), or correct the row"


def _check_order(rendering: Rendering, template: Template, messages: Messages, places: list[str]) -> None:
    """
    Templates may put what the system says first into another turn, and group the results of one turn's calls.
    """
    groups: list[list[int]] = []
    for number, message in enumerate(messages):
        if not groups and message["role"] in ("system", "developer"):
            continue
        if groups and message["role"] == "tool" and messages[number - 1]["role"] == "tool":
            groups[-1].append(number)
        else:
            groups.append([number])
    reached = 0
    for group in groups:
        spans = [part.span for number in group for part in rendering.of_message(number)]
        if min((begin for begin, _ in spans), default=reached) < reached:
            raise RowError(
                f"{places[group[0]]} is not written in its place by {template.name}: correct the row's order"
            )
        reached = max((end for _, end in spans), default=reached)
        calls = {part.call for part in rendering.of_message(group[0]) if part.call is not None}
        ends = [_extent(rendering, group[0], call) for call in sorted(calls)]
        if any(end > begin for (_, end), (begin, _) in zip(ends, ends[1:], strict=False)):
            raise RowError(
                f"{places[group[0]]} has calls that {template.name} mixes up: give each call its own message"
            )


def _extent(rendering: Rendering, message: int, call: int) -> tuple[int, int]:
    spans = [part.span for part in rendering.of_message(message, call)]
    return min(begin for begin, _ in spans), max(end for _, end in spans)


def _check_values(rendering: Rendering, template: Template, places: list[str]) -> None:
    """Look for numbers, truth values and empty values beside their keys, between the call's name and what comes next."""
    begins = sorted(part.span[0] for part in rendering.parts if part.span)
    for message, call, key, value in rendering.values:
        begin, end = _extent(rendering, message, call)
        following = next((other for other in begins if other >= end), len(rendering.text))
        text = rendering.text[begin:following]
        after = [text[found + len(form) :] for form in written(key) if (found := text.find(form)) >= 0]
        if not any(_holds(rest, form) for rest in after for form in _forms(value)):
            raise RowError(
                f"{places[message]}: the argument {key!r} of `tool_calls`[{call}], {_short(value)}, is not in what "
                f"{template.name} writes: use a chat template that writes it (`chat_template_path`)"
            )


def _forms(value: Any) -> set[str]:
    """The ways in which a template can write a value that is no text."""
    if isinstance(value, str):  # nothing but white space
        return {""}
    return {json.dumps(value), repr(value), str(value).lower()}


def _holds(text: str, form: str) -> bool:
    bounds = (r"(?<![\w.])", r"(?!\w)") if form[-1:].isalnum() else ("", "")
    return re.search(re.escape(form).join(bounds), text) is not None


def _check_results(template: Template, messages: Messages, places: list[str]) -> None:
    """
    Refuse results that name another call than the one that a reader takes them for: where the template does not write
    `tool_call_id`, the first result belongs to the first call.
    """
    calls: list[dict[str, Any]] = []
    for number, message in enumerate(messages):
        if message.get("tool_calls"):
            calls = list(message["tool_calls"])
        if message["role"] != "tool" or not calls:
            continue
        given = message.get("tool_call_id")
        answered = next((call for call in calls if call.get("id") == given), None) if given else calls[0]
        if answered is None and any("id" in call for call in calls):
            known = ", ".join(str(call.get("id")) for call in calls)
            raise RowError(
                f"{places[number]} has the `tool_call_id` {given!r}, which is none of the open calls before it "
                f"({known}): correct it"
            )
        answered = answered or calls[0]
        if answered is not calls[0] and not template.writes_call_ids:
            raise RowError(
                f"{places[number]} has the `tool_call_id` {given!r}, but {template.name} does not write it, and by the "
                f"order it is the result of {calls[0].get('id')!r}: put the results in the order of their calls"
            )
        name = answered["function"]["name"]
        if message.get("name", name) != name:
            raise RowError(
                f"{places[number]} has the `name` {message['name']!r}, but is the result of {name}: correct it"
            )
        calls.remove(answered)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 50 else f"{text[:47]}..."
