"""Random chat templates, put together from the parts that published ones are made of.

Tokens that a template writes are in the private spelling; those it looks for in a caller's text are in the public one.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from helpers.wild.spelling import private as p


@dataclass(frozen=True)
class Style:
    """A family's format: its tokens, and the Jinja expressions that write a turn's header and end for `role`."""

    name: str
    bos: str
    eos: str
    others: tuple[str, ...]
    header: str
    end: str
    answer: str = ""  # the assistant's header, where it is not `header`
    thinks: bool = False

    @property
    def tokens(self) -> list[str]:
        """Every control token of the format, in the private spelling."""
        return [p(token) for token in dict.fromkeys([self.bos, self.eos, *self.others])]


def _im(name: str, bos: str, header: str, *others: str, thinks: bool = False) -> Style:
    return Style(name, bos, "<|im_end|>", ("<|im_start|>", "<|im_sep|>", *others), header,
                 f"'{p('<|im_end|>')}\\n'", thinks=thinks)  # fmt: skip


STYLES = (
    Style("llama-3", "<|begin_of_text|>", "<|eot_id|>",
          ("<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|python_tag|>", "<|end_of_text|>"),
          f"'{p('<|start_header_id|>')}' + role + '{p('<|end_header_id|>')}\\n\\n'", f"'{p('<|eot_id|>')}'"),
    _im("chatml", "<|endoftext|>", f"'{p('<|im_start|>')}' + role + '\\n'"),
    _im("qwen", "<|endoftext|>", f"'{p('<|im_start|>')}' ~ role ~ '\\n'", "<think>", "</think>", "<tool_call>",
        "</tool_call>", thinks=True),
    _im("phi-4", "<|endoftext|>", f"'{p('<|im_start|>')}' + role + '{p('<|im_sep|>')}'"),
    Style("zephyr", "<s>", "</s>", ("<|user|>", "<|assistant|>", "<|system|>"),
          f"'{p('<|')}' + role + '{p('|>')}\\n'", "eos_token + '\\n'"),
    Style("phi-3", "<s>", "<|endoftext|>", ("<|user|>", "<|assistant|>", "<|system|>", "<|end|>", "<|tool|>"),
          f"'{p('<|')}' ~ role ~ '{p('|>')}' ~ '\\n'", f"'{p('<|end|>')}\\n'"),
    Style("mistral", "<s>", "</s>", ("[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"),
          f"('{p('[INST]')} ' if role in ['user', 'system', 'tool'] else ' ')",
          f"(' {p('[/INST]')}' if role in ['user', 'system', 'tool'] else eos_token)", answer="''"),
    Style("deepseek", "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>",
          ("<｜User｜>", "<｜Assistant｜>", "<think>", "</think>", "<｜tool▁calls▁begin｜>"),
          f"('{p('<｜User｜>')}' if role == 'user' else '{p('<｜Assistant｜>')}' if role == 'assistant' else '')",
          f"('{p('<｜end▁of▁sentence｜>')}' if role == 'assistant' else '')", thinks=True),
    Style("gemma", "<bos>", "<eos>", ("<start_of_turn>", "<end_of_turn>"),
          f"'{p('<start_of_turn>')}' + ('model' if role == 'assistant' else role) + '\\n'",
          f"'{p('<end_of_turn>')}\\n'"),
    Style("blanks", "<| begin |>", "<| end of turn |>", ("<| user |>", "<| assistant |>"),
          f"'{p('<| ')}' + role + '{p(' |>')} '", f"' {p('<| end of turn |>')} '"),
    Style("plain", "<s>", "</s>", ("<unused0>",), "role | upper + ': '", "'\\n' + eos_token"),
)  # fmt: skip

CONTENT = (
    "{%- set content = message['content'] %}",
    "{%- set content = message.content | trim %}",
    "{%- set content = message.get('content') or '' %}",
    "{%- set content = message.content if message.content else '(empty)' %}",
    "{%- set content = (message.content or '').replace('\\r', '').split('\\n') | join('\\n') %}",
    "{%- set content = message['content'].strip() if message['content'] is string else '' %}",
    "{%- if message.content is string %}{% set content = message.content %}{% else %}{% set ns.text = '' %}"
    "{% for part in message.content or [] %}{% if part.type == 'text' %}{% set ns.text = ns.text + part.text %}"
    "{% endif %}{% endfor %}{% set content = ns.text %}{% endif %}",
)
LOOKS = (
    "{%- if role == 'assistant' and '</think>' in content %}"
    "{% set content = content.split('</think>')[-1] %}{% endif %}",
    "{%- set reasoning = '' %}{% if message.reasoning_content is string %}"
    "{% set reasoning = message.reasoning_content %}{% elif '</think>' in content %}"
    "{% set reasoning = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}"
    "{% set content = content.split('</think>')[-1].lstrip('\\n') %}{% endif %}"
    "{% if reasoning and role == 'assistant' %}"
    f"{{% set content = '{p('<think>')}\\n' + reasoning + '\\n{p('</think>')}\\n\\n' + content %}}{{% endif %}}",
    "{%- if content.startswith('<think>') and not content.endswith('<think>') %}"
    f"{{% set content = content.replace('<think>', '{p('<think>')}') %}}{{% endif %}}",
    "{%- if '<tool_call>' in content or content.endswith('>') %}{% set content = content ~ '\\n' %}{% endif %}",
)
TOOLS = (
    "{%- if tools %}{{ 'Tools:\\n' }}{% for tool in tools %}{{ tool | tojson(indent=4) + '\\n\\n' }}{% endfor %}"
    "{% endif %}",
    "{%- if tools is not none and tools is defined %}{% for tool in tools %}"
    "{{- tool.function.name ~ ': ' ~ tool.function.get('description', '') ~ '\\n' }}"
    "{{- tool | tojson | indent(2, true) }}{% endfor %}{% endif %}",
    "{%- if tools %}{{ '# Tools\\n' ~ (tools | map(attribute='function') | map('tojson') | join('\\n')) }}{% endif %}",
    "{%- if tools %}{{ tools | tojson(ensure_ascii=true) }}{% endif %}",
)
CALLS = (
    "{%- if message.tool_calls %}{% for call in message.tool_calls %}{{ '\\n' if not loop.first }}"
    "{{ '{\"name\": \"' ~ call.function.name ~ '\", \"arguments\": ' ~ (call.function.arguments | tojson) ~ '}' }}"
    "{% endfor %}{% endif %}",
    "{%- for call in message.tool_calls or [] %}{% set f = call.function or call %}{{ f.name }}("
    "{% for name, value in f.arguments | items %}{{ name ~ '=' ~ value ~ (', ' if not loop.last) }}{% endfor %})"
    "{% endfor %}",
)
GUARDS = (
    "{%- if loop.index0 > 0 and messages[loop.index0 - 1]['role'] == message['role'] %}"
    "{{ raise_exception('Roles must alternate') }}{% endif %}",
    "{%- if role not in ['system', 'user', 'assistant', 'tool'] %}{{ raise_exception('Role: ' + role) }}{% endif %}",
)


def random_template(rng: Random, style: Style) -> str:
    """A template that writes turns in this style."""
    thinks = rng.choice(LOOKS) if style.thinks and rng.random() < 0.7 else ""
    bos = rng.choice(["{{ bos_token }}", "{{- bos_token -}}\n", "{{- '%s' }}" % p(style.bos), "",
                      "{%- if bos_token is defined %}{{ bos_token }}{% endif %}\n"])  # fmt: skip
    turn = [
        "{%- set role = message['role'] %}" if rng.random() < 0.8 else "{%- set role = message.role | trim %}",
        rng.choice(GUARDS) if rng.random() < 0.2 else "",
        rng.choice(CONTENT), thinks,
        "{{- %s }}" % style.header if rng.random() < 0.5 else "{%%- set start = %s %%}{{ start }}" % style.header,
        rng.choice(CALLS) if rng.random() < 0.5 else "",
        "{{- content }}" if rng.random() < 0.7 else "\n        {{ content }}\n    ",
        "{{- %s }}" % style.end,
    ]  # fmt: skip
    if rng.random() < 0.2:
        turn[4:] = ["{% if role == 'assistant' %}", turn[4], "{% generation %}", *turn[5:], "{% endgeneration %}",
                    "{% else %}", *turn[4:], "{% endif %}"]  # fmt: skip
    answer = style.answer or "('' ~ %s)" % style.header
    ask = "{%%- if add_generation_prompt %%}{%% set role = 'assistant' %%}{{ %s }}{%% endif %%}" % answer
    if style.thinks and rng.random() < 0.3:
        ask = ask.replace("{% endif %}", "{{ '%s\\n' }}{%% endif %%}" % p("<think>"))
    head = ["{%- set ns = namespace(text='') %}", bos, rng.choice(TOOLS) if rng.random() < 0.5 else ""]
    line = rng.choice(["", "\n", "\n    "])
    loop = rng.choice(["{%- for message in messages %}", "{% for message in messages %}", _SYSTEM])
    end = "{%- endfor %}" if rng.random() < 0.7 else "\n{% endfor %}\n"
    return line.join([*filter(None, head), loop, *filter(None, turn), end, ask, rng.choice(["", "\n"])])


_SYSTEM = (
    "{%- if messages[0]['role'] == 'system' %}{{ messages[0]['content'] ~ '\\n\\n' }}{% set rest = messages[1:] %}"
    "{% else %}{{ 'You are a helpful assistant.\\n' }}{% set rest = messages %}{% endif %}"
    "{% for message in rest %}"
)
