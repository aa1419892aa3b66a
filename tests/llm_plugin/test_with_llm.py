"""The plugin within the real llm: sync and async, chats, schemas, tools, options, usage, and refusals as sentences."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from helpers import chat_templates, scripts

from elm_mlx.demo import demo_directory
from elm_mlx.llm_plugin import shelf

pytestmark = pytest.mark.slow  # importing llm takes a second
STORY = "Once upon a time"
FIRM = {"max_tokens": 12, "temperature": 0.0}
PLACE = {"type": "object", "properties": {"city": {"enum": ["Oslo", "Paris"]}}, "required": ["city"],
         "additionalProperties": False}  # fmt: skip


@pytest.fixture(scope="module")
def llm() -> Iterator[ModuleType]:
    """llm, with the plugin as its entry point has it."""
    made = pytest.importorskip("llm")
    from llm.plugins import pm

    from elm_mlx.llm_plugin import hooks

    if not pm.is_registered(hooks):
        pm.register(hooks, "elm-mlx")
    yield made
    shelf.close_all()


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama of random weights, whose template shows tools."""
    return scripts.write(tmp_path_factory.mktemp("chat") / "tiny-llama", chat_templates.LLAMA_31)


@pytest.fixture
def chat(llm: ModuleType, chats: Path) -> Any:
    from elm_mlx.llm_plugin.models import ElmModel

    return ElmModel("tiny-llama", chats)


def test_llm_finds_the_demo_for_plain_programs_and_for_asyncio(llm: ModuleType) -> None:
    demo, other = llm.get_model("elm-mlx/demo"), llm.get_async_model("elm-mlx/demo")
    assert (demo.model_id, other.model_id) == ("elm-mlx/demo", "elm-mlx/demo")
    assert (demo.supports_schema, demo.supports_tools, demo.can_stream) == (True, False, True)


def test_the_demo_goes_on_with_a_text_and_then_with_its_own(llm: ModuleType) -> None:
    demo = llm.get_model("elm-mlx/demo")
    talk = demo.conversation()
    first = talk.prompt(STORY, **FIRM)
    assert list(first)
    assert first.text() == " there lived a good-natured pirate whose name was Rusty"
    assert first.usage().input == 5
    assert first.usage().output == 12
    assert first.response_json["finish_reason"] == "length"
    second = talk.prompt(". He", **FIRM)
    alone = demo.prompt(STORY + first.text() + ". He", **FIRM)
    assert second.text() == alone.text()
    assert second.usage().input > 12


def test_a_chat_has_its_history_and_a_system_prompt(chat: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = shelf.loaded(chat.directory)
    prompts = scripts.say(monkeypatch, lm, "Good day.<|eot_id|>")
    talk = chat.conversation()
    assert talk.prompt("Hello!", system="Be kind.").text() == "Good day."
    assert talk.prompt("And you?", system="Be kind.").text() == "Good day."
    shown = lm.tokenizer.decode(prompts[-1])
    places = [shown.index(words) for words in ("Be kind.", "Hello!", "Good day.", "And you?")]
    assert places == sorted(places)
    assert shown.count("Be kind.") == 1


def test_async_answers_are_the_same(llm: ModuleType, chats: Path, chat: Any) -> None:
    from elm_mlx.llm_plugin.models import AsyncElmModel

    async def ask() -> tuple[str, int]:
        response = AsyncElmModel("tiny-llama", chats).prompt("Hello!", **FIRM)
        text = "".join([piece async for piece in response])
        return text, (await response.usage()).output

    assert asyncio.run(ask()) == (chat.prompt("Hello!", **FIRM).text(), 12)


def test_an_answer_has_the_form_of_a_schema(llm: ModuleType, chat: Any) -> None:
    demo = llm.get_model("elm-mlx/demo")
    for model in (chat, demo):
        assert json.loads(model.prompt("Which city?", schema=PLACE, max_tokens=40).text())["city"] in ("Oslo", "Paris")
    with pytest.raises(llm.ModelError, match="contains"):
        chat.prompt("Which?", schema={"type": "array", "contains": {"type": "integer"}}).text()


def test_tools_are_called_and_their_results_are_read(chat: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert chat.supports_tools
    lm = shelf.loaded(chat.directory)
    prompts = scripts.say(monkeypatch, lm, '{"name": "weather", "parameters": {"city": "Oslo"}}<|eot_id|>')
    seen: list[str] = []

    def weather(city: str) -> str:
        """Tells the weather of a city."""
        seen.append(city)
        prompts.extend(scripts.say(monkeypatch, lm, "It rains in Oslo.<|eot_id|>"))
        return "Rain."

    chain = chat.chain("How is the weather in Oslo?", tools=[weather])
    assert chain.text() == "It rains in Oslo."
    assert seen == ["Oslo"]
    first, second = list(chain._responses)
    assert [call.name for call in first.tool_calls()] == ["weather"]
    assert "Rain." in str([part for message in second.prompt.messages for part in message.parts])


def test_tools_are_called_in_an_event_loop_too(llm: ModuleType, chats: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from elm_mlx.llm_plugin.models import AsyncElmModel

    lm = shelf.loaded(chats)
    scripts.say(monkeypatch, lm, '{"name": "weather", "parameters": {"city": "Oslo"}}<|eot_id|>')

    async def weather(city: str) -> str:
        """Tells the weather of a city."""
        scripts.say(monkeypatch, lm, "It rains.<|eot_id|>")
        return "Rain."

    async def ask() -> str:
        return await AsyncElmModel("tiny-llama", chats).chain("The weather?", tools=[weather]).text()

    assert asyncio.run(ask()) == "It rains."


def test_leaving_an_answer_cancels_it(llm: ModuleType) -> None:
    pieces = iter(llm.get_model("elm-mlx/demo").prompt(STORY, max_tokens=400))
    next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    lm = shelf.loaded(demo_directory())
    assert lm.generate(STORY, 4).tokens  # nothing stands in its way


@pytest.mark.parametrize(
    "asked, sentence",
    [({"temperature": -3.0}, "temperature is -3.0"), ({"system": "Be kind."}, "no chat template"),
     ({"kv_bits": 5}, "kv_bits")],
    ids=lambda value: str(value)[:16],
)  # fmt: skip
def test_what_has_no_meaning_is_a_sentence(llm: ModuleType, asked: dict[str, Any], sentence: str) -> None:
    with pytest.raises(llm.ModelError, match=sentence):
        llm.get_model("elm-mlx/demo").prompt(STORY, **asked).text()


def test_llm_refuses_tools_for_a_model_that_cannot_be_told_of_them(llm: ModuleType) -> None:
    weather = llm.Tool("weather", "Tells the weather.", {"type": "object", "properties": {}})
    with pytest.raises(ValueError, match="does not support tools"):
        llm.get_model("elm-mlx/demo").prompt(STORY, tools=[weather]).text()


def test_an_option_that_does_not_exist_is_refused(llm: ModuleType) -> None:
    with pytest.raises(ValueError, match="top_l"):
        llm.get_model("elm-mlx/demo").prompt(STORY, top_l=3)


def test_options_change_the_answer(llm: ModuleType) -> None:
    demo = llm.get_model("elm-mlx/demo")
    told = [demo.prompt(STORY, max_tokens=20, temperature=1.0, seed=seed).text() for seed in (1, 1, 2)]
    assert told[0] == told[1] != told[2]
    assert demo.prompt(STORY, max_tokens=40, temperature=0.0, stop="pirate").text().endswith("good-natured ")
