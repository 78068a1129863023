"""Checks and preparations of a trainer with an adversary, before the first step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from accelerate.utils import is_peft_model
from datasets import IterableDataset
from torch import nn
from transformers import logging

from ..adversary.budget import AmplificationBudget
from ..adversary.estimators import no_forward_mode
from ..adversary.penalty_scale import PenaltyScale
from ..adversary.schedules import Schedules
from ..config.base import AAJRConfigMixin
from ..config.late_settings import check_machine, check_settings
from ..data.cuts import Cut, counted
from ..data.lengths import check_lengths
from ..data.row_reader import read_dataset
from ..data.streams import StreamCount, StreamTotals
from ..data.template import Template
from ..models.adapter_trial import check_adapter
from ..models.adapters import adapter_config, check_other_modules, skeleton_of
from ..models.embeddings import embedding_shape, position_limit
from ..models.loading import text_tokenizer
from ..models.saved_adapters import adapter_folder, load_to_train_on, why_other_weights
from ..policy.policy import check_text_only, uses_dropout
from ..runs.balance import LossBalance
from ..runs.checkpoints import newest_checkpoint
from ..runs.state import Memory
from ..runs.step_metrics import StepMetrics

logger = logging.get_logger(__name__)


class PreparationMixin:
    """
    Mixin for a TRL trainer with an [`AAJRConfigMixin`]: the code before ([`_resolved`]) and after ([`_set_up`]) TRL's
    `__init__`.
    """

    _config_class: type[AAJRConfigMixin]
    # The `model_init_kwargs` with which the base model of a saved adapter was loaded.
    _used_init_kwargs: dict[str, Any] | None = None

    # Set by [`_set_up`].
    # Of the Jacobian products; None without a penalty.
    estimator: str | None
    # Whether exact products work with this model, even if they are not used.
    _exact_is_valid: bool
    # What a resumed run needs beside Trainer's own state.
    memory: Memory
    schedules: Schedules
    # Of the amplification; None without one.
    budget: AmplificationBudget | None
    # The unit of a relative lambda; None with an absolute one.
    penalty_scale: PenaltyScale | None
    # Added to the seeds of the draws, so that each process draws other ones.
    draw_offset: int
    # Whether the model uses dropout, whose masks depend on the batch.
    _dropout: bool
    _step_metrics: StepMetrics
    # Warns if one term of the loss is far larger than another.
    _balance: LossBalance
    # Whether invalid rows of the data are left out; otherwise they are an error.
    _skip_invalid_rows: bool
    # Number of rows of the training data that were left out because they are invalid; of a stream, they are counted in
    # `streams`.
    skipped_rows: int = 0
    # Number of the first row of the data, for messages.
    _first_row: int = 0
    # What `max_length` cuts off each dataset, by its name.
    cuts: dict[str, Cut]
    # What happens to the rows of each streamed dataset, by its name.
    streams: dict[str, StreamCount]
    # Whether the gradients of several processes have not been compared yet.
    _norms_unchecked: bool

    def _resolved(
        self, model: str | nn.Module, args: AAJRConfigMixin | None, kwargs: dict[str, Any]
    ) -> tuple[str | nn.Module, AAJRConfigMixin, dict[str, Any]]:
        """
        Return the arguments for TRL's `__init__`: the model, which is loaded already if its name is that of an
        adapter; `args` or its defaults; and `kwargs` with the adapter that `args` names.
        """
        if args is None:
            name = model if isinstance(model, str) else model.config.name_or_path
            args = self._config_class(f"{name.rstrip('/').split('/')[-1]}-AAJR")
        if not isinstance(args, self._config_class):
            raise TypeError(f"`args` must be an {self._config_class.__name__}, got {type(args).__name__}.")
        check_settings(args)
        check_machine(args)
        self.cuts, self.streams = {}, {}
        revision = (args.model_init_kwargs or {}).get("revision")
        if isinstance(model, str) and adapter_folder(model, revision) is not None:
            return self._saved(model, args, kwargs), args, kwargs
        peft_config, given = adapter_config(args, model), kwargs.get("peft_config")
        if peft_config is None:
            if given is not None and isinstance(model, str):
                fields, skeleton = (
                    "The fields of `peft_config` (with aajr train, `lora_...`)",
                    skeleton_of(model, args),
                )
                check_other_modules(given.to_dict(), skeleton, fields)
                check_adapter(given, skeleton, f"{fields} and the model")
            return model, args, kwargs
        if given is not None:
            raise ValueError("Give either `adapter` or `peft_config`, not both.")
        return model, args, kwargs | {"peft_config": peft_config}

    def _saved(self, name: str, args: AAJRConfigMixin, kwargs: dict[str, Any]) -> nn.Module:
        """Load a saved adapter, to go on training it. Takes the quantization of its base out of `kwargs`."""
        if kwargs.get("peft_config") is not None:
            raise ValueError(
                f"`peft_config` (with aajr train, `use_peft`) adds an adapter, but the model {name} is an adapter: "
                "leave it out to go on training that one, or write that one into its base model with `aajr merge`."
            )
        quantization = kwargs.pop("quantization_config", None)
        model = load_to_train_on(name, args, **({"quantization_config": quantization} if quantization else {}))
        base = model.active_peft_config.base_model_name_or_path
        if args.process_index == 0:
            logger.info(f"Training goes on with the adapter {name}, on the base model {base}.")
        # TRL would warn that they are ignored.
        self._used_init_kwargs, args.model_init_kwargs = args.model_init_kwargs, None
        return model

    def train(self, resume_from_checkpoint: str | bool | None = None, *args, **kwargs):
        """
        Train as [`~transformers.Trainer.train`] does.

        Raises:
            ValueError: if the checkpoint is of another model or adapter, see [`check_checkpoint`].
        """
        self.check_checkpoint(resume_from_checkpoint)
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def check_checkpoint(self, checkpoint: str | bool | None) -> None:
        """
        Refuse a checkpoint with other weights than the model's, by their names and shapes, before it is loaded.

        Raises:
            ValueError: if the weights differ; names the fields of the adapter.
        """
        if checkpoint is True:
            checkpoint = newest_checkpoint(self.args.output_dir)
        if not checkpoint or self.is_deepspeed_enabled or self.is_fsdp_enabled:
            return
        reason = why_other_weights(self.model, Path(checkpoint))
        if reason is not None:
            raise ValueError(
                f"`resume_from_checkpoint`: {checkpoint} does not fit this run: {reason}. Give the model, the `adapter`, "
                "the `adapter_rank` and the `adapter_options` of the run that wrote it."
            )

    def _set_up(self) -> None:
        """Check that model, data and arguments fit together, and prepare training. Called after TRL's `__init__`."""
        args = self.args
        if self._used_init_kwargs is not None:
            args.model_init_kwargs = self._used_init_kwargs
        if args.eval_on_start and self.eval_dataset is None:
            raise ValueError("`eval_on_start` needs an `eval_dataset`: give one, or set `eval_on_start` to false.")
        self._check_vocabulary()
        self._check_lengths()
        self._dropout = uses_dropout(self.model)
        if args.on_nonfinite == "skip" and self.is_deepspeed_enabled:
            raise ValueError(
                "`on_nonfinite` cannot be skip with DeepSpeed, which takes its steps itself: set it to stop."
            )
        if args.is_active:
            self._check_support()
        if args.freeze_embeddings:
            self._freeze_embeddings()
        self._begin_average()
        self.estimator, self._exact_is_valid = self._choose_estimator() if args.penalty_active else (None, False)
        self.memory = Memory(type(self).__name__, lambda: self.state)
        self.schedules = Schedules(args, lambda: self.state, self.memory)
        self.add_callback(self.schedules)
        self.budget = None
        if args.penalty_active and args.amplification_budget is not None:
            self.budget = AmplificationBudget(
                args.amplification_budget,
                args.regularizer_lambda,
                self.memory,
                may_grow=lambda: self.schedules.lambda_fraction == 1,
            )
            self.add_callback(self.budget)
        self.penalty_scale = PenaltyScale(self.memory) if args.lambda_mode == "relative" else None
        self._begin_rollback()
        self._begin_overfitting_watch()
        self._step_metrics = StepMetrics()
        self._balance = LossBalance(args.radius_field, args.adversarial_loss_weight)
        self._norms_unchecked = True
        if "train" in self.streams:
            self.add_callback(StreamTotals(self.streams["train"], self.accelerator))
        self.draw_offset = self.accelerator.process_index

    def _read_rows(self, dataset, template: Template, args: AAJRConfigMixin, name: str, **settings):
        """The rows of a dataset as [`read_dataset`] returns them; invalid ones of the data `train` are counted."""
        with args.main_process_first(desc=f"reading {name} dataset"):
            dataset, count = read_dataset(
                dataset,
                template,
                name=name,
                skip_invalid_rows=self._skip_invalid_rows,
                num_proc=getattr(args, "dataset_num_proc", None),
                first=self._first_row,
                stream=self._stream(dataset, name),
                **settings,
            )
        if name == "train":
            self.skipped_rows += count.invalid
        return dataset

    def _with_cuts(self, dataset, args: AAJRConfigMixin, name: str, drops: bool = True):
        """
        Count and report what `max_length` cuts off prepared examples. Return the dataset; the examples of a stream are
        counted while they are read.

        Args:
            drops: Whether examples of which nothing is left are dropped.
        """
        if (stream := self._stream(dataset, name)) is not None:
            return counted(dataset, args.max_length, args.truncation_mode, stream)
        cut = self.cuts[name] = Cut.of(dataset, args.max_length, args.truncation_mode)
        if not drops:
            cut.dropped.clear()
        cut.warn(name, self._first_row)
        return dataset

    def _stream(self, dataset, name: str) -> StreamCount | None:
        """What counts the rows of a streamed dataset."""
        if not isinstance(dataset, IterableDataset):
            return None
        return self.streams.setdefault(name, StreamCount(name))

    def _check_support(self) -> None:
        """Raise ValueError if the model or the setup cannot be trained with an adversary or a penalty."""
        check_text_only(self.model)
        if is_peft_model(self.model) and self.model.active_peft_config.is_prompt_learning:
            raise ValueError(
                "Adapters that learn a prompt replace the embeddings that AAJR perturbs: set `adapter` to lora instead."
            )
        plugin = getattr(self.accelerator.state, "fsdp_plugin", None)
        if plugin is not None and plugin.fsdp_version != 2:
            raise ValueError(
                "AAJR supports only version 2 of FSDP: set `fsdp_version` to 2 in the Accelerate configuration."
            )
        if self.args.ascent_step_size == "auto" and (plugin is not None or self.is_deepspeed_enabled):
            raise ValueError(
                "`ascent_step_size=auto` evaluates the model a different number of times in each process, but "
                "processes that share parameters need equal numbers: set it to a number, or train without FSDP and "
                "DeepSpeed."
            )
        if self.args.penalty_fraction < 1 and self._dropout:
            raise ValueError(
                "`penalty_fraction` below 1 needs a model without dropout, because dropout masks depend on the batch: "
                "set it to 1, or set the model's dropout (and `lora_dropout`) to 0."
            )

    def _check_vocabulary(self) -> None:
        largest = max(text_tokenizer(self.processing_class).get_vocab().values(), default=0)
        rows, _ = embedding_shape(self.model)
        if largest >= rows:
            raise ValueError(
                f"The tokenizer does not match the model: the tokenizer has tokens up to {largest}, but the model has "
                f"only {rows} embeddings."
            )

    def _check_lengths(self) -> None:
        limit, is_fixed = position_limit(self.model)
        # Every process refuses, but one is enough to warn.
        if limit is None or not (is_fixed or self.accelerator.is_main_process):
            return
        self.train_dataset = self._compared(self.train_dataset, limit, is_fixed, "training")
        held_out = self.eval_dataset if isinstance(self.eval_dataset, dict) else {"evaluation": self.eval_dataset}
        for name, dataset in held_out.items():
            if dataset is not None:
                self._compared(dataset, limit, is_fixed, name)

    def _compared(self, dataset, limit: int, is_fixed: bool, what: str):
        """Compare the lengths of a dataset's examples with the model's number of positions, and return the dataset."""
        return check_lengths(dataset, limit, is_fixed, self.args.max_length, what)

    def _freeze_embeddings(self) -> None:
        embedding = self.model.get_input_embeddings()
        own = [
            name for name, parameter in embedding.named_parameters() if parameter.requires_grad and name != "weight"
        ]
        embedding.requires_grad_(False)
        if own and self.accelerator.is_main_process:
            logger.warning("`freeze_embeddings` is true, so the adapter of the embeddings is not trained either.")

    def _choose_estimator(self) -> tuple[str, bool]:
        """
        Return the estimator of the Jacobian products, and whether the exact one is valid. The estimator is the
        configured one, or with `auto` the exact one if it is valid.
        """
        wanted = self.args.jacobian_estimator
        reason = no_forward_mode(self.model, self.accelerator, self.compute_loss_context_manager)
        if wanted == "jvp" and reason is not None:
            raise ValueError(
                f"`jacobian_estimator=jvp` does not work here: set it to auto or finite_difference. Reason: {reason}."
            )
        if wanted == "finite_difference" or reason is not None:
            why = (
                f"torch.func.jvp fails: {reason}"
                if wanted == "auto"
                else "because `jacobian_estimator` is finite_difference"
            )
            self._announce("The Jacobian is estimated by central finite differences", why, logging.WARNING)
            return "finite_difference", reason is None
        self._announce("The Jacobian products are exact", "torch.func.jvp works with this model", logging.INFO)
        return "jvp", True

    def _announce(self, choice: str, why: str, level: int) -> None:
        if self.accelerator.is_main_process:
            logger.log(level, f"{choice} ({why}).")
