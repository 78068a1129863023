"""What other libraries print of themselves: nothing on standard output, no bars in a file, no warnings that help nobody."""

from __future__ import annotations

import logging
import os
import sys
import warnings

_BARS = ("TQDM_DISABLE", "HF_DATASETS_DISABLE_PROGRESS_BARS", "HF_HUB_DISABLE_PROGRESS_BARS")
# Of torch, about a default of Transformers' on a machine without an accelerator.
_WARNINGS = ("'pin_memory' argument is set as true but no accelerator is found",)


def be_quiet() -> None:
    """To be called before the libraries are imported, which read these variables then; so do processes that are launched."""
    if not sys.stderr.isatty():
        for name in _BARS:
            os.environ.setdefault(name, "1")
    for message in _WARNINGS:
        warnings.filterwarnings("ignore", message)
    # A filter, because it stays when DeepSpeed, imported by whoever asks Accelerate for a trainer, gives its logger a handler.
    logging.getLogger("DeepSpeed").addFilter(_of_deepspeed)


def _of_deepspeed(record: logging.LogRecord) -> bool:
    """DeepSpeed logs to standard output, where the results are; and it warns of there being no GPU, used or not."""
    for handler in logging.getLogger("DeepSpeed").handlers:
        if isinstance(handler, logging.StreamHandler) and handler.stream is sys.stdout:
            handler.setStream(sys.stderr)
    return not record.getMessage().startswith("Setting accelerator to CPU")
