"""The stability of the inner ascent: full Hessians along it, and losses whose curvature is known."""

from __future__ import annotations

import numpy
import pytest
import torch
from torch.autograd.functional import hessian
from torch.utils._python_dispatch import TorchDispatchMode

from aajr_hf import AAJRTrainer
from aajr_hf.objective import PerturbationSet, projected_gradient_ascent, segment_curvature
from aajr_hf.training.policy.monitoring import LogitRecorder, ascent_metrics
from aajr_hf.training.policy.stability import measure_stability
from aajr_hf.training.trainers import base as mixin
from tests.support.completions import dpo, grpo, step
from tests.support.reference import Reference
from tests.support.tiny import tiny_model, trainer

SMOOTHNESS = {
    "loss_smoothness",
    "residual_curvature",
    "effective_smoothness",
    "step_size_bound",
    "within_bound_fraction",
}
ALWAYS = {"curvature", "largest_curvature", "secant_amplification", "boundary_step_fraction", "monotone_fraction"}
TINY = torch.finfo(torch.float64).tiny


def explicit(reference, b, deltas, loss_smoothness, hessians=False):
    """All numbers of one example, from `delta_0, ..., delta_K` alone, step by step."""
    state, mask = reference.embeddings(b).detach(), reference.prompt(b)
    found = {"kappa": [], "secant": [], "eta": [], "boundary": [], "monotone": []}
    for t, (before, after) in enumerate(zip(deltas, deltas[1:], strict=False)):
        d = after - before
        gradients, losses, logits = [], [], []
        for delta in (before, after):
            point = delta.clone().requires_grad_(True)
            loss = reference.loss(b, state + point)
            gradients.append(torch.autograd.grad(loss, point)[0] * mask)
            losses.append(float(loss.detach()))
            logits.append(reference.logits(b, state + delta).detach())
        found["secant"].append(float((logits[1] - logits[0]).norm() / d.norm()))
        found["eta"].append(float(2.5 * reference.radius(b) / reference.steps / gradients[0].norm()))
        found["boundary"].append(float(after.norm() >= 0.999 * reference.radius(b)))
        found["monotone"].append(float(losses[1] >= losses[0]))
        if t + 2 == len(deltas):
            break  # no gradient at the end
        if not hessians:
            found["kappa"].append(float((d * (gradients[1] - gradients[0])).sum() / d.square().sum()))
            continue
        nodes, weights = numpy.polynomial.legendre.leggauss(8)
        v, mean = (d / d.norm()).flatten(), 0.0
        for node, weight in zip(nodes, weights, strict=True):
            point = state + before + (node + 1) / 2 * d
            full = hessian(lambda x: reference.loss(b, x), point, vectorize=True).reshape(v.numel(), v.numel())
            mean += weight / 2 * float(v @ full @ v)
        found["kappa"].append(mean)
    largest = max(abs(kappa) for kappa in found["kappa"])
    first = loss_smoothness * max(found["secant"]) ** 2
    found |= {"largest": largest, "residual": max(largest - first, 0), "effective": max(largest, first)}
    found["within"] = [float(eta <= 1 / found["effective"]) for eta in found["eta"]]
    return found


def expected_metrics(examples, loss_smoothness):
    def mean(name):
        return float(numpy.mean([example[name] for example in examples]))

    return {
        "aajr/curvature": mean("kappa"),
        "aajr/largest_curvature": mean("largest"),
        "aajr/secant_amplification": mean("secant"),
        "aajr/boundary_step_fraction": mean("boundary"),
        "aajr/monotone_fraction": mean("monotone"),
        "aajr/loss_smoothness": float(numpy.mean(loss_smoothness)),
        "aajr/residual_curvature": mean("residual"),
        "aajr/effective_smoothness": mean("effective"),
        "aajr/step_size_bound": 1 / mean("effective"),
        "aajr/within_bound_fraction": mean("within"),
    }


@pytest.mark.slow
@pytest.mark.parametrize(("system_loss", "epsilon"), [("nll", 4.0), ("expected_cost", 0.25)])
def test_the_metrics_are_the_formulas(tmp_path, system_loss, epsilon):
    run = trainer(tmp_path, system_loss=system_loss, epsilon=epsilon, ascent_steps=4)
    _, log, inputs = step(run)
    reference = Reference(tiny_model(), inputs, epsilon=epsilon, steps=4, system_loss=system_loss)
    if system_loss == "nll":
        smoothness = [0.5 / len(reference.example(b)[2]) for b in reference.examples]
    else:
        costs = [c[t >= 0] for c, t in zip(inputs["candidate_costs"], inputs["candidate_tokens"], strict=True)]
        smoothness = [float(c.max() - c.min()) / 2 for c in costs]
    examples = [explicit(reference, b, reference.ascend(b)[0], smoothness[b]) for b in reference.examples]
    for name, value in expected_metrics(examples, smoothness).items():
        assert log[name] == pytest.approx(value, rel=1e-5), name
    assert log["aajr/boundary_fraction"] == pytest.approx(numpy.mean([e["boundary"][-1] for e in examples]))


