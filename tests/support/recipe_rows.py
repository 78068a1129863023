"""Rows with a call and its result, for the recipes and their templates."""

from __future__ import annotations

TOOL = {"name": "rain", "description": "rain in a town", "parameters": {"type": "object", "properties": {}}}
CALL = '<tool_call>{"name": "rain", "arguments": {"town": "NAME"}}</tool_call>'
ASKED = [{"role": "user", "content": "will it rain in NAME ?"}, {"role": "assistant", "content": CALL}]
ANSWERED = [{"role": "tool", "content": "7 mm in NAME"}, {"role": "assistant", "content": "yes , in NAME"}]
