"""The parser of options, whose mistakes are one line long. Apart from that of recipes, for which TRL must be imported."""

from __future__ import annotations

import argparse

from ..common.errors import UserError


class OptionsFormatter(argparse.RawDescriptionHelpFormatter):
    """With what an option takes once, however many spellings it has: as Python does from 3.13 on."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if len(action.option_strings) < 2 or action.nargs == 0:
            return super()._format_action_invocation(action)
        takes = self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{', '.join(action.option_strings)} {takes}"


class HelpFormatter(OptionsFormatter):
    """With the defaults that a field's help does not tell itself."""

    def _get_help_string(self, action: argparse.Action) -> str:
        told = action.help or ""
        is_told = "efault" in told or action.default in (None, False, argparse.SUPPRESS)
        return told if is_told else f"{told} (default: %(default)s)"


class ArgumentParser(argparse.ArgumentParser):
    """`argparse.ArgumentParser` of one `aajr` command, whose errors are [`UserError`]s."""

    def __init__(self, command: str, **kwargs):
        super().__init__(f"aajr {command}", formatter_class=OptionsFormatter, **kwargs)

    def error(self, message: str):
        raise UserError(f"{message} (see {self.prog} --help)")
