"""Every family of adapters: one meaning of `adapter_rank`, exact penalties, the rank that the table promises, merging."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel, get_peft_model
from peft.tuners.lora.dora import DoraLinearLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import AutoModelForCausalLM

from aajr_hf import AAJRConfig
from aajr_hf.cli.commands.merge import merge
from aajr_hf.objective import PerturbationSet, projected_gradient_ascent, trajectory_amplification
from aajr_hf.training.config.adapter_names import ADAPTERS
from aajr_hf.training.models.adapter_report import adapter_report
from aajr_hf.training.models.adapters import FAMILIES, adapter_config, linear_layers
from tests.support.tiny import WORDS, dataset, tiny_model, trainer

BY_DIFFERENCES = {"loha", "randlora", "c3a"}
NOT_THE_BASE_AT_FIRST = {("fourierft", 4), ("c3a", 4), ("hra", 3)}
# What these compute in fp32, whatever the type of the weights.
SINGLE_PRECISION = {"c3a", "fourierft", "deft"}


# PyTorch asks users of sparse tensors, such as SHiRA, to choose; whoever calls it is named.
pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks")


def run_with(tmp_path, adapter, rank=4, model=None, **overrides):
    # PSOFT takes the singular vectors of weights in single precision at most.
    model = tiny_model(torch.float32) if model is None else model
    settings = {"adapter": adapter, "adapter_rank": rank, "learning_rate": 1e-3, "optim": "adamw_torch"}
    return trainer(tmp_path, model, dataset(8), **settings | overrides)


def adapter_parameters(model):
    return [p for p in model.parameters() if p.requires_grad]


def randomise(model, scale=0.3):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in adapter_parameters(model):
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_two_steps_with_a_penalty(tmp_path, adapter):
    run = run_with(tmp_path, adapter, max_steps=2)
    before = [p.detach().clone() for p in adapter_parameters(run.model)]
    run.train()
    assert run.estimator == ("finite_difference" if adapter in BY_DIFFERENCES else "jvp")
    assert len([log for log in run.state.log_history if log.get("aajr/penalty", 0) > 0]) == 2
    after = adapter_parameters(run.model)
    assert sum(not torch.equal(a, b) for a, b in zip(before, after, strict=True)) > len(after) // 2


class ToyPolicy(torch.nn.Module):
    """Two linear layers in float64, without the single precision in which language models compute their norms."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(16, 32, bias=False)
        self.second = torch.nn.Linear(32, 16, bias=False)

    def forward(self, state):
        return self.second(torch.tanh(self.first(state)))


def hold_norms(monkeypatch):
    """DoRA takes the norms of its weights for constants where it is differentiated: so must what it is compared with."""
    original, norms = DoraLinearLayer.get_weight_norm, {}

    def first_value(self, *args, **kwargs):
        return norms.setdefault(self, original(self, *args, **kwargs).detach())

    monkeypatch.setattr(DoraLinearLayer, "get_weight_norm", first_value)


@pytest.mark.parametrize("adapter", FAMILIES)
def test_the_gradient_of_the_penalty_is_that_of_finite_differences(adapter, monkeypatch):
    torch.manual_seed(0)
    toy = ToyPolicy()
    shapes = {name: (layer.out_features, layer.in_features) for name, layer in toy.named_children()}
    family = FAMILIES[adapter]
    model = get_peft_model(toy, family.config(target_modules=list(shapes), **family.fields(4, shapes))).double().eval()
    randomise(model, 0.1)
    state = torch.randn(3, 16, dtype=torch.float64)
    trajectory = projected_gradient_ascent(
        lambda s: model(s).square().sum(dim=1), state, PerturbationSet(0.5), steps=3, step_size=0.3
    )
    kwargs = {"estimator": "jvp"}
    if adapter in BY_DIFFERENCES:
        step = torch.full((3,), 1e-1 if adapter in SINGLE_PRECISION else 1e-3, dtype=torch.float64)
        kwargs = {"estimator": "finite_difference", "difference_step": step}
    if adapter == "dora":
        hold_norms(monkeypatch)

    def value():
        return trajectory_amplification(model, state, trajectory, **kwargs).mean()

    parameters = adapter_parameters(model)
    gradients = torch.autograd.grad(value(), parameters)
    directions = [torch.randn_like(p) for p in parameters]
    slope = sum(float((g * d).sum()) for g, d in zip(gradients, directions, strict=True))
    tolerance, size = (1e-2, 1e-3) if adapter in SINGLE_PRECISION else (1e-5, 1e-5)

    def moved(sign):
        with torch.no_grad():
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter.add_(sign * size * direction)
            found = float(value())
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter.sub_(sign * size * direction)
        return found

    assert abs(slope) > 1e-3
    assert (moved(1) - moved(-1)) / (2 * size) == pytest.approx(slope, rel=tolerance)


