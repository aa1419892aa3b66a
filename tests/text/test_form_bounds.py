"""What would make the compiling of a form explode is found before, in a time that is linear in the form."""

from __future__ import annotations

from contextlib import suppress

import pytest

from elm_mlx.errors import NotEnforceable
from elm_mlx.text.form_bounds import MOST_LAID_OVER, MOST_REPEATS, check_lark, check_repeats


@pytest.mark.parametrize(
    "text", [f"a{{{MOST_REPEATS + 1}}}", "a{2, 99999}", "a{99999,}", f"b~3..{'9' * 50_000}", "a{0,99999}b{3}"]
)
def test_a_repetition_without_sense_is_refused(text: str) -> None:
    with pytest.raises(NotEnforceable, match=r"The pattern repeats something \d+ times"):
        check_repeats("The pattern", text)


@pytest.mark.parametrize("text", ["a{2,3}", f"a{{{MOST_REPEATS}}}", "a{", "{99999", "99999}", "a~2..3", "99999"])
def test_what_repeats_nothing_so_often_is_none(text: str) -> None:
    check_repeats("The pattern", text)


@pytest.mark.parametrize("part", ["{ ", " ", "{", "~ ", "1", '\\"', "\\/", '"', "/", '"\\'])
@pytest.mark.parametrize("front", ["a{", 'start: "', "start: /", "~"])
def test_no_text_takes_more_than_linear_time(front: str, part: str) -> None:
    """Each of these would take minutes where a search begins anew at every place."""
    with suppress(NotEnforceable):
        check_lark(front + part * 30_000)


def test_what_the_texts_of_a_grammar_say_is_no_repetition() -> None:
    check_lark('start: "a{99999}" "~ 99999" "&&&&&&&&&&&&&&" // "not here {3}"\n' + '// it"s\n')
    for grammar in ('start: "x" /a{99999}/', 'start: "\\"" /"a{99999}"/', 'start: /\\/"/ "b"~99999',
                    'start: "a" // "\nA: /a{99999}/ // "'):  # fmt: skip
        with pytest.raises(NotEnforceable, match="repeats something 99999 times"):
            check_lark(grammar)
    with pytest.raises(NotEnforceable, match=f"more than {MOST_LAID_OVER}"):
        check_lark("A: " + " & ".join(["/a/"] * (MOST_LAID_OVER + 2)))


@pytest.mark.parametrize(
    ("grammar", "words"),
    [
        ('start: <[1-5]> "a"', "which names tokens"),
        ("start: <|eot_id|>", "which names tokens"),
        ('start[temperature=0.5]: "a"', "a temperature"),
    ],
)
def test_what_a_grammar_says_of_tokens_and_temperatures_is_refused(grammar: str, words: str) -> None:
    with pytest.raises(NotEnforceable, match=words):
        check_lark(grammar)
    check_lark('start: "<[1]>" /<b>/ "temperature=" // <[2]>')
