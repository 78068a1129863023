"""Evaluation of agents: success without and under attack, and amplification."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...training.data.roles import OBSERVED_ROLES
from ...training.policy.policy import AgentPolicy, frozen_parameters
from ...training.policy.stability import Smoothness, Stability
from ...training.sharing.results import RobustnessNumbers, TextTally
from ..agents import Agent
from ..attacks.rewriting import Attacked
from ..attacks.run import Tallies, Tally, UnderAttack, attack_within, include
from ..attacks.search import Search
from ..attacks.settings import TOKEN, RobustnessSettings
from ..attacks.suite import ATTACKS, TEXT_ATTACKS
from ..attacks.target import Target, success
from ..batches import batches_by_length, read_batch
from ..means import Means
from ..processes import gathered, is_first, my_share
from ..radii import nearest_to_one
from ..unfinished import NOTHING_KEPT, Unfinished
from .batch_numbers import BatchNumbers
from .membership import examples_of
from .ray import add_ray, ray_numbers
from .rewritten import attack_texts, judge_answers
from .shared_directions import SharedMeasurement, measurement_for
from .stability import stability_numbers
from .tallies import tally_numbers
from .together import add_together, in_words
from .token_numbers import TokenAttack
from .trust import SAMPLE, AttackSample, measure_trust, trust_rules

# What the numbers of a batch consist of.
PARTS = (BatchNumbers, Means, Tally, Stability, Smoothness)


def evaluate_agents(
    agents: Sequence[Agent],
    rows: list[dict[str, Any]],
    settings: RobustnessSettings,
    *,
    sources: Sequence[Agent] = (),
    budgets: dict[str, float | None] | None = None,
    unfinished: Unfinished = NOTHING_KEPT,
    on_progress: Callable[[str], None] = lambda name: None,
) -> dict[str, RobustnessNumbers]:
    """
    Measure agents on the same held-out rows with `prompt`, `completion`, `actions` and `action_costs`.

    Success means that every token of the answer equals the expert's. Greedy decoding succeeds if each token of the
    expert's answer is the most likely one after the tokens before it. Sampling at the agent's temperature succeeds with the
    product of the tokens' probabilities; this probability is averaged directly, without drawing samples. An agent
    withstands a radius if no attack finds a perturbation within this or a smaller radius for which greedy
    decoding does not give the expert's answer.

    Args:
        agents: Agents to measure. Each one is also attacked with the perturbations found on the others.
        sources: Further models, which are not measured. The perturbations found on them are tried on the agents.
        budgets: Amplification budget gamma by name of the agent; replaces the budget of the settings.
        unfinished: What an interrupted evaluation has left, with [`PARTS`]: it is not measured again.
        on_progress: Called with an agent's name, [`progress_steps`] times for each agent, less [`progress_done`].

    Returns:
        For each agent, by name:

        - `examples`, `nominal_success`, `sampled_success`, `nominal_cost`, `embedding_norm`.
        - By multiple of epsilon: `worst_case_success`, `sampled_worst_case_success` (mean over examples of the lowest
          probability at a point that an attack visited), `worst_case_cost` (mean of the highest cost).
        - `outcomes`: the four success values of each example, in the order of the rows.
        - `attacks`: by attack and multiple, the number of examples `attacked` and `broken`, the `success` left after
          this attack and all earlier ones, and, if every attack saw all examples, the success left by this attack
          `alone`.
        - `gradients`: number of gradients that the attacks computed per example.
        - `transferred_from`: the models whose perturbations were tried.
        - `trust` ([`trust_rules`]), `ray` ([`add_ray`]), the numbers of [`add_amplification`], `stability` of the
          inner ascent and, with the attack `token`, `token_attack`.
        - `shared_directions` ([`SharedDirections`]) with the attack `universal` or `predicted`.
        - `text_attacks`: the results of [`attack_texts`] by attack, with the attack `trigger`. Triggers have no radius,
          and do not count for the worst case within one.
        - With the attack `trigger`, `all_attacks_success` by multiple, and `by_words` ([`add_together`]).

    Raises:
        ValueError: if the rows cannot be attacked with an agent's chat template or tokenizer, or if the attack `token`
            finds no numbers.
    """
    everybody, budgets = [*agents, *sources], budgets or {}
    measured = {
        agent.name: _Measured(agent, rows, replace(settings, budget=budgets.get(agent.name, settings.budget)))
        for agent in agents
    }
    with contextlib.ExitStack() as stack:
        for agent in everybody:
            stack.enter_context(frozen_parameters(agent.model.eval()))
        for agent in measured.values():
            agent.learn(rows)
        batches, found = list(batches_by_length(everybody[0].tokenizer, rows, settings.batch_size)), {}
        for batch in my_share(len(batches)):
            attack = functools.partial(_attack_batch, everybody, rows, batches[batch], settings, measured, on_progress)
            found[batch] = unfinished.piece(batch, attack)
        for parts in gathered(found):
            for name, part in parts.items():
                measured[name].add(part)
        checks = unfinished.part("trust") if is_first() else NOTHING_KEPT
        for number, agent in enumerate(measured.values()):
            agent.trust = checks.piece(number, functools.partial(agent.check_attacks, rows[:SAMPLE]))
            agent.attack_texts(rows)
            on_progress(agent.name)
    return {name: agent.result() for name, agent in measured.items()}


def evaluate_agent(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: list[dict[str, Any]],
    settings: RobustnessSettings,
    on_progress: Callable[[], None] = lambda: None,
) -> RobustnessNumbers:
    """Evaluate one agent with [`evaluate_agents`]."""
    agent = Agent("", "", model, tokenizer)
    return evaluate_agents([agent], rows, settings, on_progress=lambda name: on_progress())[agent.name]


def progress_steps(settings: RobustnessSettings, examples: int) -> int:
    """Return the number of progress reports of an evaluation for each agent, in this process."""
    return len(my_share(-(-examples // settings.batch_size))) * _steps_of_batch(settings) + 1


def progress_done(settings: RobustnessSettings, examples: int, unfinished: Unfinished) -> int:
    """Return how many of [`progress_steps`] an interrupted evaluation has done."""
    return unfinished.done(-(-examples // settings.batch_size)) * _steps_of_batch(settings)


def _steps_of_batch(settings: RobustnessSettings) -> int:
    return len(settings.multiples) + 1


@torch.no_grad()
def nominal_success(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: list[dict[str, Any]], batch_size: int = 128
) -> float:
    """Return the percentage of rows for which greedy decoding gives the expert's answer."""
    model, found = model.eval(), []
    for numbers in batches_by_length(tokenizer, rows, batch_size):
        batch = read_batch(tokenizer, [rows[number] for number in numbers], "prompt", model.device)
        found.append(success(AgentPolicy(model, batch)(), batch)[0])
    return 100 * float(torch.cat(found).mean())


