"""
Checks of whether the success under attack can be trusted: the rules against masked gradients of Athalye et al. (arXiv
1802.00420) and Carlini et al., "On Evaluating Adversarial Robustness" (arXiv 1902.06705). Every evaluation runs them.
"""

from __future__ import annotations

from typing import TypedDict

from scipy.stats import binomtest

from ...objective import PerturbationSet
from ...training.sharing.reading import attack_name
from ...training.sharing.results import TrustRule
from ..attacks.ascent import Ascent
from ..attacks.learnt import Learnt
from ..attacks.run import Tallies
from ..attacks.search import Search
from ..attacks.suite import ATTACKS, CONTROL, MAIN
from ..attacks.target import Target
from ..reporting.results import times

# Number of examples whose gradients are checked. Fewer are attacked with more steps and without a bound, which is
# expensive.
SAMPLE, _TRIED = 16, 8
STEPS = (5, 20, 50)
_UNBOUNDED_STEPS = 20
# A gradient has vanished if it predicts a rise of the loss by less than this, in nats, over the whole ball.
_VANISHED = 1e-3
_SHARE_VANISHED = 5.0
_LEVEL = 0.05


class AttackSample(TypedDict):
    """
    Results of extra attacks on a few examples.

    Attributes:
        steps: Number of steps of the main attack -> number of tried examples that it leaves unbroken.
        unbounded: Number of tried examples that remain unbroken without a bound.
        vanished: Number of examples whose gradient has vanished.
        tried: Number of examples that were attacked; they are the first ones.
        examples: Number of examples whose gradient was checked.
    """

    steps: dict[str, int]
    unbounded: int
    vanished: int
    tried: int
    examples: int


def measure_trust(target: Target, multiple: float) -> AttackSample:
    """
    Run the extra attacks that the rules need on a few examples.

    Args:
        multiple: Radius of the attacks with different numbers of steps, as a multiple of epsilon.
    """
    ball, main, seeds = target.ball(multiple), ATTACKS[MAIN], list(range(len(target.batch)))
    everything = Search(target, ball, seeds, steps=1)
    _, gradient = everything.climb(target.origin, everything.all_rows, main.loss)
    few, left = target.select(everything.all_rows[:_TRIED]), {}
    for steps in STEPS:
        search = Search(few, few.ball(multiple), seeds[:_TRIED], steps=steps)
        main(search)
        left[str(steps)] = int((~search.broken).sum())
    unbounded = Search(few, _everything(few), seeds[:_TRIED], steps=_UNBOUNDED_STEPS)
    for attack in (main, ATTACKS["tempered_nll"]):
        attack(unbounded)
    reach = ball.epsilon * ball.extent(gradient, target.batch.perturbable) * gradient.flatten(1).norm(dim=1)
    return {
        "steps": left,
        "unbounded": int((~unbounded.broken).sum()),
        "vanished": int((reach < _VANISHED).sum()),
        "tried": len(few.batch),
        "examples": len(target.batch),
    }


def _everything(target: Target) -> PerturbationSet:
    """Return a ball large enough that each embedding can become any other embedding of the batch."""
    mask, threat = target.batch.perturbable, target.threat
    if threat.perturbation_norm == "linf":
        radius = (2 * target.state[mask].abs().max()).expand(len(mask))
    else:
        radius = 2 * target.state.norm(dim=-1)[mask].max() * target.origin.new_ones(len(mask))
        if threat.perturbation_scope == "sequence":
            radius = radius * mask.sum(dim=1).to(radius).sqrt()
    return PerturbationSet(radius, threat.perturbation_norm, threat.perturbation_scope)


