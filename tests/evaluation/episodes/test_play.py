"""Episodes against playing by hand, generation against argmax without a cache, attacked answers against teacher forcing."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from transformers import AddedToken, GenerationConfig

from aajr_hf.environments import WORLDS
from aajr_hf.evaluation.attacks.losses import LOSSES
from aajr_hf.evaluation.attacks.target import Target, success
from aajr_hf.evaluation.attacks.threat_model import ThreatModel
from aajr_hf.evaluation.batches import read_batch
from aajr_hf.evaluation.episodes import players
from aajr_hf.evaluation.episodes.play import episode_seeds, malformed_sentences, play, simulation_table
from aajr_hf.evaluation.episodes.players import ALONE, SUITE, AttackSettings, Experts, ModelPlayer, worst_prompts
from aajr_hf.evaluation.generation import decoded, end_mark, end_of_answer, generate, render_prompts
from aajr_hf.evaluation.reporting.statistics import mean_interval, student_t
from aajr_hf.evaluation.robustness.screening import fit_predictor
from aajr_hf.training.data.batch import AgentBatch
from aajr_hf.training.data.collation import encode_examples
from aajr_hf.training.data.system_prompts import with_system_prompt
from aajr_hf.training.policy.policy import AgentPolicy
from tests.support.families import TINY_FAMILIES
from tests.support.known_policies import Visited
from tests.support.small_agents import TOKENIZER, fit, model
from tests.support.templates import CHATML

# Of unequal lengths: more agents, longer prompts.
ROWS = [
    row
    for agents in (2, 3, 4)
    for world in [WORLDS["congestion"](agents)]
    if world.reset(seed=0)
    for row in world.rows().values()
]
ATTACK = AttackSettings(ThreatModel(epsilon=0.3), "cost", steps=4)


@pytest.fixture(scope="module")
def agent():
    return fit(model(), TOKENIZER, ROWS[::2])


@torch.no_grad()
def greedy(agent, row, delta=None) -> str:
    """What a model says to one prompt by itself, without padding, cache or `generate`; delta (>= length of the prompt, d)."""
    prompt = TOKENIZER.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=False)
    answer = TOKENIZER(row["completion"][0]["content"])["input_ids"]
    embed, said = agent.get_input_embeddings(), []
    start = embed(torch.tensor([prompt])) + (0 if delta is None else delta[: len(prompt)])
    for _ in range(2 * (len(answer) + 1)):
        state = torch.cat([start, embed(torch.tensor([said], dtype=torch.long))], dim=1)
        said.append(int(agent(inputs_embeds=state, use_cache=False).logits[0, -1].argmax()))
        if said[-1] == TOKENIZER.eos_token_id:
            return TOKENIZER.decode(said[:-1], skip_special_tokens=True).strip()
    return TOKENIZER.decode(said, skip_special_tokens=True).strip() + " …"


@pytest.mark.parametrize("batch_size", [1, 4, 128])
def test_answers_are_the_likeliest_tokens_one_by_one(agent, batch_size):
    expected = [greedy(agent, row) for row in ROWS]
    assert len(set(expected)) > 3
    assert ModelPlayer(agent, TOKENIZER, batch_size=batch_size).answer(ROWS) == expected


def test_an_answer_that_does_not_end_is_cut_off_and_no_answer():
    random = model(seed=3)
    answers = ModelPlayer(random, TOKENIZER).answer(ROWS)
    assert answers == [greedy(random, row) for row in ROWS]
    unfinished = [answer for answer in answers if answer.endswith("…")]
    assert unfinished and all(WORLDS["congestion"].parse(answer) is None for answer in unfinished)


def test_what_a_model_thinks_first_is_no_part_of_its_answer(agent):
    said = TOKENIZER("<think>\n\n</think>\n\ntake 2 via a yield 1")["input_ids"]
    player = ModelPlayer(agent, TOKENIZER)
    assert player._text([*said, TOKENIZER.eos_token_id, *said], 1000) == "take 2 via a yield 1"


def test_the_models_own_settings_of_generation_change_nothing():
    agent = fit(model(), TOKENIZER, ROWS[::2])
    expected = ModelPlayer(agent, TOKENIZER).answer(ROWS)
    agent.generation_config = GenerationConfig(do_sample=True, repetition_penalty=9.0, max_length=3)
    assert ModelPlayer(agent, TOKENIZER).answer(ROWS) == expected


def test_the_token_after_an_answer_ends_it_whatever_the_tokenizer_calls_its_end():
    tokenizer, end = copy.deepcopy(TOKENIZER), TOKENIZER.eos_token_id
    tokenizer.eos_token = "<|user|>"
    agent = model()
    agent.generation_config.eos_token_id = None
    assert {end, tokenizer.eos_token_id} <= set(ModelPlayer(agent, tokenizer)._ends)


@pytest.mark.slow
@pytest.mark.parametrize(("end", "same"), [("special", True), ("special", False), ("added", False), ("pieces", False)])
def test_what_a_model_says_after_its_answer_is_cut_off(end, same):
    """A template in ChatML, whose end of a turn is a token, special or not, or several tokens that together read so."""
    tokenizer, mark = copy.deepcopy(TOKENIZER), "<|im_end|>"
    tokenizer.chat_template = CHATML
    if end != "pieces":
        tokenizer.add_tokens([AddedToken(mark, special=end == "special", normalized=False)])
    knows = ROWS[:3]
    rambles = [
        row | {"completion": [{"role": "assistant", "content": f"{row['completion'][0]['content']}{mark} and so on"}]}
        for row in knows
    ]
    agent = model(tokenizer)
    fit(agent, tokenizer, rambles)
    if same:
        tokenizer.eos_token = mark
        agent.generation_config.eos_token_id = tokenizer.eos_token_id
    prompts, references = render_prompts(tokenizer, knows)
    said = generate(agent, tokenizer.pad_token_id, prompts, None, 40)
    # By itself it goes on, or it would prove nothing.
    if not same:
        assert all(f"{mark} and" in decoded(tokenizer, tokens) for tokens in said)
    answers = ModelPlayer(agent, tokenizer).answer(knows)
    assert answers == [row["completion"][0]["content"] for row in knows]
    assert end_mark(tokenizer) == (mark if end == "pieces" else "")


def test_a_mark_in_pieces_ends_an_answer_before_an_end_token_does_and_after_none():
    tokenizer = copy.deepcopy(TOKENIZER)
    tokenizer.chat_template = CHATML
    said, eos = tokenizer("take 1<|im_end|> a b")["input_ids"], tokenizer.eos_token_id
    end = end_of_answer(tokenizer, [*said, eos], [eos], "<|im_end|>")
    assert decoded(tokenizer, said[: end + 1]).endswith("<|im_end|>") and end < len(said)
    assert end_of_answer(tokenizer, [eos, *said], [eos], "<|im_end|>") == 0
    assert end_of_answer(tokenizer, said[:end], [eos], "<|im_end|>") is None


def test_a_system_prompt_stands_before_every_observation_that_a_model_reads(agent, monkeypatch):
    seen, text = [], "You are one of several agents."
    monkeypatch.setattr(
        players,
        "worst_prompts",
        lambda model, tokenizer, rows, attack: (
            seen.append(rows) or (torch.zeros(len(rows), 1, 16), torch.zeros(len(rows)))
        ),
    )
    player = ModelPlayer(agent, TOKENIZER, attack=ATTACK, system_prompt=text)
    player.check(ROWS)
    plain, led = ModelPlayer(agent, TOKENIZER)._prompts(ROWS)[0], []
    monkeypatch.setattr(
        players, "generate", lambda *asked: led.extend(asked[2]) or [[TOKENIZER.eos_token_id]] * len(ROWS)
    )
    player.answer(ROWS)
    assert seen == [with_system_prompt(ROWS, text)]
    system = TOKENIZER(f"<|system|>{text}<|end|>")["input_ids"]
    assert led == [system + prompt for prompt in plain]
    tokenizer = copy.deepcopy(TOKENIZER)
    tokenizer.chat_template = "{%- for m in messages if m.role != 'system' -%}{{- m.content -}}{%- endfor -%}"
    with pytest.raises(ValueError, match="leaves out system messages"):
        ModelPlayer(agent, tokenizer, system_prompt=text).check(ROWS)


@pytest.mark.slow
def test_sampling_follows_the_probabilities(agent):
    batch = AgentBatch.from_inputs(encode_examples(TOKENIZER, ROWS, candidates=True), "prompt")
    temperature = 1.5
    with torch.no_grad():
        _, probabilities = success(AgentPolicy(agent, batch)() / temperature, batch)
    # The row whose answer is the most uncertain.
    chosen = int((probabilities - 0.5).abs().argmin())
    probability, row = float(probabilities[chosen]), ROWS[chosen]
    assert 0.1 < probability < 0.9
    answers = ModelPlayer(agent, TOKENIZER, temperature=temperature, batch_size=2000).answer([row] * 2000)
    frequency = sum(answer == row["completion"][0]["content"] for answer in answers) / len(answers)
    assert frequency == pytest.approx(probability, abs=0.04)


def test_an_attack_of_radius_zero_changes_no_answer(agent):
    plain = ModelPlayer(agent, TOKENIZER).answer(ROWS)
    assert (
        ModelPlayer(agent, TOKENIZER, attack=AttackSettings(ThreatModel(0.0), steps=3, restarts=2)).answer(ROWS)
        == plain
    )


def test_attacked_answers_are_those_to_the_perturbed_embeddings(agent):
    deltas, _ = worst_prompts(agent, TOKENIZER, ROWS, ATTACK)
    answers = ModelPlayer(agent, TOKENIZER, attack=ATTACK).answer(ROWS)
    assert answers == [greedy(agent, row, delta) for row, delta in zip(ROWS, deltas, strict=True)]
    # And the adversary was not idle.
    assert answers != ModelPlayer(agent, TOKENIZER).answer(ROWS)
    batch = AgentBatch.from_inputs(encode_examples(TOKENIZER, ROWS, candidates=True), "prompt")
    with torch.no_grad():
        forced, _ = success(AgentPolicy(agent, batch)(deltas), batch)
    assert 0 < forced.sum() < len(ROWS)
    given = [answer == row["completion"][0]["content"] for answer, row in zip(answers, ROWS, strict=True)]
    assert given == forced.bool().tolist()


def test_the_radius_counts_in_norms_of_the_prompt_and_the_answer_is_left_alone(agent):
    deltas, lengths = worst_prompts(agent, TOKENIZER, ROWS, ATTACK)
    for row, delta, length in zip(ROWS, deltas, lengths, strict=True):
        prompt = TOKENIZER.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=False)
        unit = agent.get_input_embeddings()(torch.tensor(prompt)).norm(dim=-1).mean()
        assert float(length) == pytest.approx(float(delta.norm() / unit.detach()), rel=1e-5)
        assert 0.9 * ATTACK.threat.epsilon * unit < delta.norm() <= ATTACK.threat.epsilon * unit
        assert not delta[len(prompt) :].any()


def test_perturbations_of_any_size_reach_the_prompt_alone(agent, monkeypatch):
    deltas = 0.5 * torch.randn(len(ROWS), 80, 16)
    monkeypatch.setattr(players, "worst_prompts", lambda *_: (deltas, torch.ones(len(ROWS))))
    answers = ModelPlayer(agent, TOKENIZER, attack=ATTACK, batch_size=len(ROWS)).answer(ROWS)
    assert answers == [greedy(agent, row, delta) for row, delta in zip(ROWS, deltas, strict=True)]


@pytest.mark.parametrize("name", [*ALONE, SUITE])
def test_each_attack_makes_some_answer_wrong_and_leaves_others_to_a_smaller_radius(agent, name):
    expected = [row["completion"][0]["content"] for row in ROWS]

    def right(epsilon, name=name):
        attack = AttackSettings(ThreatModel(epsilon=epsilon), name, steps=6)
        answers = ModelPlayer(agent, TOKENIZER, attack=attack).answer(ROWS)
        return [answer == known for answer, known in zip(answers, expected, strict=True)]

    plain = ModelPlayer(agent, TOKENIZER).answer(ROWS)
    nominal = [answer == known for answer, known in zip(plain, expected, strict=True)]
    # Random points need more room; the right answer is not always the one that costs least.
    wide = right(2.0)
    assert sum(wide) < sum(nominal)
    if name not in ("random", "cost"):
        assert sum(wide) <= sum(right(0.05)) and sum(wide) == 0


@pytest.mark.slow
def test_the_suite_is_as_bad_as_each_attack_alone(agent):
    """Row by row: what one of them breaks, all of them together do."""
    batch = AgentBatch.from_inputs(encode_examples(TOKENIZER, ROWS, candidates=True), "prompt")
    broken = {}
    for name in (*ALONE, SUITE):
        torch.manual_seed(0)  # the same random points for each
        deltas, _ = worst_prompts(agent, TOKENIZER, ROWS, AttackSettings(ThreatModel(epsilon=0.1), name, steps=3))
        with torch.no_grad():
            broken[name] = success(AgentPolicy(agent, batch)(deltas), batch)[0] == 0
    for name in ALONE:
        assert (broken[SUITE] | ~broken[name]).all(), name
    assert broken[SUITE].sum() > min(broken[name].sum() for name in ALONE) and not broken[SUITE].all()


@pytest.mark.parametrize("name", ["nll", "margin", "cost", "random"])
def test_an_attack_alone_leaves_the_point_with_the_highest_value_of_its_own_loss(agent, name, monkeypatch):
    visited = Visited(monkeypatch)
    deltas, _ = worst_prompts(agent, TOKENIZER, ROWS, AttackSettings(ThreatModel(epsilon=0.2), name, steps=8))
    loss = LOSSES[name if name != "random" else "margin"]
    batch = AgentBatch.from_inputs(encode_examples(TOKENIZER, ROWS, candidates=True), "prompt")
    points = [(delta, rows) for _, delta, rows in visited.points]
    assert len(points) > 3
    with torch.no_grad():
        values = loss(AgentPolicy(agent, batch)(deltas), batch)
        tried = torch.full((len(points), len(ROWS)), float("-inf"))
        for i, (delta, rows) in enumerate(points):
            some = batch.select(rows)
            tried[i, rows] = loss(AgentPolicy(agent, some)(delta), some)
    assert values.tolist() == pytest.approx(tried.amax(dim=0).tolist(), rel=1e-4, abs=1e-5)
    assert (tried.amax(dim=0) > tried.amin(dim=0)).all()


def test_parameters_are_as_they_were_after_an_attack(agent):
    before = [parameter.requires_grad for parameter in agent.parameters()]
    ModelPlayer(agent, TOKENIZER, attack=ATTACK).answer(ROWS[:2])
    assert all(before) and [parameter.requires_grad for parameter in agent.parameters()] == before
    assert not agent.get_input_embeddings()._forward_hooks


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_each_family_answers_what_its_attacked_policy_finds_likeliest(family, tiny_causal_lm, monkeypatch):
    agent = tiny_causal_lm(family, vocab_size=len(TOKENIZER), max_position_embeddings=256)
    batch = AgentBatch.from_inputs(encode_examples(TOKENIZER, ROWS, candidates=True), "prompt")
    policy = AgentPolicy(agent, batch)
    scale = policy.embeddings().std()
    delta = 3 * scale * torch.randn(*batch.input_ids.shape, 16) * batch.perturbable[..., None]
    monkeypatch.setattr(players, "worst_prompts", lambda *_: (delta, torch.ones(len(ROWS))))
    said = []
    player = ModelPlayer(agent, TOKENIZER, attack=ATTACK)
    monkeypatch.setattr(player, "_text", lambda tokens, budget: said.append(tokens[0]) or "")
    player.answer(ROWS)
    with torch.no_grad():
        first = batch.action_mask.int().argmax(dim=1)
        rows = torch.arange(len(ROWS))
        assert said == policy(delta)[rows, first].argmax(dim=-1).tolist()
        assert said != policy()[rows, first].argmax(dim=-1).tolist()


def test_prompts_that_the_model_cannot_read_are_refused(agent):
    agent.config.max_position_embeddings, before = 12, agent.config.max_position_embeddings
    try:
        with pytest.raises(ValueError, match="the model's context has 12: use fewer agents"):
            ModelPlayer(agent, TOKENIZER).answer(ROWS)
    finally:
        agent.config.max_position_embeddings = before


def by_hand(world, seed) -> dict:
    world.reset(seed=seed)
    rewards, steps = dict.fromkeys(world.possible_agents, 0.0), 0
    while world.agents:
        for name, reward in world.step(world.expert_actions())[1].items():
            rewards[name] += reward
        steps += 1
    return {"steps": steps, "metrics": world.metrics(), "rewards": rewards}


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("side_by_side", [1, 3])
def test_experts_play_as_they_do_by_hand(name, side_by_side):
    shock = next(iter(WORLDS[name].shocks))
    worlds = [WORLDS[name](agents=5, shock=shock, magnitude=2) for _ in range(side_by_side)]
    seeds = episode_seeds(4, seed=1)
    records = [record for some in play(worlds, seeds, Experts()) for record in some]
    assert [record["seed"] for record in records] == seeds and len({*seeds, *episode_seeds(4, seed=2)}) == 8
    for seed, record in zip(seeds, records, strict=True):
        expected = by_hand(WORLDS[name](agents=5, shock=shock, magnitude=2), seed)
        assert {key: record[key] for key in expected} == expected
        counts = record["sides"]["model"]
        assert counts["expert"] == counts["answers"] <= 5 * record["steps"] and counts["malformed"] == 0


class Says(Experts):
    """Every third answer is no answer."""

    def __init__(self, text="no idea"):
        self.text, self.seen, self.given = text, [], 0

    def answer(self, rows):
        self.seen += [row["prompt"][0]["content"] for row in rows]
        answers = [self.text if (self.given + i) % 3 == 0 else text for i, text in enumerate(super().answer(rows))]
        self.given += len(rows)
        return answers


def test_each_player_answers_for_its_side_and_is_counted_on_it():
    player, opponent = Says(), Experts()
    [[record]] = play([WORLDS["hide_and_seek"](agents=6, steps=5)], [7], player, opponent, transcript=True)
    assert all(text.startswith("hide ") for text in player.seen)
    said = [(name, entry) for step in record["transcript"] for name, entry in step.items()]
    hiders = [entry for name, entry in said if name.startswith("hider")]
    assert [entry["sees"] for entry in hiders] == player.seen
    assert all(entry["side"] == "model" and entry["expert"] and "moved" not in entry for entry in hiders)
    assert record["sides"]["model"] == {
        "answers": len(hiders),
        "malformed": sum(entry["says"] == "no idea" for entry in hiders),
        "expert": sum(entry["says"] != "no idea" for entry in hiders),
    }
    assert record["sides"]["model"]["malformed"] == -(-len(hiders) // 3) > 0
    assert record["sides"]["opponent"] == {
        "answers": len(said) - len(hiders),
        "malformed": 0,
        "expert": len(said) - len(hiders),
    }


def test_an_opponent_plays_every_second_agent_where_there_are_no_sides():
    [[record]] = play([WORLDS["commons"](agents=5, steps=2)], [7], Experts(), Says(), transcript=True)
    assert record["sides"]["opponent"]["answers"] == 4 and record["sides"]["model"]["answers"] == 6
    others = {name for step in record["transcript"] for name, entry in step.items() if entry["says"] == "no idea"}
    assert others <= {"agent_1", "agent_3"} and others


def test_malformed_answers_play_the_null_action():
    worlds = [WORLDS["commons"](agents=4)]
    [[record]] = play(worlds, [7], type("Mute", (), {"answer": lambda self, rows: [""] * len(rows)})())
    assert record["sides"]["model"] == {"answers": 48, "malformed": 48, "expert": 0}
    assert record["metrics"]["gain"] == 0 and record["metrics"]["survival"] == 1


@pytest.mark.slow
def test_the_same_seeds_give_the_same_episodes_and_leave_the_generator_as_it_was(agent):
    def records(temperature, seed=0):
        worlds = [WORLDS["congestion"](agents=3, steps=3) for _ in range(2)]
        attack = AttackSettings(ThreatModel(0.2), steps=2, restarts=2)
        player = ModelPlayer(agent, TOKENIZER, temperature=temperature, attack=attack)
        return json.dumps(list(play(worlds, episode_seeds(3, seed), player, transcript=True)))

    state = torch.get_rng_state()
    first = records(1.0)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    assert records(1.0) == first != records(0.0)
    assert records(1.0, seed=1) != first


def test_episodes_draw_different_numbers():
    class Draws(Experts):
        numbers = []

        def answer(self, rows):
            self.numbers.append(float(torch.rand(())))
            return super().answer(rows)

    list(play([WORLDS["congestion"](agents=3, steps=2)], [1, 2], Draws()))
    assert len(set(Draws.numbers)) == 4


@pytest.mark.parametrize(("degrees", "t"), [(1, 12.706), (4, 2.776), (9, 2.262), (19, 2.093), (999, 1.962)])
def test_students_t_is_that_of_the_tables(degrees, t):
    assert student_t(degrees) == pytest.approx(t, abs=6e-4)
    assert student_t(4, share=0.9) == pytest.approx(2.132, abs=6e-4)


def test_the_interval_of_a_mean():
    mean, half = mean_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (mean, half) == (3.0, pytest.approx(2.776 * (2.5 / 5) ** 0.5, rel=1e-3))
    assert mean_interval([4.0]) == (4.0, None)


def test_the_table_has_the_worlds_metrics_and_each_sides_answers():
    [records] = play([WORLDS["hide_and_seek"](5, steps=3) for _ in range(2)], [1, 2], Says(), Experts())
    table = simulation_table(records)
    names, means = (list(column.cells) for column in table.columns[:2])
    assert names[:3] == list(records[0]["metrics"])
    shares = [record["sides"]["model"]["malformed"] / record["sides"]["model"]["answers"] for record in records]
    assert means[names.index("model: answers malformed, %")].strip() == f"{50 * sum(shares):.3f}"
    assert means[names.index("opponent: answers equal to the expert's, %")].strip() == "100.000"


def test_a_player_that_says_nothing_is_named_and_one_that_says_something_is_not():
    def sentences(player, opponent=None):
        [records] = play([WORLDS["commons"](4, steps=2) for _ in range(2)], [1, 2], player, opponent)
        return malformed_sentences(records)

    mute = type("Mute", (), {"answer": lambda self, rows: ["no idea"] * len(rows)})()
    assert sentences(Experts()) == sentences(Says()) == []
    (said,) = sentences(mute)
    assert said.startswith("Almost all answers of the model (100.0%) are malformed")
    assert said.endswith("the numbers below say nothing about the model.")
    (said,) = sentences(Experts(), mute)
    assert "of the opponent" in said and len(sentences(mute, mute)) == 2


def test_an_attack_alone_goes_to_the_end_as_often_as_it_is_asked_to(agent, monkeypatch):
    """Answers that are wrong from the first step on may do more harm yet."""
    visited = Visited(monkeypatch)
    for steps, restarts in ((6, 1), (3, 2)):
        visited.points.clear()
        attack = AttackSettings(ThreatModel(epsilon=20.0), "nll", steps=steps, restarts=restarts)
        worst_prompts(agent, TOKENIZER, ROWS, attack)
        assert sum(len(rows) for *_, rows in visited.points) == restarts * (steps + 1) * len(ROWS)


def test_random_points_follow_from_the_global_generator(agent):
    attack = AttackSettings(ThreatModel(epsilon=0.2), "random")

    def drawn(seed):
        torch.manual_seed(seed)
        return worst_prompts(agent, TOKENIZER, ROWS, attack)[0]

    assert torch.equal(drawn(0), drawn(0)) and not torch.allclose(drawn(0), drawn(1))


def test_only_the_tokens_of_the_threat_model_are_moved(agent):
    markup = set(TOKENIZER.all_special_ids) | {
        TOKENIZER.convert_tokens_to_ids(t) for t in ("<|user|>", "<|assistant|>")
    }
    for tokens in ("prompt", "observation"):
        threat = ThreatModel(epsilon=0.3, perturbed_tokens=tokens)
        deltas, _ = worst_prompts(agent, TOKENIZER, ROWS, AttackSettings(threat, "nll", steps=2))
        for row, delta in zip(ROWS, deltas, strict=True):
            prompt = TOKENIZER.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=False)
            moved = {token for token, there in zip(prompt, delta.norm(dim=-1) > 0, strict=False) if there}
            assert moved - markup and bool(moved & markup) == (tokens == "prompt")


def test_with_a_predictor_no_gradient_of_the_model_is_computed(agent, monkeypatch):
    """The step goes to the boundary, along what is predicted for the prompt alone."""
    batch = read_batch(TOKENIZER, ROWS, "prompt", agent.device)
    threat = ThreatModel(epsilon=0.3)
    predictor = fit_predictor([Target(agent, batch, threat)])
    passed, forward = [], AgentPolicy.__call__
    monkeypatch.setattr(AgentPolicy, "__call__", lambda *args: passed.append(forward(*args)) or passed[-1])
    deltas, _ = worst_prompts(agent, TOKENIZER, ROWS, AttackSettings(threat, "predicted", predictor=predictor))
    assert passed and not any(logits.requires_grad for logits in passed)
    target = Target(agent, batch, threat)
    expected = predictor.on(target, "warm_nll").flatten(1)
    assert torch.allclose(torch.cosine_similarity(deltas.flatten(1), expected), torch.ones(len(ROWS)), atol=1e-4)
    assert torch.allclose(deltas.flatten(1).norm(dim=1), target.ball(1.0).epsilon, rtol=1e-3)
