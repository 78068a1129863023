"""`AAJRDPOTrainer` against `DPOTrainer`, against the formulas written out, and against itself."""

from __future__ import annotations

import re

import peft
import pytest
import torch
from datasets import Dataset
from torch.nn.functional import logsigmoid
from trl import DPOConfig, DPOTrainer

from aajr_hf import AAJRConfig, AAJRDPOConfig, AAJRDPOTrainer
from aajr_hf.evaluation.comparison.runs import read_run
from aajr_hf.training.trainers.dpo import PreferenceLoss
from tests.support.completions import (
    Reference,
    amplification,
    dpo,
    first_inputs,
    gradient,
    largest_difference,
    pairs,
    step,
)
from tests.support.reference import MEASURES
from tests.support.tiny import WORDS, assert_same_gradient, tiny_model, trainer_arguments

ADAM = {"max_steps": 20, "optim": "adamw_torch", "learning_rate": 1e-3, "max_grad_norm": 1.0}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "trl", "tolerance"),
    [
        ({"epsilon": 0.0}, {}, 0.0),
        ({"epsilon": 1e-9}, {"sync_ref_model": True, "ref_model_sync_steps": 5}, 1e-5),
        ({"epsilon": 1e-9, "adapter": "lora"}, {}, 1e-5),
    ],
    ids=["inactive", "vanishing-adversary", "lora"],
)
def test_without_an_adversary_it_is_dpo(tmp_path, settings, trl, tolerance):
    own = {"regularizer_lambda": 0.0, "adapter_rank": 4, **settings}
    mine = dpo(tmp_path, tiny_model(torch.float32), **own, **trl, **ADAM)
    mine.train()
    lora = {"peft_config": mine.model.peft_config["default"]} if "adapter" in settings else {}
    theirs = dpo(tmp_path, tiny_model(torch.float32), DPOTrainer, DPOConfig, **lora, **trl, **ADAM)
    theirs.train()
    assert largest_difference(mine.model, theirs.model) <= tolerance
    assert mine.state.log_history[19]["loss"] < 0.95 * mine.state.log_history[0]["loss"]
    for one, other in zip(mine.state.log_history[:-1], theirs.state.log_history[:-1], strict=True):
        for name, value in other.items():
            if name == "rewards/accuracies" and abs(other["rewards/margins"]) < 1e-4:
                continue  # before LoRA has moved, rounding decides which completion is preferred
            assert one[name] == pytest.approx(value, abs=1e-4), name


def rows_of(inputs):
    """Of each pair the prompt's ids, and those of its two completions."""
    ids, mask, completion = inputs["input_ids"], inputs["attention_mask"].bool(), inputs["completion_mask"].bool()
    count = len(ids) // 2
    for i in range(count):
        prompt = ids[i][mask[i] & ~completion[i]].tolist()
        yield i, prompt, [ids[row][completion[row]].tolist() for row in (i, i + count)]


def references(model, ref_model, inputs, beta=0.1):
    found = []
    for _, prompt, completions in rows_of(inputs):
        constants = Reference(ref_model, prompt, completions, lambda lp: torch.stack([x.sum() for x in lp]))
        with torch.no_grad():
            chosen, rejected = constants.g(torch.zeros(()))

        def loss(lp, chosen=chosen, rejected=rejected):
            return -logsigmoid(beta * ((lp[0].sum() - chosen) - (lp[1].sum() - rejected)))

        found.append(Reference(model, prompt, completions, loss))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("output", "radius"), [("logits", 1.0), ("fisher", 1.5)])
def test_the_objective_is_that_of_the_formulas(tmp_path, output, radius):
    """One perturbation of both rows' prompt; Jacobians of both completions; the reference sees the clean prompt."""
    found, log, inputs = step(
        dpo(
            tmp_path,
            regularizer_lambda=0.01,
            penalty_output=output,
            penalty_radius=radius,
            per_device_train_batch_size=2,
        )
    )
    model = tiny_model()
    examples = references(model, tiny_model(seed=1), inputs)
    for example in examples:
        example.penalty_radius = radius
    losses = torch.stack([example.adversarial() for example in examples])
    penalties = torch.stack([example.penalty(MEASURES[output]) for example in examples])
    assert log["aajr/adversarial_loss"] == pytest.approx(float(losses.detach().mean()), rel=1e-5)
    assert log["aajr/penalty"] == pytest.approx(float(penalties.detach().mean()), rel=1e-5)
    assert_same_gradient(found, gradient(model, losses.mean() + 0.01 * penalties.mean()), 1e-5)


