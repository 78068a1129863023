"""Who plays a world: its experts, or a language model that answers in text, under attack if asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..objective import PerturbationSet
from ..training.batch import AgentBatch
from ..training.data import encode_examples
from ..training.policy import frozen_parameters
from .attack import worst_case
from .generation import check_lengths, end_tokens, generate, render_prompts
from .target import Target


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
        epsilon: Radius of the l2 ball, in mean norms of each prompt's embeddings.
        steps, restarts: Strength of the ascent on the expected system cost.
    """

    epsilon: float
    steps: int = 20
    restarts: int = 1


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
            encode_examples(self.tokenizer, rows, candidates=True)

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
    The perturbation of each row's prompt with the highest expected system cost that the attack finds, (B, L, d), padded
    on the right; zero beyond the prompt.
    """
    inputs = encode_examples(tokenizer, rows, candidates=True)
    batch = AgentBatch.from_inputs({name: value.to(model.device) for name, value in inputs.items()}, "prompt")
    target = Target(model, batch)
    with frozen_parameters(model):
        delta, _ = worst_case(
            target.cost,
            target.origin,
            PerturbationSet(attack.epsilon * target.scale),
            mask=batch.perturbable,
            steps=attack.steps,
            restarts=attack.restarts,
        )
    return delta.detach()
