"""`aajr inspect`: show one training example as the adversary and the loss see it."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ...training.config.sft import AAJRConfig
from ...training.config.without_effects import WITHOUT_EFFECTS
from ...training.data.sources import load_data
from ..arguments.model_and_data import COMMON_FIELDS, TrainArguments
from ..arguments.parsing import RecipeParser, options_of
from ..arguments.trainers import trainer_named
from ..arguments.validators import check_model_given
from ..common.errors import UserError, user_errors
from ..launching.launch import LaunchArguments

if TYPE_CHECKING:
    from rich.console import Console
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from ...training.data.cuts import Cut

DESCRIPTION = """Print one training example of a recipe, each token coloured by what it is to training: perturbed by the adversary,
action (what the loss asks for), both, or neither. Only the tokenizer of the model is loaded.

    aajr inspect --config recipes/congestion/aajr.yaml
    aajr inspect --config recipes/congestion/aajr.yaml --perturbed_tokens observation --example 3
"""
_STYLES = {"perturbed": "black on yellow", "action": "black on green", "both": "black on magenta", "neither": "dim"}
# Settings that avoid special hardware without changing tokens, and keep each row one example.
_FOR_TOKENS = {
    "use_cpu": True,
    "bf16": False,
    "fp16": False,
    "packing": False,
    "padding_free": False,
    "optim": "adamw_torch",
    "use_liger_kernel": False,
    "activation_offloading": False,
}


@dataclass
class InspectArguments:
    """The example to show."""

    _argument_group_name = "what is shown"

    example: int = field(default=0, metadata={"help": "Row of the data, counted from 0."})


def run(argv: list[str]) -> int:
    from rich.console import Console

    if trainer_named(argv) != "sft":
        raise UserError("`trainer` must be sft here: the tokens of pairs cannot be shown.")
    parser = RecipeParser(
        (InspectArguments, TrainArguments, LaunchArguments, AAJRConfig),
        common=COMMON_FIELDS,
        prog="aajr inspect",
        usage="aajr inspect --config RECIPE [--example N] [--FIELD VALUE ...]",
        description=DESCRIPTION,
    )
    argv = parser.check(argv)
    with tempfile.TemporaryDirectory() as folder:  # so that nothing is written to the folder of the run
        fixed = WITHOUT_EFFECTS | _FOR_TOKENS | {"output_dir": folder}
        shown, arguments, _, config = parser.parse([*argv, *options_of(fixed)])
        check_model_given(arguments.model_name_or_path)
        with user_errors():
            tokenizer, inputs, cut = _prepared(arguments, config, shown.example)
            show(Console(), tokenizer, inputs, config, shown.example, cut)
    return 0


def _prepared(arguments: TrainArguments, config: AAJRConfig, example: int) -> tuple:
    """
    Return the tokenizer, the collated example, made by the usual trainer with a tiny model, and what `max_length` cuts
    off it.
    """
    from datasets import disable_progress_bars
    from transformers import LlamaConfig, LlamaForCausalLM

    from ...training.models.loading import load_tokenizer
    from ...training.models.saved_adapters import tokenizer_place
    from ...training.trainers.sft import AAJRTrainer

    disable_progress_bars()
    data = load_data(arguments, config.dataset_text_field).read(arguments.dataset_train_split, "dataset_train_split")
    if not 0 <= example < len(data):
        raise UserError(f"`example` must be from 0 to {len(data) - 1}; got {example}.")
    place, revision = tokenizer_place(
        arguments.model_name_or_path, (config.model_init_kwargs or {}).get("revision", arguments.model_revision)
    )
    tokenizer = load_tokenizer(place, revision=revision, trust_remote_code=config.trust_remote_code)
    size = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    rows = max(tokenizer.get_vocab().values()) + 1
    size["max_position_embeddings"] = 10**9  # the model's own number is not known here
    model = LlamaForCausalLM(LlamaConfig(vocab_size=rows, bos_token_id=None, eos_token_id=None, **size))

    class OneRow(AAJRTrainer):
        _first_row = example

    trainer = OneRow(model, config, train_dataset=data.select([example]), processing_class=tokenizer)
    return tokenizer, trainer.data_collator([trainer.train_dataset[0]]), trainer.cuts["train"]


def show(
    console: Console,
    tokenizer: PreTrainedTokenizerBase,
    inputs: dict[str, Tensor],
    config: AAJRConfig,
    example: int,
    cut: Cut | None = None,
) -> None:
    """Print the example: in colours on a terminal, or else one line for each group of adjacent tokens of one kind."""
    from rich.text import Text

    ids, kinds = inputs["input_ids"][0].tolist(), token_kinds(inputs, config)
    runs: list[tuple[str, list[int]]] = []
    for token, kind in zip(ids, kinds, strict=True):
        if not runs or runs[-1][0] != kind:
            runs.append((kind, []))
        runs[-1][1].append(token)
    head = f"Example {example}, {len(ids)} tokens: {_counts(kinds)}. {_what(config)}{_lost(cut)}"
    console.print(head, markup=False, soft_wrap=True)
    if not console.is_terminal:
        for kind, tokens in runs:
            console.print(f"{kind:<10}{tokenizer.decode(tokens)!r}", markup=False, highlight=False, soft_wrap=True)
        return
    console.print(Text.assemble(*((f" {kind} ", style) for kind, style in _STYLES.items())), end="\n\n")
    console.print(Text.assemble(*((tokenizer.decode(tokens), _STYLES[kind]) for kind, tokens in runs)))


def token_kinds(inputs: dict[str, Tensor], config: AAJRConfig) -> list[str]:
    """Return `perturbed`, `action`, `both` or `neither` for each token of a collated example."""
    from ...training.data.batch import AgentBatch

    actions = (inputs["labels"][0] != -100).tolist()
    perturbed = [False] * len(actions)
    if config.epsilon > 0 or config.penalty_active:
        perturbed = AgentBatch.from_inputs(inputs, config.perturbed_tokens).perturbable[0].tolist()
    return [
        "both" if touched and acts else "perturbed" if touched else "action" if acts else "neither"
        for touched, acts in zip(perturbed, actions, strict=True)
    ]


def _counts(kinds: list[str]) -> str:
    """The numbers of tokens; a token that is perturbed and an action counts as each of them."""
    both = kinds.count("both")
    counts = [f"{kinds.count(kind) + both} {kind}" for kind in ("perturbed", "action")]
    return ", ".join([*counts, f"{kinds.count('neither')} neither", *([f"{both} of them both"] if both else [])])


def _lost(cut: Cut | None) -> str:
    """What `max_length` cuts off the example."""
    if cut is None or not cut.tokens:
        return ""
    return f" `max_length` = {cut.max_length} cuts off {cut.tokens} tokens, {cut.actions} of them action."


def _what(config: AAJRConfig) -> str:
    if config.epsilon == 0 and not config.penalty_active:
        return "The recipe has no adversary and no penalty."
    who = "The adversary perturbs" if config.epsilon > 0 else "`epsilon` is 0; the penalty uses directions in"
    return f"{who} the embeddings of `perturbed_tokens`: {config.perturbed_tokens}."
