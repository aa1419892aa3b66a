"""Why a request gets no answer, as every API tells it: a status of HTTP, a code and a sentence."""

from __future__ import annotations

from dataclasses import dataclass, field

from elm_mlx.errors import InvalidRequest


class FieldRefused(InvalidRequest):
    """A field of a request has no meaning, or asks for what elm-mlx cannot do. `param` is its path, as
    "messages[0].content"; `code` is a word for programs."""

    def __init__(self, param: str, message: str, code: str = "invalid_value") -> None:
        super().__init__(message)
        self.param, self.code = param, code


@dataclass(frozen=True)
class Refusal:
    """An error as HTTP tells it. `kind` is OpenAI's word for a class of errors, as "invalid_request_error"; `code` is
    one for programs, as "model_not_found"; `param` the field that it is about. `headers` go with the response.
    `request_id` names the request, for APIs that tell it in the body."""

    status: int
    message: str
    kind: str = "invalid_request_error"
    code: str | None = None
    param: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    request_id: str | None = None
