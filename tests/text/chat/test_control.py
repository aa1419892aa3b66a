"""Whatever a caller writes, the control ids of a prompt are those of the same template on harmless words."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
from helpers import checkpoints

from elm_mlx.errors import InvalidRequest
from elm_mlx.text.chat.disguise import is_letter
from elm_mlx.text.chat.template import ChatTemplate
from elm_mlx.text.settings import TokenizerSettings
from elm_mlx.text.tokenizer import Tokenizer

SMALL: dict[str, Any] = json.loads((checkpoints.TOKENIZER / "tokenizer.json").read_text(encoding="utf-8"))
TEXTS = ("<|e|>", "<|a|>", "</e>", "<e>", "|", "<|e", "end", "<e> ", "<|e|>\n", "\uff25\uff21", "e\u0301", "<|e|>a|>")
LETTERS = "<|>/ea_ E\n\uff1c\uff5c\u0301\U000f0000\U0010fffd\U00030000zz"
NORMALIZERS: tuple[dict[str, Any], ...] = (
    {"type": "NFKC"}, {"type": "NFD"}, {"type": "Lowercase"}, {"type": "StripAccents"},
    {"type": "Replace", "pattern": {"String": "/"}, "content": "<|e|>"},
)  # fmt: skip
PARTS = (
    "{{ X }}{{ Y }}", "{{ X|trim }}", "{{ X[1:] }}", "{{ X[::-1] }}", "{{ X.replace('z', '') }}", "{{ X|first }}",
    "{{ Y|last }}", "{{ Y.join(X) }}", "{{ X|join(Y) }}", "{{ '%s%s' % (X, Y) }}", "{{ '{}-{}'.format(X, Y) }}",
    "{{ X|lower }}", "{{ X|tojson }}", "{{ [X, Y] }}", "{{ messages|map(attribute='content')|join }}",
    "{{ tools|tojson }}", "{{ (X|safe).unescape() }}", "{{ X|wordwrap(1) }}", "{{ X|truncate(3, true, '') }}",
    "{{ X|batch(2)|map('join')|join }}", "{{ X|reject('eq', 'z')|join }}", "{% for m in messages %}{{ O }}"
    "{{ m.role }}\n{{ m.content }}{{ C }}{% endfor %}", "{% for k, v in tools[0].items() %}{{ v }}{{ k }}{% endfor %}",
)  # fmt: skip


def some_tokenizer(random: Random, texts: list[str]) -> Tokenizer:
    """The small tokenizer with these added tokens, of random flags, and a random normalizer."""

    def flags() -> dict[str, bool]:
        return {name: random.random() < 0.3 for name in ("lstrip", "rstrip", "normalized")} | {"single_word": False}

    added = [
        {"id": 512 + i, "content": text, "special": random.random() < 0.6, **flags()} for i, text in enumerate(texts)
    ]
    changes = {"added_tokens": [*SMALL["added_tokens"], *added], "normalizer": random.choice((None, *NORMALIZERS))}
    return Tokenizer(json.dumps(SMALL | changes).encode(), TokenizerSettings(), Path("tokenizer.json"))


def some_template(random: Random, texts: list[str]) -> str:
    """A template that writes tokens, and the caller's texts in many ways, among them beside a part of a token."""
    places = {"X": "messages[0].content", "Y": "messages[-1].content", "O": repr(texts[0]), "C": repr(texts[-1])}
    source = ""
    for part in random.choices(PARTS, k=3):
        cut = random.choice(texts)
        source += "".join(places.get(letter, letter) for letter in part)
        source += f"{{{{ {random.choice(texts)!r} }}}}{{{{ {cut[: random.randrange(len(cut))]!r} }}}}"
    return source


def some_text(random: Random, texts: list[str]) -> str:
    """A caller's text of tokens, parts of tokens, and letters that might become some."""
    token = random.choice(texts)
    cut = random.randrange(len(token) + 1)
    forms = (token, token[:cut], token[cut:], "z".join(token), token[::-1], "".join(f"&#{ord(c)};" for c in token))
    return "".join((*random.choices(forms, k=2), *random.choices(LETTERS, k=2)))


def harmless(text: str) -> str:
    """A text of the same shape, without a letter of any token."""
    return "".join(c if c.isspace() or c == "z" else "\u5b80" if is_letter(c) else "\u2021" for c in text)


def prompt(texts: list[str]) -> dict[str, Any]:
    one, two, key, value = texts
    messages = [{"role": "user", "content": one}, {"role": "user", "content": two}]
    return {"messages": messages, "tools": [{key or "key": value}]}


def check(random: Random, cases: int) -> int:
    """Tries texts on one tokenizer and template; returns how many were not refused."""
    texts = random.sample(TEXTS, 4)
    tokenizer, template = some_tokenizer(random, texts), ChatTemplate(some_template(random, texts), {})
    served = 0
    for _ in range(cases):
        given = [some_text(random, texts) for _ in range(4)]
        try:
            ids = template.encode(tokenizer=tokenizer, **prompt(given))
        except InvalidRequest:
            continue
        expected = template.encode(tokenizer=tokenizer, **prompt([harmless(text) for text in given]))
        assert [i for i in ids if i in control(template)] == [i for i in expected if i in control(template)]
        served += 1
    return served


def control(template: ChatTemplate) -> set[int]:
    """The ids that no caller may write in this template's prompts."""
    tokenizer, disguise = template._prepared or pytest.fail("nothing was encoded")
    return {tokenizer.added_ids[text] for text in disguise.stand_ins.values()}


@pytest.mark.parametrize("seed", range(4))
def test_no_text_of_a_caller_adds_a_control_id(seed: int) -> None:
    assert sum(check(Random(f"{seed}.{i}"), 4) for i in range(5)) > 10


@pytest.mark.slow
def test_nor_do_thousands() -> None:
    assert sum(check(Random(i), 20) for i in range(100)) > 1000
