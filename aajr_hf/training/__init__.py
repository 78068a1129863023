"""`AAJRConfig` and `AAJRTrainer`: where Transformers, TRL and PEFT meet the objective."""

from .config import AAJRConfig
from .trainer import AAJRTrainer

__all__ = ["AAJRConfig", "AAJRTrainer"]
