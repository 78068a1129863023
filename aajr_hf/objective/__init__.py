"""
The mathematics of Adversarially-Aligned Jacobian Regularization (arXiv 2603.04378), for any differentiable policy.

This package imports only torch. Policies map states (B, ...) to outputs (B, ...), and losses map states to (B,).
Examples in a batch never depend on each other.
"""

from ._ascent import AscentTrajectory, projected_gradient_ascent, step_direction
from ._forward_mode import RecordedProducts, checkpointed
from ._jacobian import aajr_penalty, directional_jacobian, squared_amplification, trajectory_amplification
from ._norms import frobenius_norm_squared, random_unit_direction, spectral_norm, top_singular_direction
from ._perturbation import PerturbationSet
from ._smoothness import effective_smoothness, gradient_step_sizes, segment_curvature, step_size_bound

__all__ = [
    "AscentTrajectory",
    "PerturbationSet",
    "RecordedProducts",
    "aajr_penalty",
    "checkpointed",
    "directional_jacobian",
    "effective_smoothness",
    "frobenius_norm_squared",
    "gradient_step_sizes",
    "projected_gradient_ascent",
    "random_unit_direction",
    "segment_curvature",
    "spectral_norm",
    "squared_amplification",
    "step_direction",
    "step_size_bound",
    "top_singular_direction",
    "trajectory_amplification",
]
