"""Routes about tokens: a text to ids and back, a chat as its template writes it, and how long a prompt is.

The bodies are those of llama.cpp's server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from elm_mlx.protocols.ask import Ask
from elm_mlx.protocols.dialect import Dialect
from elm_mlx.protocols.json_object import parse_object
from elm_mlx.protocols.refusal import FieldRefused
from elm_mlx.server.answer import HasBody, read_asked, while_there
from elm_mlx.server.asgi import named
from elm_mlx.server.asking import template_errors
from elm_mlx.server.replies import App, Receive, Reply
from elm_mlx.server.sending import Send, send_json

if TYPE_CHECKING:
    from elm_mlx.api import LanguageModel
    from elm_mlx.server.house import House

MOST_TOKENS = 200_000  # that are made a text in one request
MOST_CHARACTERS = 2_000_000  # that are made tokens in one request
Work = Callable[["LanguageModel", Mapping[str, Any]], Any]


class Worked:
    """An ASGI app that answers with what some work on a model gives, done in a thread."""

    def __init__(self, house: House, name: Any, work: Callable[[LanguageModel], Any], dialect: Dialect | None) -> None:
        self._house, self._name, self._work, self._dialect = house, name, work, dialect

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        await while_there(self._answer(scope, receive, send), receive)

    async def _answer(self, scope: Any, receive: Receive, send: Send) -> None:
        try:
            async with self._house.shelf.lease(self._name) as lease:
                told = await asyncio.to_thread(self._work, lease.lm)
        except Exception as error:  # it belongs to this request
            await refused(self._house, error, self._dialect)(scope, receive, send)
        else:
            await send_json(send, 200, told)


def refused(house: House, error: Exception, dialect: Dialect | None = None) -> App:
    """The ASGI app that tells an error and the name of the request, in OpenAI's form where no API is named."""
    refusal = house.refusal_of(error)

    async def tell(scope: Any, receive: Receive, send: Send) -> None:
        told = {"message": refusal.message, "type": refusal.kind, "param": refusal.param, "code": refusal.code}
        body = dialect.refused(named(refusal, scope)) if dialect else {"error": told}
        await Reply(body, refusal.status, refusal.headers)(scope, receive, send)

    return tell


async def work_on(request: HasBody, house: House, work: Work) -> App:
    """Reads a request and returns what answers it: `work` gets a model and the request's body."""
    try:
        raw = await request.body()
        body = await asyncio.to_thread(parse_object, raw, "The body")
    except Exception as error:  # whatever a stranger's bytes bring about
        return refused(house, error)
    return Worked(house, body.get("model"), lambda lm: work(lm, body), None)


async def tokenize(request: HasBody, house: House) -> App:
    """Answers POST /tokenize: {"content" or "prompt": text, "add_special": false} -> {"tokens": ids}."""
    return await work_on(request, house, tokens_of)


async def detokenize(request: HasBody, house: House) -> App:
    """Answers POST /detokenize: {"tokens": ids} -> {"content": text}."""
    return await work_on(request, house, content_of)


async def apply_template(request: HasBody, house: House) -> App:
    """Answers POST /apply-template: {"messages": [...], "tools": [...]} -> {"prompt": text}."""
    return await work_on(request, house, prompt_of)


async def count(request: HasBody, dialect: Dialect, house: House, told: Callable[[int], Any]) -> App:
    """Answers a request with how many tokens the prompt of the same request to a `dialect` has, as `told` writes it."""
    try:
        _, ask = await read_asked(request, dialect, strict=house.settings.strict)
    except Exception as error:  # whatever a stranger's bytes bring about
        return refused(house, error, dialect)
    return Worked(house, ask.model, lambda lm: told(length_of(ask, lm)), dialect)


def tokens_of(lm: LanguageModel, body: Mapping[str, Any]) -> Any:
    """The ids of a text."""
    text = body.get("content", body.get("prompt"))
    if not isinstance(text, str) or len(text) > MOST_CHARACTERS:
        raise FieldRefused("content", f"content must be a text of up to {MOST_CHARACTERS:,} characters.")
    begins = body.get("add_special", False)
    if not isinstance(begins, bool):
        raise FieldRefused("add_special", "add_special must be true or false.")
    return {"tokens": lm.tokenizer.encode(text) if begins else lm.tokenizer.encode_text(text)}


def content_of(lm: LanguageModel, body: Mapping[str, Any]) -> Any:
    """The text of ids."""
    tokens = body.get("tokens")
    if not isinstance(tokens, list) or len(tokens) > MOST_TOKENS:
        raise FieldRefused("tokens", f"tokens must be a list of up to {MOST_TOKENS:,} ids.")
    return {"content": lm.tokenizer.decode(tokens)}


def prompt_of(lm: LanguageModel, body: Mapping[str, Any]) -> Any:
    """A chat as its template writes it."""
    if not isinstance(messages := body.get("messages"), list):
        raise FieldRefused("messages", "messages must be a list of messages.")
    with template_errors(lm):
        return {"prompt": lm.chat_text(messages, tools=body.get("tools"))}


def length_of(ask: Ask, lm: LanguageModel) -> int:
    """How many tokens the prompts of a request have together."""
    if ask.messages is not None:
        variables = {**ask.template_variables, "tools": ask.tools, "goes_on": ask.goes_on}
        with template_errors(lm):
            return len(lm.chat_prompt(ask.messages, **variables))
    return sum(len(lm.tokenizer.encode(one)) if isinstance(one, str) else len(one) for one in ask.prompts)
