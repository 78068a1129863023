"""Who plays a world: its experts, or a language model that answers in text, under attack if asked."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from trl.data_utils import common_prefix_length

from ..objective import PerturbationSet
from ..training.batch import AgentBatch
from ..training.data import encode_examples
from ..training.policy import frozen_parameters
from .attack import worst_case
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
        self._ends = self._end_tokens()
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
        device = self.model.device
        # On the left, so that every prompt ends where its answer begins.
        ids = _padded([torch.tensor(prompt) for prompt in prompts], self.tokenizer.pad_token_id).to(device)
        mask = _padded([torch.ones(len(prompt), dtype=torch.long) for prompt in prompts], 0).to(device)
        delta = None
        if deltas is not None:
            delta = _padded([_of_length(row, len(prompt)) for row, prompt in zip(deltas, prompts, strict=True)], 0.0)
        with perturbed_prompts(self.model, delta), torch.no_grad():
            output = self.model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=max(budgets))
        said = output[:, ids.shape[1] :].tolist()
        return [self._text(tokens, budget) for tokens, budget in zip(said, budgets, strict=True)]

    def _prompts(self, rows: list[dict[str, Any]]) -> tuple[list[list[int]], list[int]]:
        """The tokens of each prompt, and how many its answer may have: by itself, whatever else is in the batch."""
        render = self.tokenizer.apply_chat_template
        prompts = render([row["prompt"] for row in rows], add_generation_prompt=True, return_dict=False)
        whole = render([row["prompt"] + row["completion"] for row in rows], return_dict=False)
        budgets = [
            2 * (len(ids) - common_prefix_length(prompt, ids)) for prompt, ids in zip(prompts, whole, strict=True)
        ]
        longest = max(len(prompt) + budget for prompt, budget in zip(prompts, budgets, strict=True))
        limit = getattr(self.model.config, "max_position_embeddings", None)
        if limit is not None and longest > limit:
            raise ValueError(
                f"A prompt and its answer take {longest} tokens, and the model reads {limit}: let there be fewer agents."
            )
        return prompts, budgets

    def _text(self, tokens: list[int], budget: int) -> str:
        end = next((i for i, token in enumerate(tokens[:budget]) if token in self._ends), None)
        text = self.tokenizer.decode(tokens[: budget if end is None else end], skip_special_tokens=True)
        # What a model thinks before it answers is no part of the answer; templates render an empty thought, too.
        text = text.rpartition("</think>")[2].strip()
        return text if end is not None else f"{text} …"

    def _end_tokens(self) -> list[int]:
        """
        The tokens that end an answer: what model and tokenizer call so, and the last special token that the template
        writes after an answer, which many tokenizers do not call so.
        """
        config = self.model.generation_config
        known = [] if config is None or config.eos_token_id is None else config.eos_token_id
        ends = {*(known if isinstance(known, list) else [known]), self.tokenizer.eos_token_id} - {None}
        example = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        prompt = self.tokenizer.apply_chat_template(example[:1], add_generation_prompt=True, return_dict=False)
        whole = self.tokenizer.apply_chat_template(example, return_dict=False)
        # Not `all_special_ids`, which lists those with a role alone.
        special = {number for number, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        written = [number for number in whole[common_prefix_length(prompt, whole) :] if number in special]
        return sorted(ends | set(written[-1:]))


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


@contextlib.contextmanager
def perturbed_prompts(model: PreTrainedModel, delta: Tensor | None) -> Iterator[None]:
    """
    Inside, the first forward (that of the prompt) adds `delta` (B, L, d) to what the first layer receives, as
    `AgentPolicy` does; the answer's own tokens stay as they are. Not by `inputs_embeds`, which some models do not take,
    and others treat unlike `input_ids`.
    """
    if delta is None:
        yield
        return
    remaining = [delta]

    def perturb(module, args, output):
        return output + remaining.pop().to(output.dtype) if remaining else output

    handle = model.get_input_embeddings().register_forward_hook(perturb)
    try:
        yield
    finally:
        handle.remove()


def _padded(rows: list[Tensor], value: float) -> Tensor:
    return pad_sequence(rows, batch_first=True, padding_value=value, padding_side="left")


def _of_length(rows: Tensor, length: int) -> Tensor:
    """The first rows (length, d), zeros where there are fewer."""
    return torch.nn.functional.pad(rows[:length], (0, 0, 0, max(length - len(rows), 0)))
