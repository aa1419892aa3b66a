"""Tools from functions and schemas: what a model is told of them, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Annotated, Any, Literal

import pytest

from elm_mlx.api.tool_choice import choice_of
from elm_mlx.api.tools import Tool, tool_of, tools_of
from elm_mlx.errors import InvalidRequest, NotEnforceable
from elm_mlx.text.marks import Marks


class Unit(Enum):
    CELSIUS = "C"
    KELVIN = "K"


def google(city: str, days: int = 3, *, unit: Literal["C", "F"] = "C", tags: list[str] | None = None) -> str:
    """Tells the weather.

    In some detail.

    Args:
        city: The town,
            and its country.
        days (int, optional): How many.

    Returns:
        city: no argument here
    """
    return city


def numpy(a: float, b: bool) -> int:
    """Adds.

    Parameters
    ----------
    a : float
        First thing,
        and more.
    b : bool, optional
        Second.

    Returns
    -------
    a
        no argument here
    """
    return int(a + b)


def sphinx(a, b: Unit, c: Annotated[dict[str, float], "Rates"], d: tuple[int, str]) -> None:  # type: ignore[no-untyped-def]
    """Joins.

    :param a: First
        thing
    :param Unit b: Second
    :returns: nothing
    """


async def plain(points: Sequence[Mapping[str, int]]) -> None: ...


def test_a_function_is_told_by_its_name_its_docstring_and_its_hints() -> None:
    assert tool_of(google).schema == {
        "type": "function",
        "function": {
            "name": "google",
            "description": "Tells the weather.\n\nIn some detail.",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "The town, and its country."},
                    "days": {"type": "integer", "default": 3, "description": "How many."},
                    "unit": {"enum": ["C", "F"], "default": "C"},
                    "tags": {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}],
                             "default": None},
                },
                "additionalProperties": False,
                "required": ["city"],
            },
        },
    }  # fmt: skip
    assert tool_of(numpy).parameters["properties"] == {
        "a": {"type": "number", "description": "First thing, and more."},
        "b": {"type": "boolean", "description": "Second."},
    }
    assert tool_of(sphinx).parameters["properties"] == {
        "a": {"description": "First thing"},
        "b": {"enum": ["C", "K"], "description": "Second"},
        "c": {"type": "object", "additionalProperties": {"type": "number"}, "description": "Rates"},
        "d": {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "minItems": 2, "maxItems": 2},
    }
    points = {"type": "array", "items": {"type": "object", "additionalProperties": {"type": "integer"}}}
    assert tool_of(plain).parameters["properties"] == {"points": points}
    assert [tool_of(one).description for one in (numpy, sphinx, plain)] == ["Adds.", "Joins.", ""]
    assert tool_of(google).function is google


def test_schemas_in_openais_form_and_bare_ones_are_one_tool() -> None:
    bare = {
        "name": "f",
        "description": "Does.",
        "parameters": {"type": "object", "properties": {"a": {"type": "null"}}},
    }
    tool = tool_of({"type": "function", "function": bare})
    assert tool == tool_of(bare) == tool_of(tool) == Tool("f", "Does.", bare["parameters"])  # type: ignore[arg-type]
    assert tool_of({"type": "function", **bare}) == tool
    assert tool.check({"a": None}) is None
    assert tool.check({"a": 1}) == "arguments.a is 1; it must be of type null."
    assert tool_of({"name": "g"}).check({}) is None


def stars(*args: int) -> None: ...
def more(**kwargs: int) -> None: ...
def places(a: int, /) -> None: ...
def raw(a: bytes) -> None: ...


def unknown(a: Missing) -> None:  # type: ignore[name-defined]  # noqa: F821
    ...


def elsewhere(a: "re.Missing") -> None: ...  # type: ignore[name-defined]  # noqa: F821, UP037


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (5, "A tool is 5"),
        (stars, "no fixed name"),
        (more, "no fixed name"),
        (places, "cannot be given by its name"),
        (raw, "of type bytes"),
        (unknown, "signature that cannot be read"),
        (elsewhere, "signature that cannot be read"),
        (lambda: 1, "has the name '<lambda>'"),
        ({"type": "web_search"}, "only functions"),
        ({"type": "function"}, "no name"),
        ({"name": "a b"}, "has the name 'a b'"),
        ({"name": "a", "description": 5}, "must be text"),
        ({"name": "a", "parameters": []}, "schema of an object"),
        ({"name": "a", "parameters": {"type": "string"}}, "schema of an object"),
        ({"name": "a", "parameters": {"x": object()}}, "cannot be used"),
        ({"name": "a", "parameters": {"description": "x" * (1 << 20)}}, "it may have"),
    ],
)
def test_what_is_no_tool_is_refused_with_the_reason(given: Any, why: str) -> None:
    with pytest.raises(InvalidRequest, match=why):
        tool_of(given)


@pytest.mark.parametrize("parameters", [{"unevaluatedProperties": False}, {"properties": {"a": {"$ref": "b.json"}}}])
def test_a_schema_that_nobody_here_understands_is_told_and_not_checked_and_never_enforced(parameters: Any) -> None:
    """Such schemas come from servers of tools, and models may well understand them."""
    tool = tool_of({"name": "a", "parameters": parameters})
    assert "The arguments of the tool a are not checked: " in str(tool.unchecked)
    assert tool.check({"b": 1}) is None
    assert tool.schema["function"]["parameters"] == parameters
    assert not choice_of([tool], "auto", {}).must
    with pytest.raises(NotEnforceable):
        choice_of([tool], "required", {}).asked(Marks(), takes_several=False)


def test_a_list_of_tools_has_each_name_once() -> None:
    assert tools_of(None) == tools_of([]) == ()
    assert [tool.name for tool in tools_of([google, numpy])] == ["google", "numpy"]
    calls: list[Callable[[], object]] = [lambda: tools_of("google"), lambda: tools_of({"name": "f"}),
                                         lambda: tools_of([numpy, {"name": "numpy"}]),
                                         lambda: tools_of([{"name": f"f{i}"} for i in range(129)])]  # fmt: skip
    for call in calls:
        with pytest.raises(InvalidRequest):
            call()