@pytest.mark.parametrize("beta", [0.1, 2.0])
def test_the_system_loss_of_a_pair_is_trls(tmp_path, beta):
    run = dpo(tmp_path, beta=beta)
    inputs = first_inputs(run)
    system = run._system_loss(inputs, None)
    losses = system.per_example(system.policy(run.model, None)())
    for i in range(4):
        pair = {name: value[[i, i + 4]] for name, value in inputs.items()}
        expected = DPOTrainer.compute_loss(run, run.model, pair)
        assert float(losses[i].detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


@pytest.mark.slow
def test_the_penalty_lowers_the_amplification(tmp_path):
    last = {}
    for strength in (0.0, 0.01):
        run = dpo(tmp_path, tiny_model(torch.float32), regularizer_lambda=strength, **ADAM)
        inputs = first_inputs(run)
        before = amplification(dpo(tmp_path, tiny_model(torch.float32)), inputs)
        run.train()
        last[strength] = amplification(run, inputs)
    assert last[0.01] < 0.5 * before and last[0.01] < 0.7 * last[0.0]


@pytest.mark.slow
@pytest.mark.parametrize("given", [False, True], ids=["adapter", "pretrained"])
def test_an_adapter_trains_against_its_beginning(tmp_path, given):
    """The reference is the base model, or what the adapter was; neither it nor the base moves."""
    model = tiny_model(torch.float32)
    overrides = {"adapter": "lora", "adapter_rank": 2}
    if given:
        lora = peft.LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
        model, overrides = peft.get_peft_model(model, lora), {"peft_config": None}
    run = dpo(tmp_path, model, regularizer_lambda=0.01, **ADAM | {"max_steps": 1}, **overrides)
    before = {name: parameter.detach().clone() for name, parameter in run.model.named_parameters()}
    run.train()
    moved = {name for name, parameter in run.model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved and all(".default." in name for name in moved)
    log = run.state.log_history[0]
    # The policy begins as its own reference.
    assert log["rewards/margins"] == pytest.approx(0, abs=1e-5)
    assert log["aajr/clean_loss"] == pytest.approx(0.6931, abs=1e-4) and log["aajr/adversarial_loss"] > 0.7
    assert log["aajr/penalty"] > 0


@pytest.mark.slow
def test_reference_log_probabilities_may_be_computed_before(tmp_path):
    now, _, _ = step(dpo(tmp_path, regularizer_lambda=0.01))
    before, _, inputs = step(dpo(tmp_path, regularizer_lambda=0.01, precompute_ref_log_probs=True))
    assert "ref_chosen_logps" in inputs
    assert_same_gradient(before, now, 1e-6)


def test_evaluation_has_no_adversary(tmp_path):
    found = []
    for cls, config in ((AAJRDPOTrainer, AAJRDPOConfig), (DPOTrainer, DPOConfig)):
        run = dpo(tmp_path, cls=cls, config=config)
        found.append(run.evaluate(pairs(6)))
    assert found[0]["eval_loss"] == found[1]["eval_loss"]
    assert found[0]["eval_rewards/margins"] == found[1]["eval_rewards/margins"]


@pytest.mark.slow
def test_accumulation_gives_the_gradient_of_the_whole_batch(tmp_path):
    settings = {"regularizer_lambda": 0.01, "clean_loss_weight": 0.5}
    whole, log, _ = step(dpo(tmp_path, **settings))
    parts, other, _ = step(dpo(tmp_path, per_device_train_batch_size=2, gradient_accumulation_steps=2, **settings))
    assert_same_gradient(parts, whole, 1e-6)
    assert other["num_tokens"] == log["num_tokens"]
    assert other["rewards/margins"] == pytest.approx(log["rewards/margins"], rel=1e-4)


@pytest.mark.slow
def test_activation_checkpointing_and_finite_differences_change_little(tmp_path):
    exact, log, _ = step(dpo(tmp_path, regularizer_lambda=0.01))
    checkpointed, _, _ = step(dpo(tmp_path, regularizer_lambda=0.01, gradient_checkpointing=True))
    assert_same_gradient(checkpointed, exact, 1e-9)
    estimated, other, _ = step(dpo(tmp_path, regularizer_lambda=0.01, jacobian_estimator="finite_difference"))
    assert other["aajr/penalty"] == pytest.approx(log["aajr/penalty"], rel=2e-3)
    assert_same_gradient(estimated, exact, 1e-2)


@pytest.mark.slow
def test_a_resumed_run_continues_the_trajectory(tmp_path):
    shared = ADAM | {"save_strategy": "steps", "max_steps": 2, "save_steps": 1, "regularizer_lambda": 0.01}
    whole, parts = (dpo(tmp_path / name, tiny_model(torch.float32), **shared) for name in ("whole", "parts"))
    whole.train()
    parts.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-1"))
    assert largest_difference(whole.model, parts.model) == 0


def test_the_penalty_on_a_part_of_the_pairs_is_that_of_whole_pairs(tmp_path):
    run = dpo(tmp_path)
    system = run._system_loss(first_inputs(run), None)
    policy = system.policy(run.model, None)
    delta = 0.1 * torch.randn_like(policy.embeddings())
    some = torch.tensor([2, 0])
    assert torch.allclose(policy.select(some)(delta[some]), policy(delta)[some], rtol=0, atol=1e-6)


def test_the_smoothness_bounds_the_curvature_in_the_logits(tmp_path):
    run = dpo(tmp_path, beta=0.5)
    inputs = first_inputs(run)
    pair = {name: value[[0, 4]] for name, value in inputs.items()}
    for scale in (0.1, 1.0, 5.0):
        pair |= {"ref_chosen_logps": torch.randn(1), "ref_rejected_logps": torch.randn(1)}
        system = PreferenceLoss(pair, 0.5, None)
        shape = (1, system.batch.action_mask.shape[1], 7)
        system.batch.action_labels %= 7
        hessian = torch.autograd.functional.hessian(
            lambda z, s=shape, system=system: system.per_example(z.view(s)).sum(),
            scale * torch.randn(shape, dtype=torch.float64).flatten(),
        )
        assert torch.linalg.eigvalsh(hessian).abs().max() <= system.smoothness()[0]


@pytest.mark.parametrize(
    ("overrides", "field"),
    [
        ({"loss_type": "hinge"}, "loss_type"),
        ({"loss_type": ["sigmoid", "sft"]}, "loss_type"),
        ({"loss_weights": [2.0]}, "loss_weights"),
        ({"ld_alpha": 0.5}, "ld_alpha"),
        ({"f_divergence_type": "forward_kl"}, "f_divergence_type"),
        ({"use_weighting": True}, "use_weighting"),
        ({"truncation_mode": "keep_end"}, "truncation_mode"),
        ({"padding_free": True}, "padding_free"),
        ({"activation_offloading": True}, "activation_offloading"),
        ({"use_liger_kernel": True}, "use_liger_kernel"),
        ({"perturbed_tokens": "all"}, "perturbed_tokens"),
        ({"epsilon": -1.0}, "epsilon"),
    ],
    ids=str,
)
def test_what_has_no_adversary_is_refused_by_name(tmp_path, overrides, field):
    with pytest.raises(ValueError, match=f"`{field}`") as error:
        AAJRDPOConfig(**trainer_arguments(tmp_path, **overrides))
    assert "\n" not in str(error.value)
    assert set(re.findall(r"`(\w+)`", str(error.value))) <= AAJRDPOConfig.__dataclass_fields__.keys()


def test_without_an_adversary_all_losses_are_trls_business(tmp_path):
    config = AAJRDPOConfig(**trainer_arguments(tmp_path, epsilon=0.0, regularizer="none", loss_type=["ipo", "sft"]))
    assert not config.is_active


def test_mistakes_are_told_before_training(tmp_path):
    with pytest.raises(TypeError, match="must be an AAJRDPOConfig, got AAJRConfig"):
        AAJRDPOTrainer(tiny_model(), None, AAJRConfig(**trainer_arguments(tmp_path)), processing_class=WORDS)
    empty = pairs(4).map(
        lambda row: {"prompt": "a", "chosen": "", "rejected": ""}, remove_columns=pairs(4).column_names
    )
    with pytest.raises(ValueError, match="no perturbable token"):
        dpo(tmp_path, data=empty.map(lambda row: {"prompt": "", "chosen": "take 2", "rejected": "take 3"}))


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path):
    model = tiny_model()
    model.lm_head.weight.data[3] = torch.nan
    with pytest.raises(FloatingPointError, match="Not finite at step 0.*Lower `learning_rate`"):
        dpo(tmp_path, model, jacobian_estimator="finite_difference").train()
    assert not list(tmp_path.glob("_nonfinite*"))


def test_what_a_run_leaves_says_which_trainer_made_it(tmp_path):
    run = dpo(tmp_path, epsilon=0.1)
    run.create_model_card()
    card = (tmp_path / "README.md").read_text()
    assert "`AAJRDPOTrainer`" in card and "- dpo" in card and "aajr train" not in card and "system_loss" not in card
    assert read_run(tmp_path)["epsilon"] == 0.1


@pytest.mark.slow
def test_success_is_a_pair_that_is_preferred_rightly(tmp_path):
    run = dpo(tmp_path, epsilon=1e-9, epsilon_schedule="curriculum", aajr_warmup_ratio=1.0, max_steps=3)
    run.train()
    shares = [log["aajr/adversarial_success"] for log in run.state.log_history[:3]]
    assert shares == [log["rewards/accuracies"] for log in run.state.log_history[:3]] and 0 < sum(shares) < 3


def pairs_with_tools(examples: int = 8) -> Dataset:
    """Pairs whose prompts hold a turn of every role; the words of each are different."""
    rows = []
    for row in pairs(examples).to_list():
        said = row["prompt"][0]["content"].split()
        half = len(said) // 2
        turns = [
            ("system", "ok ok"),
            ("user", " ".join(said[:half])),
            ("assistant", "ok"),
            ("tool", " ".join(said[half:])),
        ]
        rows.append(row | {"prompt": [{"role": role, "content": text} for role, text in turns]})
    return Dataset.from_list(rows)


@pytest.mark.slow
@pytest.mark.parametrize("tokens", ["tool", "observation"])
def test_only_the_words_of_who_is_named_are_perturbed(tmp_path, tokens):
    """In both rows of a pair, and by an ascent that stays there."""
    data = pairs_with_tools()
    run = dpo(tmp_path, data=data, perturbed_tokens=tokens, train_sampling_strategy="sequential")
    inputs = first_inputs(run)
    system = run._system_loss(inputs, None)
    ids = system.batch.input_ids
    roles = {"observation": ("user", "tool")}.get(tokens, (tokens,))
    for i, row in enumerate(data.to_list()[: len(ids)]):
        said = " ".join(m["content"] for m in row["prompt"] if m["role"] in roles)
        for batch, place in ((system.batch, i), (system.rows, i), (system.rows, i + len(ids))):
            assert WORDS.decode(batch.input_ids[place][batch.perturbable[place]]).split() == said.split()
    ascent = run._ascend(run.model, system, None)
    moved = ascent.delta.norm(dim=-1) > 0
    assert moved.any(dim=1).all() and not (moved & ~system.batch.perturbable).any()
    expected = [
        run.model.get_input_embeddings()(ids[i][mask]).norm(dim=-1).mean()
        for i, mask in enumerate(system.batch.perturbable)
    ]
    run.train()
    assert run.state.log_history[0]["aajr/embedding_norm"] == pytest.approx(
        float(sum(expected).detach()) / 4, rel=1e-5
    )


def test_where_nobody_named_says_anything_the_pair_is_named(tmp_path):
    with pytest.raises(ValueError, match="Example 0 has no perturbable token: give every example a tool message"):
        dpo(tmp_path, perturbed_tokens="tool")

    texts = Dataset.from_list([{"prompt": "take", "chosen": "take 2", "rejected": "take 3"}] * 4)
    with pytest.raises(ValueError, match="`perturbed_tokens=user` needs messages, but the prompts are texts"):
        dpo(tmp_path, data=texts, perturbed_tokens="user")
