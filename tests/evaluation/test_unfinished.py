"""An evaluation that was interrupted goes on after its finished batches, and finds what one without a break finds."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from aajr_hf.evaluation.agents import Agent
from aajr_hf.evaluation.attacks.suite import ATTACKS
from aajr_hf.evaluation.robustness import evaluate as robustness
from aajr_hf.evaluation.robustness.evaluate import PARTS, evaluate_agents, progress_done, progress_steps
from aajr_hf.evaluation.tool_calls import evaluate as tool_calls
from aajr_hf.evaluation.tool_calls.evaluate import evaluate_tool_calls
from aajr_hf.evaluation.unfinished import NOTHING_KEPT, Unfinished, unfinished_evaluation
from tests.support.several_agents import SEVERAL, agents_and_sources
from tests.support.small_agents import COPYING_ROWS, COPYING_TOKENIZER
from tests.support.tool_callers import READ, SMALL, caller

ROWS, BATCHES = COPYING_ROWS[:12], 3
IN_A_WORLD = replace(SEVERAL, attacks=("nll", "from_others"), batch_size=4)


def evaluation_of(output, rows=ROWS, settings=IN_A_WORLD, agents=None):
    return unfinished_evaluation(output, agents or agents_and_sources()[0], [rows, settings], PARTS)


def in_a_world(unfinished, on_progress=lambda name: None):
    agents, sources = agents_and_sources()
    more = {"sources": sources, "unfinished": unfinished, "on_progress": on_progress}
    return evaluate_agents(agents, ROWS, IN_A_WORLD, **more)


def stop_at(call, monkeypatch, module, name):
    """Interrupt the n-th call of a function of a module."""
    calls, function = [], getattr(module, name)

    def counted(*arguments, **more):
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return function(*arguments, **more)

    monkeypatch.setattr(module, name, counted)
    return calls


@pytest.mark.slow
def test_an_interrupted_evaluation_goes_on(tmp_path, monkeypatch):
    whole, unfinished = in_a_world(NOTHING_KEPT), evaluation_of(tmp_path)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_at(3, patch, robustness, "_attack_batch")
        in_a_world(unfinished)
    done = progress_done(IN_A_WORLD, len(ROWS), unfinished)
    assert unfinished.done(BATCHES) == 2 and done == 2 * 3
    reported = []
    with monkeypatch.context() as patch:
        batches = stop_at(99, patch, robustness, "_attack_batch")
        assert in_a_world(evaluation_of(tmp_path), reported.append) == whole
    assert len(batches) == 1
    for name in whole:
        assert reported.count(name) == progress_steps(IN_A_WORLD, len(ROWS)) - done
    # All batches and checks of the attacks are kept until the report is written.
    with monkeypatch.context() as patch:
        again = [stop_at(1, patch, robustness, name) for name in ("_attack_batch", "measure_trust")]
        assert in_a_world(evaluation_of(tmp_path)) == whole
    assert again == [[], []]
    # Only its own files go.
    other = evaluation_of(tmp_path, rows=ROWS[1:])
    other.piece(0, lambda: 1)
    unfinished.forget()
    assert list((tmp_path / "unfinished").iterdir()) == [other.folder]
    other.forget()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_so_does_one_of_tool_calls(tmp_path, monkeypatch):
    settings = replace(SMALL, batch_size=2, attacks=tuple(name for name in SMALL.attacks if name in ATTACKS))
    agent, tokenizer = caller()
    whole = evaluate_tool_calls(agent, tokenizer, READ, settings)
    agents = [Agent("caller", "", agent, tokenizer)]
    evaluation = unfinished_evaluation(tmp_path, agents, [READ, settings], tool_calls.PARTS).part("0")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_at(2, patch, tool_calls, "CallsUnderAttack")
        evaluate_tool_calls(agent, tokenizer, READ, settings, unfinished=evaluation)
    done, reported = settings.progress_done(len(READ), evaluation), []
    assert evaluation.done(2) == 1 and done == 3
    with monkeypatch.context() as patch:
        batches = stop_at(99, patch, tool_calls, "CallsUnderAttack")
        on_progress = lambda: reported.append(1)  # noqa: E731
        assert evaluate_tool_calls(agent, tokenizer, READ, settings, on_progress, evaluation) == whole
    assert len(batches) == 1 and len(reported) == settings.progress_steps(len(READ)) - done


def test_another_evaluation_begins_anew(tmp_path, monkeypatch):
    (one, two), _ = agents_and_sources()
    same = evaluation_of(tmp_path)
    assert same == evaluation_of(tmp_path)
    tokenizer = copy.deepcopy(COPYING_TOKENIZER)
    tokenizer.chat_template += "{# changed #}"
    configured, buffered, changed = (copy.deepcopy(one.model) for _ in range(3))
    configured.config.rms_norm_eps *= 2
    next(buffered.buffers()).mul_(2)
    with torch.no_grad():
        changed.get_input_embeddings().weight[3, 2] += 1e-9
    others = [
        evaluation_of(tmp_path, rows=ROWS[1:]),
        evaluation_of(tmp_path, settings=replace(IN_A_WORLD, seed=1)),
        evaluation_of(tmp_path, agents=[one]),
        evaluation_of(tmp_path, agents=[two, one]),
        evaluation_of(tmp_path, agents=[replace(one, temperature=0.5), two]),
        evaluation_of(tmp_path, agents=[replace(one, folder="elsewhere"), two]),
        evaluation_of(tmp_path, agents=[replace(one, tokenizer=tokenizer), two]),
        *(evaluation_of(tmp_path, agents=[replace(one, model=m), two]) for m in (configured, buffered, changed)),
    ]
    monkeypatch.setattr(torch, "__version__", "3.0")
    others.append(evaluation_of(tmp_path))
    folders = [evaluation.folder for evaluation in [same, *others]]
    assert len(set(folders)) == len(folders) == 12


def test_weights_that_are_elsewhere_are_known_by_their_files(tmp_path):
    (one, two), _ = agents_and_sources()
    away, folders = copy.deepcopy(one.model), [tmp_path / "a", tmp_path / "b"]
    for folder, agent in zip(folders, (one, two), strict=True):
        agent.model.save_pretrained(folder)
    agents = [replace(one, folder=str(tmp_path / "same"), model=away.to("meta"))]
    known = set()
    for folder in folders:
        folder.rename(tmp_path / "same")
        known.add(evaluation_of(tmp_path, agents=agents).folder)
        (tmp_path / "same").rename(folder)
    assert len(known) == 2


class NotANumber:
    """Something that a file of numbers never holds."""


def test_a_file_is_whole_and_holds_only_numbers(tmp_path):
    evaluation = Unfinished(tmp_path / "kept")
    with pytest.raises(ZeroDivisionError):
        evaluation.piece(0, lambda: 1 / 0)
    assert evaluation.piece(0, lambda: {"a": 1}) == {"a": 1} == evaluation.piece(0, lambda: 1 / 0)
    assert [file.name for file in evaluation.folder.iterdir()] == ["0.pt"]
    evaluation.piece(1, NotANumber)
    with pytest.raises(pickle.UnpicklingError, match="NotANumber"):
        evaluation.piece(1, NotANumber)
    file = evaluation.folder / "0.pt"
    content = file.read_bytes()
    for damaged in (b"", content[:-1], content[:100] + bytes([content[100] ^ 1]) + content[101:]):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"0\.pt is damaged: remove it"):
            evaluation.piece(0, lambda: 1 / 0)
    assert NOTHING_KEPT.part("0").piece(0, lambda: 2) == 2 and NOTHING_KEPT.done(3) == 0
    NOTHING_KEPT.forget()


def test_a_full_disk_leaves_no_half_file(tmp_path, monkeypatch):
    def full(self, content):
        with self.open("wb") as file:
            file.write(content[:9])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        Unfinished(tmp_path).piece(0, lambda: 1)
    assert list(tmp_path.iterdir()) == []
