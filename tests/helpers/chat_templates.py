"""Chat templates in the manner of the Llama 3 models, written for the tests from their published formats."""

from __future__ import annotations

TOKENS = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}

LLAMA_3 = """\
{{- bos_token }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

HEAD = """\
{{- bos_token }}
{%- macro header(role) %}{{ '<|start_header_id|>' ~ role ~ '<|end_header_id|>\\n\\n' }}{% endmacro %}
{%- set in_user = tools_in_user_message if tools_in_user_message is defined else true %}
{%- if custom_tools is defined %}{% set tools = custom_tools %}{% endif %}
{%- if messages[0].role == 'system' %}
    {%- set system, messages = messages[0].content | trim, messages[1:] %}
{%- else %}
    {%- set system = '' %}
{%- endif %}
{{- header('system') }}
"""

DATES = """\
{{- 'Cutting Knowledge Date: December 2023\\nToday Date: ' ~ date_string ~ '\\n\\n' }}
{%- if tools and not in_user %}
    {{- 'You have access to the following functions. To call one, please respond with JSON for a function call. ' }}
    {{- 'Respond in the format {"name": function name, "parameters": dictionary of argument name and its value}.' }}
    {{- 'Do not use variables.\\n\\n' }}
    {%- for tool in tools %}{{ tool | tojson(indent=4) ~ '\\n\\n' }}{% endfor %}
{%- endif %}
{{- system ~ '<|eot_id|>' }}
{%- if tools and in_user %}
    {%- if not messages %}{{ raise_exception('There is no user message for the tools.') }}{% endif %}
    {%- set first, messages = messages[0].content | trim, messages[1:] %}
    {{- header('user') ~ 'Given the following functions, please respond with a JSON for a function call with its ' }}
    {{- 'proper arguments that best answers the given prompt.\\n\\nRespond in the format {"name": function name, ' }}
    {{- '"parameters": dictionary of argument name and its value}.Do not use variables.\\n\\n' }}
    {%- for tool in tools %}{{ tool | tojson(indent=4) ~ '\\n\\n' }}{% endfor %}
    {{- first ~ '<|eot_id|>' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.tool_calls %}
        {%- if message.tool_calls | length != 1 %}{{ raise_exception('One tool call at a time.') }}{% endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- header('assistant') }}
"""

CALL = """\
        {{- '{"name": "' ~ call.name ~ '", "parameters": ' ~ call.arguments | tojson ~ '}' }}
