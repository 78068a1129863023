"""Chat templates of several families: those that TRL ships, and compact ones of the families that it does not."""

from __future__ import annotations

from pathlib import Path

import trl

_SHIPPED = Path(trl.__file__).parent / "chat_templates"

CHATML = """{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"""

# The system's message stands in the last user's, tools before it, and a tool's result is part of a JSON text.
MISTRAL = """{%- if messages[0].role == 'system' -%}
{%- set system = messages[0].content + '\n\n' -%}{%- set messages = messages[1:] -%}
{%- else -%}{%- set system = '' -%}{%- endif -%}
{%- set users = messages | selectattr('role', 'equalto', 'user') | list -%}
{{- bos_token -}}
{%- for message in messages -%}
{%- if message.role == 'user' -%}
{%- if message == users[-1] -%}
{%- if tools -%}{{- '[AVAILABLE_TOOLS] ' + tools | tojson + '[/AVAILABLE_TOOLS]' -}}{%- endif -%}
{{- '[INST] ' + system + message.content + '[/INST]' -}}
{%- else -%}{{- '[INST] ' + message.content + '[/INST]' -}}{%- endif -%}
{%- elif message.role == 'tool' -%}
{{- '[TOOL_RESULTS] {"content": ' + message.content | tojson + '}[/TOOL_RESULTS]' -}}
{%- elif message.tool_calls -%}
{{- '[TOOL_CALLS] ' + message.tool_calls | tojson + eos_token -}}
{%- else -%}{{- ' ' + message.content | trim + eos_token -}}{%- endif -%}
{%- endfor -%}"""

# Always a system turn, tools in XML, results as a user's turn, and marks of what is generated.
SMOLLM3 = """{%- set ns = namespace(system='You are a helpful assistant.') -%}
{%- if messages[0].role == 'system' -%}{%- set ns.system = messages[0].content.rstrip() -%}{%- endif -%}
{{- '<|im_start|>system\n## Custom Instructions\n\n' + ns.system + '\n' -}}
{%- if tools -%}{{- '### Tools\n<tools>' + tools | tojson + '</tools>\n' -}}{%- endif -%}
{%- if xml_tools -%}{{- '### Tools\n' + xml_tools | join('\n') + '\n' -}}{%- endif -%}
{{- '<|im_end|>\n' -}}
{%- for message in messages -%}
{%- if message.role == 'user' -%}{{- '<|im_start|>user\n' + message.content + '<|im_end|>\n' -}}
{%- elif message.role == 'tool' -%}{{- '<|im_start|>user\n<tool_response>' + message.content + '</tool_response><|im_end|>\n' -}}
{%- elif message.role == 'assistant' -%}{{- '<|im_start|>assistant\n' -}}
{%- generation -%}
{%- if message.tool_calls -%}{{- '<tool_call>' + message.tool_calls | tojson + '</tool_call>' -}}
{%- else -%}{{- '<think>\n\n</think>\n' + message.content.lstrip('\n') -}}{%- endif -%}{{- '<|im_end|>\n' -}}
{%- endgeneration -%}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"""


def shipped(name: str) -> str:
    """A chat template of TRL's, by its name."""
    return (_SHIPPED / f"{name}.jinja").read_text()


TEMPLATES = {
    "chatml": CHATML,
    "mistral": MISTRAL,
    "smollm3": SMOLLM3,
    **{name: shipped(name) for name in ("llama3", "llama3_2", "qwen3", "qwen2_5", "gemma3", "phi3")},
}
# Those that render tool calls and results.
WITH_TOOLS = ("mistral", "smollm3", "llama3_2", "qwen3", "qwen2_5")
