"""Adversarially-Aligned Jacobian Regularization for language-model agents."""

__version__ = "0.2.0"

_TRAINING = (
    *("AAJRConfig", "AAJRTrainer"),
    *("AAJRDPOConfig", "AAJRDPOTrainer"),
    *("AAJRGRPOConfig", "AAJRGRPOTrainer"),
)

__all__ = [*_TRAINING, "__version__", "load_rows"]


def __getattr__(name: str):
    # Imported on first use: the trainers import transformers, TRL and PEFT, but `aajr_hf.objective` needs only torch.
    if name in _TRAINING:
        from . import training

        return getattr(training, name)
    if name == "load_rows":
        from .training.data.sources import load_rows

        return load_rows
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
