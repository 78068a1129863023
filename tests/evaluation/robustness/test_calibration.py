"""`aajr calibrate`: the temperature against a grid and against a change of the logits, what it writes, and what it refuses."""

from __future__ import annotations

import functools
import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM

from aajr_hf.cli.main import main
from aajr_hf.environments import held_out_rows
from aajr_hf.evaluation.agents import load_agent
from aajr_hf.evaluation.attacks.target import Target, success
from aajr_hf.evaluation.batches import read_batch
from aajr_hf.evaluation.robustness.calibration import HOTTEST, calibrate, nll, own_temperature
from tests.support import ROOT
from tests.support.commands import fails
from tests.support.short_amplification import short_amplification  # noqa: F401
from tests.support.small_agents import ROWS, TOKENIZER, trained

STORED = ROOT / "docs" / "results" / "agents" / "congestion"


@pytest.fixture(scope="module")
def agent():
    """It knows half of the rows, so that it has a best temperature."""
    return trained().double()


def with_logits_times(factor, agent):
    agent.lm_head.weight.data.mul_(factor)
    found = calibrate(agent, TOKENIZER, ROWS, 2)
    agent.lm_head.weight.data.div_(factor)
    return found


def test_the_temperature_has_the_lowest_loss_and_follows_the_logits(agent):
    found = calibrate(agent, TOKENIZER, ROWS, 2)
    batch = read_batch(TOKENIZER, ROWS, "prompt", "cpu")
    logits = Target(agent, batch).policy(None).detach()
    tokens, labels = logits[batch.action_mask], batch.action_labels[batch.action_mask]
    grid = torch.logspace(-1.3, 1.3, 200).tolist()
    best = min(grid, key=lambda t: nll(tokens, labels, t))
    assert not found.at_bound and found.temperature == pytest.approx(best, rel=0.02)
    assert found.nll[1] == pytest.approx(nll(tokens, labels, best), rel=1e-3) and found.nll[1] < found.nll[0]
    by_hand = [
        torch.stack([(z / t).log_softmax(-1)[range(len(y)), y].sum().exp() for z, y in examples(logits, batch)]).mean()
        for t in (1.0, found.temperature)
    ]
    assert found.sampled == pytest.approx([100 * float(x) for x in by_hand])
    doubled = with_logits_times(2.0, agent)
    assert doubled.temperature == pytest.approx(2 * found.temperature, rel=1e-3)
    assert doubled.nll[1] == pytest.approx(found.nll[1], rel=1e-6)


def examples(logits, batch):
    return [(z[mask], y[mask]) for z, y, mask in zip(logits, batch.action_labels, batch.action_mask, strict=True)]


def test_an_agent_that_knows_nothing_has_no_best_temperature(agent):
    assert with_logits_times(1e-6, agent).at_bound is True  # the logits are as good as equal at any temperature
    right = calibrate(agent, TOKENIZER, ROWS[:3], 3)  # in all of these: the colder, the better
    assert right.at_bound and right.temperature < 0.2


def test_a_target_is_sampled_at_its_temperature(agent):
    batch = read_batch(TOKENIZER, ROWS, "prompt", "cpu")
    at_one, hotter = Target(agent, batch), Target(agent, batch, temperature=2.0)
    first, second = at_one.outcome(at_one.origin), hotter.outcome(hotter.origin)
    assert torch.equal(first.greedy, second.greedy) and not torch.allclose(first.cost, second.cost)
    with torch.no_grad():
        assert torch.equal(second.sampled, success(hotter.policy(None) / 2, batch)[1])
    # Another batch size rounds otherwise on some CPUs.
    alone = hotter.select(torch.tensor([2])).outcome(hotter.origin[[2]])
    torch.testing.assert_close(alone.sampled, second.sampled[[2]])


@pytest.mark.slow
def test_the_command_writes_what_evaluations_and_generate_sample_at(tmp_path, capsys, short_amplification):  # noqa: F811
    folder = shutil.copytree(STORED, tmp_path / "agent")
    assert main(["calibrate", str(folder), "--examples", "40", "--batch_size", "16"]) == 0
    expected = calibrate(*load_agent(str(STORED)), held_out_rows("congestion", 40, seed=1), 16)
    assert f"Temperature {expected.temperature:.3g}:" in capsys.readouterr().out
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.generation_config.do_sample and model.generation_config.top_k == 0
    assert own_temperature(model) == pytest.approx(expected.temperature) and expected.temperature < HOTTEST
    asked = ["--examples", "40", "--seed", "1", "--attacks", "nll", "--attack_steps", "1", "--multiples", "1"]
    shares = {}
    for flag in ([], ["--own_temperature"]):
        assert main(["evaluate", str(folder), *asked, *flag, "--output", str(tmp_path / "report")]) == 0
        results = json.loads((tmp_path / "report" / "results.json").read_text())
        shares[bool(flag)] = results["runs"]["agent"]["sampled_success"]
    assert [shares[False], shares[True]] == pytest.approx(expected.sampled, rel=1e-5)
    assert results["settings"]["temperatures"] == {"agent": pytest.approx(expected.temperature)}
    printed, html = capsys.readouterr().out, (tmp_path / "report" / "report.html").read_text()
    sentence = f"sampled: at temperature {expected.temperature:.3g} (agent)."
    assert sentence in " ".join(printed.split()) and sentence in html


def test_the_command_refuses_what_it_cannot_write_to(tmp_path, capsys):
    refused = functools.partial(fails, capsys)
    assert "is no folder of a model" in refused("calibrate", str(tmp_path / "nothing"))
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "merge it with `aajr merge`" in refused("calibrate", str(tmp_path))
    assert "`--examples` must be at least 1" in refused("calibrate", str(STORED), "--examples", "0")