class _Measured:
    """Measurements of one agent, added up over the batches."""

    def __init__(self, agent: Agent, rows: list[dict[str, Any]], settings: RobustnessSettings):
        self.agent, self.name, self.settings = agent, agent.name, settings
        self.totals, self.tallies, self.stabilities = Means(), Tallies(), []
        self.shares: dict[tuple[str, ...], Tensor] = {}
        self.examples, self.gradients = len(rows), 0
        self.others: set[str] = set()
        self.trust: AttackSample | None = None
        self.shared: SharedMeasurement | None = None
        self.texts: dict[str, dict[str, TextTally]] = {}
        wanted = TOKEN in settings.attacks
        self.token = TokenAttack(agent.tokenizer, rows, settings) if wanted else None

    def learn(self, rows: list[dict[str, Any]]) -> None:
        """Learn the directions of the attacks that need them."""
        self.shared = measurement_for(
            self.settings,
            lambda numbers: _target(self.agent, [rows[number] for number in numbers], self.settings),
            len(rows),
        )
        self.gradients += self.shared.lessons.gradients if self.shared else 0

    def add(self, batch: BatchNumbers) -> None:
        """Add the numbers of a batch."""
        self.totals.include(batch.totals)
        include(self.tallies, batch.tallies)
        self.stabilities.append(batch.stability)
        self.gradients += batch.gradients
        self.others |= batch.others
        for names, values in batch.shares.items():
            self.shares.setdefault(names, torch.zeros(self.examples, dtype=torch.float64))[batch.rows] = values
        if self.shared is not None:
            for multiple, (worst, by_universal) in batch.universal.items():
                self.shared.add(worst, by_universal, multiple)

    def check_attacks(self, rows: list[dict[str, Any]]) -> AttackSample:
        multiple = nearest_to_one(self.settings.multiples)
        return measure_trust(_target(self.agent, rows, self.settings), multiple)

    def attack_texts(self, rows: list[dict[str, Any]]) -> None:
        """Run the attacks that rewrite texts."""
        settings, nominal = self.settings, (self.shares["nominal_success",] == 1).tolist()
        on = Attacked(
            self.agent.model,
            self.agent.tokenizer,
            OBSERVED_ROLES.get(settings.threat.perturbed_tokens, OBSERVED_ROLES["observation"]),
            seed=settings.seed,
            triggers=settings.triggers,
            batch_size=settings.batch_size,
        )
        for name in settings.attacks:
            if name in TEXT_ATTACKS:
                judged = functools.partial(judge_answers, on)
                self.texts[name] = attack_texts(rows, nominal, TEXT_ATTACKS[name], on, judged)

    def result(self) -> RobustnessNumbers:
        numbers, outcomes = self.totals.result() | {"examples": self.examples}, {}
        for (name, *multiple), values in self.shares.items():
            if multiple:
                numbers.setdefault(name, {})[multiple[0]] = 100 * float(values.mean())
                outcomes.setdefault(name, {})[multiple[0]] = values.tolist()
            else:
                numbers[name], outcomes[name] = 100 * float(values.mean()), values.tolist()
        numbers["amplification_profile"] = list(numbers["amplification_profile"].values())
        numbers["ray"] = ray_numbers(numbers["ray"])
        if self.settings.budget is not None:
            examples = examples_of(self.settings, self.examples)
            numbers["membership"] |= {"budget": self.settings.budget, "examples": examples}
        numbers["stability"] = stability_numbers(self.stabilities)
        numbers["attacks"] = {
            name: tally_numbers(by_radius, self.examples) for name, by_radius in self.tallies.items()
        }
        numbers["trust"] = trust_rules(numbers["worst_case_success"], self.examples, self.tallies, self.trust)
        if self.shared is not None:
            numbers["shared_directions"] = self.shared.result()
        if self.texts:
            numbers["text_attacks"] = self.texts
        numbers["outcomes"] = outcomes
        # Without `token`, which changes what is right.
        add_together(numbers, "worst_case_success", in_words(self.texts))
        more = {"gradients": self.gradients / self.examples, "transferred_from": sorted(self.others)}
        return numbers | more


