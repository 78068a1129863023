"""Former names of fields, and what stands in a recipe today, for the answer to an unknown key."""

from __future__ import annotations

# Former name -> what to write today. Names of Transformers before 5, of TRL before 1, and of arguments in Python.
_RENAMED = {
    "warmup_ratio": "`warmup_steps` (below 1 it is a share of all steps)",
    "torch_dtype": "`dtype`",
    "evaluation_strategy": "`eval_strategy`",
    "max_seq_length": "`max_length`",
    "max_seq_len": "`max_length`",
    "model_max_length": "`max_length`",
    "no_cuda": "`use_cpu`",
    "per_gpu_train_batch_size": "`per_device_train_batch_size`",
    "per_gpu_eval_batch_size": "`per_device_eval_batch_size`",
    "overwrite_output_dir": "`overwrite`",
    "group_by_length": "`train_sampling_strategy`: group_by_length",
    "adafactor": "`optim`: adafactor",
    "push_to_hub_model_id": "`hub_model_id`",
    "push_to_hub_organization": "`hub_model_id`: ORGANIZATION/NAME",
    "push_to_hub_token": "`hub_token`",
    "include_inputs_for_metrics": "`include_for_metrics`",
    "include_tokens_per_second": "`include_num_input_tokens_seen`",
    "xpu_backend": "`ddp_backend`",
    "torchdynamo": "`torch_compile_backend`",
    "fsdp_min_num_params": "`fsdp_config`: {min_num_params: N}",
    "fsdp_transformer_layer_cls_to_wrap": "`fsdp_config`: {transformer_layer_cls_to_wrap: [NAME]}",
    "dispatch_batches": "`accelerator_config`: {dispatch_batches: true}",
    "split_batches": "`accelerator_config`: {split_batches: true}",
    "half_precision_backend": "`bf16` or `fp16` alone",
    "fp16_backend": "`bf16` or `fp16` alone",
    "use_liger": "`use_liger_kernel`",
    "skip_prepare_dataset": "`dataset_kwargs`: {skip_prepare_dataset: true}",
    "model": "`model_name_or_path`",
    "model_name": "`model_name_or_path`",
    "processing_class": "`model_name_or_path` (the tokenizer is in the model's folder)",
    "tokenizer": "`model_name_or_path` (the tokenizer is in the model's folder)",
    "tokenizer_name": "`model_name_or_path` (the tokenizer is in the model's folder)",
    "tokenizer_name_or_path": "`model_name_or_path` (the tokenizer is in the model's folder)",
    "dataset": "`dataset_name`",
    "dataset_path": "`dataset_name`",
    "train_file": "`dataset_name`",
    "lora_rank": "`adapter_rank` (or TRL's `lora_r`)",
    "rank": "`adapter_rank`",
    "lr": "`learning_rate`",
    "batch_size": "`per_device_train_batch_size`",
    "epochs": "`num_train_epochs`",
}
# Names that were removed without a successor -> what to know instead; empty if there is nothing.
_REMOVED = {
    "save_safetensors": "weights are always saved as safetensors",
    "logging_dir": "TensorBoard's folder is the variable TENSORBOARD_LOGGING_DIR (see `env`)",
    "use_mps_device": "the device is found",
    "tpu_num_cores": "",
    "tpu_metrics_debug": "",
    "sharded_ddp": "see `accelerate_config`: fsdp2",
    "fp16_opt_level": "",
    "past_index": "",
    "ray_scope": "",
    "mp_parameters": "",
    "jit_mode_eval": "",
    "use_ipex": "",
    "max_prompt_length": "see `max_length`",
    "dataset_batch_size": "",
    "num_of_sequences": "",
    "chars_per_token": "",
    "label_pad_token_id": "",
    "padding_value": "",
}


def today(name: str) -> str | None:
    """What replaces a field's former name, as a sentence without its full stop; None if it is not a former name."""
    name = name.replace("-", "_")
    if name in _RENAMED:
        return f"set {_RENAMED[name]} instead"
    if name in _REMOVED:
        return ": ".join(filter(None, ["Transformers or TRL has removed it", _REMOVED[name]]))
    return None
