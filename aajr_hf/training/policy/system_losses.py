"""System losses `g`, which the adversary raises and training lowers."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..data.batch import AgentBatch
from .monitoring import logit_smoothness, token_metrics
from .policy import AgentPolicy


class SystemLoss:
    """
    The loss that the adversary raises and training lowers, on one micro-batch of B examples.

    Attributes:
        batch: The micro-batch: the positions that may be perturbed, and the logits that predict actions.
        layer: The decoder layer at whose input the adversary acts; 0: at the embeddings.
    """

    batch: AgentBatch
    layer: int = 0

    def policy(self, model: nn.Module, dropout_seed: int | None, **model_kwargs) -> AgentPolicy:
        """The map from perturbations of the prompts (B, L, d) to logits (B, A, V)."""
        return AgentPolicy(model, self.batch, dropout_seed, layer=self.layer, **model_kwargs)

    def per_example(self, logits: Tensor, rows: Tensor | None = None) -> Tensor:
        """g of each example, (B,), or of the given rows, (n,); `logits` are the logits of the same examples."""
        raise NotImplementedError

    def trained_at(self, delta: Tensor | None, logits: Tensor) -> SystemLoss:
        """The loss that training lowers at a perturbation (None: at 0) with these logits, by default the adversary's own."""
        return self

    def mean(self, logits: Tensor, losses: Tensor) -> Tensor:
        """The minimised value: this micro-batch's part of the trainer's mean of g; `losses` are g, (B,)."""
        raise NotImplementedError

    def success(self, logits: Tensor) -> Tensor:
        """Whether the answer to each example is right, (B,) bool; used by a curriculum."""
        raise NotImplementedError

    def smoothness(self) -> Tensor | None:
        """L_loss of Theorem 2, (B,): the smoothness of g in the logits; None if it has no bound."""
        raise NotImplementedError

    def metrics(self, clean: Tensor) -> dict[str, Tensor]:
        """Further metrics, from the logits without perturbation."""
        return {}


class ActionLoss(SystemLoss):
    """
    A loss of the action's tokens: `nll` or `expected_cost`.

    Args:
        name: `"nll"` or `"expected_cost"`.
        batch: The micro-batch.
        mean: Function from the examples' logits and losses to their mean.
    """

    def __init__(self, name: str, batch: AgentBatch, mean: Callable[[Tensor, Tensor], Tensor]):
        self.name, self.batch, self._mean = name, batch, mean

    def per_example(self, logits: Tensor, rows: Tensor | None = None) -> Tensor:
        return system_loss(self.name, logits, self.batch if rows is None else self.batch.select(rows))

    def mean(self, logits: Tensor, losses: Tensor) -> Tensor:
        return self._mean(logits, losses)

    def success(self, logits: Tensor) -> Tensor:
        """Whether greedy decoding gives the action."""
        right = logits.argmax(dim=-1) == self.batch.action_labels
        return (right | ~self.batch.action_mask).all(dim=1)

    def smoothness(self) -> Tensor:
        return logit_smoothness(self.name, self.batch)

    def metrics(self, clean: Tensor) -> dict[str, Tensor]:
        return token_metrics(clean, self.batch) | {"tokens": self.batch.attention_mask.sum()}


def token_nll(logits: Tensor, batch: AgentBatch) -> Tensor:
    """Negative log-likelihood of each action token, (B, A), zero on padding; logits (B, A, V)."""
    nll = cross_entropy(logits.transpose(1, 2), batch.action_labels, reduction="none")
    return nll.masked_fill(~batch.action_mask, 0)


def nll(logits: Tensor, batch: AgentBatch) -> Tensor:
    """Mean negative log-likelihood over each example's action tokens, (B,), in nats per token."""
    return token_nll(logits, batch).sum(dim=1) / batch.action_mask.sum(dim=1)


def expected_cost(logits: Tensor, batch: AgentBatch) -> Tensor:
    """
    Expected system cost of the action, (B,), in the units of the dataset's `action_costs`: `sum_i p_i cost_i`, with p the
    softmax over the candidates' tokens at the first position where the candidates differ.
    """
    columns = batch.candidate_column[:, None, None].expand(-1, 1, logits.shape[-1])
    scores = logits.gather(1, columns).squeeze(1).gather(1, batch.candidate_tokens)
    probabilities = scores.masked_fill(~batch.candidate_mask, float("-inf")).softmax(dim=-1)
    return (probabilities * batch.candidate_costs.to(probabilities.dtype)).sum(dim=1)


def system_loss(name: str, logits: Tensor, batch: AgentBatch) -> Tensor:
    """The per-example system loss `nll` or `expected_cost`, (B,)."""
    return nll(logits, batch) if name == "nll" else expected_cost(logits, batch)
