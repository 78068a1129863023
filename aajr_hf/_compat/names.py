"""
Names of other libraries that the package uses although they are private or undocumented. A new release may move any of
them. `tests/compat/test_names.py` reports the names that have moved, and private names that are missing in this table.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Name:
    """
    Attributes:
        owner: Dotted path of the module or class that has the name.
        name: The name. In a class, it may be an attribute that only instances have.
        why: Why it is needed, in words that follow "needs it".
        files: Files of the package that need it.
        parameters: Its parameters except `self`, in order, if the package passes them in a call or accepts them in an
            override. None if it is not a function, or if nothing depends on its parameters.
    """

    owner: str
    name: str
    why: str
    files: tuple[str, ...]
    parameters: tuple[str, ...] | None = None


_BASE, _SFT, _DPO, _GRPO, _LOSS = (
    f"training/trainers/{name}.py" for name in ("base", "sft", "dpo", "grpo", "trl_loss")
)
_NUISANCE = "training/trainers/nuisance.py"
_CHECKPOINTS, _EMA, _FINITE, _ROLLBACK = (
    f"training/runs/{name}.py" for name in ("checkpoints", "ema", "nonfinite", "rollback")
)
_HUB, _PARSING, _LAUNCH = "training/sharing/hub.py", "cli/arguments/parsing.py", "cli/launching/launch.py"
_OPTIONS = "cli/arguments/options.py"
_READY, _EXACT_JSON = "training/policy/forward_mode.py", "training/data/exact_json.py"
_FUNCTORCH, _TRL = "_compat/functorch.py", "_compat/trl.py"


def _of(owner: str, *rows: tuple) -> tuple[Name, ...]:
    """Table rows of one owner, each with the name, the reason, the files and, if they matter, the parameters."""
    return tuple(Name(owner, name, why, *rest) for name, why, *rest in rows)


_TRAINER = _of(
    "transformers.Trainer",
    ("_get_grad_norm", "to see the gradient's norm before the step", (_BASE, _FINITE), ("model", "grad_norm")),
    ("_get_output_dir", "to know the folder of a checkpoint", (_CHECKPOINTS,), ("trial",)),
    ("_save_checkpoint", "to mark a checkpoint until it is complete", (_CHECKPOINTS,), ("model", "trial")),
    ("_save", "to write further files beside the weights", (_CHECKPOINTS, _HUB), ("output_dir", "state_dict")),
    ("_push_from_checkpoint", "to upload only complete checkpoints", (_CHECKPOINTS, _HUB), ("checkpoint_folder",)),
    ("_finish_current_push", "to report uploads that failed", (_HUB,), ()),
    ("_run_epoch", "to take no further step when a finished run is resumed", (_CHECKPOINTS,)),
    ("_load_best_model", "to load the average together with the best checkpoint", (_EMA,), ()),
    ("_save_optimizer_and_scheduler", "to save more in a checkpoint", (_EMA, _ROLLBACK, _NUISANCE), ("output_dir",)),
    ("_load_optimizer_and_scheduler", "to read more from a checkpoint", (_EMA, _ROLLBACK, _NUISANCE), ("checkpoint",)),
    ("_set_signature_columns_if_needed", "to keep the adversary's columns of the data", (_BASE,), ()),
    ("_signature_columns", "to keep the adversary's columns of the data", (_BASE,)),
    (
        "_prepare_inputs",
        "to move a batch to the device outside a training step",
        ("evaluation/adapter_rank/measure.py",),
        ("inputs",),
    ),
    (
        "save_model",
        "to save without an upload (`_internal_call`)",
        (_CHECKPOINTS, _EMA, _FINITE, _HUB),
        ("output_dir", "_internal_call"),
    ),
    ("get_tp_size", "to count tokens and divide losses as TRL does", (_SFT, _TRL), ()),
    (
        "current_gradient_accumulation_steps",
        "to divide a mean over examples by the accumulation steps",
        (_BASE, _GRPO, "training/trainers/replay.py"),
    ),
    ("push_in_progress", "to see which uploads have failed", (_HUB,)),
)
_TRANSFORMERS = (
    *_of(
        "transformers.TrainingArguments",
        ("_n_gpu", "to train a surrogate only on the agent's device", ("evaluation/attacks/surrogate.py",)),
    ),
    *_of(
        "transformers.PreTrainedConfig",
        ("_experts_implementation", "to compute experts one by one under forward mode", (_READY,)),
    ),
    *_of(
        "transformers.PreTrainedModel",
        ("_gradient_checkpointing_func", "to checkpoint layers by a function that supports forward mode", (_READY,)),
    ),
)
_TRL_NAMES = (
    *_of(
        "trl.SFTTrainer",
        ("_metrics", "to log the adversary's metrics with TRL's", (_TRL,)),
        ("_total_train_tokens", "to count tokens as TRL does", (_TRL,)),
        ("_is_vision_dataset", "to refuse images", (_SFT,)),
        (
            "_prepare_dataset",
            "to read the rows and add the adversary's columns before TRL tokenizes, and to pack afterwards",
            (_SFT,),
            ("dataset", "processing_class", "args", "packing", "formatting_func", "dataset_name"),
        ),
        ("_tag_names", "to tag uploaded models", (_SFT,)),
        ("_name", "to name the trainer", (_BASE,)),
        ("_paper", "to cite the paper", (_BASE,)),
        ("padding_free", "to test whether the model separates documents in one row", (_SFT,)),
        ("chat_template", "to find observations in the text that TRL renders", (_SFT,)),
        ("completion_only_loss", "to know whether TRL trains on completions alone", (_SFT,)),
        ("aux_loss_enabled", "to add the router's loss", (_BASE,)),
        ("router_aux_loss_coef", "to weight the router's loss", (_BASE,)),
    ),
    *_of(
        "trl.DPOTrainer",
        ("_metrics", "to record TRL's metrics once when a loss is evaluated more than once", (_TRL,)),
        ("_total_train_tokens", "to count tokens once", (_TRL,)),
        (
            "_prepare_dataset",
            "to read the rows, and to refuse pairs without tokens",
            (_DPO,),
            ("dataset", "processing_class", "args", "dataset_name"),
        ),
        ("_tag_names", "to tag uploaded models", (_DPO,)),
        ("precompute_ref_logps", "to give TRL's loss the reference's log-probabilities at the clean prompts", (_DPO,)),
        (
            "compute_ref_log_probs",
            "to compute the reference's log-probabilities at the clean prompts",
            (_DPO,),
            ("model", "inputs"),
        ),
        ("beta", "to compute TRL's loss of one pair", (_DPO,)),
        ("aux_loss_enabled", "to refuse a router's loss", (_LOSS,)),
    ),
    *_of(
        "trl.GRPOTrainer",
        ("_metrics", "to record TRL's metrics once when a loss is evaluated more than once", (_TRL,)),
        ("_total_train_tokens", "to count tokens once", (_TRL,)),
        ("_tag_names", "to tag uploaded models", (_GRPO,)),
        ("chat_template", "to read prompts as TRL renders them", (_GRPO,)),
        ("chat_template_kwargs", "to read prompts as TRL renders them", (_GRPO,)),
        *(
            (name, "to compute TRL's loss of one completion", (_GRPO,))
            for name in ("beta", "temperature", "epsilon_low", "epsilon_high", "loss_type", "max_completion_length")
        ),
        *(
            (name, "to refuse completions that the agent did not write alone", (_GRPO,))
            for name in ("tools", "environment_factories", "rollout_func")
        ),
        ("aux_loss_enabled", "to refuse a router's loss", (_LOSS,)),
    ),
    *_of(
        "trl.trainer.utils.FusedCausalLMOutput",
        *(
            (name, "to return the same fields to TRL's losses as their fused head", (_LOSS,))
            for name in ("log_probs", "entropy", "mean_logits", "is_top1", "aux_loss")
        ),
    ),
    *_of(
        "trl.data_utils",
        (
            "common_prefix_length",
            "to split prompts and completions as TRL does",
            ("training/data/collation.py", "evaluation/generation.py"),
        ),
    ),
    *_of(
        "trl.trainer.sft_trainer",
        ("DataCollatorForLanguageModeling", "to pad as TRL does", ("training/data/collation.py",)),
    ),
    *_of(
        "trl.TrlParser",
        ("_add_dataclass_arguments", "to group the options of the help by class", (_PARSING,), ("dtype",)),
        ("_parse_dataclass_field", "to add the option of one field", (_PARSING,), ("parser", "field")),
    ),
)
_PEFT = (
    *_of(
        "peft.tuners.lokr.layer",
        (
            "factorization",
            "to know the rank of a Kronecker product",
            ("training/models/adapters.py",),
            ("dimension", "factor"),
        ),
    ),
    *_of(
        "peft.tuners.tuners_utils",
        (
            "check_target_module_exists",
            "to know which layers get an adapter",
            ("training/models/adapters.py",),
            ("config", "key"),
        ),
    ),
)
_ACCELERATE = (
    *_of(
        "accelerate.state.AcceleratorState",
        ("__init__", "to offer FSDP to processes on a CPU", ("_compat/accelerate.py",)),
    ),
    *_of(
        "accelerate.state.PartialState",
        ("_shared_state", "to tell all of Accelerate that FSDP is used", ("_compat/accelerate.py",)),
    ),
)
_DATASETS = tuple(
    Name(f"datasets.{module}", name, "to write and read JSON without rounding", (_EXACT_JSON,), None)
    for module, names in {
        "utils.json": ("ujson_dumps", "ujson_loads"),
        "features.features": ("ujson_dumps", "ujson_loads"),
        "arrow_writer": ("ujson_dumps",),
        "packaged_modules.json.json": ("ujson_dumps", "ujson_loads"),
    }.items()
    for name in names
)
_TORCH = (
    *_of(
        "torch._C._functorch",
        *(
            (name, "to split the dual tensors of a running jvp and join them again", (_FUNCTORCH,))
            for name in ("_unwrap_for_grad", "_wrap_for_grad", "is_gradtrackingtensor", "maybe_get_level")
        ),
        ("peek_interpreter_stack", "to see whether a jvp is running", (_FUNCTORCH,)),
    ),
    *_of(
        "torch._functorch.pyfunctorch",
        ("retrieve_current_functorch_interpreter", "to know the level of the running jvp", (_FUNCTORCH,), ()),
        ("temporarily_pop_interpreter_stack", "to leave the running jvp for a while", (_FUNCTORCH,), ()),
    ),
    *_of(
        "torch.utils._pytree",
        ("tree_flatten", "to find the tensors among a layer's arguments", (_FUNCTORCH,)),
        ("tree_unflatten", "to put a layer's arguments together again", (_FUNCTORCH,)),
    ),
    *_of(
        "torch.nn.Module",
        ("_forward_hooks", "to remove the hooks that forward mode does not support", (_READY,)),
    ),
)
_ARGPARSE = (
    *_of(
        "argparse.ArgumentParser",
        ("_actions", "to know the fields that a recipe may have", (_PARSING,)),
        ("_option_string_actions", "to know the options of a command", (_PARSING, _LAUNCH)),
        ("_action_groups", "to hide the options of other libraries from the help", (_PARSING,)),
    ),
    *_of("argparse", ("_ArgumentGroup", "to name the type of a group", (_PARSING,))),
    *_of(
        "argparse.HelpFormatter",
        ("_get_help_string", "to show the defaults that a help text does not mention", (_OPTIONS,), ("action",)),
        (
            "_format_action_invocation",
            "to format an option's names and value alike in every Python version",
            (_OPTIONS,),
            ("action",),
        ),
        ("_format_args", "to format an option's names and value alike in every Python version", (_OPTIONS,)),
        (
            "_get_default_metavar_for_optional",
            "to format an option's names and value alike in every Python version",
            (_OPTIONS,),
            ("action",),
        ),
    ),
)

NAMES: tuple[Name, ...] = (
    *_TRAINER,
    *_TRANSFORMERS,
    *_TRL_NAMES,
    *_PEFT,
    *_ACCELERATE,
    *_DATASETS,
    *_TORCH,
    *_ARGPARSE,
)
