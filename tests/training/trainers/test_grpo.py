"""`AAJRGRPOTrainer` against `GRPOTrainer`, against the formulas written out, and against itself."""

from __future__ import annotations

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, ProcessorMixin
from trl import GRPOConfig, GRPOTrainer

from aajr_hf import AAJRGRPOConfig
from aajr_hf.evaluation.comparison.runs import read_run
from aajr_hf.training.data.batch import AgentBatch
from tests.support.completions import Reference, amplification, first_inputs, gradient, grpo, largest_difference, step
from tests.support.reference import MEASURES
from tests.support.tiny import assert_same_gradient, tiny_model, trainer_arguments

ADAM = {"max_steps": 20, "optim": "adamw_torch", "learning_rate": 1e-3, "max_grad_norm": 1.0}
NO_PENALTY = {"regularizer_lambda": 0.0}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "trl", "tolerance"),
    [
        ({"perturbation_epsilon": 0.0}, {}, 0.0),
        ({"perturbation_epsilon": 1e-9}, {}, 1e-5),
        ({"perturbation_epsilon": 1e-9}, {"num_iterations": 2, "epsilon": 0.01, "temperature": 0.7}, 1e-5),
        (
            {"perturbation_epsilon": 1e-9, "adapter": "lora", "adapter_rank": 4},
            {"loss_type": "grpo", "beta": 0.1},
            1e-5,
        ),
    ],
    ids=["inactive", "vanishing-adversary", "off-policy", "lora"],
)
def test_without_an_adversary_it_is_grpo(tmp_path, settings, trl, tolerance):
    mine = grpo(tmp_path, tiny_model(torch.float32), **NO_PENALTY, **settings, **trl, **ADAM)
    mine.train()
    lora = {"peft_config": mine.model.peft_config["default"]} if "adapter" in settings else {}
    theirs = grpo(tmp_path, tiny_model(torch.float32), GRPOTrainer, GRPOConfig, **lora, **trl, **ADAM)
    theirs.train()
    assert largest_difference(mine.model, theirs.model) <= tolerance
    for one, other in zip(mine.state.log_history[:-1], theirs.state.log_history[:-1], strict=True):
        for name, value in other.items():
            assert name == "step_time" or one[name] == pytest.approx(value, abs=1e-4), name
    assert (
        len(mine.state.log_history) == 21
        and mine.state.log_history[2]["reward"] != mine.state.log_history[0]["reward"]
    )


@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "dr_grpo"])
def test_micro_batches_are_averaged_as_trl_does(tmp_path, loss_type):
    """Completions of unequal lengths, generated together and trained on in two micro-batches."""
    shared = {"loss_type": loss_type, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    mine = grpo(tmp_path, perturbation_epsilon=1e-9, **NO_PENALTY, **shared)
    mine.train()
    theirs = grpo(tmp_path, None, GRPOTrainer, GRPOConfig, **shared)
    theirs.train()
    assert largest_difference(mine.model, theirs.model) < 1e-6
    assert largest_difference(mine.model, tiny_model()) > 1e-3


def rows_of(inputs):
    for i, (prompt, completion) in enumerate(zip(inputs["prompt_mask"], inputs["completion_mask"], strict=True)):
        yield (
            i,
            inputs["prompt_ids"][i][prompt.bool()].tolist(),
            inputs["completion_ids"][i][completion.bool()].tolist(),
        )


def clipped_loss(advantage, old, low=0.2, high=0.2):
    def loss(log_probs):
        ratios = (log_probs[0] - old).exp()
        terms = [min(r * advantage, r.clamp(1 - low, 1 + high) * advantage, key=float) for r in ratios]
        return -torch.stack(terms).mean()

    return loss


def references(model, inputs):
    found = []
    for i, prompt, completion in rows_of(inputs):
        policy = Reference(model, prompt, [completion], lambda lp: lp[0])
        old = policy.g(torch.zeros(())).detach()
        found.append(Reference(model, prompt, [completion], clipped_loss(inputs["advantages"][i], old)))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("output", "radius"), [("logits", 1.0), ("fisher", 1.5)])
