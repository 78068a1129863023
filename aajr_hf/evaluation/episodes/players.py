"""Who plays a world: its experts, or a language model that answers in text, under attack if asked."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from ...training.data.batch import AgentBatch
from ...training.data.collation import encode_examples
from ...training.policy.policy import frozen_parameters
from ..attacks.run import UnderAttack
from ..attacks.search import Search
from ..attacks.suite import ATTACKS, Attack
from ..attacks.target import Target
from ..attacks.threat_model import ThreatModel
from ..generation import check_lengths, end_tokens, generate, render_prompts

SUITE = "suite"
ALONE = tuple(name for name, attack in ATTACKS.items() if not attack.from_others)


class Player(Protocol):
    def answer(self, rows: list[dict[str, Any]]) -> list[str]:
        """An answer to each observation, given as a row of expert data (`prompt`, `completion`, `actions`, `action_costs`)."""


class Experts:
    """Answers as the world's experts do."""

    def answer(self, rows: list[dict[str, Any]]) -> list[str]:
        return [row["completion"][0]["content"] for row in rows]


@dataclass(frozen=True)
class AttackSettings:
    """
    Attributes:
        threat: What the adversary may do to each prompt.
        attack: Which attack of [`~.attacks.suite.ATTACKS`] it makes, but for those from other models, or [`SUITE`]: all of them, each
            on the prompts whose answers are still the expert's.
        steps, restarts: Of each ascent, and how many ascents each attack makes.
    """

    threat: ThreatModel
    attack: str = "nll"
    steps: int = 10
    restarts: int = 1

    def attacks(self) -> list[Attack]:
        return [attack for name, attack in ATTACKS.items() if name in ALONE and self.attack in (name, SUITE)]


class ModelPlayer:
    """
    A language model that is asked for text, from a cache of keys and values, as whoever deploys it would.

    Args:
        model: The model; its `generation_config` is replaced, so that nothing but `temperature` changes what it says.
        tokenizer: With a chat template.
        temperature: Of sampling, from torch's global generator; 0 decodes greedily.
        attack: If given, every prompt's embeddings are perturbed before the answer is generated.
        batch_size: Prompts per forward, at most.

    Raises:
        jinja2.TemplateError: for a chat template that does not render a question and its answer.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        temperature: float = 0.0,
        attack: AttackSettings | None = None,
        batch_size: int = 128,
    ):
        self.model, self.tokenizer = model.eval(), tokenizer
        self.attack, self.batch_size = attack, batch_size
        sampling = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
        self._ends = end_tokens(model, tokenizer)
        self.model.generation_config = GenerationConfig(
            pad_token_id=tokenizer.pad_token_id, eos_token_id=self._ends, **sampling
        )

    def check(self, rows: list[dict[str, Any]]) -> None:
        """
        Refuse, before anything is played, what `answer` would refuse.

        Raises:
            ValueError: as `answer`.
        """
        self._prompts(rows)
        if self.attack is not None:
            _encoded(self.model, self.tokenizer, rows, self.attack)

    def answer(self, rows: list[dict[str, Any]]) -> list[str]:
        """
        What the model says to each prompt. An answer that is not over when it is twice as long as the expert's is cut
        off and ends with an ellipsis, which no world takes for an answer.

        Raises:
            ValueError: for prompts that are longer than what the model reads and, under attack, for actions that its
                tokenizer cannot tell apart by one token.
        """
        answers: list[str] = []
        for start in range(0, len(rows), self.batch_size):
            answers += self._answer(rows[start : start + self.batch_size])
        return answers

    def _answer(self, rows: list[dict[str, Any]]) -> list[str]:
        prompts, budgets = self._prompts(rows)
        deltas = None if self.attack is None else worst_prompts(self.model, self.tokenizer, rows, self.attack)
        said = generate(self.model, self.tokenizer.pad_token_id, prompts, deltas, max(budgets))
        return [self._text(tokens, budget) for tokens, budget in zip(said, budgets, strict=True)]

    def _prompts(self, rows: list[dict[str, Any]]) -> tuple[list[list[int]], list[int]]:
        """The tokens of each prompt, and how many its answer may have: by itself, whatever else is in the batch."""
        prompts, references = render_prompts(self.tokenizer, rows)
        budgets = [2 * len(reference) for reference in references]
        check_lengths(self.model, prompts, budgets, "let there be fewer agents")
        return prompts, budgets

    def _text(self, tokens: list[int], budget: int) -> str:
        end = next((i for i, token in enumerate(tokens[:budget]) if token in self._ends), None)
        text = self.tokenizer.decode(tokens[: budget if end is None else end], skip_special_tokens=True)
        # What a model thinks before it answers is no part of the answer; templates render an empty thought, too.
        text = text.rpartition("</think>")[2].strip()
        return text if end is not None else f"{text} …"


def worst_prompts(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: list[dict[str, Any]], attack: AttackSettings
) -> Tensor:
    """
    The worst perturbation of each row's prompt that the attack finds, (B, L, d), padded on the right; zero beyond the prompt. Worst is
    the highest loss of an ascent, and otherwise the largest margin by which another answer is the likelier one. Random points follow
    from torch's global generator.
    """
    attacks = attack.attacks()
    how = {"steps": attack.steps, "restarts": attack.restarts, "keep": "margin"}
    if len(attacks) == 1:
        # To the end: of two wrong answers one may do the world more harm.
        how |= {"keep": getattr(attacks[0], "loss", "margin"), "settled": 0.0}
    new_search = functools.partial(Search, seeds=torch.randint(2**40, (len(rows),)).tolist(), **how)
    with frozen_parameters(model):
        attacked = UnderAttack(Target(model, _encoded(model, tokenizer, rows, attack), attack.threat), new_search)
        attacked.widen(1.0)
        for one in attacks:
            attacked.run(one, "1")
    return attacked.search.delta.detach()


def _encoded(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: list[dict[str, Any]], attack: AttackSettings
) -> AgentBatch:
    moved = attack.threat.perturbed_tokens
    inputs = encode_examples(tokenizer, rows, candidates=True, perturbed_tokens=moved)
    return AgentBatch.from_inputs({name: value.to(model.device) for name, value in inputs.items()}, moved)