def trust_rules(shares: dict[str, float], examples: int, tallies: Tallies, measured: AttackSample) -> list[TrustRule]:
    """
    Check the rules.

    - Beyond chance, no other loss, random point, direction learnt on other prompts or perturbation of another model
      breaks more of the examples left by the agent's own gradient than this gradient does from another start. Each
      attack is tested at each radius with the exact McNemar test, at 5 % over all tests (Bonferroni). Later attacks see
      fewer examples, so the test is conservative. A radius at which at most one example is left after all attacks is
      not tested.
    - Few gradients vanish.
    - More steps leave no more examples, a larger radius leaves fewer, and an attack without a bound leaves none. One
      example is tolerated, because ascents can end in local maxima.

    Args:
        shares: Success left by all attacks together, in percent of `examples`, by multiple of epsilon.
        examples: Number of examples.
        tallies: Tallies of the attacks.
        measured: Result of [`measure_trust`].
    """
    beyond = _beyond_own_gradient(shares, examples, tallies)
    return [*beyond, *_on_sample(measured), *_by_radius(shares, examples)]


def _beyond_own_gradient(shares: dict[str, float], examples: int, tallies: Tallies) -> list[TrustRule]:
    groups = {
        "another loss": [name for name, attack in ATTACKS.items() if isinstance(attack, Ascent)],
        "random points": ["random"],
        "other prompts": [name for name, attack in ATTACKS.items() if isinstance(attack, Learnt)],
        "other models": [name for name, attack in ATTACKS.items() if attack.from_others],
    }
    own = tallies.get(CONTROL, {})
    tests = [
        (group, name, multiple, tally.broken, own[multiple].broken, own[multiple].left)
        for group, names in groups.items()
        for name in names
        if name not in (MAIN, CONTROL)
        for multiple, tally in tallies.get(name, {}).items()
        if multiple in own and shares[multiple] > 100 / examples
    ]
    rules = []
    for group in groups:
        found = [test for test in tests if test[0] == group]
        if not found:
            continue
        worst, p = min(((test, _more_than(test[3], test[4])) for test in found), key=lambda pair: pair[1])
        _, name, multiple, broken, again, left = worst
        which = f"at {times(multiple)}, {left} examples were left"
        detail = f"{which}: {attack_name(name)} broke {broken}, a second start {again}"
        rule = f"the agent's own gradient breaks what {group} break{'s' * (group == 'another loss')}"
        rules.append(_rule(rule, p * len(tests) >= _LEVEL, detail))
    return rules


def _more_than(broken: int, again: int) -> float:
    return float(binomtest(broken, broken + again, 0.5, alternative="greater").pvalue) if broken + again else 1.0


def _on_sample(measured: AttackSample) -> list[TrustRule]:
    of, tried, steps = measured["examples"], measured["tried"], measured["steps"]
    vanished = 100 * measured["vanished"] / of
    left = ", ".join(f"{number} steps leave {count}" for number, count in steps.items())
    counts = list(steps.values())
    falls = all(more <= fewer + 1 for fewer, more in zip(counts, counts[1:], strict=False))
    return [
        _rule("gradients do not vanish", vanished <= _SHARE_VANISHED, f"{measured['vanished']} of {of} have vanished"),
        _rule("more steps leave no more success", falls, f"{left} of {tried} examples"),
        _rule(
            "an attack without a bound leaves no success",
            measured["unbounded"] <= 1,
            f"{measured['unbounded']} of {tried} examples are left",
        ),
    ]


def _by_radius(shares: dict[str, float], examples: int) -> list[TrustRule]:
    """Check that success falls from the smallest to the largest radius, if there are several."""
    radii = sorted(shares, key=float)
    if len(radii) < 2:
        return []
    least, most = shares[radii[-1]], shares[radii[0]]
    detail = ", ".join(f"{shares[multiple]:.1f}% at {times(multiple)}" for multiple in radii)
    return [_rule("success falls with the radius", least < most or most <= 100 / examples, detail)]


def _rule(rule: str, passed: bool, detail: str) -> TrustRule:
    return {"rule": rule, "passed": bool(passed), "detail": detail}
