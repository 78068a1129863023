"""Players of a world: its experts, or a language model that answers in text, optionally under attack."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from ...training.data.batch import AgentBatch
from ...training.data.collation import encode_examples
from ...training.data.system_prompts import check_system_role, with_system_prompt
from ...training.policy.policy import frozen_parameters
from ..attacks.learnt import Learnt
from ..attacks.lessons import LOSS, PREDICTED
from ..attacks.predicted import GradientPredictor
from ..attacks.run import UnderAttack
from ..attacks.search import Search
from ..attacks.suite import ATTACKS, Attack
from ..attacks.target import Target
from ..attacks.threat_model import ThreatModel
from ..generation import check_lengths, end_mark, end_of_answer, end_tokens, generate, render_prompts

SUITE = "suite"
# Attacks that need neither other models nor other examples to learn from.
ALONE = tuple(n for n, attack in ATTACKS.items() if not attack.from_others and not isinstance(attack, Learnt))


class Player(Protocol):
    def answer(self, rows: list[dict[str, Any]]) -> list[str]:
        """Answer observations, given as rows of expert data (`prompt`, `completion`, `actions`, `action_costs`)."""


class Experts:
    """A player that gives the answers of the world's experts."""

    def answer(self, rows: list[dict[str, Any]]) -> list[str]:
        return [row["completion"][0]["content"] for row in rows]


@dataclass(frozen=True)
class AttackSettings:
    """
    Settings of the attack on a player's prompts.

    Attributes:
        threat: The threat model for each prompt.
        attack: Name of an attack of [`ALONE`], or [`SUITE`]: all of
            these, each on the prompts that earlier attacks have not broken.
        steps: Steps of each ascent.
        restarts: Number of ascents of each attack.
        predictor: Predictor of gradients; if given, the attack is `predicted`, which makes forward passes only.
    """

    threat: ThreatModel
    attack: str = "nll"
    steps: int = 10
    restarts: int = 1
    predictor: GradientPredictor | None = None

    def attacks(self) -> list[Attack]:
        if self.predictor is not None:
            return [ATTACKS[PREDICTED]]
        return [attack for name, attack in ATTACKS.items() if name in ALONE and self.attack in (name, SUITE)]


