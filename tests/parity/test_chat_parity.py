"""Our rendering of a chat is transformers', character for character."""

from __future__ import annotations

from typing import Any

import pytest
from helpers import chat_templates as written

from elm_mlx.errors import ElmError
from elm_mlx.text.chat.template import ZEPHYR, ChatTemplate

pytestmark = pytest.mark.parity
utilities = pytest.importorskip("transformers.utils.chat_template_utils")
base = pytest.importorskip("transformers.tokenization_utils_base")

# Constructs that few templates need; tests/text/chat/test_operations.py has every filter, test and method.
RARE = (
    "{{ messages | groupby('role') | map('first') | list }}", "{{ messages | map(attribute='role') | unique | sort }}",
    "{{ [3, 1.5, -2] | sum }}", "{{ [3, 1] | max }}", "{{ 2.567 | round(1) }}", "{{ 'a\nb' | indent(2) }}",
    "{{ '%s-%03d' | format('x', 7) }}", "{{ 'abcdef' | truncate(5, true) }}", "{{ 'a-b'.partition('-') }}",
    "{{ '{0}{n!r}{0:>5}'.format(1, n='x') }}", "{{ 'a\nb'.splitlines() }}", "{{ 2 ** 10 }}", "{{ '%d%%' % 5 }}",
    "{{ dict(a=1, **{'b': 2}) }}",
)  # fmt: skip


TEMPLATES = written.CONSTRUCTS | written.FAMILIES | {"zephyr": ZEPHYR}
DATED: list[dict[str, Any]] = [
    {},
    {"tools": [written.TOOL, written.TOOL]},
    {"tools": [written.TOOL], "tools_in_user_message": False},
    {"builtin_tools": ["brave_search", "code_interpreter", "weather"]},
    {"tools": []},
]


class Theirs(base.PreTrainedTokenizerBase):
    """transformers' apply_chat_template, without a tokenizer behind it."""


def outcome(render: Any, refusal: type[Exception], **inputs: Any) -> str:
    try:
        return render(**inputs)
    except refusal:
        return "refused"


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_text_is_transformers(name: str) -> None:
    ours = ChatTemplate(TEMPLATES[name], written.TOKENS)
    theirs = Theirs(chat_template=TEMPLATES[name], **written.TOKENS)
    rendered = 0
    for messages in written.CHATS.values():
        for variables in DATED:
            for prompt in (True, False):
                inputs = {"add_generation_prompt": prompt, "date_string": "02 Jan 2025", **variables}
                wanted = outcome(theirs.apply_chat_template, Exception, conversation=messages, tokenize=False, **inputs)
                assert outcome(ours.render, ElmError, messages=messages, **inputs) == wanted, (messages, inputs)
                rendered += wanted != "refused"
    assert rendered > 100 or (name == "zephyr" and rendered > 80)


@pytest.mark.parametrize("construct", RARE)
def test_what_few_templates_need_is_transformers_too(construct: str) -> None:
    theirs = Theirs(chat_template=construct, **written.TOKENS)
    wanted = theirs.apply_chat_template([written.USER, written.ANSWER], tokenize=False)
    assert ChatTemplate(construct, written.TOKENS).render([written.USER, written.ANSWER]) == wanted


def test_today_is_transformers_today() -> None:
    ours, theirs = ChatTemplate(written.LLAMA_32, written.TOKENS), Theirs(**written.TOKENS)
    shown = theirs.apply_chat_template([written.USER], chat_template=written.LLAMA_32, tokenize=False)
    assert ours.render([written.USER], add_generation_prompt=False) == shown