def test_the_objective_is_that_of_the_formulas(tmp_path, output, radius):
    """One perturbation of each completion's prompt, against constants of the clean one; in a ball in which ratios are clipped."""
    small = {"per_device_train_batch_size": 4, "max_completion_length": 3, "loss_type": "grpo"}
    found, log, inputs = step(
        grpo(tmp_path, regularizer_lambda=0.01, penalty_output=output, penalty_radius=radius, **small)
    )
    model = tiny_model()
    examples = references(model, inputs)
    for example in examples:
        example.penalty_radius = radius
    losses = torch.stack([example.adversarial() for example in examples])
    penalties = torch.stack([example.penalty(MEASURES[output]) for example in examples])
    assert log["aajr/clean_loss"] == pytest.approx(-float(inputs["advantages"].mean()), abs=1e-6)
    assert log["aajr/adversarial_loss"] == pytest.approx(float(losses.detach().mean()), rel=1e-5)
    assert log["aajr/adversarial_loss"] > log["aajr/clean_loss"] + 0.2
    assert log["aajr/penalty"] == pytest.approx(float(penalties.detach().mean()), rel=1e-5)
    assert "aajr/step_size_bound" not in log
    assert_same_gradient(found, gradient(model, losses.mean() + 0.01 * penalties.mean()), 1e-5)


@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dr_grpo", "dapo"])
@pytest.mark.parametrize("corrected", [False, True])
def test_the_system_loss_of_a_completion_is_trls(tmp_path, loss_type, corrected):
    """Off the policy that sampled, where ratios are clipped, and with a reference."""
    run = grpo(tmp_path, loss_type=loss_type, temperature=0.7, use_bias_correction_kl=corrected)
    inputs = first_inputs(run)
    noise = {name: 0.5 * torch.randn(inputs["completion_ids"].shape) for name in ("old", "ref")}
    system = run._system_loss(inputs, None)
    clean = system._log_probs(system.policy(run.model, None)(), system.batch).detach()
    clean = torch.nn.functional.pad(clean, (0, inputs["completion_ids"].shape[1] - clean.shape[1]))
    inputs |= {f"{name}_per_token_logps": clean + shift for name, shift in noise.items()}
    run.beta = 0.3
    system = run._system_loss(inputs, None)
    losses = system.per_example(system.policy(run.model, None)())
    for i in range(8):
        one = {name: value[i : i + 1] for name, value in inputs.items() if name != "num_items_in_batch"}
        one["num_items_in_batch"] = one["completion_mask"].sum()
        expected = GRPOTrainer.compute_loss(run, run.model, one)
        assert float(losses[i].detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


def test_prompts_that_are_padded_on_the_left_become_rows_that_are_not(tmp_path):
    inputs = first_inputs(grpo(tmp_path))
    assert not inputs["prompt_mask"].all() and not inputs["completion_mask"].all()
    run = grpo(tmp_path)
    batch = run._system_loss(inputs, None).batch
    assert isinstance(batch, AgentBatch) and (batch.attention_mask.diff(dim=1) <= 0).all()
    for i, prompt, completion in rows_of(inputs):
        length = len(prompt) + len(completion)
        assert batch.input_ids[i, :length].tolist() == prompt + completion and batch.attention_mask[i].sum() == length
        assert batch.perturbable[i].nonzero().flatten().tolist() == list(range(len(prompt)))
        assert batch.action_labels[i][batch.action_mask[i]].tolist() == completion


@pytest.mark.slow
def test_the_penalty_lowers_the_amplification(tmp_path):
    inputs = first_inputs(grpo(tmp_path, tiny_model(torch.float32)))
    before = amplification(grpo(tmp_path, tiny_model(torch.float32)), inputs)
    last = {}
    for strength in (0.0, 0.01):
        run = grpo(tmp_path, tiny_model(torch.float32), regularizer_lambda=strength, **ADAM)
        run.train()
        last[strength] = amplification(run, inputs)
    assert last[0.01] < 0.5 * before and last[0.01] < 0.7 * last[0.0]


@pytest.mark.slow
def test_an_adapter_trains_and_leaves_the_base_alone(tmp_path):
    settings = {"adapter": "lora", "adapter_rank": 2, "beta": 0.1, "regularizer_lambda": 0.01}
    run = grpo(tmp_path, tiny_model(torch.float32), **settings, **ADAM | {"max_steps": 2})
    before = {name: parameter.detach().clone() for name, parameter in run.model.named_parameters()}
    run.train()
    moved = {name for name, parameter in run.model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved and all(".default." in name for name in moved)
    first, second = run.state.log_history[:2]
    assert first["kl"] == pytest.approx(0, abs=1e-6) and second["kl"] > 0 and second["aajr/penalty"] > 0


@pytest.mark.slow
def test_activation_checkpointing_changes_nothing(tmp_path):
    settings = {"regularizer_lambda": 0.01, "max_completion_length": 3}
    plain, _, _ = step(grpo(tmp_path, **settings))
    checkpointed, _, _ = step(grpo(tmp_path, gradient_checkpointing=True, **settings))
    assert_same_gradient(checkpointed, plain, 1e-9)


@pytest.mark.slow
def test_accumulation_gives_the_gradient_of_the_whole_batch(tmp_path):
    settings = {"loss_type": "grpo", "regularizer_lambda": 0.01, "clean_loss_weight": 0.5, "max_completion_length": 3}
    whole, log, _ = step(grpo(tmp_path, **settings))
    small = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    parts, other, _ = step(grpo(tmp_path, **small, **settings))
    assert other["aajr/penalty"] == pytest.approx(log["aajr/penalty"], rel=1e-5)
    assert_same_gradient(parts, whole, 1e-6)


def test_a_model_that_counts_positions_from_the_padding_on_is_refused(tmp_path):
    size = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=tiny_model().config.vocab_size, **size))
    with pytest.raises(
        ValueError, match="rotary or relative positions. Reason: padding before a prompt changes its logits by"
    ):
        grpo(tmp_path, model)


