"""The anthropic package, as users have it, against a real server. `test_messages.py` has more, in one process."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from helpers.served import until

pytestmark = pytest.mark.slow

ASKED = [{"role": "user", "content": "What is the weather in Oslo?"}]
CITIES = ["Oslo", "Paris"]
WEATHER = {"name": "weather", "description": "Tells the weather.", "input_schema": {
    "type": "object", "properties": {"city": {"enum": CITIES}}, "required": ["city"],
    "additionalProperties": False}}  # fmt: skip


@pytest.fixture(scope="module")
def client(house: Any) -> Iterator[Any]:
    base = house.served.url.removesuffix("/v1")
    with anthropic.Anthropic(base_url=base, api_key="unused", max_retries=0) as made:
        yield made


def options(house: Any, temperature: float = 0.0, **others: Any) -> dict[str, Any]:
    """A request, which chooses the likeliest ids: the package's own arguments know no temperature any more."""
    usual = {"model": house.chat, "messages": ASKED, "max_tokens": 8, "extra_body": {"temperature": temperature}}
    return usual | others


def read(usage: Any) -> int:
    """How many tokens a prompt has: that API counts those apart whose states were held."""
    count: int = usage.input_tokens + (usage.cache_read_input_tokens or 0)
    return count


def test_a_message_is_answered(client: Any, house: Any) -> None:
    answer = client.messages.create(**options(house, system="Be short."))
    assert (answer.type, answer.role, answer.stop_reason) == ("message", "assistant", "max_tokens")
    assert answer.content[0].type == "text"
    assert answer.content[0].text
    assert answer.usage.output_tokens == 8
    assert answer.usage.input_tokens > 0  # some clients divide by it


def test_a_streamed_message_is_the_whole_one_in_pieces(client: Any, house: Any) -> None:
    whole = client.messages.create(**options(house))
    with client.messages.stream(**options(house)) as stream:
        assert "".join(stream.text_stream) == whole.content[0].text
        done = stream.get_final_message()
    assert (done.stop_reason, done.usage.output_tokens) == ("max_tokens", 8)
    assert read(done.usage) == read(whole.usage)


def test_async_clients_are_answered_together(house: Any) -> None:
    async def ask_all() -> list[Any]:
        base = house.served.url.removesuffix("/v1")
        async with anthropic.AsyncAnthropic(base_url=base, auth_token="unused", max_retries=0) as client:
            return await asyncio.gather(*(client.messages.create(**options(house)) for _ in range(4)))

    assert len({answer.content[0].text for answer in asyncio.run(ask_all())}) == 1


def test_a_tool_is_called_and_its_result_is_read(client: Any, house: Any) -> None:
    asked = options(house, tools=[WEATHER], max_tokens=100)
    answer = client.messages.create(**asked | {"tool_choice": {"type": "any"}})
    assert answer.stop_reason == "tool_use"
    call = next(block for block in answer.content if block.type == "tool_use")
    assert call.name == "weather"
    assert call.input["city"] in CITIES
    said = {"role": "assistant", "content": [call.model_dump(include={"type", "id", "name", "input"})]}
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "Rain."}]}
    again = client.messages.create(**asked | {"messages": [*ASKED, said, result], "max_tokens": 4})
    assert again.content
    with client.messages.stream(**asked | {"tool_choice": {"type": "tool", "name": "weather"}}) as stream:
        done = stream.get_final_message()
    assert done.stop_reason == "tool_use"
    assert next(block for block in done.content if block.type == "tool_use").input["city"] in CITIES


def test_tokens_are_counted_without_an_answer(client: Any, house: Any) -> None:
    counted = client.messages.count_tokens(model=house.chat, messages=ASKED)
    assert counted.input_tokens == read(client.messages.create(**options(house)).usage)


ERRORS: dict[str, tuple[dict[str, Any], type[Exception]]] = {
    "an unknown model": ({"model": "claude-9"}, anthropic.NotFoundError),
    "no messages": ({"messages": []}, anthropic.BadRequestError),
    "a temperature beyond 1": ({"temperature": 3.0}, anthropic.BadRequestError),
    "no room": ({"messages": [{"role": "user", "content": "the cat sat " * 5000}]}, anthropic.BadRequestError),
}


@pytest.mark.parametrize("others, kind", ERRORS.values(), ids=ERRORS.keys())
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_an_error_has_the_form_of_that_api(
    client: Any, house: Any, others: dict[str, Any], kind: type[Exception], streamed: bool
) -> None:
    with pytest.raises(kind) as refused:
        client.messages.create(**options(house, stream=streamed, **others))
    error: Any = refused.value
    assert error.body["type"] == "error"
    assert error.body["error"]["type"] == ("not_found_error" if error.status_code == 404 else "invalid_request_error")
    assert error.body["error"]["message"]


def test_closing_a_stream_cancels_its_request(client: Any, house: Any) -> None:
    before = house.served.metric("generation_tokens_total")
    with client.messages.stream(**options(house, max_tokens=4000)) as stream:
        next(iter(stream.text_stream))
    until(lambda: house.served.busy == 0, "the end of a request whose client left")
    assert house.served.metric("generation_tokens_total") - before < 3500
