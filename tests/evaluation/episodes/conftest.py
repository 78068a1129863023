"""An agent that has learnt some answers of `congestion` by heart."""

import pytest

from tests.support.answers import ROWS
from tests.support.small_agents import TOKENIZER, fit, model


@pytest.fixture(scope="module")
def agent():
    return fit(model(), TOKENIZER, ROWS[::2])