@pytest.mark.filterwarnings("ignore:The symmetric initialization")
@pytest.mark.parametrize(("adapter", "rank"), [*((adapter, 4) for adapter in FAMILIES), ("hra", 3)])
def test_before_the_first_step_it_is_the_base_model_or_the_table_says_so(tmp_path, adapter, rank):
    model = tiny_model(torch.float32)
    ids = torch.arange(3, 11)[None]
    base = model(ids).logits
    run = run_with(tmp_path, adapter, rank, model=model)
    report = adapter_report(run.model, run.estimator)
    same = torch.allclose(run.model.eval()(ids).logits, base, atol=1e-4)
    assert report.starts_as_base == same == ((adapter, rank) not in NOT_THE_BASE_AT_FIRST)
    assert report.adapter == adapter and report.mergeable


@pytest.mark.parametrize("rank", [2, 4])
@pytest.mark.parametrize("adapter", FAMILIES)
def test_the_largest_rank_is_reached_and_not_passed(tmp_path, adapter, rank):
    model = tiny_model(torch.float32)
    base = {name: model.get_submodule(name).weight.detach().clone() for name in linear_layers(model)}
    run = run_with(tmp_path, adapter, rank, model=model)
    promised = {(row.name, row.shape): row.largest_rank for row in adapter_report(run.model).layers}
    randomise(run.model.double())
    base = {name: weight.double() for name, weight in base.items()}
    merged = run.model.merge_and_unload()
    for name, weight in base.items():
        update = merged.get_submodule(name).weight.detach() - weight
        singular = torch.linalg.svdvals(update.double())
        tolerance = 1e-5 if adapter in SINGLE_PRECISION else 1e-10
        measured = int((singular > tolerance * singular[0]).sum())
        assert measured == promised[name.rpartition(".")[2], tuple(weight.shape)], name


@pytest.mark.parametrize("adapter", FAMILIES)
def test_a_higher_rank_has_more_parameters_and_no_lower_bound(adapter):
    model = tiny_model(torch.float32, hidden_size=32, intermediate_size=64)
    sizes, ranks = [], []
    for rank in (1, 2, 4, 8, 16):
        if (adapter, rank) in (("gralora", 1), ("shira", 16)):
            continue
        config = adapter_config(AAJRConfig("unused", adapter=adapter, adapter_rank=rank, bf16=False), model)
        report = adapter_report(get_peft_model(copy.deepcopy(model), config))
        sizes.append(report.trainable)
        ranks.append(min(row.largest_rank for row in report.layers))
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1]
    assert ranks == sorted(ranks)


@pytest.mark.parametrize("adapter", ["randlora", "oft", "boft", "fourierft", "waveft", "c3a"])
def test_other_sizes_are_those_of_a_lora_with_as_many_parameters(adapter):
    model = tiny_model(torch.float32, hidden_size=64, intermediate_size=128)

    def parameters(name, rank):
        config = adapter_config(AAJRConfig("unused", adapter=name, adapter_rank=rank, bf16=False), model)
        return adapter_report(get_peft_model(copy.deepcopy(model), config)).trainable

    # Block sizes are divisors of the layers' widths, so half or twice is as near as they come.
    nearest = 1.01 if adapter in ("fourierft", "waveft") else 2.0
    for rank in (4, 8):
        assert 1 / nearest <= parameters(adapter, rank) / parameters("lora", rank) <= nearest


