"""Adversarially-Aligned Jacobian Regularization for language-model agents."""

__version__ = "0.1.0"

__all__ = ["AAJRConfig", "AAJRTrainer", "__version__"]


def __getattr__(name: str):
    # The trainer pulls in transformers, TRL and PEFT; `aajr_hf.objective` needs torch alone.
    if name in ("AAJRConfig", "AAJRTrainer"):
        from . import training

        return getattr(training, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
