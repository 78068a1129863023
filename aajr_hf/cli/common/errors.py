"""Errors of commands. A mistake of the user gives one line that says what to change, and exit status 2."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

import yaml
from jinja2 import TemplateError
from safetensors import SafetensorError

from ..._errors import one_line


class UserError(Exception):
    """A mistake of the user. The message names the field and the remedy."""


class RunError(Exception):
    """A run that failed without a mistake in the command. It gives one line and exit status 1."""


class Interrupted(Exception):
    """A run that was ended by a signal. The message says at which point, and how to continue."""

    def __init__(self, message: str, signum: int = signal.SIGINT):
        super().__init__(message)
        self.status = 128 + signum


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """
    Turn errors about values, files, configurations, missing libraries and what they do not support into a [`UserError`]. Use it only while input
    of the user is read: errors in training itself are defects and must keep their traceback.
    """
    try:
        yield
    except SafetensorError as error:
        raise UserError(f"A weights file is damaged: {one_line(error)}") from error
    except TemplateError as error:
        raise UserError(
            f"The tokenizer's chat template does not accept the data (see `chat_template_path`): {one_line(error)}"
        ) from error
    except (ValueError, TypeError, OSError, ImportError, NotImplementedError, yaml.YAMLError) as error:
        raise UserError(one_line(error)) from error
