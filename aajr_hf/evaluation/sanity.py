"""Whether the attack behaved as one must that is not misled by its gradients."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from .results import multiples_of, times

# Attack without PGA's gradients -> the words for it.
_BLIND = {"random": "random points", "transfer": "perturbations made on another model"}


def sanity_rules(run: dict[str, Any]) -> list[dict[str, Any]]:
    """
    The checks of Carlini et al., "On Evaluating Adversarial Robustness" (arXiv 1902.06705), and Athalye et al. (arXiv
    1802.00420) that one run's numbers allow. A stronger attack must not leave the agent more greedy success than a weaker
    one; the same examples are attacked each time, and one of them more is tolerated: ascents end in local maxima.

    - PGA with a larger radius against a smaller one, and with all steps against a quarter of them; PGA without a bound
      must leave no success, again but for one example. These three where `settings.sanity` was set.
    - PGA against random points, against another model's perturbations, and against token substitutions, these within
      the radius of each example's own. Where they are stronger, gradients are masked.

    Args:
        run: Numbers of [`evaluate_agent`].

    Returns:
        `{"rule": str, "passed": bool, "detail": str}` for each, the detail with the agent's success in percent.
    """
    attacks, pga, radii = run.get("attacks", {}), run["worst_case_success"], multiples_of(run)
    checks = []
    if "pga_unbounded" in attacks:
        points = [("without attack", run["nominal_success"]), *((f"at {times(m)}", pga[m]) for m in radii)]
        checks.append(("a larger radius leaves no more success", list(pairwise(points))))
        quarter, top = attacks["pga_quarter_steps"]["success"], radii[-1]
        few = (f"with a quarter of the steps at {times(top)}", quarter[top])
        checks.append(("more steps leave no more success", [(few, ("with all of them", pga[top]))]))
        unbounded = ("without a bound", attacks["pga_unbounded"]["success"])
        checks.append(("an attack without a bound leaves no success", [(("allowed", 0.0), unbounded)]))
    for name, words in _BLIND.items():
        if name in attacks:
            success = attacks[name]["success"]
            pairs = [((f"{words} at {times(m)}", success[m]), (f"PGA at {times(m)}", pga[m])) for m in radii]
            checks.append((f"PGA leaves no more success than {words}", pairs))
    if "token" in attacks:
        token, at_radius = (attacks[name]["success"] for name in ("token", "pga_at_token_radius"))
        pair = (("token substitutions", token), ("PGA within their radii", at_radius))
        checks.append(("PGA leaves no more success than token substitutions within their radii", [pair]))
    tolerance = 100 / run["examples"] + 1e-6
    return [
        {
            "rule": rule,
            "passed": all(stronger[1] <= weaker[1] + tolerance for weaker, stronger in pairs),
            "detail": _detail(pairs),
        }
        for rule, pairs in checks
    ]


def _detail(pairs: list) -> str:
    """Each number once, in order."""
    points = dict.fromkeys(point for pair in pairs for point in pair)
    return ", ".join(f"{words} {success:.1f} %" for words, success in points)
