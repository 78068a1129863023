"""Choice of the Jacobian estimator for a model and its wrapper, and of the step of finite differences."""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from ..._errors import first_line
from ...objective import directional_jacobian, random_unit_direction
from ..config.base import AAJRConfigMixin
from ..data.batch import AgentBatch
from ..policy.forward_mode import forward_ad_ready
from ..policy.outputs import PenalisedOutput
from ..policy.policy import AgentPolicy, fixed_seed
from .ascent import PromptAscent

# Relative to the mean norm of an embedding. The step cannot be smaller: models compute their norms in fp32 at best,
# and their activations in bf16, which leaves three digits; embeddings in bf16 do not even change under small steps.
_FIRST_STEP = 1e-3
_HALVINGS, _DOUBLINGS = 4, 8


def no_forward_mode(model: nn.Module, accelerator: Accelerator, autocast: Callable) -> str | None:
    """
    Why exact Jacobian products do not work for this model in this accelerator's wrapper; None if they work. All
    processes get the answer of the first process.
    """
    wrapper = _wrapper_without_forward_mode(accelerator)
    if wrapper is not None:
        return wrapper
    reason = [None]
    # If only the first process has loaded the weights, the others have nothing to try.
    if accelerator.is_main_process:
        with autocast():
            failure = jvp_failure(model)
        reason = [failure and f"{failure}; load the model with `attn_implementation` sdpa or eager"]
    return broadcast_object_list(reason)[0]


def _wrapper_without_forward_mode(accelerator: Accelerator) -> str | None:
    deepspeed = getattr(accelerator.state, "deepspeed_plugin", None)
    if deepspeed is not None and deepspeed.zero_stage == 3:
        return "ZeRO-3 gathers parameters with functions that have no forward-mode derivatives"
    fsdp = getattr(accelerator.state, "fsdp_plugin", None)
    version = tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2])
    if fsdp is not None and version < (2, 13):
        return f"FSDP2 of torch {torch.__version__} has no forward-mode derivatives; use torch 2.13"
    if fsdp is not None and fsdp.activation_checkpointing:
        return (
            "`fsdp_activation_checkpointing` wraps layers in a way that forward mode does not support; "
            "use `gradient_checkpointing`"
        )
    return None


def jvp_failure(model: nn.Module) -> str | None:
    """Why a small jvp and its backward pass do not work through the model; None if they work."""
    ids = torch.arange(1, 5, device=model.device)[None]
    ones = torch.ones_like(ids)
    batch = AgentBatch(ids, ones, ones.bool(), ids[:, 1:3], ones[:, 1:3].bool(), ids[:, 2:4])
    # Seeded, so that the trial does not change the global RNG.
    policy = AgentPolicy(model, batch, dropout_seed=0)
    state = torch.zeros_like(policy.embeddings())
    parameters = [p for p in model.parameters() if p.requires_grad]
    # A random direction, because layer norms map a constant direction to zero.
    with fixed_seed(state.device, 0):
        direction = random_unit_direction(state)
    try:
        with forward_ad_ready(model), torch.enable_grad():
            _, tangent = directional_jacobian(policy, state, direction)
            if not tangent.requires_grad:
                return "the tangent carries no gradient to the parameters"
            gradients = torch.autograd.grad(tangent.square().sum(), parameters, allow_unused=True)
    except (RuntimeError, ValueError) as error:
        # The trainer shows this reason in its error, or in the warning about finite differences.
        return first_line(error)
    if all(g is None or not bool(g.any()) for g in gradients):
        return "the gradient through the tangent is zero for every parameter"
    return None


@torch.no_grad()
def calibrate(
    config: AAJRConfigMixin, ascent: PromptAscent, compare: bool, average: Callable[[Tensor], Tensor]
) -> dict[str, float | str]:
    """
    Find the step of finite differences on one micro-batch, along its first ascent direction if it has one.

    Args:
        config: The trainer's configuration.
        ascent: The adversary of the micro-batch.
        compare: Whether the exact product is available for a comparison.
        average: Function that averages over processes, so that all of them choose the same step.

    Returns:
        `difference_step`, in units of the ascent's scale; `difference_error`, the relative error; and `against`, the
        reference of this error: the exact product, or the estimate with half the step.
    """
    policy, origin = ascent.policy, torch.zeros_like(ascent.state)
    if ascent.trajectory is None:
        with fixed_seed(origin.device, 0):
            direction = random_unit_direction(origin, policy.batch.perturbable)
    else:
        direction = ascent.trajectory.directions[0]

    penalised = PenalisedOutput.of(config, policy.batch)
    output = penalised.after(policy)

    def estimate(step: float) -> Tensor:
        kwargs = {"estimator": "finite_difference", "difference_step": step * ascent.scale}
        return directional_jacobian(output, origin, direction, weigh=penalised.weigh, **kwargs)[1]

    step, error = calibrated_step(estimate, average)
    against = "against the estimate with half the step"
    if compare:
        with forward_ad_ready(policy.model):
            _, exact = directional_jacobian(output, origin, direction, weigh=penalised.weigh)
        error = float(average((estimate(step) - exact).norm() / exact.norm()))
        against = "against the exact product"
    return {"difference_step": step, "difference_error": error, "against": against}


def calibrated_step(estimate: Callable[[float], Tensor], average: Callable[[Tensor], Tensor]) -> tuple[float, float]:
    """
    Find the step h of central differences, by halving and doubling a first guess: the step for which the estimates at
    h and at h / 2 differ least. Larger steps have a larger truncation error (O(h^2)), smaller steps a larger rounding
    error (O(1/h)).

    Args:
        estimate: Function from a step, as a multiple of the mean embedding norm, to the estimated `J u`.
        average: Function that averages over processes, so that all of them choose the same step.

    Returns:
        `(h, ||J_h u - J_{h/2} u|| / ||J_h u||)`: the step and an estimate of its relative error, which is infinite if
        no step changes anything, for example with a constant policy.
    """
    steps = [_FIRST_STEP * 2.0**octave for octave in range(-_HALVINGS - 1, _DOUBLINGS + 1)]
    differences, finer = [], None
    for step in steps:
        tangent = estimate(step)
        if finer is not None:
            difference = (tangent - finer).norm() / tangent.norm()
            # Steps that are lost to rounding give 0 / 0, and must not win.
            differences.append(difference.nan_to_num(nan=torch.inf))
        finer = tangent
    differences = average(torch.stack(differences))
    if not bool(torch.isfinite(differences).any()):
        return _FIRST_STEP, float("inf")
    best = int(differences.argmin())
    return steps[best + 1], float(differences[best])
