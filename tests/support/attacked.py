"""Policies under a suite of attacks."""

from __future__ import annotations

import functools

from aajr_hf.evaluation.attacks.ascent import Ascent
from aajr_hf.evaluation.attacks.run import Tallies, UnderAttack, attack_within
from aajr_hf.evaluation.attacks.search import Search
from aajr_hf.evaluation.attacks.suite import ATTACKS
from aajr_hf.evaluation.robustness.trust import measure_trust, trust_rules

from .known_policies import EXAMPLES, directions

ASCENTS = [name for name, attack in ATTACKS.items() if isinstance(attack, Ascent)]


def attacked(target, names=tuple(ATTACKS), **how):
    """A model under attack by itself within 1x, and its tallies."""
    tallies = Tallies()
    new_search = functools.partial(Search, seeds=list(range(EXAMPLES)), **({"steps": 10} | how))
    model = UnderAttack(target, new_search, tallies)
    model.widen(1.0)
    attack_within({"": model}, [ATTACKS[name] for name in names], "1")
    return model.search, tallies


def failed(target, search, tallies, rules_checked=6):
    share = 100 * float((~search.broken).float().mean())
    # The rules judge where something is left: of more examples, of which these are broken.
    rules = trust_rules({"1": max(share, 50.0)}, EXAMPLES, tallies, measure_trust(target, 1.0))
    assert len(rules) == rules_checked
    return {rule["rule"] for rule in rules if not rule["passed"]}


def handed_below(target, radius, norm, scope, share):
    """Points of the ball that raise the wrong logit by this share of what the ball allows."""
    free = directions() * target.batch.perturbable[..., None]
    if norm == "linf":
        best = free.sign()
    elif scope == "token":
        best = free / free.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    else:
        best = free / free.flatten(1).norm(dim=1)[:, None, None]
    return share * radius[:, None, None] * best
