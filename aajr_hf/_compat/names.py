"""
What other libraries do not promise, and the package relies on all the same: private names, and public ones that no documentation
mentions. A release may move any of them. `tests/compat/test_names.py` says which it moved, and finds private names that are
missing here.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Name:
    """
    Attributes:
        owner: Dotted path of the module or class that has the name.
        name: The name; of a class also one that only its instances have.
        why: What it is needed for, after "needs it".
        files: Which files of the package need it.
        parameters: What it takes beside `self`, in this order: a call of ours passes it, or an override of ours must accept it.
            None where it is no function, or where nothing depends on that.
    """

    owner: str
    name: str
    why: str
    files: tuple[str, ...]
    parameters: tuple[str, ...] | None = None


_BASE, _SFT, _DPO, _GRPO, _LOSS = (
    f"training/trainers/{name}.py" for name in ("base", "sft", "dpo", "grpo", "trl_loss")
)
_CHECKPOINTS, _EMA, _FINITE = (f"training/runs/{name}.py" for name in ("checkpoints", "ema", "nonfinite"))
_HUB, _PARSING, _LAUNCH = "training/sharing/hub.py", "cli/arguments/parsing.py", "cli/launching/launch.py"
_OPTIONS = "cli/arguments/options.py"
_READY, _EXACT_JSON = "training/policy/forward_mode.py", "training/data/exact_json.py"
_FUNCTORCH, _TRL = "_compat/functorch.py", "_compat/trl.py"


def _of(owner: str, *rows: tuple) -> tuple[Name, ...]:
    """Rows of one owner: the name, why, the files, and the parameters where they matter."""
    return tuple(Name(owner, name, why, *rest) for name, why, *rest in rows)


_TRAINER = _of(
    "transformers.Trainer",
    ("_get_grad_norm", "to see the gradient's norm before the step", (_BASE, _FINITE), ("model", "grad_norm")),
    ("_get_output_dir", "to know where a checkpoint will lie", (_CHECKPOINTS,), ("trial",)),
    ("_save_checkpoint", "to mark a checkpoint until it is complete", (_CHECKPOINTS,), ("model", "trial")),
    ("_save", "to write what lies beside the weights", (_CHECKPOINTS, _HUB), ("output_dir", "state_dict")),
    ("_push_from_checkpoint", "to upload complete checkpoints alone", (_CHECKPOINTS, _HUB), ("checkpoint_folder",)),
    ("_finish_current_push", "to report uploads that failed", (_HUB,), ()),
    ("_run_epoch", "to take no step beyond the last when a finished run is resumed", (_CHECKPOINTS,)),
    ("_load_best_model", "to load the average of the best checkpoint with it", (_EMA,), ()),
    ("_save_optimizer_and_scheduler", "to save the average in a checkpoint", (_EMA,), ("output_dir",)),
    ("_load_optimizer_and_scheduler", "to read the average from a checkpoint", (_EMA,), ("checkpoint",)),
    ("_set_signature_columns_if_needed", "to keep the adversary's columns of the data", (_SFT,), ()),
    ("_signature_columns", "to keep the adversary's columns of the data", (_SFT,)),
    (
        "_prepare_inputs",
        "to bring a batch to the device without a step",
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
    ("current_gradient_accumulation_steps", "to divide a mean over examples", (_BASE, _GRPO)),
    ("push_in_progress", "to see which uploads have failed", (_HUB,)),
)
_TRANSFORMERS = (
    *_of(
        "transformers.TrainingArguments",
        ("_n_gpu", "to train a surrogate on the agent's device alone", ("evaluation/attacks/surrogate.py",)),
    ),
    *_of(
        "transformers.PreTrainedConfig",
        ("_experts_implementation", "to compute experts one by one under forward mode", (_READY,)),
    ),
    *_of(
        "transformers.PreTrainedModel",
        ("_gradient_checkpointing_func", "to checkpoint layers by a function that forward mode passes", (_READY,)),
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
            "to add the adversary's columns before TRL makes tokens, and to pack afterwards",
            (_SFT,),
            ("dataset", "processing_class", "args", "packing", "formatting_func", "dataset_name"),
        ),
        ("_tag_names", "to tag what is uploaded", (_SFT,)),
        ("_name", "to name the trainer", (_BASE,)),
        ("_paper", "to cite the paper", (_BASE,)),
        ("padding_free", "to test whether documents of one row are apart", (_SFT,)),
        ("chat_template", "to find observations in what TRL renders", (_SFT,)),
        ("aux_loss_enabled", "to add the router's loss", (_BASE,)),
        ("router_aux_loss_coef", "to weigh the router's loss", (_BASE,)),
    ),
    *_of(
        "trl.DPOTrainer",
        ("_metrics", "to keep TRL's metrics of a loss that is evaluated more than once", (_TRL,)),
        ("_total_train_tokens", "to count tokens once", (_TRL,)),
        (
            "_prepare_dataset",
            "to refuse pairs without a token",
            (_DPO,),
            ("dataset", "processing_class", "args", "dataset_name"),
        ),
        ("_tag_names", "to tag what is uploaded", (_DPO,)),
        ("precompute_ref_logps", "to give TRL's loss the reference of the clean prompts", (_DPO,)),
        ("compute_ref_log_probs", "to know the reference of the clean prompts", (_DPO,), ("model", "inputs")),
        ("beta", "to write TRL's loss of one pair", (_DPO,)),
        ("aux_loss_enabled", "to refuse a router's loss", (_LOSS,)),
    ),
    *_of(
        "trl.GRPOTrainer",
        ("_metrics", "to keep TRL's metrics of a loss that is evaluated more than once", (_TRL,)),
        ("_total_train_tokens", "to count tokens once", (_TRL,)),
        ("_tag_names", "to tag what is uploaded", (_GRPO,)),
        *(
            (name, "to write TRL's loss of one completion", (_GRPO,))
            for name in ("beta", "temperature", "epsilon_low", "epsilon_high", "loss_type", "max_completion_length")
        ),
        *(
            (name, "to refuse completions that are not the agent's alone", (_GRPO,))
            for name in ("tools", "environment_factories", "rollout_func")
        ),
        ("aux_loss_enabled", "to refuse a router's loss", (_LOSS,)),
    ),
    *_of(
        "trl.trainer.utils.FusedCausalLMOutput",
        *(
            (name, "to give TRL's losses what their fused head would", (_LOSS,))
            for name in ("log_probs", "entropy", "mean_logits", "is_top1", "aux_loss")
        ),
    ),
    *_of(
        "trl.data_utils",
        ("common_prefix_length", "to part prompts from completions as TRL does", ("training/data/collation.py",)),
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
            "to know which layers an adapter will stand on",
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
            (name, "to take the dual tensors of a running jvp apart and join them again", (_FUNCTORCH,))
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
        ("_forward_hooks", "to leave out the hooks that forward mode does not pass", (_READY,)),
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
        ("_get_help_string", "to tell the defaults that a help does not", (_OPTIONS,), ("action",)),
        (
            "_format_action_invocation",
            "to write an option's names and value as in every Python",
            (_OPTIONS,),
            ("action",),
        ),
        ("_format_args", "to write an option's names and value as in every Python", (_OPTIONS,)),
        (
            "_get_default_metavar_for_optional",
            "to write an option's names and value as in every Python",
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
