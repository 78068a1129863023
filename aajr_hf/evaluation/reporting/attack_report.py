"""Tables of the attacks, the checks of the attack, and the token attack."""

from __future__ import annotations

from rich.table import Table

from ...training.sharing.reading import attack_name
from ...training.sharing.results import AttackTally, EvaluationResults, Results, RobustnessResults, TokenOutcome
from .results import interval_text, multiples, percent_text, times
from .shared_directions import TITLE, shared_cells
from .statistics import wilson
from .tables import text_table

ATTACKS_TITLE = "Attacks, one after the other"
_TOKEN_HEADERS = ["run", "tokens replaced", "PGA, same radii", "mean radius"]


def attack_cells(results: Results) -> tuple[list[tuple[str, str]], list[list[str]]]:
    """
    Return headers of two lines, and one row of text cells for each run and attack. For each radius, the cells show how
    many of the attacked examples the attack broke, and the success (for tool calls, the exact calls) in percent that
    is left after this attack and all earlier ones. If a run has it, a further cell shows what this attack alone
    leaves.
    """
    radii, left = multiples(results), "exact" if results["kind"] == "tool_calls" else "success"
    runs = {name: run.get("attacks") or {} for name, run in results["runs"].items()}
    alone = any("alone" in attack for attacks in runs.values() for attack in attacks.values())
    headers = [("run", ""), ("attack", "")]
    for m in radii:
        headers += [(times(m), "broken"), (times(m), "left"), *([(times(m), "alone")] if alone else [])]
    rows = []
    for run_name, attacks in runs.items():
        for name, attack in attacks.items():
            row = [run_name, attack_name(name)]
            for m in radii:
                row += [_broken(attack, m), percent_text(attack[left].get(m))]
                row += [percent_text(attack.get("alone", {}).get(m))] if alone else []
            rows.append(row)
    return headers, rows


def _broken(attack: AttackTally, multiple: str) -> str:
    attacked = attack["attacked"].get(multiple)
    return "-" if attacked is None else f"{attack['broken'][multiple]}/{attacked}"


def _broke(row: list[str]) -> bool:
    """Return whether the attack in a row of [`attack_cells`] broke an example at any radius."""
    return any("/" in cell and not cell.startswith("0/") for cell in row[2:])


def token_cells(results: RobustnessResults) -> tuple[list[str], list[list[str]]]:
    """
    Return headers, and one row for each run with a token attack: success in percent, greedy and sampled, and the same
    for projected gradient ascent (PGA) at the same radii.
    """
    rows = []
    for name, run in results["runs"].items():
        if token := run.get("token_attack"):
            shares = (_greedy_and_sampled(attack, run["examples"]) for attack in (token, token["pga"]))
            rows.append([name, *shares, f"{token['radius']:.2f}"])
    return _TOKEN_HEADERS, rows


def _greedy_and_sampled(attack: TokenOutcome, examples: int) -> str:
    shares = (attack["success"], attack["sampled_success"])
    greedy, sampled = (f"{percent_text(share)} {interval_text(wilson(share, examples))}" for share in shares)
    return f"{greedy} (sampled {sampled})"


def trust_cells(results: Results) -> list[tuple[str, str, bool, str]]:
    """Return run, rule, whether it passed, and detail, for every check of every run."""
    return [
        (name, rule["rule"], rule["passed"], rule["detail"])
        for name, run in results["runs"].items()
        for rule in run["trust"]
    ]


def attack_tables(results: EvaluationResults) -> list[Table]:
    """Return rich tables of the attacks, the token attack, what prompts share and the failed checks, without empty tables."""
    tables = []
    headers, rows = attack_cells(results)
    shown = [row for row in rows if _broke(row)]
    if shown:
        what = "exact calls" if results["kind"] == "tool_calls" else "success"
        caption = (
            "broken: examples that the attack broke / examples left by smaller radii and the attacks above.\n"
            f"left: {what} in percent after this attack and all above. Attacks that broke nothing are not shown."
        )
        two_lines = ["\n".join(header) for header in headers]
        tables.append(text_table(two_lines, _without_repeats(shown), ATTACKS_TITLE, caption, left=2, gap=0))
    headers, rows = token_cells(results)
    if rows:
        title = "Token attack: other numbers in the observation's text"
        caption = "mean radius: distance that the new tokens move an example, in mean norms of its prompt embeddings."
        tables.append(text_table(headers, rows, title, caption))
    headers, rows = shared_cells(results)
    if rows:
        caption = (
            "top r: energy of the ascent directions in the first r principal directions of other prompts.\n"
            "explained: of the examples that any attack breaks, those that one perturbation for all prompts breaks.\n"
            "cosine, signs: how gradients predicted from forward passes agree with the true ones."
        )
        tables.append(text_table([header.replace(" ", "\n", 1) for header in headers], rows, TITLE, caption))
    failed = [[name, rule, detail] for name, rule, passed, detail in trust_cells(results) if not passed]
    if failed:
        tables.append(text_table(["run", "rule", "detail"], failed, "Failed checks of the attack", left=3))
    return tables


def _without_repeats(rows: list[list[str]]) -> list[list[str]]:
    """Show the name of a run only in its first row."""
    names = [row[0] for row in rows]
    return [
        [name if i == 0 or names[i - 1] != name else "", *row[1:]]
        for i, (name, row) in enumerate(zip(names, rows, strict=True))
    ]
