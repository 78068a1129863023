"""Rows that ask for tool calls, and tokenizers with the chat templates that TRL ships."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import trl

from aajr_hf.evaluation.tool_calls.evaluate import ToolCallSettings
from aajr_hf.evaluation.tool_calls.rows import read_rows
from aajr_hf.training.models.base_agent import train_tokenizer

from .small_agents import fit, model

TEMPLATES = Path(trl.__file__).parent / "chat_templates"
SPECIAL = (
    *("<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    *("<|start|>", "<|channel|>", "<|message|>", "<|call|>", "<|return|>", "<|tool_call_start|>", "<|tool_call_end|>"),
    *("[TOOL_CALLS]", "</s>", "[INST]", "[/INST]"),
)
# As Mistral's own: https://huggingface.co/mistralai/Mistral-7B-Instruct-v0.3
MISTRAL = (
    "{%- for m in messages -%}{%- if m.role == 'user' -%}[INST] {{ (tools | tojson) + ' ' + m.content }}[/INST]"
    "{%- elif m.tool_calls is defined -%}[TOOL_CALLS] [{%- for call in m.tool_calls -%}{{- call.function | tojson -}}"
    "{%- if not loop.last %}, {% endif -%}{%- endfor -%}]</s>{%- else -%}{{ ' ' + m.content + '</s>' }}"
    "{%- endif -%}{%- endfor -%}"
)
# Renders calls as Hermes' does, with a template that TRL does not know.
HERMES = (
    "{%- if tools -%}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{%- endif -%}"
    "{%- for m in messages -%}<|im_start|>{{ m.role }}\n{{ m.content }}{%- for call in m.tool_calls or [] -%}"
    "<tool_call>{{ call.function | tojson }}</tool_call>{%- endfor -%}<|im_end|>\n{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|im_start|>assistant\n{% endif -%}"
)


def tokenizer_with(template: str, texts=(), vocab_size: int = 512):
    """A byte-level tokenizer with a template of TRL's, by its name, or with this one."""
    tokenizer = train_tokenizer(texts, vocab_size)
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL)})
    own = "{" in template
    tokenizer.chat_template = template if own else (TEMPLATES / f"{template}.jinja").read_text()
    return tokenizer


def tool(name: str, required=(), **properties) -> dict:
    parameters = {"type": "object", "properties": properties, "required": list(required)}
    return {"type": "function", "function": {"name": name, "description": "", "parameters": parameters}}


def calling(question: str, tools: list[dict], calls: list[tuple[str, dict]], accepted=None) -> dict:
    """A row in TRL's format, with `tools` and `accepted` as JSON texts."""
    made = [{"type": "function", "function": {"name": name, "arguments": arguments}} for name, arguments in calls]
    return {
        "prompt": [{"role": "user", "content": question}],
        "completion": [{"role": "assistant", "content": "", "tool_calls": made}],
        "tools": json.dumps(tools),
        "accepted": None if accepted is None else json.dumps(accepted),
    }


TOOLS = [
    tool("dim", ["room"], room={"type": "string"}, level={"type": "integer"}),
    tool("heat", ["room", "degrees"], room={"type": "string"}, degrees={"type": "number"}),
]
ROWS = [
    calling("Dim den to 3", TOOLS, [("dim", {"room": "den", "level": 3})], [{"dim": {"room": ["den"], "level": [3]}}]),
    calling("Heat hall to 20", TOOLS, [("heat", {"room": "hall", "degrees": 20})]),
    calling(
        "Dim all", TOOLS, [("dim", {"room": "all"})], [{"dim": {"room": ["all", "everywhere"], "level": ["", 0]}}]
    ),
    calling(
        "Heat attic to 7, dim bath", TOOLS, [("heat", {"room": "attic", "degrees": 7}), ("dim", {"room": "bath"})]
    ),
]


@functools.cache
def caller(template: str = "qwen3"):
    """A model that knows `ROWS` by heart, and its tokenizer."""
    rows = read_rows(ROWS)
    plain = tokenizer_with(template)
    texts = [
        plain.apply_chat_template(row["prompt"] + row["completion"], tools=row["tools"], tokenize=False)
        for row in rows
    ]
    tokenizer = tokenizer_with(template, texts, vocab_size=700)
    return fit(model(tokenizer, width=32), tokenizer, rows), tokenizer


READ = read_rows(ROWS)
SMALL = ToolCallSettings(multiples=(0.5, 20.0), attacks=("nll",), attack_steps=4, batch_size=4)
