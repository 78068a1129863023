"""
What does an agent keep of everything else, after it was fine-tuned for a task? Agents are compared with the model that they come
from, on 200 general prompts (claims/general_prompts.yaml) and the model's own greedy answers to them.

    python scripts/forgetting.py outputs/smollm2-135m outputs/smollm2-135m-congestion-sft aajr=outputs/smollm2-135m-congestion-aajr

For each agent: the KL divergence of its next tokens from the model's, in nats per token of the model's answers; its perplexity on
these answers (the model's own is that of a model that keeps everything); and, of the facts and sums that the model answers rightly, the
percentage that the agent answers rightly.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import torch
import yaml
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from aajr_hf.evaluation.agents import load_agent
from aajr_hf.evaluation.generation import end_tokens, generate
from aajr_hf.evaluation.reporting.statistics import wilson

PROMPTS = Path(__file__).with_name("claims") / "general_prompts.yaml"
# Longer answers of a small model repeat themselves.
LONGEST = 40


class Kept(TypedDict):
    """
    What an agent keeps of the model that it comes from.

    Attributes:
        kl: Mean of KL(model's next token || agent's), in nats, over the tokens of the model's answers.
        perplexity: Of the agent on these tokens.
        model_perplexity: Of the model on these tokens, which are its own.
        right: Percent of the facts and sums that the agent answers rightly, of those that the model does.
        asked: Number of facts and sums that the model answers rightly.
        by_kind: The KL divergence by kind of prompt.
    """

    kl: float
    perplexity: float
    model_perplexity: float
    right: float
    asked: int
    by_kind: dict[str, float]


@dataclass(frozen=True)
class Asked:
    """A prompt and the model's answer to it, in tokens, with the answer's end."""

    kind: str
    prompt: list[int]
    answer: list[int]
    right: list[str] | None  # an answer is right if it contains one of these


def ask(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, entries: list[dict], batch: int = 20
) -> list[Asked]:
    """Return the model's greedy answers to the prompts."""
    prompts = [_rendered(tokenizer, entry["prompt"]) for entry in entries]
    answers = _answers(model, tokenizer, prompts, batch)
    return [
        Asked(entry["kind"], prompt, answer, entry.get("answers"))
        for entry, prompt, answer in zip(entries, prompts, answers, strict=True)
    ]


def kept(
    agent: PreTrainedModel,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    asked: list[Asked],
    batch: int = 20,
) -> Kept:
    """Measure what an agent keeps, on the model's answers."""
    sums: dict[str, list[float]] = {}
    for one in asked:
        mine, theirs = _log_probs(agent, one), _log_probs(model, one)
        token = torch.tensor(one.answer)[:, None]
        divergence = (theirs.exp() * (theirs - mine)).sum(dim=1)
        found = divergence, -mine.gather(1, token)[:, 0], -theirs.gather(1, token)[:, 0]
        total = sums.setdefault(one.kind, [0.0, 0.0, 0.0, 0.0])
        for i, values in enumerate((*found, torch.ones(len(token)))):
            total[i] += float(values.sum())
    kl, mine, theirs, tokens = (sum(total[i] for total in sums.values()) for i in range(4))
    known = [one for one in asked if is_right(tokenizer.decode(one.answer), one.right)]
    answers = _answers(agent, tokenizer, [one.prompt for one in known], batch)
    right = sum(is_right(tokenizer.decode(answer), one.right) for one, answer in zip(known, answers, strict=True))
    return {
        "kl": kl / tokens,
        "perplexity": math.exp(mine / tokens),
        "model_perplexity": math.exp(theirs / tokens),
        "right": 100 * right / len(known) if known else math.nan,
        "asked": len(known),
        "by_kind": {kind: total[0] / total[3] for kind, total in sums.items()},
    }


def is_right(text: str, right: list[str] | None) -> bool:
    """Return whether a text contains one of the right answers as a whole word."""
    return any(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE) for word in right or [])


@torch.no_grad()
def _log_probs(model: PreTrainedModel, one: Asked) -> torch.Tensor:
    """Return the log-probabilities (T, V) of the next token at each token of the answer."""
    ids = torch.tensor([one.prompt + one.answer], device=model.device)
    logits = model(input_ids=ids, logits_to_keep=len(one.answer) + 1).logits[0, :-1]
    return logits.double().log_softmax(dim=-1).cpu()


def _rendered(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    said = [{"role": "user", "content": text}]
    return tokenizer.apply_chat_template(said, add_generation_prompt=True, return_dict=False)


def _answers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]], batch: int
) -> list[list[int]]:
    """Return greedy answers, each up to and with its end."""
    model.generation_config.do_sample = False
    ends, found = set(end_tokens(model, tokenizer)), []
    for start in range(0, len(prompts), batch):
        some = generate(model, tokenizer.pad_token_id, prompts[start : start + batch], None, LONGEST)
        for answer in some:
            end = next((i + 1 for i, token in enumerate(answer) if token in ends), len(answer))
            found.append(answer[:end])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of the model that the agents come from")
    parser.add_argument("agents", nargs="+", metavar="[NAME=]AGENT", help="folder of an agent or an adapter")
    parser.add_argument("--output", type=Path, help="JSON file with the numbers of each agent")
    arguments = parser.parse_args()
    model, tokenizer = load_agent(arguments.model)
    asked, found = ask(model, tokenizer, yaml.safe_load(PROMPTS.read_text())), {}
    print(f"{'':24}{'KL':>8}{'perplexity':>12}{'right, %':>10}")
    for given in arguments.agents:
        name, _, folder = given.rpartition("=")
        agent, _ = load_agent(folder)
        one = found[name or Path(folder).name] = kept(agent, model, tokenizer, asked)
        low, high = wilson(one["right"], one["asked"])
        interval = f"[{low:.0f}-{high:.0f}] of {one['asked']}"
        print(
            f"{name or Path(folder).name:24}{one['kl']:8.3f}{one['perplexity']:12.2f}{one['right']:10.1f} {interval}"
        )
    print(f"perplexity of the model itself: {one['model_perplexity']:.2f}")
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