@pytest.mark.slow
def test_the_curvature_is_the_mean_of_the_full_hessian_along_the_segments(tmp_path):
    """Gauss-Legendre quadrature of `v' H v`, with H the Hessian by all embeddings of the prompt and the answer."""
    _, log, inputs = step(trainer(tmp_path, per_device_train_batch_size=1, epsilon=0.25))
    reference = Reference(tiny_model(), inputs, epsilon=0.25)
    smoothness = 0.5 / len(reference.example(0)[2])
    example = explicit(reference, 0, reference.ascend(0)[0], smoothness, hessians=True)
    for name, value in expected_metrics([example], [smoothness]).items():
        assert log[name] == pytest.approx(value, rel=1e-5), name


def test_every_metric_is_explained(tmp_path):
    _, log, _ = step(trainer(tmp_path))
    logged = {name for name in log if name.startswith("aajr/")}
    assert {f"aajr/{name}" for name in SMOOTHNESS | ALWAYS} <= logged
    assert all(f"`{name}`" in AAJRTrainer.__doc__ for name in logged)


@pytest.mark.parametrize(("make", "bounded"), [(dpo, True), (grpo, False)])
def test_losses_without_a_bound_in_the_logits_say_nothing_of_the_smoothness(tmp_path, make, bounded):
    _, log, _ = step(make(tmp_path))
    logged = {name.removeprefix("aajr/") for name in log}
    assert logged >= ALWAYS and (logged & SMOOTHNESS) == (SMOOTHNESS if bounded else set())


def test_one_step_has_no_curvature(tmp_path):
    _, log, _ = step(trainer(tmp_path, ascent_steps=1))
    assert "aajr/curvature" not in log and log["aajr/residual_curvature"] == 0
    assert log["aajr/effective_smoothness"] > 0


