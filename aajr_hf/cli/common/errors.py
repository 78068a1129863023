"""A user's mistake ends with one line that says what to change, and exit status 2."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

import yaml
from jinja2 import TemplateError
from safetensors import SafetensorError

from ..._errors import one_line


class UserError(Exception):
    """A mistake of the user's: its message names the field and the remedy."""


class RunError(Exception):
    """Training could not go on, and not by a mistake in the command: one line, exit status 1."""


class Interrupted(Exception):
    """Training was ended by a signal: its message says where, and how to go on."""

    def __init__(self, message: str, signum: int = signal.SIGINT):
        super().__init__(message)
        self.status = 128 + signum


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """
    Turn errors about values, files, configurations and missing libraries into a [`UserError`]. Only for the phases
    that read what the user gave: errors of training itself are defects, and keep their traceback.
    """
    try:
        yield
    except SafetensorError as error:
        raise UserError(f"A file of weights is damaged: {one_line(error)}") from error
    except TemplateError as error:
        raise UserError(
            f"The tokenizer's chat template refuses the data (see `chat_template_path`): {one_line(error)}"
        ) from error
    except (ValueError, TypeError, OSError, ImportError, yaml.YAMLError) as error:
        raise UserError(one_line(error)) from error
