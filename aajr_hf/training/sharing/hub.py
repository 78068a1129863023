"""Pushing to the Hub: an upload that the Hub refuses causes a warning and never ends the run."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError

from ..config.recipe import RECIPE, SFT_TRAINER, recipe_of
from .model_card import DATA, write_model_card

logger = logging.getLogger(__name__)

# Files that Trainer does not upload either: checkpoints, and names that begin with an underscore.
NOT_UPLOADED = ("_*", "checkpoint-*")


def refusal(error: BaseException) -> HfHubHTTPError | None:
    """The Hub's answer behind an error; None if there was no answer, for example after a broken connection."""
    while error is not None:
        if isinstance(error, HfHubHTTPError):
            return error
        error = error.__cause__
    return None


def hub_message(error: BaseException, *tokens: str | None) -> str:
    """An error of the Hub's client in one line, without the user's access token."""
    answer = refusal(error)
    cause = error.__cause__ or error
    text = " ".join(str(answer or cause).split()) or type(cause).__name__
    if answer is None and error is not cause:
        text = f"{' '.join(str(error).split())} {text}"
    text = re.sub(r" For more information check: \S+", "", text)
    for token in (*tokens, get_token()):
        text = text.replace(token, "***") if token else text
    return text[:300]


class HubMixin:
    """
    Mixin for a TRL trainer: an upload that the Hub refuses causes a warning, and training continues. The model card is
    this package's own, and the recipe of the run is saved beside the weights.
    """

    _recipe: dict[str, Any] | None = None
    _skipped_rows = 0
    _has_repo = False

    def describe_run(self, recipe: dict[str, Any], skipped_rows: int = 0) -> None:
        """
        Set what is written beside the weights and into the model card.

        Args:
            recipe: The recipe as the user wrote it; by default, the fields of the arguments that differ from their
                defaults.
            skipped_rows: Number of invalid rows of the training data that were left out.
        """
        self._recipe, self._skipped_rows = recipe, skipped_rows

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        try:
            super().init_hf_repo(token, private)
            self._has_repo = True
        except Exception as error:  # any error of the Hub or the network
            self.push_in_progress = None
            self.hub_model_id = self.args.hub_model_id or Path(self.args.output_dir).absolute().name
            self._warn("create the repository", error)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if not self.is_world_process_zero():
            return
        if self.push_in_progress is not None and self.push_in_progress.is_done():
            self._report_failed_jobs()
        if not self._has_repo:
            self.init_hf_repo()
        if self._has_repo:
            try:
                super()._push_from_checkpoint(checkpoint_folder)
            except Exception as error:
                if getattr(error, "errno", None) is not None and refusal(error) is None:
                    raise  # an error of the disk: files are copied before they are pushed
                self._warn("accept a checkpoint", error)

    def _finish_current_push(self) -> None:
        super()._finish_current_push()
        if getattr(self, "push_in_progress", None) is not None:
            self._report_failed_jobs()

    def _report_failed_jobs(self) -> None:
        for job in self.push_in_progress.jobs:
            if job.exception() is not None:
                self._warn("accept a checkpoint", job.exception())
        self.push_in_progress = None

    def push_to_hub(self, commit_message: str = "End of training", blocking: bool = True, **kwargs):
        """Push as [`~transformers.Trainer.push_to_hub`] does; return None, after a warning, if the Hub refuses."""
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        self.save_model(_internal_call=True)
        return self.upload(commit_message, blocking, kwargs.get("revision"))

    def upload(self, commit_message: str = "End of training", blocking: bool = True, revision: str | None = None):
        """Make the model card and upload `output_dir` as it is; return None, after a warning, if the Hub refuses."""
        if not self.is_world_process_zero():
            return None
        if not self._has_repo:
            self.init_hf_repo()
        self.create_model_card()
        self._finish_current_push()
        try:
            return HfApi(library_name="aajr-hf").upload_folder(
                repo_id=self.hub_model_id,
                folder_path=self.args.output_dir,
                commit_message=commit_message,
                token=self.args.hub_token,
                run_as_future=not blocking,
                ignore_patterns=list(NOT_UPLOADED),
                revision=revision or self.args.hub_revision,
            )
        except Exception as error:
            self._warn("accept the model", error)
            return None

    def _warn(self, what: str, error: BaseException) -> None:
        logger.warning(
            f"The Hub did not {what} ({hub_message(error, self.args.hub_token)}). The run continues, and everything "
            f"is on disk: push it later with `aajr push {self.args.output_dir} {self.hub_model_id}`."
        )

    def _save(self, output_dir: str | None = None, state_dict=None) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            self._write_recipe(Path(self.args.output_dir if output_dir is None else output_dir))

    def _write_recipe(self, folder: Path) -> None:
        recipe = recipe_of(self.args) if self._recipe is None else self._recipe
        trainer = type(self).__name__
        origin = {} if trainer == SFT_TRAINER else {"trainer": trainer}
        recipe = origin | {"model_name_or_path": self.model.config.name_or_path} | recipe
        (folder / RECIPE).write_text(yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True))
        if self._skipped_rows:
            (folder / DATA).write_text(json.dumps({"skipped_rows": self._skipped_rows}) + "\n")

    def create_model_card(self, model_name: str | None = None, dataset_name: str | None = None, tags=None) -> None:
        """Make the card from the run's folder: see [`~aajr_hf.training.sharing.model_card.write_model_card`]."""
        if self.is_world_process_zero():
            folder = Path(self.args.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            self._write_recipe(folder)
            try:
                write_model_card(folder, self.hub_model_id or model_name or folder.absolute().name)
            except ValueError as error:  # an invalid evaluation must not end a run
                logger.warning(f"No model card was made: {error}")
