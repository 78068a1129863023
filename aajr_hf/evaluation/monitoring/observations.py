"""Scores of how unusual an observation is for an agent, and how far changed words have moved its embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...training.data.batch import AgentBatch
from ...training.data.system_prompts import with_system_prompt
from ..batches import read_batch
from .log import Exchange

OBSERVATION = "observation"


class ObservationScores:
    """
    Two scores of observations, both higher for unusual ones:

    - `surprise`: mean negative log-likelihood of the observation's tokens under the agent, in nats per token;
    - `distance`: Euclidean distance of the agent's last hidden state before the answer to the nearest one of
      `reference`.

    Args:
        model, tokenizer: The agent.
        reference: Exchanges from when all was well. Take other ones than those whose scores are compared with.
        batch_size: Exchanges in a forward pass.
        system_prompt: If given, it is put before every observation as a system message.

    Raises:
        ValueError: if the agent's chat template or tokenizer cannot write an exchange.
    """

    names = ("surprise", "distance")

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        reference: Sequence[Exchange],
        batch_size: int = 64,
        system_prompt: str | None = None,
    ):
        self._model, self._tokenizer, self._batch_size = model, tokenizer, batch_size
        self._system_prompt = system_prompt
        self._reference = torch.cat([states for _, states in self._passes(reference)])

    def of(self, exchanges: Sequence[Exchange]) -> dict[str, list[float]]:
        """Return the scores of exchanges by name."""
        found: dict[str, list[float]] = {name: [] for name in self.names}
        for surprise, states in self._passes(exchanges):
            found["surprise"] += surprise.tolist()
            found["distance"] += torch.cdist(states, self._reference).amin(dim=1).tolist()
        return found

    def of_lines(self, lines: Sequence[Sequence[Exchange]]) -> dict[str, list[float]]:
        """Return the mean scores of the exchanges of each line by name. Each line has at least one."""
        found = self.of([exchange for line in lines for exchange in line])
        means: dict[str, list[float]] = {}
        for name, values in found.items():
            rest = iter(values)
            means[name] = [sum(next(rest) for _ in line) / len(line) for line in lines]
        return means

    @torch.no_grad()
    def _passes(self, exchanges: Sequence[Exchange]):
        """Yield mean surprise (B,) and last hidden states (B, h), batch by batch."""
        for start in range(0, len(exchanges), self._batch_size):
            batch = self._batch(exchanges[start : start + self._batch_size])
            output = self._model(**batch.model_inputs(), use_cache=False, output_hidden_states=True)
            log_probs = output.logits[:, :-1].float().log_softmax(dim=-1)
            said = log_probs.gather(2, batch.input_ids[:, 1:, None])[..., 0]
            observed = batch.perturbable[:, 1:]
            surprise = -(said * observed).sum(dim=1) / observed.sum(dim=1)
            rows = torch.arange(len(batch), device=surprise.device)
            yield surprise, output.hidden_states[-1][rows, batch.action_positions[:, 0]].float()

    def _batch(self, exchanges: Sequence[Exchange]) -> AgentBatch:
        rows = with_system_prompt(list(map(_row, exchanges)), self._system_prompt)
        return read_batch(self._tokenizer, rows, OBSERVATION, self._model.device, candidates=False)

    @torch.no_grad()
    def moved(self, exchange: Exchange) -> float | None:
        """
        Return how far changed words have moved the prompt's embeddings, in multiples of the mean norm of the unchanged
        ones; None if the numbers of tokens differ, so that there is no distance.
        """
        before, after = (
            self._batch([Exchange(text, exchange.answer)]) for text in (exchange.unchanged, exchange.observation)
        )
        if before.input_ids.shape != after.input_ids.shape:
            return None
        embed = self._model.get_input_embeddings()
        states: list[Tensor] = [embed(batch.input_ids)[0].float() for batch in (before, after)]
        norms = states[0].norm(dim=-1)[before.perturbable[0]]
        return float((states[1] - states[0]).norm() / norms.mean())


def _row(exchange: Exchange) -> dict:
    # An empty answer has no token; what is measured does not depend on the answer.
    return {
        "prompt": [{"role": "user", "content": exchange.observation}],
        "completion": [{"role": "assistant", "content": exchange.answer or "?"}],
    }
