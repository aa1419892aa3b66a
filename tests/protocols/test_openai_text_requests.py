"""What a completion of OpenAI's API may ask: its prompts, and what it has in place of a chat's fields."""

from __future__ import annotations

from typing import Any

import pytest

from elm_mlx.protocols.ask import Ask
from elm_mlx.protocols.openai import completions
from elm_mlx.protocols.openai.table import TEXT_FIELDS
from elm_mlx.protocols.refusal import FieldRefused


def read(*, strict: bool = True, **body: Any) -> Ask:
    return completions.read({"prompt": "Once"} | body, strict=strict)


def refused(**body: Any) -> FieldRefused:
    with pytest.raises(FieldRefused) as caught:
        read(**body)
    assert len(str(caught.value)) < 1000
    return caught.value


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("Once", ("Once",)),
        ("", ("",)),
        (["a", "b"], ("a", "b")),
        ([1, 2], ([1, 2],)),
        ([[1], [2, 3]], ([1], [2, 3])),
        (["a", [1]], ("a", [1])),
    ],
)
def test_a_prompt_is_a_text_or_ids_or_several(prompt: Any, prompts: Any) -> None:
    assert read(prompt=prompt) == Ask(model=None, prompts=prompts, max_tokens=16)


@pytest.mark.parametrize(
    ("prompt", "param", "code"),
    [
        (None, "prompt", "missing_required_parameter"),
        ([], "prompt", "invalid_value"),
        (5, "prompt", "invalid_value"),
        ({}, "prompt", "invalid_value"),
        ([""] * 129, "prompt", "invalid_value"),
        ([[]], "prompt[0]", "invalid_value"),
        ([1, -1], "prompt", "invalid_value"),
        ([1, "a"], "prompt[0]", "invalid_value"),
        (["a", [1, True]], "prompt[1]", "invalid_value"),
        ("\udfff", "prompt", "invalid_value"),
    ],
)
def test_a_mistake_in_a_prompt_is_named_by_its_place(prompt: Any, param: str, code: str) -> None:
    error = refused(prompt=prompt)
    assert (error.param, error.code) == (param, code)


def test_null_is_absent_in_every_field_that_is_known() -> None:
    names = {name for table in TEXT_FIELDS for name in table} - {"prompt"}
    assert read(**dict.fromkeys(names)) == read()


def test_the_length_is_openais_unless_a_request_names_one() -> None:
    assert [read(max_tokens=most).max_tokens for most in (None, 4, -1)] == [16, 4, None]


def test_log_probabilities_are_a_number() -> None:
    assert [read(logprobs=most).options for most in (0, 5)] == [{"logprobs": 0}, {"logprobs": 5}]
    assert [refused(logprobs=most).param for most in (True, 6, -1)] == ["logprobs"] * 3


def test_an_echo_with_log_probabilities_has_those_of_the_prompt() -> None:
    asked = [{"echo": True, "logprobs": 0}, {"echo": True}, {"logprobs": 1}, {"echo": False, "logprobs": 1}]
    assert [read(**body).scores_prompts for body in asked] == [True, False, False, False]


def test_every_answer_that_is_asked_for_is_sent() -> None:
    assert read(n=3, best_of=3).n == 3
    assert read(best_of=1).n == 1
    assert [refused(n=n, best_of=best).param for n, best in ((2, 3), (3, 1), (1, 0))] == ["best_of"] * 3
    assert refused(n=8, prompt=["a"] * 33).param == "n"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"suffix": "end"}, "suffix"),
        ({"messages": []}, "messages"),
        ({"tools": [{}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"add_special_tokens": False}, "add_special_tokens"),
        ({"max_completion_tokens": 5}, "max_completion_tokens"),
    ],
)
def test_what_a_completion_lacks_is_refused(body: dict[str, Any], param: str) -> None:
    error = refused(**body)
    assert (error.param, error.code) == (param, "unsupported_parameter")


def test_what_is_not_there_may_be_switched_off() -> None:
    assert read(suffix="", echo=False, tools=[], top_logprobs=0, user="me", add_special_tokens=True) == read()


def test_unknown_fields_are_told_or_refused() -> None:
    assert read(strict=False, foo=1).ignored == ("foo",)
    assert refused(foo=1).param == "foo"