def _target(agent: Agent, rows: list[dict[str, Any]], settings: RobustnessSettings) -> Target:
    """Return the attack target of an agent on these rows."""
    batch = read_batch(agent.tokenizer, rows, settings.threat.perturbed_tokens, agent.model.device)
    return Target(agent.model, batch, settings.threat, agent.temperature)


def _attack_batch(
    agents: Sequence[Agent],
    rows: list[dict[str, Any]],
    numbers: list[int],
    settings: RobustnessSettings,
    measured: dict[str, _Measured],
    on_progress: Callable[[str], None],
) -> dict[str, BatchNumbers]:
    """Attack the agents on the rows with these numbers, and return the numbers of the measured ones by name."""
    targets = {agent.name: _target(agent, [rows[number] for number in numbers], settings) for agent in agents}
    how = {"steps": settings.attack_steps, "restarts": settings.attack_restarts}
    new_search = functools.partial(Search, seeds=[settings.seed * 10**6 + number for number in numbers], **how)
    found = {name: BatchNumbers(numbers) for name in targets if name in measured}
    attacked = {}
    for name, target in targets.items():
        tallies = found[name].tallies if name in found else None
        attacked[name] = UnderAttack(target, new_search, tallies, settings.exhaustive)
        if name in found:
            found[name].add_nominal(target)
    attacks = [attack for name, attack in ATTACKS.items() if name in settings.attacks]
    groups = list(_of_same_tokens(attacked))
    for multiple in sorted(settings.multiples):
        for group in groups:
            for name, model in group.items():
                model.widen(multiple)
                if name in measured and (shared := measured[name].shared) is not None:
                    model.search.learnt = shared.lessons.on(model.target, numbers, multiple)
            attack_within(group, attacks, f"{multiple:g}")
        for name, part in found.items():
            part.add_worst(attacked[name], f"{multiple:g}")
            if multiple == nearest_to_one(settings.multiples):
                search = attacked[name].search
                add_ray(attacked[name].target, search.to_boundary(search.delta) / multiple, part.totals)
            on_progress(name)
    for group in groups:
        for name in group.keys() & found.keys():
            found[name].others |= group.keys() - {name}
    for name, part in found.items():
        part.add_the_rest(attacked[name].target, measured[name].settings, measured[name].token)
        on_progress(name)
    return found


def _of_same_tokens(attacked: dict[str, UnderAttack]) -> Iterator[dict[str, UnderAttack]]:
    """Group the models that can share perturbations, because they have the same tokens and embedding width."""
    groups: list[dict[str, UnderAttack]] = []
    for name, model in attacked.items():
        for group in groups:
            other = next(iter(group.values())).target
            if other.origin.shape == model.target.origin.shape and all(
                torch.equal(getattr(other.batch, field).cpu(), getattr(model.target.batch, field).cpu())
                for field in ("input_ids", "perturbable", "action_labels")
            ):
                group[name] = model
                break
        else:
            groups.append({name: model})
    return iter(groups)
