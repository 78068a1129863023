"""The attacks beside the main table's, and the checks of the attack, as tables and sentences."""

from __future__ import annotations

from typing import Any

from rich.table import Table
from rich.text import Text

from .results import multiples, times
from .tables import plain_table, text_table

# Attack -> how it is shown. `pga` stands in the main table, and here for comparison.
_NAMES = {
    "pga": "PGA",
    "random": "random points",
    "transfer": "transfer",
    "pga_quarter_steps": "PGA, 1/4 of the steps",
    "token": "token substitutions",
    "pga_at_token_radius": "PGA, radii of these",
    "pga_unbounded": "PGA, unbounded",
}


def attack_cells(results: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """
    Headers, and one row of texts a run and attack: success in percent at each multiple of the training radius, or within
    the attack's own radius, and that radius. No rows where no run has other attacks.
    """
    radii, rows = multiples(results), []
    for run_name, run in results["runs"].items():
        if not run.get("attacks"):
            continue
        pga = {"success": run["worst_case_success"], "sampled_success": run["sampled_worst_case_success"]}
        attacks = {"pga": pga} | run["attacks"]
        for name, words in _NAMES.items():
            if name in attacks:
                rows.append([run_name, words, *_success(attacks[name], radii)])
    return ["run", "attack", *map(times, radii), "own radius", "radius"], rows


def sanity_cells(results: dict[str, Any]) -> list[tuple[str, str, bool, str]]:
    """Run, rule, whether it passed, and detail, for every check of every run."""
    return [
        (name, rule["rule"], rule["passed"], rule["detail"])
        for name, run in results["runs"].items()
        for rule in run.get("sanity", [])
    ]


def attack_tables(results: dict[str, Any]) -> list[Table]:
    """Rich tables of the other attacks and of the checks, as far as there are some."""
    headers, rows = attack_cells(results)
    tables = []
    if rows:
        title = "Other attacks: success in percent, greedy (sampled)"
        caption = "own radius: one for each example, in mean norms of its prompt embeddings."
        tables.append(text_table(headers, rows, title, caption, left=2))
    if checks := sanity_cells(results):
        table = plain_table("Checks of the attack", "One example more than the rule allows is tolerated.")
        for header in ("run", "rule", "", "success"):
            table.add_column(header, overflow="fold")
        for name, rule, passed, detail in checks:
            table.add_row(Text(name), rule, Text("passed") if passed else Text("failed", style="bold red"), detail)
        tables.append(table)
    return tables


def sanity_sentences(results: dict[str, Any]) -> list[str]:
    """One sentence for each run whose attack failed a check."""
    failed: dict[str, list[str]] = {}
    for name, rule, passed, _ in sanity_cells(results):
        if not passed:
            failed.setdefault(name, []).append(rule)
    return [
        f"Do not trust the success under attack of {name}: the attack fails the check that {' and that '.join(rules)}, so "
        "its gradients may be masked, and a better attack may find less success."
        for name, rules in failed.items()
    ]


def _success(attack: dict[str, Any], radii: list[str]) -> list[str]:
    greedy, sampled = attack["success"], attack["sampled_success"]
    if isinstance(greedy, dict):
        found = [f"{greedy[m]:.1f} ({sampled[m]:.1f})" if m in greedy else "-" for m in radii]
        return [*found, "-", "-"]
    return [*["-"] * len(radii), f"{greedy:.1f} ({sampled:.1f})", f"{attack['radius']:.2f}"]
