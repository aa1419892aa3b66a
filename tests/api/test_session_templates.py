"""Sessions with templates as Llama 3's: what was said begins the next prompt, id for id, and so is not read again."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import chat_templates, scripts

import elm_mlx
from elm_mlx.errors import InvalidRequest

CALL = '{"name": "weather", "parameters": {"city": "Rome"}}'


def weather(city: str) -> str:
    """The weather in a city."""
    return f"Sun in {city}."


NEWEST, *OLDER = reversed(chat_templates.FAMILIES)


@pytest.fixture(scope="module", params=[NEWEST, *(pytest.param(name, marks=pytest.mark.slow) for name in OLDER)])
def lm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> elm_mlx.LanguageModel:
    folder = tmp_path_factory.mktemp("templates") / request.param
    return elm_mlx.load(scripts.write(folder, chat_templates.FAMILIES[request.param]))


def test_a_turn_begins_with_all_ids_of_the_turn_before_and_its_answer(
    lm: elm_mlx.LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, held = lm.session("Be brief."), 0
    for number in range(6):
        prompts = scripts.say(monkeypatch, lm, f"It is {number}, of course.<|eot_id|>")
        done = session.respond(f"What is {number}?")
        assert done.text == f"It is {number}, of course."
        assert list(prompts[-1]) == lm.chat_prompt(session.transcript[:-1])
        assert done.stats.cached_tokens >= held
        held = done.stats.prompt_tokens + done.stats.generated_tokens


def test_a_round_after_a_call_reads_the_result_alone(
    lm: elm_mlx.LanguageModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    prompts = scripts.say(monkeypatch, lm, f"{CALL}<|eot_id|>")

    def weather_and_more(city: str) -> str:
        scripts.say(monkeypatch, lm, "It is dry.<|eot_id|>")
        return weather(city)

    weather_and_more.__name__ = "weather"
    if lm.directory.name == "llama-3":
        with pytest.raises(InvalidRequest, match="does not show tools"):
            lm.session(tools=[weather_and_more])
        return
    session = lm.session(tools=[weather_and_more])
    done = session.respond("How is it in Rome?")
    assert done.text == "It is dry."
    assert [message["role"] for message in session.transcript] == ["user", "assistant", "tool", "assistant"]
    assert session.transcript[2]["content"] == "Sun in Rome."
    assert done.stats.cached_tokens >= len(prompts[0])
    session.save(tmp_path / "talk.json")
    assert lm.session(transcript=tmp_path / "talk.json").transcript == session.transcript