class ModelPlayer:
    """
    A player that generates text with a language model and a key-value cache, as in deployment.

    Args:
        model: The model. Its `generation_config` is replaced, so that only `temperature` affects the decoding.
        tokenizer: Tokenizer with a chat template.
        temperature: Sampling temperature; samples come from torch's global generator. 0 decodes greedily.
        attack: If given, the embeddings of every prompt are perturbed before the answer is generated.
        batch_size: Maximum number of prompts per forward pass.
        system_prompt: If given, it is put before every observation as a system message.

    Attributes:
        moved: Lengths of the perturbations of the last prompts, in mean embedding norms; None without an attack.

    Raises:
        jinja2.TemplateError: if the chat template does not render a question and its answer.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        temperature: float = 0.0,
        attack: AttackSettings | None = None,
        batch_size: int = 128,
        system_prompt: str | None = None,
    ):
        self.model, self.tokenizer = model.eval(), tokenizer
        self.attack, self.batch_size, self.system_prompt = attack, batch_size, system_prompt
        sampling = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
        self._ends, self._mark = end_tokens(model, tokenizer), end_mark(tokenizer)
        self.moved: list[float] | None = None
        self.model.generation_config = GenerationConfig(
            pad_token_id=tokenizer.pad_token_id, eos_token_id=self._ends, **sampling
        )

    def check(self, rows: list[dict[str, Any]]) -> None:
        """
        Check, before the episodes start, that `answer` accepts the rows.

        Raises:
            ValueError: for the same reasons as `answer`, and if the chat template does not render the system prompt.
        """
        check_system_role(self.tokenizer, self.system_prompt)
        rows = with_system_prompt(rows, self.system_prompt)
        self._prompts(rows)
        if self.attack is not None:
            batch = _encoded(self.model, self.tokenizer, rows, self.attack)
            if self.attack.predictor is not None:
                self.attack.predictor.check_fits(Target(self.model, batch))

    def answer(self, rows: list[dict[str, Any]]) -> list[str]:
        """
        Generate an answer to each prompt. An answer that reaches twice the length of the expert's is cut off and ends
        with an ellipsis, which makes it malformed in every world.

        Raises:
            ValueError: if a prompt and its answer are longer than the model's context, and, under attack, if no single
                token distinguishes the actions.
        """
        rows, answers = with_system_prompt(rows, self.system_prompt), []
        self.moved = None if self.attack is None else []
        for start in range(0, len(rows), self.batch_size):
            answers += self._answer(rows[start : start + self.batch_size])
        return answers

    def _answer(self, rows: list[dict[str, Any]]) -> list[str]:
        prompts, budgets = self._prompts(rows)
        deltas = None
        if self.attack is not None:
            deltas, lengths = worst_prompts(self.model, self.tokenizer, rows, self.attack)
            self.moved += lengths.tolist()
        said = generate(self.model, self.tokenizer.pad_token_id, prompts, deltas, max(budgets))
        return [self._text(tokens, budget) for tokens, budget in zip(said, budgets, strict=True)]

    def _prompts(self, rows: list[dict[str, Any]]) -> tuple[list[list[int]], list[int]]:
        """Return the tokens of each prompt and the length limit of its answer, independent of the rest of the batch."""
        prompts, references = render_prompts(self.tokenizer, rows)
        budgets = [2 * len(reference) for reference in references]
        shorter = "" if self.system_prompt is None else " or a shorter system prompt"
        check_lengths(self.model, prompts, budgets, f"use fewer agents{shorter}")
        return prompts, budgets

    def _text(self, tokens: list[int], budget: int) -> str:
        end = end_of_answer(self.tokenizer, tokens[:budget], self._ends, self._mark)
        said = tokens[:budget] if end is None else tokens[: end + 1]
        text = self.tokenizer.decode([token for token in said if token not in self._ends], skip_special_tokens=True)
        text = text.partition(self._mark)[0] if self._mark else text
        # Thinking before the answer is not part of the answer. Some templates also render an empty thought.
        text = text.rpartition("</think>")[2].strip()
        return text if end is not None else f"{text} …"


def worst_prompts(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: list[dict[str, Any]], attack: AttackSettings
) -> tuple[Tensor, Tensor]:
    """
    Return the worst perturbation of each row's prompt that the attack finds, (B, L, d), padded on the right and zero
    beyond the prompt, and its length in mean embedding norms, (B,). The worst perturbation has the highest loss of the
    ascent; for the suite or random points, it has the largest margin by which another answer is more likely. Random
    points come from torch's global generator.
    """
    attacks = attack.attacks()
    how = {"steps": attack.steps, "restarts": attack.restarts, "keep": "margin"}
    if len(attacks) == 1:
        # Run the ascent to its end: of two wrong answers, one may harm the world more.
        how |= {"keep": getattr(attacks[0], "loss", "margin"), "settled": 0.0}
    seeds = torch.randint(2**40, (len(rows),)).tolist()
    with frozen_parameters(model):
        target = Target(model, _encoded(model, tokenizer, rows, attack), attack.threat)
        learnt = {} if attack.predictor is None else {PREDICTED: attack.predictor.on(target, LOSS)}
        attacked = UnderAttack(target, functools.partial(Search, seeds=seeds, learnt=learnt, **how))
        attacked.widen(1.0)
        for one in attacks:
            attacked.run(one, "1")
    delta = attacked.search.delta.detach()
    return delta, delta.flatten(1).norm(dim=1) / target.scale


def _encoded(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: list[dict[str, Any]], attack: AttackSettings
) -> AgentBatch:
    moved = attack.threat.perturbed_tokens
    inputs = encode_examples(tokenizer, rows, candidates=True, perturbed_tokens=moved)
    return AgentBatch.from_inputs({name: value.to(model.device) for name, value in inputs.items()}, moved)
