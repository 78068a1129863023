"""The claims that `study.py` tests, in the order of its page. To add a claim, write one file and one line here."""

from types import ModuleType

from . import calibration, episodes, forgetting, inner_loop, one_step, price, rank, robustness, stronger, tuning

CLAIMS: dict[str, ModuleType] = {
    claim.__name__.rpartition(".")[2]: claim
    for claim in (tuning, price, forgetting, inner_loop, robustness, one_step, stronger, calibration, rank, episodes)
}
