"""Incidental words: numbers and names in what users and tools say that the right call does not use."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Collection
from typing import Any

from transformers import PreTrainedTokenizerBase

from .injections import Messages, calls_of

NUMBER, NAME = "number", "name"
# What stands in place of a masked word.
MARKER = "[{type}]"
_WORD = re.compile(r"\d+(?:\.\d+)?|[^\W\d_]+")
_SENTENCE_END = re.compile(r"(?:^|[.!?:\"'(\[\n]\s*)$")


def used_words(row: dict[str, Any]) -> set[str]:
    """
    Return the words, in lower case, that a row's answers may depend on: all that the assistant says, the values of its
    calls (also of the `accepted` ones), and all words of the tools' schemas.
    """
    messages = _messages(row)
    texts = [message["content"] for message in messages if message["role"] == "assistant"]
    said = [texts, calls_of(messages), row.get("accepted"), row.get("tools")]
    text = json.dumps(said, ensure_ascii=False)
    numbers = set(re.findall(r"-?\d+\.\d+|\d+", text))
    return {word.lower() for word in _WORD.findall(text)} | {number.removesuffix(".0") for number in numbers}


def copies_its_values(row: dict[str, Any]) -> bool:
    """
    Whether every text and number of the row's calls stands in what others say as it is. Otherwise the call may depend on
    any word: 2023-03-02 on "2nd of March".
    """
    text = "\n".join(message["content"] for message in _messages(row) if message["role"] != "assistant").lower()
    words = {word.removesuffix(".0") for word in _WORD.findall(text)}

    def stands(value: Any) -> bool:
        if isinstance(value, dict | list):
            return all(map(stands, value.values() if isinstance(value, dict) else value))
        if isinstance(value, str):
            return value.lower() in text
        return isinstance(value, bool | None) or str(abs(value)).removesuffix(".0") in words

    return all(stands(call["function"]["arguments"]) for call in calls_of(row.get("completion") or row["messages"]))


def is_known(row: dict[str, Any]) -> bool:
    """
    Whether it is known which words a row's answer uses: it calls tools, whose schemas the row has, and copies the values of
    its calls from what others say.
    """
    return bool(row.get("tools")) and bool(calls_of(_messages(row))) and copies_its_values(row)


def masked(row: dict[str, Any], marker: str, roles: Collection[str]) -> dict[str, Any] | None:
    """
    Return a row whose incidental words are replaced by a marker, in which `{type}` becomes their type in capital letters;
    None if there are none, or it is not known which words are incidental.
    """
    if not is_known(row):
        return None
    name = "prompt" if "prompt" in row else "messages"
    messages, count = with_words(row[name], roles, used_words(row), lambda _, of_type: marked(marker, of_type))
    return row | {name: messages} if count else None


def marked(marker: str, of_type: str) -> str:
    """Return the marker of a type."""
    return marker.replace("{type}", of_type.upper())


def incidental_mask(
    tokenizer: PreTrainedTokenizerBase, row: dict[str, Any], text: str, spans: list[tuple[int, int]]
) -> list[int]:
    """
    Return 1 for each token of a rendered row that belongs to an incidental word inside one of the spans `[begin, end)` of
    characters, and 0 for all others; only zeros if it is not known which words are incidental. A token with letters or
    digits of other words is no such token; spaces before a word do not count.
    """
    words: list[tuple[int, int]] = []
    if is_known(row):
        used = used_words(row)
        words = [(s + a, s + b) for s, e in spans for a, b, _ in incidental_words(text[s:e], used)]
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    cores = [(end - len(text[begin:end].lstrip()), end) for begin, end in offsets]
    return [int(end > begin and any(begin >= a and end <= b for a, b in words)) for begin, end in cores]


def _messages(row: dict[str, Any]) -> Messages:
    return row["messages"] if "messages" in row else [*row["prompt"], *row.get("completion", [])]


def incidental_words(text: str, used: Collection[str]) -> list[tuple[int, int, str]]:
    """
    Return the incidental words of a text as `(begin, end, type)`: numbers, and words with a capital letter inside a
    sentence. A word that is a part of a used word, or has a used word as a part, counts as used.
    """
    found = []
    for word in _WORD.finditer(text):
        said = word.group().lower()
        if said.removesuffix(".0") in used or said in used:
            continue
        if said[0].isdigit():
            found.append((*word.span(), NUMBER))
        elif word.group()[0].isupper() and not _SENTENCE_END.search(text[: word.start()]):
            if not any(said in other or other in said for other in used if len(other) > 2):
                found.append((*word.span(), NAME))
    return found


def swapped(
    prompt: Messages, roles: Collection[str], used: Collection[str], names: Collection[str], drawn: random.Random
) -> tuple[Messages, int]:
    """
    Return messages in which incidental numbers become others with as many digits, and incidental names others of `names`,
    and how many there are. No new word is a used one.
    """
    others = [name for name in names if name.lower() not in used]

    def new(word: str, of_type: str) -> str:
        if of_type != NUMBER:
            return drawn.choice([name for name in others if name != word] or [word])
        integer, dot, part = word.partition(".")
        return _other_number(integer, used, drawn) + dot + part

    return with_words(prompt, roles, used, new)


def names_in(prompt: Messages, roles: Collection[str], used: Collection[str]) -> list[str]:
    """Return the incidental names that messages of the given roles contain."""
    texts = [message["content"] for message in prompt if message["role"] in roles]
    return [text[a:b] for text in texts for a, b, of_type in incidental_words(text, used) if of_type != NUMBER]


def _other_number(word: str, used: Collection[str], drawn: random.Random) -> str:
    """A number with as many digits that is not used, if there is one."""
    least = 10 ** (len(word) - 1) if len(word) > 1 else 0
    tried = [str(drawn.randrange(least, 10 ** len(word))) for _ in range(20)]
    return next((number for number in tried if number != word and number not in used), word)


def with_words(
    prompt: Messages, roles: Collection[str], used: Collection[str], new: Callable[[str, str], str]
) -> tuple[Messages, int]:
    """
    Return messages in which each incidental word of the given roles is replaced, and the number of replaced words. The
    same word is replaced by the same one everywhere.

    Args:
        new: Function from a word and its type to another word.
    """
    count, by_word, result = 0, {}, []
    for message in prompt:
        if message["role"] in roles:
            text = message["content"]
            for begin, end, kind in reversed(incidental_words(text, used)):
                word = text[begin:end]
                by_word[word] = by_word[word] if word in by_word else new(word, kind)
                text, count = text[:begin] + by_word[word] + text[end:], count + 1
            message = message | {"content": text}
        result.append(message)
    return result, count
