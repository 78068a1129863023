"""A system prompt: read from a file, put before the observations of a world, accepted or added by a chat template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from ..._errors import one_line
from .template import Template
from .tool_schema import RowError

logger = logging.get_logger(__name__)

# Words before a user's message up to which they are only marks, such as a role's name.
_MARKS = 5


def read_system_prompt(file: str) -> str:
    """
    Read a system prompt, without the white space around it.

    Raises:
        ValueError: if the file cannot be read, is not UTF-8 text, or is empty.
    """
    try:
        text = Path(file).read_text(encoding="utf-8-sig").strip()
    except OSError as error:
        raise ValueError(f"{file} cannot be read ({error.strerror}): give a text file.") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 text: save it as UTF-8, or give another file.") from error
    if not text:
        raise ValueError(f"{file} is empty: write the system prompt into it, or give no file.")
    return text


def with_system_prompt(rows: list[dict[str, Any]], system_prompt: str | None) -> list[dict[str, Any]]:
    """Return the rows with the system prompt, if there is one, as the first message of each `prompt`."""
    if system_prompt is None:
        return rows
    system = {"role": "system", "content": system_prompt}
    return [row | {"prompt": [system, *row["prompt"]]} for row in rows]


def check_system_role(tokenizer: PreTrainedTokenizerBase, system_prompt: str | None) -> None:
    """
    Check that the chat template renders the system prompt, if there is one.

    Raises:
        ValueError: if the template refuses system messages or leaves them out.
        jinja2.TemplateError: if it does not even render a question without a system message.
    """
    if system_prompt is None:
        return

    def render(*system: str) -> str:
        messages = [{"role": "system", "content": text} for text in system] + [{"role": "user", "content": "a"}]
        return tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)

    render()
    remedy = "give no `system_prompt`, or a model whose template renders system messages."
    try:
        # Templates may change the text, so only look whether it has any effect.
        is_left_out = render(system_prompt) == render(f"{system_prompt} b")
    except TemplateError as error:
        raise ValueError(f"The chat template refuses system messages ({one_line(error)}): {remedy}") from error
    if is_left_out:
        raise ValueError(f"The chat template leaves out system messages: {remedy}")


def warn_of_added(template: Template) -> None:
    """Warn that the adversary perturbs what the chat template says by itself, if it says anything."""
    if added := _added_by(template):
        logger.warning(
            f"The chat template adds a text of its own before what users say ({added[:60]!r}), and the adversary perturbs it, "
            "too: set `perturbed_tokens` to observation to leave it alone."
        )


def _added_by(template: Template) -> str:
    """Return what a chat template says by itself before a user's first message; empty if these are only marks."""
    asked = "What does the template add?"
    try:
        words = template.render([{"role": "user", "content": asked}]).partition(asked)[0].split()
    except RowError:  # a template that needs other messages says nothing here
        return ""
    return " ".join(words) if len(words) > _MARKS else ""
