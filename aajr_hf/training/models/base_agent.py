"""A new base agent, for machines without access to the Hub: tokenizer, chat template and a small Llama."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ..data.canonical import canonical_row

PAD, END = "<|pad|>", "<|end|>"
ROLES = ("system", "user", "tool", "assistant")
# The `generation` block marks the assistant's tokens for TRL's `assistant_only_loss`.
CHAT_TEMPLATE = """{%- for message in messages -%}
{{- '<|' + message['role'] + '|>' -}}
{%- if message['role'] == 'assistant' -%}
{%- generation -%}{{- message['content'] + '<|end|>' -}}{%- endgeneration -%}
{%- else -%}
{{- message['content'] + '<|end|>' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"""
# Calls have the markup of Hermes and Qwen, which parsers of calls know.
TOOL_CHAT_TEMPLATE = """{%- macro text(content) -%}
{%- if content is string -%}{{- content -}}{%- else -%}
{%- for part in content or [] -%}
{{- part['text'] if part['type'] == 'text' else raise_exception('no ' ~ part['type'] ~ ' can be read') -}}
{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- if tools -%}
{{- '<|tools|>' -}}
{%- for tool in tools -%}{{- tool | tojson + '\n' -}}{%- endfor -%}
{{- '<|end|>' -}}
{%- endif -%}
{%- for message in messages -%}
{{- '<|' + message['role'] + '|>' -}}
{%- if message['role'] == 'assistant' -%}
{%- generation -%}
{{- text(message['content']) -}}
{%- for call in message['tool_calls'] or [] -%}
{%- set function = call['function'] or call -%}
{{- '<tool_call>{"name": ' + (function['name'] | tojson) + ', "arguments": ' -}}
{{- function['arguments'] if function['arguments'] is string else (function['arguments'] or {}) | tojson -}}
{{- '}</tool_call>' -}}
{%- endfor -%}
{{- '<|end|>' -}}
{%- endgeneration -%}
{%- else -%}
{{- text(message['content']) + '<|end|>' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"""
_CALL_MARKUP = ("<tool_call>", "</tool_call>")


def train_tokenizer(texts: Iterable[str], vocab_size: int = 512) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on `texts`, with a chat template; it can encode any other text, too."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, END, *(f"<|{role}|>" for role in ROLES)],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, padding_side="right")
    fast.chat_template = CHAT_TEMPLATE
    return fast


def train_tool_tokenizer(rows: Iterable[dict[str, Any]]) -> PreTrainedTokenizerFast:
    """
    Train a tokenizer like [`train_tokenizer`] on rendered rows in TRL's formats, with a chat template that renders
    tools, their calls and their results.
    """
    unrendered = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), chat_template=TOOL_CHAT_TEMPLATE)
    special = [PAD, END, "<|tools|>", *(f"<|{role}|>" for role in ROLES)]
    markup = re.compile("|".join(map(re.escape, (*special, *_CALL_MARKUP))))

    def texts() -> Iterator[str]:
        for row in rows:
            yield from filter(None, markup.split(render(unrendered, row)))

    tokenizer = train_tokenizer(texts(), 4096)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|tools|>"]})
    # Not special tokens, so that the calls remain when an answer is decoded without special tokens.
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in _CALL_MARKUP])
    tokenizer.chat_template = TOOL_CHAT_TEMPLATE
    return tokenizer


def render(tokenizer: PreTrainedTokenizerFast, row: dict[str, Any]) -> str:
    """Render a row in any of TRL's formats, except tokens, as the text that is trained on."""
    row = canonical_row(row)
    messages = row.get("messages")
    if row.get("prompt") is not None:
        messages = row["prompt"] + row["completion"]
    if not isinstance(messages, list):
        return row["text"] if messages is None else messages
    return tokenizer.apply_chat_template(messages, tools=row.get("tools"), tokenize=False)


def small_llama(tokenizer: PreTrainedTokenizerFast, seed: int, context: int = 512) -> LlamaForCausalLM:
    """
    A Llama of one million parameters with random weights, for texts of up to `context` tokens. Half of the parameters
    are embeddings, most of them for tokens that are not used yet: room for the words of further worlds, without a cost
    in time.
    """
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=max(2048, len(tokenizer)),
        hidden_size=128,
        intermediate_size=448,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=context,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(config)
