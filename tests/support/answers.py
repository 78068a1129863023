"""An agent that has learnt some answers of `congestion` by heart, and what it says, token by token."""

from __future__ import annotations

import torch

from aajr_hf.environments import WORLDS
from aajr_hf.evaluation.attacks.threat_model import ThreatModel
from aajr_hf.evaluation.episodes.players import AttackSettings

from .small_agents import TOKENIZER

# Of unequal lengths: more agents, longer prompts.
ROWS = [
    row
    for agents in (2, 3, 4)
    for world in [WORLDS["congestion"](agents)]
    if world.reset(seed=0)
    for row in world.rows().values()
]
ATTACK = AttackSettings(ThreatModel(epsilon=0.3), "cost", steps=4)


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
