"""The lines of OpenAI's batches: {"custom_id", "method", "url", "body"} to {"id", "custom_id", "response", "error"}."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from elm_mlx.arguments import shown
from elm_mlx.errors import ElmError, InvalidRequest, NotEnoughMemory, PromptTooLong
from elm_mlx.jobs.ask import OPTIONS, Ask, Id, check_fields, check_id, check_prompt, options_in, sentence
from elm_mlx.jobs.messages import read_messages
from elm_mlx.jobs.origin import Origin
from elm_mlx.protocols.openai import chat, chat_answer, text_answer
from elm_mlx.protocols.openai.entries import entries_of
from elm_mlx.protocols.openai.token_logprobs import of_text
from elm_mlx.protocols.refusal import FieldRefused
from elm_mlx.protocols.token_texts import TokenTexts

if TYPE_CHECKING:
    from elm_mlx.api import Completion

KEYS = ("id", "custom_id", "response", "error")
SHAPES = (KEYS,)  # what the keys of an answer may be
LINE = ("custom_id", "method", "url", "body")
URLS = {"/v1/chat/completions": "messages", "/v1/completions": "prompt"}  # url -> the field that says what is asked
# Fields of a body that change nothing in an answer, whatever they hold.
WITHOUT_EFFECT = (
    "model", "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
    "prompt_cache_retention", "prompt_cache_options", "prediction", "parallel_tool_calls", "stream_options",
)  # fmt: skip
# Fields that would change an answer in a way that elm-mlx lacks -> the values, as JSON, by which they change nothing.
UNSUPPORTED = {
    "n": ("1",), "best_of": ("1",), "stream": ("false",), "echo": ("false",), "suffix": ('""',),
    "tools": ("[]",), "tool_choice": ('"none"', '"auto"'), "functions": ("[]",), "function_call": ('"none"', '"auto"'),
    "modalities": ('["text"]',), "audio": (), "web_search_options": (), "moderation": (), "reasoning_effort": (),
    "verbosity": (),
}  # fmt: skip
FORM = "response_format"
CODES = {PromptTooLong: "context_length_exceeded", InvalidRequest: "invalid_request", NotEnoughMemory: "out_of_memory"}


def read_id(fields: Mapping[str, Any], number: int) -> Id:
    """The custom_id of a line. Raises InvalidRequest where there is none."""
    return check_id(f"The custom_id of line {number}", fields.get("custom_id"), (str,))


def read_ask(fields: Mapping[str, Any]) -> Ask:
    """What a line asks. Raises InvalidRequest, with a sentence that names the field."""
    check_fields("", fields, LINE)
    body = fields.get("body")
    if not isinstance(body, dict):
        raise InvalidRequest(f"body is {shown(body)}; it must be an object.")
    if fields.get("method") not in (None, "POST"):
        raise InvalidRequest(f"method is {shown(fields['method'])}; it must be POST.")
    what = asked_field(fields.get("url"), body)
    check_body(body, what)
    options = options_in(body | {"max_tokens": most_tokens(body)}) | logprobs_in(body, what) | form_in(body)
    if what == "messages":
        return Ask(options, messages=read_messages(body["messages"]))
    return Ask(options, prompt=check_prompt("body.prompt", body["prompt"]), as_is=True)


def asked_field(url: object, body: Mapping[str, Any]) -> str:
    """Which field of the body says what is asked: that of the url or, without a url, the one that is there."""
    if url is not None and (not isinstance(url, str) or url not in URLS):
        raise InvalidRequest(f"url is {shown(url)}; elm-mlx answers {' and '.join(URLS)}.")
    wanted = [URLS[url]] if isinstance(url, str) else list(URLS.values())
    found = [name for name in wanted if body.get(name) is not None]
    if len(found) != 1:
        raise InvalidRequest(f"body must have {' or '.join(wanted)}{', and not both' * (len(wanted) > 1)}.")
    return found[0]


def check_body(body: Mapping[str, Any], what: str) -> None:
    """Raises InvalidRequest for a field of the body that is not known, or asks for what elm-mlx lacks."""
    more = ("max_completion_tokens", "logprobs", "top_logprobs")
    check_fields("body.", body, (what, FORM, *OPTIONS, *more, *WITHOUT_EFFECT, *UNSUPPORTED))
    for name in UNSUPPORTED.keys() & body.keys():
        if body[name] is not None and json.dumps(body[name]) not in UNSUPPORTED[name]:
            raise InvalidRequest(f"body.{name} is {shown(body[name])}, and elm-mlx cannot do that. Leave it out.")


def most_tokens(body: Mapping[str, Any]) -> Any:
    """The value of max_completion_tokens, or of max_tokens, its older name. Raises InvalidRequest where they differ."""
    old, new = body.get("max_tokens"), body.get("max_completion_tokens")
    if None not in (old, new) and old != new:
        raise InvalidRequest("body.max_tokens and body.max_completion_tokens mean the same and differ. Leave one out.")
    return old if new is None else new


def logprobs_in(body: Mapping[str, Any], what: str) -> dict[str, Any]:
    """The option `logprobs`, if a body asks for it: a number for a completion; for a chat `logprobs` true, and the
    number as `top_logprobs`. Raises InvalidRequest where these do not go together; the number is judged later."""
    asked, most = body.get("logprobs"), body.get("top_logprobs")
    if what == "prompt":
        if most is not None or isinstance(asked, bool):
            raise InvalidRequest("A completion takes body.logprobs as a number. Leave body.top_logprobs out.")
        return {} if asked is None else {"logprobs": asked}
    try:
        return chat.logprobs_in(body)
    except FieldRefused as error:
        raise InvalidRequest(f"body.{error}") from error


def form_in(body: Mapping[str, Any]) -> dict[str, Any]:
    """The option `response_format`, if a body asks for anything but text; it is judged later."""
    return {} if body.get(FORM) in (None, {"type": "text"}) else {FORM: body[FORM]}


def answer(id: Id, origin: Origin, ask: Ask, completion: Completion, texts: TokenTexts | None = None) -> dict[str, Any]:
    """The line for a finished answer. Nothing in it tells the time, or what was kept of other requests: `created` is 0,
    and `usage` has no details. `texts` are needed where there are log-probabilities."""
    prompt, generated = completion.stats.prompt_tokens, completion.stats.generated_tokens
    kind, prefix, choice = ("chat.completion", "chatcmpl", chat_choice) if ask.messages else (
        "text_completion", "cmpl", text_choice)  # fmt: skip
    body = {
        "id": f"{prefix}-{origin.name_of(id)}",
        "object": kind,
        "created": 0,
        "model": origin.model,
        "choices": [choice(completion, texts)],
        "usage": {"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated},
    }
    response = {"status_code": 200, "request_id": f"req_{origin.name_of(id)}", "body": body}
    return dict(zip(KEYS, (f"batch_req_{origin.name_of(id)}", id, response, None), strict=True))


def chat_choice(completion: Completion, texts: TokenTexts | None) -> dict[str, Any]:
    """The one choice of a chat.completion."""
    return chat_answer.choice_of(0, completion, texts)


def text_choice(completion: Completion, texts: TokenTexts | None) -> dict[str, Any]:
    """The one choice of a text_completion."""
    logprobs = of_text(entries_of(completion, texts), texts) if texts and completion.logprobs is not None else None
    text = (completion.reasoning or "") + completion.text  # a completion has no parts
    return text_answer.choice_of(0, text, logprobs, completion.finish_reason)


def failure(id: Id, origin: Origin, error: ElmError) -> dict[str, Any]:
    """The line for a request that has no answer."""
    code = next((code for kind, code in CODES.items() if isinstance(error, kind)), "failed")
    told = {"code": code, "message": sentence(error)}
    return dict(zip(KEYS, (f"batch_req_{origin.name_of(id)}", id, None, told), strict=True))


def id_of_result(record: Mapping[str, Any]) -> Id:
    """The id that a written line answers. Raises InvalidRequest for what is no id."""
    return check_id("custom_id", record["custom_id"], (str,))
