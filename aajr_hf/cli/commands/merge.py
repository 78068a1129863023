"""`aajr merge`: write an adapter into the weights of its base model."""

from __future__ import annotations

import shutil
from pathlib import Path

from ..arguments.options import ArgumentParser
from ..common.errors import UserError, user_errors
from ..common.new_folder import new_folder

DESCRIPTION = """Write an adapter into the weights of its base model: an ordinary model folder that needs no PEFT.

    aajr merge outputs/lora outputs/lora-merged
"""
# Tolerance relative to the largest logit. Rounding gives 1e-6, and for FourierFT up to 1.4e-5, depending on the
# processor. Adapters that cannot be merged exactly differ far more.
_TOLERANCE = 5e-5


def run(argv: list[str]) -> int:
    parser = ArgumentParser("merge", description=DESCRIPTION)
    parser.add_argument("adapter", metavar="DIR", help="folder of the adapter, such as `aajr train` writes")
    parser.add_argument("output", metavar="OUT", type=Path, help="folder of the merged model; must not exist")
    arguments = parser.parse_args(argv)
    difference = merge(arguments.adapter, arguments.output)
    print(
        f"Model saved to {arguments.output}. Merging changed logits by at most {difference:.1e} of the largest logit."
    )
    return 0


def merge(adapter: str, output: Path) -> float:
    """
    Merge an adapter in float32, compare the logits before and after, and save the model, in the base model's data
    type, with the tokenizer.

    Returns:
        The largest difference of logits, relative to the largest logit, in float32.

    Raises:
        UserError: if the folder has no adapter, the adapter cannot be merged exactly, or the output exists; nothing is
            written then.
    """
    import torch
    from transformers import AutoConfig

    from ...training.config.recipe import RECIPE
    from ...training.models.adapters import load_adapter
    from ...training.models.loading import load_tokenizer
    from ...training.sharing.model_card import DATA

    if not (Path(adapter) / "adapter_config.json").is_file():
        raise UserError(f"There is no adapter in {adapter} (no adapter_config.json): give the folder of an adapter.")
    if output.exists():
        raise UserError(f"`OUT`: {output} already exists: choose another folder.")
    with user_errors():
        model = load_adapter(adapter).eval()
        tokenizer = load_tokenizer(adapter)
        base = model.active_peft_config.base_model_name_or_path
        dtype = AutoConfig.from_pretrained(base).dtype or torch.float32
    ids = torch.randint(model.config.vocab_size, (2, 16), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = model(ids).logits
        try:
            merged = model.merge_and_unload(safe_merge=True)
        except (ValueError, NotImplementedError) as error:
            raise UserError(f"The adapter in {adapter} cannot be merged: {error}") from error
        after = merged(ids).logits
    difference = float((after - before).abs().max() / before.abs().max())
    if not difference <= _TOLERANCE:
        raise UserError(
            f"The adapter in {adapter} cannot be merged exactly (logits change by {difference:.1e} of the largest): use it "
            "unmerged."
        )
    with user_errors(), new_folder(output) as whole:
        merged.to(dtype).save_pretrained(whole)
        tokenizer.save_pretrained(whole)
        for name in (RECIPE, DATA):
            if (Path(adapter) / name).is_file():
                shutil.copy(Path(adapter) / name, whole)
    return difference
