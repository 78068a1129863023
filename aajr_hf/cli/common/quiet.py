"""Silence other libraries: no output on standard output, no progress bars in files, no useless warnings."""

from __future__ import annotations

import logging
import os
import sys
import warnings

_BARS = ("TQDM_DISABLE", "HF_DATASETS_DISABLE_PROGRESS_BARS", "HF_HUB_DISABLE_PROGRESS_BARS")
# Warnings that no user can act on: of torch about a default of Transformers on machines without an accelerator, and of
# Transformers about an old name that PEFT reads.
_WARNINGS = (
    "'pin_memory' argument is set as true but no accelerator is found",
    "`is_gradient_checkpointing` is deprecated",
)


def be_quiet() -> None:
    """Set the variables that the libraries read at import; call it before. Launched processes inherit the variables."""
    if not sys.stderr.isatty():
        for name in _BARS:
            os.environ.setdefault(name, "1")
    for message in _WARNINGS:
        warnings.filterwarnings("ignore", message)
    # A filter stays in place when DeepSpeed is imported later and gives its logger a handler.
    logging.getLogger("DeepSpeed").addFilter(_of_deepspeed)


def _of_deepspeed(record: logging.LogRecord) -> bool:
    """Send DeepSpeed's log to standard error, because results go to standard output, and drop its GPU warning."""
    for handler in logging.getLogger("DeepSpeed").handlers:
        if isinstance(handler, logging.StreamHandler) and handler.stream is sys.stdout:
            handler.setStream(sys.stderr)
    return not record.getMessage().startswith("Setting accelerator to CPU")
