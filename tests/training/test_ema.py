"""The moving average of weights: its formula, its model, and that it is resumed to the bit."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, TrainerCallback

from aajr_hf.cli.evaluate import with_averages
from aajr_hf.evaluation.agents import load_agent

from .tiny import dataset, tiny_model, trainer

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
    assert (tmp_path / "run" / "ema" / "recipe.yaml").is_file()


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


def test_small_steps_of_bfloat16_are_not_lost():
    from aajr_hf.training.ema import WeightAverage

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
        run._check()
