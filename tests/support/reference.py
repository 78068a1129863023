"""
The objective of section 2, written out naively for one batch: full Jacobians, explicit loops, `inputs_embeds`. It shares
no code with the package.
"""

from __future__ import annotations

import math

import torch
from torch.autograd.functional import jacobian


def squared_norm(logits, labels, image):
    return image.square().sum()


def fisher(logits, labels, image):
    """v' (diag(p) - p p') v of each token's v = J u, with the matrix written out."""
    total = 0.0
    for scores, v in zip(logits.detach(), image, strict=True):
        p = scores.exp() / scores.exp().sum()
        total = total + v @ (torch.diag(p) - torch.outer(p, p)) @ v
    return total


def margin(logits, labels, image):
    """The difference of two rows of J, times u: that of the largest wrong logit minus that of the label's."""
    total = 0.0
    for scores, label, v in zip(logits, labels, image, strict=True):
        wrong = max((i for i in range(len(scores)) if i != label), key=lambda i: float(scores[i]))
        total = total + (v[wrong] - v[label]) ** 2
    return total


MEASURES = {"logits": squared_norm, "fisher": fisher, "margin": margin}


class Reference:
    """One collated batch on one model, evaluated example by example, without padding."""

    def __init__(self, model, inputs, epsilon=0.25, steps=3, system_loss="nll", penalty_radius=1.0):
        # The kernel with second derivatives.
        model.set_attn_implementation("eager")
        self.model, self.inputs = model, inputs
        self.epsilon, self.steps, self.system_loss = epsilon, steps, system_loss
        self.penalty_radius = penalty_radius
        self.examples = range(inputs["input_ids"].shape[0])

    def example(self, b):
        length = int(self.inputs["attention_mask"][b].sum())
        ids, labels = self.inputs["input_ids"][b, :length], self.inputs["labels"][b, :length]
        actions = [j for j in range(1, length) if labels[j] != -100]
        return ids, labels, actions

    def logits(self, b, state):
        _, _, actions = self.example(b)
        output = self.model(inputs_embeds=state[None], use_cache=False).logits[0]
        return output[[j - 1 for j in actions]]

    def embeddings(self, b):
        return self.model.get_input_embeddings()(self.example(b)[0])

    def prompt(self, b):
        return (self.example(b)[1] == -100).to(torch.float64)[:, None]

    def loss(self, b, state):
        """g of one example."""
        _, labels, actions = self.example(b)
        logits = self.logits(b, state)
        if self.system_loss == "nll":
            log_probs = logits.log_softmax(-1)
            return -torch.stack([log_probs[i, labels[j]] for i, j in enumerate(actions)]).mean()
        row = actions.index(int(self.inputs["candidate_position"][b]) + 1)
        probabilities = logits[row, self.inputs["candidate_tokens"][b]].softmax(-1)
        return (probabilities * self.inputs["candidate_costs"][b]).sum()

    def radius(self, b):
        norms = self.embeddings(b).detach().norm(dim=1)
        mask = self.prompt(b)[:, 0].bool()
        return self.epsilon * norms[mask].mean()

    def ascend(self, b):
        """
        Equations 11 and 12 with unit steps of 2.5 radius / K in an l2 ball: deltas and directions; after K steps in a larger ball,
        for the penalty.
        """
        state, mask, radius = self.embeddings(b).detach(), self.prompt(b), self.radius(b)
        delta, deltas, directions = torch.zeros_like(state), [], []
        for t in range(math.ceil(self.penalty_radius * self.steps)):
            ball = radius if t < self.steps else self.penalty_radius * radius
            point = delta.clone().requires_grad_(True)
            (gradient,) = torch.autograd.grad(self.loss(b, state + point), point)
            gradient = gradient * mask
            unit = gradient / (gradient.norm() + 1e-12)
            deltas.append(delta)
            directions.append(unit)
            delta = delta + 2.5 * radius / self.steps * unit
            delta = delta * min(1.0, float(ball / delta.norm()))
        return [*deltas, delta], directions

    def jacobian(self, b, delta, transform):
        """(outputs, L * d), differentiable in the parameters."""
        state = self.embeddings(b)
        full = jacobian(
            lambda x: transform(self.logits(b, x)).flatten(), state + delta, create_graph=True, vectorize=True
        )
        return full.flatten(1)

    def penalty(self, b, transform=lambda z: z, squared=squared_norm):
        """Equation 20; `squared` says what a product `J u` (tokens, V) counts."""
        _, labels, actions = self.example(b)
        terms = []
        for delta, direction in zip(*self.ascend(b), strict=False):
            image = (self.jacobian(b, delta, transform) @ direction.flatten()).reshape(len(actions), -1)
            terms.append(squared(self.logits(b, self.embeddings(b) + delta), labels[actions], image))
        return torch.stack(terms).mean()

    def adversarial(self, b):
        """g(delta_K)."""
        return self.loss(b, self.embeddings(b) + self.ascend(b)[0][self.steps])

    def mean(self, per_example):
        """Mean over examples; weighted by action tokens for the negative log-likelihood, as TRL normalises it."""
        if self.system_loss == "nll":
            weights = [len(self.example(b)[2]) for b in self.examples]
        else:
            weights = [1 for _ in self.examples]
        total = sum(w * per_example(b) for w, b in zip(weights, self.examples, strict=True))
        return total / sum(weights)

    def mean_penalty(self, transform=lambda z: z, squared=squared_norm):
        return torch.stack([self.penalty(b, transform, squared) for b in self.examples]).mean()

    def gradient(self, loss):
        names, parameters = zip(*self.model.named_parameters(), strict=True)
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        return {
            n: torch.zeros_like(p) if g is None else g for n, p, g in zip(names, parameters, gradients, strict=True)
        }
