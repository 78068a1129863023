"""A player that is served elsewhere, behind a chat API like OpenAI's (vLLM, `transformers serve`, llama.cpp, TGI)."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Any
from urllib.parse import urldefrag

import torch
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError, HTTPError

from ..._errors import one_line
from ...training.data.system_prompts import with_system_prompt

# The variable that clients of such servers read their key from. Never a token of the Hub, which is not the server's.
_KEY = "OPENAI_API_KEY"
_TIMEOUT = 120.0
_PAUSES = (1.0, 4.0)
# A later try may succeed after these.
_PASSING = {
    *(HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.INTERNAL_SERVER_ERROR),
    *(HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT),
}
_AT_ONCE = 16


def is_served(model: str | None) -> bool:
    """Return whether a model is given by the address of a server."""
    return model is not None and model.startswith(("http://", "https://"))


class ServedPlayer:
    """
    A player that asks a server for each answer.

    Args:
        address: `http://HOST:PORT/v1`, or `http://HOST:PORT/v1#NAME` for a server that serves several models.
        temperature: Sampling temperature; the seeds of samples come from torch's global generator.
        batch_size: Maximum number of requests at once; never more than 16.
        system_prompt: If given, it is put before every observation as a system message.
        timeout: Seconds to wait for an answer.
        pauses: Seconds to wait before each further try of a request that timed out, was not accepted, or met a server
            in trouble.

    Attributes:
        repeated: The reason of each further try.
    """

    def __init__(
        self,
        address: str,
        *,
        temperature: float = 0.0,
        batch_size: int = 128,
        system_prompt: str | None = None,
        timeout: float = _TIMEOUT,
        pauses: tuple[float, ...] = _PAUSES,
    ):
        self.address, self._served_model = urldefrag(address)
        self.temperature, self.system_prompt, self._pauses = temperature, system_prompt, pauses
        self._at_once = min(batch_size, _AT_ONCE)
        self._client = InferenceClient(base_url=self.address, api_key=os.environ.get(_KEY) or "none", timeout=timeout)
        self.repeated: list[str] = []

    def check(self, rows: list[dict[str, Any]]) -> None:
        """
        Ask for one answer, before the episodes start.

        Raises:
            OSError: as `answer`.
        """
        self.answer(rows[:1])

    def answer(self, rows: list[dict[str, Any]]) -> list[str]:
        """
        Ask for an answer to each prompt. An answer that reaches twice the length of the expert's, in tokens as many as
        the expert's characters, is cut off and ends with an ellipsis, which makes it malformed in every world.

        Raises:
            OSError: if the server does not answer, also after further tries, or answers with something else; one line
                with its address.
        """
        rows = with_system_prompt(rows, self.system_prompt)
        seeds = torch.randint(2**31, (len(rows),)).tolist() if self.temperature else [None] * len(rows)
        with ThreadPoolExecutor(self._at_once) as pool:
            asked = [pool.submit(self._ask, row, seed) for row, seed in zip(rows, seeds, strict=True)]
            try:
                return [one.result() for one in asked]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _ask(self, row: dict[str, Any], seed: int | None) -> str:
        for pause in (*self._pauses, None):
            try:
                return self._once(row, seed)
            except HTTPError as error:
                reason = _reason(error)
                if pause is None or not _may_pass(error):
                    raise OSError(f"The server {self.address} gives no answer: {reason}{_hint(error)}") from error
                self.repeated.append(reason)
                time.sleep(pause)
            except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
                raise OSError(
                    f"The server {self.address} does not answer as a chat API does ({one_line(error)}): give the address that "
                    "ends before /chat/completions."
                ) from error
        raise AssertionError("the last try returns or raises")

    def _once(self, row: dict[str, Any], seed: int | None) -> str:
        choice = self._client.chat_completion(
            row["prompt"],
            model=self._served_model or None,
            max_tokens=2 * len(row["completion"][0]["content"]),
            temperature=self.temperature,
            seed=seed,
        ).choices[0]
        text = (choice.message.content or "").rpartition("</think>")[2].strip()
        return f"{text} …" if choice.finish_reason == "length" else text


def _may_pass(error: HTTPError) -> bool:
    return not isinstance(error, HfHubHTTPError) or error.response.status_code in _PASSING


def _reason(error: HTTPError) -> str:
    if not isinstance(error, HfHubHTTPError):
        return one_line(error)
    said = " ".join(error.response.text.split())[:200]
    return f"status {error.response.status_code}{f', {said}' if said else ''}"


def _hint(error: HTTPError) -> str:
    if isinstance(error, HfHubHTTPError):
        if error.response.status_code == HTTPStatus.UNAUTHORIZED:
            return f" (set {_KEY} to its key)"
        if error.response.status_code not in _PASSING:
            return " (is its model named, as in URL#NAME?)"
    return ""
