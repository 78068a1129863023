"""
Tiny trainers of preferences and of sampled completions, and their objective written out naively: full Jacobians, explicit
loops, `inputs_embeds`, no padding. The reference shares no code with the package.
"""

from __future__ import annotations

import copy
import math

import torch
from datasets import Dataset
from torch.autograd.functional import jacobian
from trl import DPOTrainer, GRPOTrainer

from aajr_hf import AAJRDPOConfig, AAJRDPOTrainer, AAJRGRPOConfig, AAJRGRPOTrainer

from .reference import squared_norm
from .tiny import ROWS, WORDS, tiny_model, trainer_arguments


def pairs(examples: int = 16) -> Dataset:
    rows = []
    for i, row in enumerate(ROWS[:examples]):
        others = [action for action in row["actions"] if action != row["completion"][0]["content"]]
        rejected = [{"role": "assistant", "content": others[i % len(others)] + " ok" * (i % 3)}]
        rows.append({"prompt": row["prompt"], "chosen": row["completion"], "rejected": rejected})
    return Dataset.from_list(rows)


def dpo(folder, model=None, cls=AAJRDPOTrainer, config=AAJRDPOConfig, data=None, **overrides) -> DPOTrainer:
    model = tiny_model() if model is None else model
    # A reference that differs from the policy, so that its log-probabilities matter; with an adapter it is the base model.
    has_adapter = overrides.get("adapter", "full") != "full" or "peft_config" in overrides
    own = {"peft_config": overrides.pop("peft_config")} if "peft_config" in overrides else {}
    return cls(
        model,
        None if has_adapter else tiny_model(model.dtype, seed=1),
        config(**trainer_arguments(folder, **overrides)),
        train_dataset=pairs() if data is None else data,
        processing_class=copy.deepcopy(WORDS),
        **own,
    )


def reward(completion_ids, **_):
    return [sum(token % 3 for token in ids) / len(ids) for ids in completion_ids]


def grpo(folder, model=None, cls=AAJRGRPOTrainer, config=AAJRGRPOConfig, streamed=False, **overrides) -> GRPOTrainer:
    defaults = {"per_device_train_batch_size": 8, "num_generations": 4, "max_completion_length": 5}
    own = {"peft_config": overrides.pop("peft_config")} if "peft_config" in overrides else {}
    prompts = Dataset.from_list([{"prompt": row["prompt"]} for row in ROWS[:16]])
    return cls(
        tiny_model() if model is None else model,
        reward,
        config(**trainer_arguments(folder, **defaults | overrides)),
        train_dataset=prompts.to_iterable_dataset() if streamed else prompts,
        processing_class=copy.deepcopy(WORDS),
        **own,
    )


def first_inputs(run) -> dict[str, torch.Tensor]:
    """The trainer's first micro-batch, prepared."""
    run.model.train()
    run.current_gradient_accumulation_steps = 1
    return run._prepare_inputs(next(iter(run.get_train_dataloader())))


def step(run) -> tuple[dict[str, torch.Tensor], dict[str, float], dict[str, torch.Tensor]]:
    """The gradient of one step of plain gradient descent at rate 1, the logged metrics, and the inputs."""
    before = {name: parameter.detach().clone() for name, parameter in run.model.named_parameters()}
    seen, system_loss = [], run._system_loss
    run._system_loss = lambda inputs, num_items: seen.append(inputs) or system_loss(inputs, num_items)
    run.train()
    gradient = {name: before[name] - parameter.detach() for name, parameter in run.model.named_parameters()}
    return gradient, run.state.log_history[0], seen[0]


class Reference:
    """
    One example: a prompt, completions of it, and the system loss as a function of the completions' token log-probabilities.

    Args:
        prompt: Ids. completions: Lists of ids. loss: From a list of tensors (tokens,) to a scalar.
    """

    def __init__(self, model, prompt, completions, loss, epsilon=0.25, steps=3, penalty_radius=1.0):
        model.set_attn_implementation("eager")  # the kernel with second derivatives
        self.model, self.prompt, self.completions, self.loss = model, prompt, completions, loss
        self.steps, self.penalty_radius = steps, penalty_radius
        self.radius = epsilon * self.embed(prompt).detach().norm(dim=1).mean()

    def embed(self, ids):
        return self.model.get_input_embeddings()(torch.as_tensor(ids))

    def logits(self, delta):
        """Of each completion's tokens, (tokens, V)."""
        found = []
        for completion in self.completions:
            state = torch.cat([self.embed(self.prompt) + delta, self.embed(completion)])
            found.append(self.model(inputs_embeds=state[None]).logits[0, len(self.prompt) - 1 : -1])
        return found

    def g(self, delta):
        log_probs = [logits.log_softmax(-1) for logits in self.logits(delta)]
        chosen = [lp[range(len(c)), list(c)] for lp, c in zip(log_probs, self.completions, strict=True)]
        return self.loss(chosen)

    def ascend(self):
        delta, deltas, directions = torch.zeros_like(self.embed(self.prompt)).detach(), [], []
        for t in range(math.ceil(self.penalty_radius * self.steps)):
            ball = self.radius if t < self.steps else self.penalty_radius * self.radius
            point = delta.clone().requires_grad_(True)
            (gradient,) = torch.autograd.grad(self.g(point), point)
            unit = gradient / (gradient.norm() + 1e-12)
            deltas.append(delta)
            directions.append(unit)
            delta = delta + 2.5 * self.radius / self.steps * unit
            delta = delta * min(1.0, float(ball / delta.norm()))
        return [*deltas, delta], directions

    def adversarial(self):
        return self.g(self.ascend()[0][self.steps])

    def penalty(self, squared=squared_norm):
        """Equation 20, from the full Jacobian of all completions' logits; `squared` as in `reference.py`."""
        labels = [token for completion in self.completions for token in completion]
        deltas, directions = self.ascend()
        terms = []
        for delta, unit in zip(deltas, directions, strict=False):
            full = jacobian(
                lambda d: torch.cat([z.flatten() for z in self.logits(d)]), delta, create_graph=True, vectorize=True
            )
            image = (full.flatten(1) @ unit.flatten()).reshape(len(labels), -1)
            terms.append(squared(torch.cat(self.logits(delta)), labels, image))
        return torch.stack(terms).mean()


def gradient(model, loss) -> dict[str, torch.Tensor]:
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


def amplification(run, inputs) -> float:
    """Root of the mean penalty of a micro-batch."""
    run.args.regularizer_lambda, run.args.regularizer = 1.0, "aajr"
    run.estimator, run.current_gradient_accumulation_steps = "jvp", 1
    run.model.train()
    run.compute_loss(run.model, inputs)
    run.settle_metrics()
    return run._metrics["train"]["aajr/penalty"][-1] ** 0.5


def largest_difference(one: torch.nn.Module, other: torch.nn.Module) -> float:
    return max(float((a - b).detach().abs().max()) for a, b in zip(one.parameters(), other.parameters(), strict=True))