@pytest.mark.parametrize("adapter", FAMILIES)
def test_it_is_saved_loaded_and_merged(tmp_path, adapter):
    base, folder, merged = tmp_path / "base", tmp_path / "adapter", tmp_path / "merged"
    model = tiny_model(torch.float32)
    model.save_pretrained(base)
    run = run_with(folder, adapter, model=AutoModelForCausalLM.from_pretrained(base))
    randomise(run.model, 0.05)
    run.save_model()
    ids = torch.arange(3, 11)[None]
    expected = run.model.eval()(ids).logits
    loaded = AutoPeftModelForCausalLM.from_pretrained(folder)
    assert isinstance(loaded, PeftModel)
    assert torch.allclose(loaded(ids).logits, expected, atol=1e-5)
    assert not torch.allclose(model(ids).logits, expected, atol=1e-2)
    tolerance = 5e-5 if adapter == "fourierft" else 1e-5  # whose rounding is larger
    assert merge(str(folder), merged) <= tolerance
    again = AutoModelForCausalLM.from_pretrained(merged)
    assert not any(isinstance(module, BaseTunerLayer) for module in again.modules())
    assert torch.allclose(again(ids).logits, expected, rtol=1e-5, atol=tolerance * float(expected.abs().max()))


def test_modules_to_save_are_trained_saved_and_merged(tmp_path):
    base, folder = tmp_path / "base", tmp_path / "adapter"
    tiny_model(torch.float32).save_pretrained(base)
    options = {"modules_to_save": ["lm_head"], "target_modules": ["q_proj", "v_proj"]}
    model = AutoModelForCausalLM.from_pretrained(base)
    run = run_with(folder, "lora", model=model, adapter_options=options)
    head = model.lm_head.original_module.weight.clone()
    run.train()
    run.save_model()
    assert {row.name for row in adapter_report(run.model).layers} == {"q_proj", "v_proj"}
    assert merge(str(folder), tmp_path / "merged") <= 1e-5
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert not torch.equal(merged.lm_head.weight, head)
    assert torch.equal(merged.lm_head.weight, run.model.base_model.model.lm_head.modules_to_save["default"].weight)


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ["hira", "oft"])
def test_a_resumed_run_ends_where_the_uninterrupted_one_does(tmp_path, adapter):
    base = tmp_path / "base"
    tiny_model(torch.float32).save_pretrained(base)

    def weights(folder, resume=None, **overrides):
        settings = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4} | overrides
        run = run_with(tmp_path / folder, adapter, model=AutoModelForCausalLM.from_pretrained(base), **settings)
        run.train(resume_from_checkpoint=resume)
        return [p.detach().clone() for p in adapter_parameters(run.model)]

    whole = weights("whole")
    resumed = weights("resumed", resume=str(tmp_path / "whole" / "checkpoint-2"))
    assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"adapter_rank": 17}, r"`adapter_rank` must be from 1 to 16, the smaller side of model\.layers\.0"),
        ({"adapter": "shira", "adapter_rank": 9}, "`adapter_rank` must be from 1 to 8 with shira"),
        ({"adapter": "gralora", "adapter_rank": 3}, r"`adapter_rank` must be a multiple of 2 \(`gralora_k`\)"),
        (
            {"adapter_options": {"target_modules": ["query"]}},
            "has no linear layer query .* it has down_proj, gate_proj",
        ),
        ({"adapter_options": {"target_modules": ["q_proj", "query"]}}, "has no linear layer query"),
        ({"adapter_options": {"target_modules": "query"}}, "has no linear layer query"),
        ({"adapter_options": {"lora_alfa": 1}}, "lora has no field 'lora_alfa', only .*lora_alpha"),
        ({"adapter": "full", "adapter_options": {"r": 1}}, "set `adapter`, or unset `adapter_options`"),
    ],
    ids=str,
)
def test_what_cannot_be_names_the_valid_choices(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        run_with(tmp_path, **{"adapter": "lora", "rank": settings.pop("adapter_rank", 4)} | settings)


def test_the_shapes_come_from_the_configuration_alone(tmp_path):
    """A model that is given by name is not loaded twice."""
    tiny_model(torch.float32).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    config = AAJRConfig("unused", adapter="oft", adapter_rank=4, bf16=False)
    assert adapter_config(config, str(tmp_path)).oft_block_size == adapter_config(config, tiny_model()).oft_block_size


def test_the_table_of_a_full_fine_tune(tmp_path):
    run = trainer(tmp_path, tiny_model(torch.float32), dataset(8))
    report = adapter_report(run.model, run.estimator)
    assert report.trainable == report.total == sum(p.numel() for p in run.model.parameters())
    assert report.optimizer_bytes == 8 * report.total and report.mergeable is None
    rows = {row.name: row for row in report.layers}
    assert (
        rows["down_proj"].shape == (16, 32) and rows["down_proj"].count == 2 and rows["down_proj"].largest_rank == 16
    )
    assert len(WORDS) * 16 <= report.total - sum(row.trainable for row in report.layers)
