"""
Whether the success under attack can be believed: the rules against masked gradients of Athalye et al. (arXiv 1802.00420) and Carlini et
al., "On Evaluating Adversarial Robustness" (arXiv 1902.06705), in every evaluation.
"""

from __future__ import annotations

from typing import TypedDict

from scipy.stats import binomtest

from ...objective import PerturbationSet
from ...training.sharing.measurement import attack_name
from ...training.sharing.results import TrustRule
from ..attacks.ascent import Ascent
from ..attacks.run import Tallies
from ..attacks.search import Search
from ..attacks.suite import ATTACKS, CONTROL, MAIN
from ..attacks.target import Target
from ..reporting.results import times

# Examples whose gradients are looked at, and how many of them are attacked with more steps, and without a bound: a hundred steps are dear.
SAMPLE, _TRIED = 16, 8
STEPS = (5, 20, 100)
_UNBOUNDED_STEPS = 20
# A gradient that promises less than so many nats over the whole ball has vanished.
_VANISHED = 1e-3
_SHARE_VANISHED = 5.0
_LEVEL = 0.05


class AttackSample(TypedDict):
    """
    How many of `examples` have a gradient that has `vanished`. Of the first `tried` of them: by number of `steps` how many the main attack
    leaves, and `unbounded`, how many are left without a bound.
    """

    steps: dict[str, int]
    unbounded: int
    vanished: int
    tried: int
    examples: int


def measure_trust(target: Target, multiple: float) -> AttackSample:
    """
    Try on a few examples what the rules ask for.

    Args:
        multiple: Radius of the attacks with several numbers of steps, in multiples of epsilon.
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
    """A ball within which each embedding can become any other one of the batch."""
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
    The rules.

    - No other loss, no random point and no other model's perturbation breaks more of the examples that the agent's own gradient leaves
      than that gradient does from another start, beyond chance: exact McNemar test of each attack at each radius, at 5 % over all of
      them (Bonferroni). Whoever comes later sees fewer examples, so that the test finds less rather than more. Where hardly an example is left
      in the end, nothing is left to be mistaken about.
    - Few gradients vanish.
    - More steps leave no more examples, and a larger radius fewer; without a bound none is left. One example is tolerated: ascents end
      in local maxima.

    Args:
        shares: What all attacks together leave, in percent of so many `examples`, by multiple of epsilon.
        tallies: Of the attacks.
        measured: What [`measure_trust`] returns.
    """
    beyond = _beyond_own_gradient(shares, examples, tallies)
    return [*beyond, *_on_sample(measured), *_by_radius(shares, examples)]


def _beyond_own_gradient(shares: dict[str, float], examples: int, tallies: Tallies) -> list[TrustRule]:
    groups = {
        "another loss": [name for name, attack in ATTACKS.items() if isinstance(attack, Ascent)],
        "random points": ["random"],
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
        detail = (
            f"at {times(multiple)} it left {left}; {attack_name(name)} broke {broken} of them, a second start {again}"
        )
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
        _rule("more steps leave no more success", falls, f"of {tried} examples {left}"),
        _rule(
            "an attack without a bound leaves no success",
            measured["unbounded"] <= 1,
            f"of {tried} examples {measured['unbounded']} are left",
        ),
    ]


def _by_radius(shares: dict[str, float], examples: int) -> list[TrustRule]:
    """Whether success falls from the smallest radius to the largest, where there are several."""
    radii = sorted(shares, key=float)
    if len(radii) < 2:
        return []
    least, most = shares[radii[-1]], shares[radii[0]]
    detail = ", ".join(f"{shares[multiple]:.1f}% at {times(multiple)}" for multiple in radii)
    return [_rule("success falls with the radius", least < most or most <= 100 / examples, detail)]


def _rule(rule: str, passed: bool, detail: str) -> TrustRule:
    return {"rule": rule, "passed": bool(passed), "detail": detail}
