"""The chat templates of recipes."""

from __future__ import annotations

import functools
import json

from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from tests.support import ROOT
from tests.support.recipe_rows import ANSWERED, ASKED, TOOL
from tests.support.templates import shipped


def test_the_template_of_llama_renders_as_llamas_own_does():
    own = (ROOT / "recipes" / "llama-3.2-1b" / "tool-calling" / "chat_template.jinja").read_text()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>")), bos_token="<|begin_of_text|>"
    )
    call = {"type": "function", "function": {"name": "rain", "arguments": {"town": "Tromsø"}}}
    called = {"role": "assistant", "content": "", "tool_calls": [call]}
    conversation = [ASKED[0], called, {"role": "tool", "content": '{"mm": "7"}'}, ANSWERED[1], ASKED[0]]
    for system in ([], [{"role": "system", "content": " answer \n"}]):
        for tools in (None, [{"type": "function", "function": TOOL}]):
            for length in range(1, len(conversation) + 1):
                rendered = [
                    tokenizer.apply_chat_template(
                        system + conversation[:length],
                        tools=tools,
                        tokenize=False,
                        chat_template=template,
                        add_generation_prompt=length % 2 == 1,
                    )
                    for template in (own, shipped("llama3_2"))
                ]
                assert rendered[0] == rendered[1]


# In the tokenizer of SmolLM2-135M-Instruct.
_SMOLLM2 = """{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system
You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>
' }}{% endif %}{{'<|im_start|>' + message['role'] + '
' + message['content'] + '<|im_end|>' + '
'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant
' }}{% endif %}"""


def test_the_template_of_smollm2_renders_as_its_own_does_and_tools_in_addition():
    file = ROOT / "recipes" / "smollm2-135m" / "tool-calling" / "chat_template.jinja"
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>")))
    render = functools.partial(tokenizer.apply_chat_template, tokenize=False)
    conversation = [ASKED[0], ANSWERED[1], ASKED[0]]
    for system in ([], [{"role": "system", "content": "answer"}]):
        for length in range(1, 4):
            own, theirs = (
                render(system + conversation[:length], chat_template=template, add_generation_prompt=length % 2 == 1)
                for template in (file.read_text(), _SMOLLM2)
            )
            assert own == theirs
    call = {"type": "function", "function": {"name": "rain", "arguments": {"town": "Tromsø"}}}
    called = {"role": "assistant", "content": "", "tool_calls": [call, call]}
    text = render([ASKED[0], called, ANSWERED[0]], chat_template=file.read_text(), tools=[TOOL])
    assert json.dumps(TOOL) in text
    assert text.endswith(
        "<|im_start|>assistant\n"
        + 2 * '<tool_call>{"name": "rain", "arguments": {"town": "Tromsø"}}</tool_call>'
        + "<|im_end|>\n<|im_start|>tool\n7 mm in NAME<|im_end|>\n"
    )
