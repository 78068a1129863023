"""Membership in F_ad(gamma) and F_gamma against full Jacobians, and what is said of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from aajr_hf.cli.main import main
from aajr_hf.evaluation.attacks.settings import RobustnessSettings
from aajr_hf.evaluation.attacks.target import Target
from aajr_hf.evaluation.attacks.threat_model import ThreatModel
from aajr_hf.evaluation.reporting.membership import membership_sentences
from aajr_hf.evaluation.robustness.evaluate import evaluate_agent
from aajr_hf.evaluation.robustness.membership import budget_of, examples_of
from aajr_hf.training.data.batch import AgentBatch
from aajr_hf.training.data.collation import encode_examples
from tests.support.matrices import largest_singular_value
from tests.support.small_agents import PRECISE, ROWS, TOKENIZER, trained

# So that the Jacobian changes along the ascent.
WIDE = replace(PRECISE, power_iterations=20, threat=ThreatModel(epsilon=0.5), attacks=("nll",))


def along_and_everywhere(row) -> tuple[list[float], list[float]]:
    """Of one example, the amplification along the ascent and the largest singular value at each of its points."""
    agent = trained()
    agent.set_attn_implementation("eager")
    batch = AgentBatch.from_inputs(encode_examples(TOKENIZER, [row], candidates=True), "prompt")
    target = Target(agent, batch)
    delta, radius = target.origin.clone(), WIDE.threat.epsilon * target.scale.item()
    along, norms = [], []
    for _ in range(WIDE.ascent_steps):
        delta.requires_grad_(True)
        (gradient,) = torch.autograd.grad(target.cost(delta).sum(), delta)
        direction = gradient * batch.perturbable[..., None]
        direction, delta = direction / direction.norm(), delta.detach()
        full = torch.autograd.functional.jacobian(lambda x: target.policy(x).flatten(), delta, vectorize=True).flatten(
            1
        )
        mask = batch.perturbable[..., None].expand_as(delta).flatten()
        along.append((full @ direction.flatten()).norm().item())
        norms.append(largest_singular_value(full[:, mask]).item())
        delta = delta + 2.5 * radius / WIDE.ascent_steps * direction
        delta = delta * min(1, radius / delta.norm().item())
    return along, norms


@pytest.mark.slow
def test_the_shares_are_those_of_full_jacobians():
    agent, rows = trained(), ROWS[1:4]
    expected = [along_and_everywhere(row) for row in rows]
    budgets = []
    for i in (0, 1):
        # Which an example keeps at first and not later, by as wide a margin as there is.
        rising = max((pair[i] for pair in expected), key=lambda values: max(values) / values[0])
        assert max(rising) > 1.02 * rising[0]
        budgets.append((max(rising) * rising[0]) ** 0.5)
    for budget in budgets:
        run = evaluate_agent(agent, TOKENIZER, rows, replace(WIDE, budget=budget))
        member = run["membership"]
        shares = [100 * sum(max(pair[i]) <= budget for pair in expected) / len(rows) for i in (0, 1)]
        assert [member["along_ascent"], member["everywhere"]] == pytest.approx(shares)
        assert shares[0] >= shares[1]
        assert member["budget"] == budget and member["examples"] == len(rows)
    assert shares[0] > shares[1]
    # A budget changes no other number.
    plain = evaluate_agent(agent, TOKENIZER, rows, WIDE)
    assert {name: run[name] for name in plain} == plain and run.keys() - plain.keys() == {"membership"}


def test_what_is_said():
    member = {"budget": 50.0, "along_ascent": 75.0, "everywhere": 12.5, "examples": 64}
    results = {"runs": {"base": {}, "aajr": {"membership": member}}}
    sentence, caveat = membership_sentences(results)
    for words in (
        "aajr: 75.0% of 64",
        "budget 50 along",
        "12.5% in every",
        "62.5% are in F_ad but not",
    ):
        assert words in sentence
    assert "lower bound" in caveat and membership_sentences({"runs": {"base": {}}}) == []
    member["everywhere"] = 75.0
    assert "no example is in F_ad but not in F_gamma" in membership_sentences(results)[0]


def test_the_first_examples_of_each_batch_are_measured():
    settings = RobustnessSettings(batch_size=10, spectral_examples=4)
    assert [examples_of(settings, n) for n in (3, 10, 12, 16, 20)] == [3, 4, 6, 8, 8]


def test_an_agents_own_budget(tmp_path, capsys):
    assert budget_of(tmp_path) is None
    recipe = tmp_path / "recipe.yaml"
    for text, expected in (
        ("epsilon: 0.1", None),
        ("amplification_budget: 5", 5.0),
        ("amplification_budget: 5\npenalty_output: logits", 5.0),
        ("amplification_budget: 5\npenalty_output: probs", None),
        ("amplification_budget: 5\npenalty_reduction: token_mean", None),
    ):
        recipe.write_text(text)
        assert budget_of(tmp_path) == expected
    for text, message in (
        ("[", "cannot be read"),
        ("words", "not a mapping"),
        ("amplification_budget: much", "'much'"),
        ("amplification_budget: -5", "above 0; got -5"),
        ("amplification_budget: .inf", "above 0; got inf"),
        ("amplification_budget: [5]", "above 0; got"),
    ):
        recipe.write_text(text)
        with pytest.raises(ValueError, match=f"recipe.yaml.*{message}"):
            budget_of(tmp_path)
    assert main(["evaluate", str(tmp_path), "--budget", "0"]) == 2
    assert "`--budget` must be a finite number above 0" in capsys.readouterr().err
