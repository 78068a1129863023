"""`AAJRConfig` and `AAJRTrainer`: where Transformers, TRL and PEFT meet the objective."""

from .config import AAJRConfig
from .exact_json import use_exact_json
from .trainer import AAJRTrainer

use_exact_json()

__all__ = ["AAJRConfig", "AAJRTrainer"]
