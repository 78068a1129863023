"""The moving average of weights: its formula, its model, and that it is resumed to the bit."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, TrainerCallback

from aajr_hf import AAJRConfig, AAJRTrainer
from aajr_hf.cli.arguments.measurement import with_averages
from aajr_hf.cli.common.errors import UserError
from aajr_hf.evaluation.agents import load_agent
from aajr_hf.evaluation.comparison.runs import read_run
from aajr_hf.training.runs.checkpoints import INCOMPLETE
from tests.support.tiny import WORDS, dataset, tiny_model, trainer, trainer_arguments

SETTINGS = {"optim": "adamw_torch", "learning_rate": 1e-2, "max_steps": 6, "epsilon": 0.0, "regularizer": "none"}


class Watch(TrainerCallback):
    """Keeps the trained weights after every step."""

    def __init__(self, model):
        self.seen = [self._weights(model)]

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.seen.append(self._weights(model))

    def _weights(self, model):
        return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("adapter", ["full", "lora"])
def test_the_average_is_saved_as_a_second_model(tmp_path, adapter):
    base = tiny_model(torch.float32)
    base.save_pretrained(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    run = trainer(tmp_path / "run", base, dataset(16), ema_decay=0.3, adapter=adapter, adapter_rank=4, **SETTINGS)
    watch = Watch(run.model)
    run.add_callback(watch)
    run.train()
    run.save_final()
    expected = watch.seen[0]
    for n, weights in enumerate(watch.seen[1:], start=1):
        d = min(0.3, (1 + n) / (10 + n))
        expected = {name: d * expected[name] + (1 - d) * weights[name] for name in weights}
    last = watch.seen[-1]
    assert all(torch.equal(p, last[name]) for name, p in run.model.named_parameters() if name in last)
    with run.average.in_place():
        inside = run.model(input_ids=torch.arange(5)[None]).logits
        for name, p in run.model.named_parameters():
            if name in expected:
                assert torch.allclose(p, expected[name], rtol=1e-5, atol=1e-6)
    found = with_averages({"agent": str(tmp_path / "run")})
    assert found == {"agent": str(tmp_path / "run"), "agent-ema": str(tmp_path / "run" / "ema")}
    raw, averaged = (load_agent(path)[0](input_ids=torch.arange(5)[None]).logits for path in found.values())
    assert torch.allclose(averaged, inside, atol=1e-5) and not torch.allclose(raw, averaged, atol=1e-3)
    # Not another seed of the same run.
    raw, averaged = (read_run(Path(path))["recipe"] for path in found.values())
    assert averaged == raw | {"weights": "average"}


@pytest.mark.slow
def test_a_resumed_average_is_that_of_the_undisturbed_run(tmp_path):
    settings = SETTINGS | {"save_strategy": "steps", "save_steps": 2, "ema_decay": 0.9}
    whole = trainer(tmp_path, tiny_model(torch.float32), dataset(64), **settings)
    whole.train()
    again = trainer(tmp_path, tiny_model(torch.float32, seed=1), dataset(64), **settings)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    with whole.average.in_place(), again.average.in_place():
        for name, value in whole.model.state_dict().items():
            assert torch.equal(again.model.state_dict()[name], value)
    (tmp_path / "checkpoint-2" / "ema.safetensors").unlink()
    with pytest.raises(ValueError, match="`ema_decay`: .*checkpoint-2 has no average"):
        again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


@pytest.mark.slow
def test_what_is_no_average_of_this_run_is_not_shown_as_one(tmp_path):
    folder = tmp_path / "run"
    run = trainer(folder, tiny_model(torch.float32), dataset(16), ema_decay=0.9, **SETTINGS)
    run.train()
    run.save_final()
    assert list(with_averages({"a": str(folder)})) == ["a", "a-ema"]
    assert list(with_averages({"a": str(folder), "b": f"{folder}/ema/"})) == ["a", "b"]
    with pytest.raises(UserError, match="a-ema names the averaged weights of a"):
        with_averages({"a": str(folder), "a-ema": "another"})
    (folder / "ema" / INCOMPLETE).write_text("")
    assert list(with_averages({"a": str(folder)})) == ["a"]
    # A later run without an average leaves none of an earlier one's.
    trainer(folder, tiny_model(torch.float32), dataset(16), **SETTINGS).save_final()
    assert not (folder / "ema").exists()
    # Another run in a folder of this name is none.
    other = trainer(folder / "ema", tiny_model(torch.float32), dataset(16), **SETTINGS)
    other.save_final()
    trainer(folder, tiny_model(torch.float32), dataset(16), **SETTINGS).save_final()
    assert (folder / "ema" / "model.safetensors").is_file() and list(with_averages({"a": str(folder)})) == ["a"]


def test_the_best_models_average_is_that_of_its_step(tmp_path):
    best = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2}
    best |= {"load_best_model_at_end": True, "metric_for_best_model": "loss", "greater_is_better": True}
    settings = SETTINGS | best | {"ema_decay": 0.9, "save_total_limit": 3}
    run = AAJRTrainer(
        tiny_model(torch.float32),
        AAJRConfig(**trainer_arguments(tmp_path, **settings)),
        train_dataset=dataset(16),
        eval_dataset=dataset(4),
        processing_class=copy.deepcopy(WORDS),
    )
    run.train()
    assert run.state.best_model_checkpoint.endswith("checkpoint-2")  # the highest loss
    expected = load_file(tmp_path / "checkpoint-2" / "ema.safetensors")
    with run.average.in_place():
        assert all(torch.equal(p, expected[name]) for name, p in run.model.named_parameters() if name in expected)


def test_small_steps_of_bfloat16_are_not_lost():
    from aajr_hf.training.runs.ema import WeightAverage

    model = torch.nn.Linear(4, 1, bias=False, dtype=torch.bfloat16)
    model.weight.data.fill_(1.0)
    average = WeightAverage(model, 0.999)
    average.on_train_begin(None, None, None)
    model.weight.data.fill_(2.0)
    for _ in range(1000):
        average.on_step_end(None, SimpleNamespace(global_step=10**6), None)
    with average.in_place():
        assert model.weight.float().mean().item() == pytest.approx(2 - 0.999**1000, rel=0.01)
    assert (model.weight == 2).all()


@pytest.mark.parametrize("attribute", ["is_fsdp_enabled", "is_deepspeed_enabled"])
def test_split_parameters_are_refused(tmp_path, attribute):
    run = trainer(tmp_path, ema_decay=0.9)
    setattr(run, attribute, True)
    with pytest.raises(ValueError, match="`ema_decay`"):
        run._set_up()