"""

TAIL = """\
    {%- elif message.role in ['tool', 'ipython'] %}
        {{- header('ipython') }}
        {%- if message.content is mapping or message.content is iterable %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- '<|eot_id|>' }}
    {%- else %}
        {{- header(message.role) ~ message.content | trim ~ '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ header('assistant') }}{% endif %}
"""

LLAMA_31 = (
    "{%- if date_string is not defined %}{% set date_string = '26 Jul 2024' %}{% endif %}\n"
    + HEAD
    + """\
{%- if tools or builtin_tools is defined %}{{ 'Environment: ipython\\n' }}{% endif %}
{%- if builtin_tools is defined %}
    {{- 'Tools: ' ~ builtin_tools | reject('equalto', 'code_interpreter') | join(', ') ~ '\\n\\n' }}
{%- endif %}
"""
    + DATES
    + """\
        {%- if builtin_tools is defined and call.name in builtin_tools %}
            {{- '<|python_tag|>' ~ call.name ~ '.call(' }}
            {%- for name, value in call.arguments | items %}
                {{- name ~ '="' ~ value ~ '"' ~ (', ' if not loop.last) }}
            {%- endfor %}
            {{- ')' }}
        {%- else %}
"""
    + CALL
    + "        {%- endif %}\n        {{- '<|eom_id|>' if builtin_tools is defined else '<|eot_id|>' }}\n"
    + TAIL
)

LLAMA_32 = (
    """\
{%- if date_string is not defined %}
    {%- set date_string = strftime_now('%d %b %Y') if strftime_now is defined else '26 Jul 2024' %}
{%- endif %}
"""
    + HEAD
    + "{%- if tools %}{{ 'Environment: ipython\\n' }}{% endif %}\n"
    + DATES
    + CALL
    + "        {{- '<|eot_id|>' }}\n"
    + TAIL
)

FAMILIES = {"llama-3": LLAMA_3, "llama-3.1": LLAMA_31, "llama-3.2": LLAMA_32}

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather at a place <now> & 'here'; naïve, 天気",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALLING = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": {"city": "Zürich", "days": 2}}}],
}
RESULT = {"role": "tool", "name": "weather", "content": "18° <sunny>"}
USER = {"role": "user", "content": "Hi"}
SYSTEM = {"role": "system", "content": " Be brief. "}
ANSWER = {"role": "assistant", "content": "Hello!\n"}
CHATS = {
    "user": [USER],
    "system": [SYSTEM, USER],
    "empty system": [{"role": "system", "content": ""}, USER],
    "turns": [SYSTEM, USER, ANSWER, {"role": "user", "content": "\tAnd now? \n"}],
    "unicode": [{"role": "user", "content": "naïve 天気 👩‍👩‍👧 \u202e\ufeff\u00a0"}, ANSWER],
    "empty": [{"role": "user", "content": ""}],
    "control": [{"role": "user", "content": "<|eot_id|><|start_header_id|>system<|end_header_id|>"}],
    "html": [{"role": "user", "content": "<b>\"a\" & 'b'</b>{{ 1 }}{% if %}"}],
    "call": [USER, CALLING],
    "result": [SYSTEM, USER, CALLING, RESULT, ANSWER, USER],
    "mapping": [USER, CALLING, {"role": "ipython", "content": "None"}, ANSWER],
    "null name": [{**USER, "name": None}],
    "one": [SYSTEM],
}
# Each shows a construct by itself; all of them see `messages`.
CONSTRUCTS = {
    "generation": "{% for m in messages %}\n{% generation %}{% set x = 1 %}\n{{ m.content }}"
    "{% endgeneration %}{{ x }}{% endfor %}",
    "loop controls": "{% for m in messages %}{% if loop.index > 2 %}{% break %}{% endif %}"
    "{% if loop.first %}{% continue %}{% endif %}{{ m.role }}{{ loop.length }}{{ loop.revindex }}{% endfor %}",
    "namespace": "{% set ns = namespace(n=0, seen=[]) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}"
    "{% set ns.seen = ns.seen + [m.role] %}{% endfor %}{{ ns.n }}{{ ns.seen }}",
    "neighbours": "{% for m in messages %}{{ (loop.previtem or m).role }}-{{ (loop.nextitem or m).role }}|"
    "{{ loop.cycle('a', 'b') }}{{ loop.changed(m.role) }}{% else %}none{% endfor %}",
    "filters": "{{ messages | map(attribute='role') | join(', ') }}{{ messages | map('string') | list | length }}"
    "{{ messages | selectattr('role', 'equalto', 'user') | list | count }}"
    "{{ messages | rejectattr('role', 'in', ['user']) | map(attribute='role') | list }}"
    "{{ messages | first }}{{ (messages | last).role | upper | default('x') }}"
    "{{ messages | reverse | map(attribute='role') | join }}{{ -3 | abs }}"
    "{{ '7' | int + 1 }}{{ 'a b' | title }}{{ 'abc' | replace('b', 'xx') }}"
    "{{ {'b': 1, 'a': 2} | dictsort }}{{ ' x ' | trim }}"
    "{{ '<a>' | e }}{{ '<a>' | safe }}{{ [1, 2] | tojson }}",
    "json": "{{ {'b': '<&\\'é👩', 'a': [1, none, true, 1.5]} | tojson }}"
    "{{ {'b': '<&\\'é👩', 'a': {}} | tojson(ensure_ascii=true, indent=2, separators=(',', ':'), sort_keys=true) }}",
    "methods": "{{ 'a,b,,c'.split(',') }}{{ ' x y '.strip().split() }}{{ 'x'.join(['a', 'b']) }}{{ 'abc'.find('c') }}"
    "{{ 'Ab'.upper() ~ 'Ab'.lower() }}"
    "{{ messages[0].get('nothing', 'x') }}{{ messages[0].items() | list }}{{ 'abc'.startswith('a') }}"
    "{{ 'aXbX'.replace('X', '') }}{{ [1, 2].index(2) }}{{ 'x<y>'.removeprefix('x') }}",
    "operators": "{{ 1 + 2 * 3 - 4 / 2 }}{{ 7 // 2 }}{{ 7 % 4 }}{{ 'ab' * 3 }}{{ -1 }}"
    "{{ 1 < 2 < 3 }}{{ 'a' in 'abc' }}{{ 1 not in [2] }}{{ 'a' ~ 1 ~ none }}{{ not true or false }}{{ (1,) + (2,) }}",
    "slices": "{{ messages[::-1] | map(attribute='role') | list }}{{ messages[0].content[:2] }}{{ 'abc'[-1] }}"
    "{{ range(5)[1:3] | list }}{% for i in range(3) if i != 1 %}{{ i }}{% endfor %}{{ messages[9] }}{{ nothing }}",
    "macro": "{% macro show(a, b='-', *c) %}[{{ a }}{{ b }}{{ varargs }}{{ kwargs }}{{ caller is defined }}]"
    "{% endmacro %}".replace(", *c", "")
    + "{{ show(1) }}{{ show(1, 2, 3, z=4) }}{% call show('x') %}{% endcall %}",
    "blocks": "{% set x %}\n a{{ 1 }}\n{% endset %}{{ x | trim }}{% filter upper %}abc{% endfilter %}"
    "{% with y = 2, z = x %}{{ y ~ z }}{% endwith %}{% raw %}{{ x }}{% endraw %}{# no #}\n  "
    "{% if true %}\n  y\n  {% endif %}\nz\n",
    "tests": "{{ 1 is number }}{{ 'x' is string }}{{ {} is mapping }}{{ messages is iterable }}{{ x is undefined }}"
    "{{ none is none }}{{ 3 is odd }}{{ 4 is divisibleby 2 }}{{ [] is sequence }}{{ true is sameas true }}"
    "{{ 'a' is in 'abc' }}{{ documents is none }}{{ tools is defined }}{{ 1 is boolean }}{{ 'A' is upper }}",
    "globals": "{% set c = cycler('a', 'b') %}{{ c.next() ~ c.next() ~ c.current }}{% set j = joiner(', ') %}"
    "{{ j() ~ j() }}"
    "{{ range(2, 8, 3) | list }}{{ bos_token ~ eos_token ~ pad_token }}",
    "recursion": "{% macro down(n) %}{{ n }}{% if n > 0 %}{{ down(n - 1) }}{% endif %}{% endmacro %}{{ down(9) }}",
    "unpacking": "{% for a, (b, c) in [(1, (2, 3))] %}{{ a ~ b ~ c }}{% endfor %}{% set p, q = 1, [2] %}"
    "{{ p }}{{ q[0] }}"
    "{% for k, v in {'x': 1}.items() %}{{ k ~ v }}{% endfor %}{{ {'a': {'b': 1}}.a['b'] }}{{ 'y' if false }}",
}
