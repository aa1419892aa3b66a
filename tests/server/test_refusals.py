"""Every error of the library has a status and a code, and tells no more than a client should know."""

from __future__ import annotations

import pytest

from elm_mlx import errors
from elm_mlx.protocols.refusal import FieldRefused
from elm_mlx.server.refusals import UnknownModel, refusal_of

TOLD: list[tuple[BaseException, int, str]] = [
    (FieldRefused("n", "n is 9.", "too_many"), 400, "too_many"),
    (errors.InvalidRequest("That means nothing."), 400, "invalid_value"),
    (errors.PromptTooLong("It is long.", tokens=9, context=8), 400, "context_length_exceeded"),
    (errors.NotEnforceable("No value fits."), 400, "not_enforceable"),
    (errors.NotFound("It needs a package: pip install 'elm-mlx[structure]'."), 400, "not_enforceable"),
    (UnknownModel("There is no x."), 404, "model_not_found"),
    (errors.QueueFull("9 wait."), 503, "overloaded"),
    (errors.NotEnoughMemory("9 GB of 8 GB."), 503, "insufficient_memory"),
    (errors.EngineStopped("It was closed."), 503, "engine_stopped"),
    (errors.Cancelled("It was closed."), 503, "engine_stopped"),
    (errors.RequestFailed("A step failed."), 500, "computing_failed"),
    (errors.NotFinite("Logits are NaN."), 500, "computing_failed"),
]
HIDDEN = [errors.BadCheckpoint("/home/me/x is damaged."), errors.NotFound("/home/me/x"), errors.DiskFull("/home/me"),
          OSError("/home/me"), MemoryError(), RecursionError("/home/me"), KeyError("/home/me")]  # fmt: skip


@pytest.mark.parametrize(("error", "status", "code"), TOLD, ids=lambda given: type(given).__name__)
def test_an_error_has_a_status_a_code_and_its_sentence(error: BaseException, status: int, code: str) -> None:
    told = refusal_of(error)
    assert (told.status, told.code) == (status, code)
    assert told.message == str(error) or "maximum context length is 8 tokens" in told.message


def test_a_prompt_that_is_too_long_is_told_in_the_words_that_claude_code_looks_for() -> None:
    told = refusal_of(errors.PromptTooLong("It is long.", tokens=9, context=8))
    assert "prompt is too long: 10 tokens > 8" in told.message


@pytest.mark.parametrize("error", HIDDEN, ids=lambda given: type(given).__name__)
def test_what_may_name_a_folder_or_was_not_foreseen_is_for_the_log(error: BaseException) -> None:
    told = refusal_of(error)
    assert told.status == 500
    assert "/home/me" not in told.message
    assert "log" in told.message


def test_no_error_of_the_library_makes_telling_it_fail() -> None:
    classes = [errors.ElmError]
    for one in classes:
        classes += one.__subclasses__()
    told = [
        refusal_of(one("It went wrong.") if one is not FieldRefused else one("n", "It went wrong.")) for one in classes
    ]
    assert {refusal.status for refusal in told} <= {400, 404, 500, 503}
