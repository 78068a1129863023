"""What the server of `forked.py` imports once, for all the processes that it forks."""

import datasets  # noqa: F401
import pytest  # noqa: F401
import torch._decomp.decompositions_for_jvp  # noqa: F401
import torch.distributed.tensor  # noqa: F401
import transformers.models.llama.modeling_llama  # noqa: F401

import aajr_hf.cli.commands.train  # noqa: F401
import aajr_hf.cli.main  # noqa: F401
import aajr_hf.training.trainers.dpo  # noqa: F401
import aajr_hf.training.trainers.grpo  # noqa: F401
import aajr_hf.training.trainers.sft  # noqa: F401

from .quick import leave_out_what_shows_nothing

leave_out_what_shows_nothing()
