"""Parser of options with one-line errors. It is separate from the parser of recipes, which imports TRL."""

from __future__ import annotations

import argparse

from ..common.errors import UserError


class OptionsFormatter(argparse.RawDescriptionHelpFormatter):
    """Formatter that shows the value of an option once for all of its spellings, as Python 3.13 does."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if len(action.option_strings) < 2 or action.nargs == 0:
            return super()._format_action_invocation(action)
        takes = self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{', '.join(action.option_strings)} {takes}"


class HelpFormatter(OptionsFormatter):
    """Formatter that adds the default of a field, unless its help text states it."""

    def _get_help_string(self, action: argparse.Action) -> str:
        told = action.help or ""
        is_told = "efault" in told or action.default in (None, False, argparse.SUPPRESS)
        return told if is_told else f"{told} (default: %(default)s)"


class ArgumentParser(argparse.ArgumentParser):
    """`argparse.ArgumentParser` of one `aajr` command. Its errors are [`UserError`]s."""

    def __init__(self, command: str, **kwargs):
        super().__init__(f"aajr {command}", formatter_class=OptionsFormatter, **kwargs)

    def error(self, message: str):
        raise UserError(f"{message} (see {self.prog} --help)")