def test_epsilon_stays_the_clipping_range(tmp_path):
    run = grpo(tmp_path, epsilon=0.1, perturbation_epsilon=0.5)
    assert run.epsilon_low == 0.1 and run.args.radius == 0.5
    assert AAJRGRPOConfig.epsilon == GRPOConfig.epsilon and AAJRGRPOConfig.perturbation_epsilon == 0.25
    run.create_model_card()
    assert read_run(tmp_path)["epsilon"] == 0.5
    assert "| `epsilon` | 0.5 |" in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize(
    ("overrides", "field"),
    [
        ({"loss_type": "cispo"}, "loss_type"),
        ({"use_vllm": True}, "use_vllm"),
        ({"use_liger_kernel": True}, "use_liger_kernel"),
        ({"importance_sampling_level": "sequence"}, "importance_sampling_level"),
        ({"delta": 1.5}, "delta"),
        ({"off_policy_mask_threshold": 0.5}, "off_policy_mask_threshold"),
        ({"mask_truncated_completions": True}, "mask_truncated_completions"),
        ({"top_entropy_quantile": 0.5}, "top_entropy_quantile"),
        ({"entropy_coef": 0.1}, "entropy_coef"),
        ({"use_adaptive_entropy": True}, "use_adaptive_entropy"),
        ({"cast_lm_head_to_fp32": True}, "cast_lm_head_to_fp32"),
        ({"perturbed_tokens": "all"}, "perturbed_tokens"),
        ({"lambda_schedule": "curriculum"}, "lambda_schedule"),
        ({"perturbation_epsilon": -1.0}, "perturbation_epsilon"),
        ({"perturbation_epsilon": 0.0, "penalty_radius": 2.0}, "perturbation_epsilon"),
        ({"ascent_steps": 0}, "ascent_steps"),
    ],
    ids=str,
)
def test_what_has_no_adversary_is_refused_by_name(tmp_path, overrides, field):
    sampling = {"num_generations": 4, "max_completion_length": 5}
    with pytest.raises(ValueError, match=f"`{field}`") as error:
        AAJRGRPOConfig(**trainer_arguments(tmp_path, **sampling, **overrides))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("attribute", "field"),
    [
        ("tools", "tools"),
        ("environment_factories", "environment_factory"),
        ("rollout_func", "rollout_func"),
        ("processing_class", "processing_class"),
        ("is_deepspeed_enabled", "deepspeed"),
        ("is_fsdp_enabled", "fsdp"),
        ("aux_loss_enabled", "router_aux_loss_coef"),
    ],
)
def test_what_is_not_tried_is_refused(tmp_path, attribute, field):
    run = grpo(tmp_path)
    setattr(run, attribute, object.__new__(ProcessorMixin) if attribute == "processing_class" else True)
    with pytest.raises(ValueError, match=f"`{field}`"):
        run._check_support()