class Synchronisations(TorchDispatchMode):
    """Operations that wait for the device: values that Python reads, and shapes that depend on values."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name().split("::")[-1]
        by_mask = name.startswith("index") and any(i is not None and i.dtype == torch.bool for i in args[1] or ())
        if by_mask or name.startswith(("_local_scalar_dense", "nonzero", "masked_select", "equal", "unique")):
            self.found.append(name)
        return function(*args, **kwargs or {})


@pytest.mark.parametrize("scope", ["sequence", "token"])
@pytest.mark.parametrize("rule", ["gradient", "normalized", "sign"])
def test_the_metrics_wait_for_nothing(tmp_path, monkeypatch, rule, scope):
    def observed(*arguments):
        with Synchronisations() as mode:
            metrics = ascent_metrics(*arguments)
        assert mode.found == []
        found.append(metrics)
        return metrics

    found = []
    monkeypatch.setattr(mixin, "ascent_metrics", observed)
    step(trainer(tmp_path, ascent_step_rule=rule, ascent_step_size=0.1, perturbation_scope=scope))
    assert len(found) == 1


def test_what_waits_is_seen():
    with Synchronisations() as mode:
        values = torch.arange(3.0)
        values[values > 0].sum().item()
    assert mode.found == ["index.Tensor", "_local_scalar_dense"]


def measured(loss_of, policy, state, ball, loss_smoothness, steps=4, rule="gradient", **kwargs):
    """The stability of `steps` steps; the gradient at the last point is taken, too."""
    recorder = LogitRecorder()

    def loss(x):
        logits = policy(x)
        recorder.propose(logits)
        return loss_of(logits)

    full = projected_gradient_ascent(
        loss, state, ball, steps=steps + 1, step_rule=rule, final_loss=False, on_point=recorder.accept, **kwargs
    )
    trajectory = full.first(steps)
    found = measure_stability(
        trajectory,
        recorder.secants(trajectory),
        ball,
        torch.ones(state.shape[:2]).bool(),
        loss_smoothness,
        rule,
        segment_curvature(full),
    )
    return trajectory, found


@pytest.mark.parametrize("rule", ["gradient", "normalized", "sign"])
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_on_a_quadratic_the_bound_holds_on_every_segment_and_implies_ascent(rule, norm):
    """Also where it curves down: two-sided. The share is neither none nor all, so that the implication says something."""
    root = torch.randn(64, 12, 12, dtype=torch.float64)
    full, linear = root + root.transpose(1, 2), torch.randn(64, 12, dtype=torch.float64)
    state, size = torch.randn(64, 3, 4, dtype=torch.float64), 10 ** (4 * torch.rand(64).double() - 3)
    size = size if rule == "gradient" else 10 * size

    def loss(x):
        x = x.flatten(1)
        return 0.5 * torch.einsum("bi,bij,bj->b", x, full, x) + (x * linear).sum(dim=1)

    trajectory, found = measured(
        loss, lambda x: x, state, PerturbationSet(5.0, norm), torch.zeros(64), rule=rule, step_size=size
    )
    move = trajectory.deltas.diff(dim=0).flatten(2)
    v = move / move.norm(dim=2, keepdim=True).clamp_min(TINY)
    expected = torch.einsum("tbi,bij,tbj->tb", v, full, v) * (trajectory.lengths > 0)
    torch.testing.assert_close(found.curvature, expected, rtol=1e-5, atol=1e-5)
    assert (found.smoothness.effective >= expected.abs() * (1 - 1e-5) - 1e-5).all()
    assert (found.smoothness.effective > expected.amax(dim=0) + 1).any()  # the lower side decides
    assert 0.1 < found.within_bound.double().mean() < 0.9 and found.monotone.double().mean() > 0.1
    assert (found.monotone | ~found.within_bound).all()


@pytest.mark.parametrize("system_loss", ["nll", "expected_cost"])
def test_a_linear_policy_leaves_no_residual(system_loss):
    """`z = W s`: the secant is `||W v||`, and the bound of a softmax loss in the logits bounds the curvature."""
    weight, costs = torch.randn(10, 12, dtype=torch.float64), torch.rand(5, dtype=torch.float64)

    def loss(logits):
        if system_loss == "nll":
            return -logits.log_softmax(dim=-1)[..., 0].mean(dim=1)
        return logits[:, 0].softmax(dim=-1) @ costs

    smoothness = 0.25 if system_loss == "nll" else float(costs.max() - costs.min()) / 2
    trajectory, found = measured(
        loss,
        lambda x: (x.flatten(1) @ weight.T).unflatten(1, (2, 5)),
        torch.randn(64, 3, 4, dtype=torch.float64),
        PerturbationSet(1.0),
        torch.full((64,), smoothness).double(),
        step_size=10 ** (3 * torch.rand(64).double() - 2),
    )
    move = trajectory.deltas.diff(dim=0).flatten(2)
    secants = (move @ weight.T).norm(dim=2) / move.norm(dim=2).clamp_min(TINY)
    torch.testing.assert_close(found.amplification, secants, rtol=1e-6, atol=1e-6)
    assert (found.smoothness.residual == 0).all() and (found.largest_curvature > 0).all()
    assert (found.curvature > 0).any() and (found.curvature < 0).any() == (system_loss == "expected_cost")
    torch.testing.assert_close(found.smoothness.effective, smoothness * secants.square().amax(dim=0))
    assert (found.monotone | ~found.within_bound).all() and found.within_bound.any()


def test_a_policy_that_curves_has_a_residual():
    """`z = s^2` at the origin: J = 0 and the loss -z curves with -2."""
    state = torch.full((1, 1, 1), 1e-6, dtype=torch.float64)
    _, found = measured(
        lambda logits: -logits.flatten(1).sum(dim=1),
        lambda x: x.square(),
        state,
        PerturbationSet(1.0),
        torch.zeros(1),
        step_size=0.1,
    )
    torch.testing.assert_close(found.curvature, torch.full((4, 1), -2.0).double(), rtol=1e-6, atol=0)
    torch.testing.assert_close(found.smoothness.residual, torch.tensor([2.0]).double(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_with_a_ball_for_each_token_the_boundary_is_a_share_of_the_perturbable_ones(norm):
    slopes = torch.tensor([[10.0, 0.1, 10.0, 0.0], [0.1, 0.1, 10.0, 0.1]]).double()[..., None]
    perturbable = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]]).bool()
    ball = PerturbationSet(torch.tensor([0.5, 1.0]).double(), norm, "token")
    trajectory = projected_gradient_ascent(
        lambda x: (x * slopes).flatten(1).sum(dim=1),
        torch.zeros(2, 4, 2).double(),
        ball,
        steps=2,
        step_size=0.1,
        mask=perturbable,
    )
    found = measure_stability(trajectory, torch.zeros(2, 2), ball, perturbable, None, "gradient")
    torch.testing.assert_close(found.at_boundary, torch.tensor([[2 / 3, 1 / 4]] * 2).double())
    assert found.smoothness is None and found.within_bound is None
