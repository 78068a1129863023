"""A player that is served elsewhere: what is asked, what is asked again, and what ends a run."""

from __future__ import annotations

import time

import pytest
import torch

from aajr_hf.environments import expert_rows
from aajr_hf.evaluation.episodes.served import ServedPlayer, is_served
from aajr_hf.training.policy.policy import fixed_seed
from tests.support.chat_server import ChatServer

ROWS = expert_rows("congestion", 3, seed=0, agents=3)


@pytest.fixture(autouse=True)
def online(monkeypatch):
    """The client refuses every address while the Hub's offline mode is on."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


def seen(request):
    return request["messages"][-1]["content"]


def test_each_prompt_gets_the_answer_of_the_server(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with ChatServer(lambda request: f"<think>hm</think>\n{seen(request)[:12]}") as server:
        said = ServedPlayer(f"{server.url}#small", system_prompt="Be calm.").answer(ROWS)
    assert said == [row["prompt"][-1]["content"][:12] for row in ROWS]
    for request in server.asked:
        assert (request["path"], request["key"], request["model"]) == (
            "/v1/chat/completions",
            "Bearer secret",
            "small",
        )
        assert request["messages"][0] == {"role": "system", "content": "Be calm."}
        assert request["temperature"] == 0 and "seed" not in request and request["max_tokens"] > 10


def test_no_token_of_the_hub_goes_to_the_server(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with ChatServer(lambda request: "x") as server:
        ServedPlayer(server.url).check(ROWS)
    assert [request["key"] for request in server.asked] == ["Bearer none"]


def test_samples_have_the_seeds_of_the_generator():
    seeds = []
    with ChatServer(lambda request: "x") as server:
        for number in (1, 1, 2):
            with fixed_seed(torch.device("cpu"), number):
                ServedPlayer(server.url, temperature=1.0).answer(ROWS)
            seeds.append(sorted(request["seed"] for request in server.asked[-len(ROWS) :]))
    assert seeds[0] == seeds[1] != seeds[2]


def test_an_answer_that_is_cut_off_is_malformed():
    with ChatServer(lambda request: "take 1", finish_reason="length") as server:
        assert ServedPlayer(server.url).answer(ROWS[:1]) == ["take 1 …"]


def test_a_server_in_trouble_is_asked_again():
    trouble = iter([503, 429, "take 1"])
    with ChatServer(lambda request: next(trouble)) as server:
        player = ServedPlayer(server.url, pauses=(0.0, 0.0))
        assert player.answer(ROWS[:1]) == ["take 1"]
    assert player.repeated == ["status 503, out of order", "status 429, out of order"]


@pytest.mark.parametrize(
    ("answer", "asked", "message"),
    [
        (503, 2, "gives no answer: status 503, out of order"),
        (404, 1, r"status 404, out of order \(is its model named, as in URL#NAME\?\)"),
        (401, 1, r"status 401, out of order \(set OPENAI_API_KEY to its key\)"),
        (b"[]", 1, "does not answer as a chat API does .*: give the address that ends before /chat/completions"),
        (b"no json", 1, "does not answer as a chat API does"),
    ],
)
def test_what_a_server_says_wrong_is_one_line(answer, asked, message):
    with ChatServer(lambda request: answer) as server:
        with pytest.raises(OSError, match=f"The server {server.url} .*{message}") as error:
            ServedPlayer(server.url, pauses=(0.0,)).check(ROWS)
    assert len(server.asked) == asked and "\n" not in str(error.value)


def test_a_server_that_is_not_there_or_says_nothing_is_one_line():
    with ChatServer(lambda request: time.sleep(1) or "late") as server:
        player = ServedPlayer(server.url, timeout=0.1, pauses=(0.0,))
        with pytest.raises(OSError, match="gives no answer: .*timed out"):
            player.answer(ROWS[:1])
        assert len(player.repeated) == 1
    with pytest.raises(OSError, match="gives no answer: .*refused"):
        ServedPlayer(server.url, pauses=()).answer(ROWS[:1])


def test_an_address_is_told_from_a_folder():
    assert is_served("https://x/v1#m") and not is_served("http_agent") and not is_served(None)
