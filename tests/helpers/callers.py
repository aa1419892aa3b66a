"""Models of other families that call tools: chat templates in their manner, written for the tests from the published
ones, with tokenizers that have their tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import tokenizers
from helpers import checkpoints, tokenizer_craft
from helpers.scripts import ROWS
from helpers.shallow import shallow
from tokenizers import AddedToken

CHATML = """\
{%- if messages[0].role == 'system' or tools %}
    {{- '<|im_start|>system\\n' ~ (messages[0].content ~ '\\n\\n' if messages[0].role == 'system') }}
    {%- if tools %}
        {{- '# Tools\\n<tools>' }}{% for tool in tools %}{{ '\\n' ~ tool | tojson }}{% endfor %}{{ '\\n</tools>' }}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'user' %}
        {{- '<|im_start|>user\\n' ~ message.content ~ '<|im_end|>\\n' }}
    {%- elif message.role == 'assistant' %}
        {{- '<|im_start|>assistant\\n' }}
        {%- if THINKS and loop.last %}{{ '<think>\\n' ~ message.reasoning_content ~ '\\n</think>\\n\\n' }}{% endif %}
        {{- message.content if message.content is string }}
        {%- for call in message.tool_calls or [] %}
            {%- set call = call.function if call.function else call %}
            {{- '\\n' if not loop.first or message.content }}
            CALL
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == 'tool' %}
        {{- '<|im_start|>user\\n<tool_response>\\n' ~ message.content ~ '\\n</tool_response><|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
"""
JSON_CALL = """{{- '<tool_call>\\n{"name": "' ~ call.name ~ '", "arguments": ' }}
            {{- call.arguments if call.arguments is string else call.arguments | tojson }}
            {{- '}\\n</tool_call>' }}"""
TAGS_CALL = """{{- '<tool_call>\\n<function=' ~ call.name ~ '>\\n' }}
            {%- for key, value in call.arguments | items %}
                {{- '<parameter=' ~ key ~ '>\\n' }}
                {{- value | tojson | safe if value is mapping or (value is sequence and value is not string)
                    else value | string }}
                {{- '\\n</parameter>\\n' }}
            {%- endfor %}
            {{- '</function>\\n</tool_call>' }}"""
MISTRAL = """\
{{- bos_token }}
{%- if tools %}{{ '[AVAILABLE_TOOLS]' ~ tools | tojson ~ '[/AVAILABLE_TOOLS]' }}{% endif %}
{%- for message in messages %}
    {%- if message.role == 'user' %}
        {{- '[INST]' ~ message.content ~ '[/INST]' }}
    {%- elif message.tool_calls %}
        OPEN
        {%- for call in message.tool_calls %}
            {%- if call.id is not defined or call.id | length != 9 %}
                {{- raise_exception('Tool call IDs should be alphanumeric strings with length 9!') }}
            {%- endif %}
            CALL
        {%- endfor %}
        CLOSE
        {{- eos_token }}
    {%- elif message.role == 'assistant' %}
        {{- message.content ~ eos_token }}
    {%- elif message.role == 'tool' %}
        {{- '[TOOL_RESULTS]' ~ message.tool_call_id ~ '[TOOL_CONTENT]' ~ message.content ~ '[/TOOL_RESULTS]' }}
    {%- endif %}
{%- endfor %}
"""
LIST_CALL = """{%- set out = call.function | tojson %}
            {{- out[:-1] ~ ', "id": "' ~ call.id ~ '"}' ~ (', ' if not loop.last else ']') }}"""
NAME_CALL = "{{- '[TOOL_CALLS]' ~ call.function.name ~ '[ARGS]' ~ call.function.arguments | tojson }}"
ID_CALL = NAME_CALL.replace("'[ARGS]'", "'[CALL_ID]' ~ call.id ~ '[ARGS]'")
CHATML_MARKS = ("<tool_call>", "</tool_call>", "<think>", "</think>")
MISTRAL_MARKS = ("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "[INST]", "[/INST]")


class Caller(NamedTuple):
    """A family: its chat template, the token that ends its turns, and its other tokens, special or shown."""

    template: str
    end: str
    special: tuple[str, ...] = ()
    shown: tuple[str, ...] = ()


def chatml(call: str, *, thinks: bool = False) -> str:
    """A template in the manner of Qwen's."""
    return CHATML.replace("CALL", call).replace("THINKS", str(thinks).lower())


def mistral(call: str, opening: str = "", closing: str = "") -> str:
    """A template in the manner of Mistral's."""
    return MISTRAL.replace("OPEN", opening).replace("CLOSE", closing).replace("CALL\n", f"{call}\n")


IM = ("<|im_start|>",)
CALLERS = {
    "qwen": Caller(chatml(JSON_CALL, thinks=True), "<|im_end|>", IM, CHATML_MARKS),
    "hermes": Caller(chatml(JSON_CALL), "<|im_end|>", (*IM, *CHATML_MARKS[:2])),
    "coder": Caller(chatml(TAGS_CALL), "<|im_end|>", IM, CHATML_MARKS[:2]),
    "mistral": Caller(mistral(LIST_CALL, "{{- '[TOOL_CALLS] [' }}"), "</s>", MISTRAL_MARKS),
    "nemo": Caller(mistral(LIST_CALL, "{{- '[TOOL_CALLS][' }}"), "</s>", MISTRAL_MARKS),
    "small": Caller(mistral(ID_CALL), "</s>", MISTRAL_MARKS),
    "devstral": Caller(mistral(NAME_CALL), "</s>", MISTRAL_MARKS),
}


def write(folder: Path, caller: Caller) -> Path:
    """A Llama of two layers with a family's template and tokens, and a byte-level vocabulary."""
    checkpoints.write(folder, shallow(checkpoints.LLAMA) | {"vocab_size": ROWS, "max_position_embeddings": 8192})
    path = folder / "tokenizer.json"
    tokenizer_craft.llama3(path)
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    for special, marks in ((True, (caller.end, *caller.special)), (False, caller.shown)):
        tokenizer.add_tokens([AddedToken(mark, special=special, normalized=False) for mark in marks])
    tokenizer.save(str(path))
    settings = {"bos_token": "<|begin_of_text|>", "eos_token": caller.end, "chat_template": caller.template}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    eos = tokenizer.token_to_id(caller.end)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": eos}), encoding="utf-8")
    return folder
