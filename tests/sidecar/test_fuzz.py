"""Whatever parameters a client gives, it gets an answer or a refusal that says why, and the sidecar goes on."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from elm_mlx.api.options import Options
from elm_mlx.sidecar.message import INTERNAL_ERROR
from elm_mlx.sidecar.methods import HANDLERS, SIZES

METHODS = sorted(HANDLERS.keys() - {"shutdown"})
NAMES = ("session", "prompt", "model", "options", "tools", "transcript", "instructions", "stream", "snapshots",
         "tool_choice", "tool_rounds", "tool_seconds", "prewarm", "level", "bits", "pull", "chat_template", "name",
         "protocolVersion", "clientInfo", *SIZES)  # fmt: skip
PLAIN = (
    st.none()
    | st.booleans()
    | st.integers(-2, 300)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
)
PLAIN |= st.sampled_from(["session-1", "demo", "warn", "zephyr", "auto", 10**400])
SOME = st.dictionaries(st.text(max_size=4), PLAIN, max_size=2)
VALUES = st.recursive(PLAIN | SOME, lambda inner: st.lists(inner, max_size=3), max_leaves=5)
OPTIONS = st.dictionaries(st.sampled_from(sorted(Options.__annotations__)), VALUES, max_size=3)


def ask(pipes: Any, method: str, params: dict[str, Any]) -> None:
    if method in ("generate", "session/respond"):
        params["max_tokens"] = 1
    error = pipes.answer(pipes.begin(method, **params)).get("error")
    assert not error or (error["code"] != INTERNAL_ERROR and error["message"]), (method, params, error)
    pipes.seen.clear()


CALLS = st.tuples(st.sampled_from(METHODS), st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=3))
ASKED = st.tuples(st.sampled_from(["generate", "session/respond", "session/new"]), OPTIONS)


@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(CALLS)
def test_no_parameters_are_an_error_of_ours(talker: Any, call: Any) -> None:
    ask(talker, *call)


@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(ASKED)
def test_no_options_are_an_error_of_ours(talker: Any, asked: Any) -> None:
    method, options = asked
    params = {"generate": {"prompt": "a"}, "session/respond": {"session": "session-1", "prompt": "a"}}
    ask(talker, method, {**params.get(method, {}), "options": options})


@pytest.mark.slow
@settings(max_examples=600, suppress_health_check=list(HealthCheck))
@given(CALLS, ASKED)
def test_many_parameters_are_no_errors_of_ours(talker: Any, call: Any, asked: Any) -> None:
    ask(talker, *call)
    test_no_options_are_an_error_of_ours.hypothesis.inner_test(talker, asked)  # type: ignore[attr-defined]
