"""Evaluations of the pages and of the examples are short, and their plots are not drawn."""

from tests.support.no_drawing import no_drawing  # noqa: F401
from tests.support.short_trust import short_trust  # noqa: F401
