"""Tools in a session: they are run within their time, and all that goes wrong in them is a text for the model."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import pytest
from helpers import checkpoints
from helpers.scripted import Said, Script, call

import elm_mlx
from elm_mlx.api import tool_running
from elm_mlx.api.session import Session
from elm_mlx.errors import Cancelled, ConcurrentRequests, InvalidRequest, TimedOut, ToolCallError

SCHEMA = {"name": "look", "description": "Looks.", "parameters": {"type": "object", "properties": {}}}


def weather(city: str) -> str:
    """The weather in a city."""
    return f"Sun in {city}."


async def later(city: str) -> str:
    """The weather, later."""
    await asyncio.sleep(0)
    return f"Rain in {city}."


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[elm_mlx.LanguageModel]:
    folder = checkpoints.write(tmp_path_factory.mktemp("tools") / "model", checkpoints.LLAMA)
    template = "{{ messages[0].content }}{% if tools %}{{ tools | tojson }}{% endif %}"
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}), encoding="utf-8")
    with elm_mlx.load(folder) as one:
        yield one


@pytest.fixture
def script(lm: elm_mlx.LanguageModel, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Script]:
    """Writes what the model answers."""

    def write(*answers: Said | Callable[[], Said]) -> Script:
        written = Script(answers)
        monkeypatch.setattr(lm, "chat_stream", written)
        return written

    return write


def results(session: Session) -> list[str]:
    """What the model was told of its calls."""
    return [message["content"] for message in session.transcript if message["role"] == "tool"]


def tool(function: Callable[..., Any]) -> Callable[..., Any]:
    """A tool that runs a function without arguments."""

    def look() -> Any:
        """Looks."""
        return function()

    return look


@pytest.mark.parametrize("function", [weather, later])
def test_a_session_runs_its_functions_and_the_transcript_has_all_of_it(
    lm: elm_mlx.LanguageModel, script: Callable[..., Script], function: Callable[..., Any]
) -> None:
    asked = script([call(function.__name__, 1, city="Paris"), call(function.__name__, 2, city="Rome")], "Dry.").asked
    session = lm.session(tools=[function])
    assert session.respond("How is it?").text == "Dry."
    sky = "Sun" if function is weather else "Rain"
    assert results(session) == [f"{sky} in Paris.", f"{sky} in Rome."]
    assert [message["role"] for message in session.transcript] == ["user", "assistant", "tool", "tool", "assistant"]
    assert asked[1][0] == session.transcript[:-1]
    assert session.transcript[1]["tool_calls"][1] == {
        "id": "call-2", "type": "function", "function": {"name": function.__name__, "arguments": {"city": "Rome"}},
    }  # fmt: skip
    assert lm.session(transcript=json.loads(json.dumps(session.transcript))).transcript == session.transcript


def test_functions_run_in_an_event_loop_async_ones_in_it(
    lm: elm_mlx.LanguageModel, script: Callable[..., Script]
) -> None:
    threads: list[threading.Thread] = []

    async def here() -> str:
        """Where this runs."""
        threads.append(threading.current_thread())
        return "here"

    def there() -> str:
        """Where that runs."""
        threads.append(threading.current_thread())
        return "there"

    async def talk() -> None:
        script([call("here"), call("there", 2)], "Both.")
        session = lm.session(tools=[here, there])
        assert (await session.arespond("Where?")).text == "Both."
        script([call("here")], "One.")
        assert "".join([piece.text async for piece in session.astream("And?")]) == "One."
        assert results(session) == ["here", "there", "here"]

    asyncio.run(talk())
    assert [thread is threading.main_thread() for thread in threads] == [True, False, True]


def raises() -> None:
    raise KeyError("no such city")


def leaves() -> None:
    raise SystemExit(3)


class Hostile:
    """A value whose text cannot be had."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    "function, told",
    [
        (raises, "Error: KeyError: 'no such city'"),
        (leaves, "Error: SystemExit: 3"),
        (lambda: {"sun": 3, "where": ["Zürich"]}, '{"sun": 3, "where": ["Zürich"]}'),
        (lambda: None, "null"),
        (lambda: {1}, "{1}"),
        (lambda: "\ud800!", "?!"),
        (Hostile, "Error: RuntimeError: no text"),
    ],
)
def test_what_a_tool_returns_or_raises_is_a_text(
    lm: elm_mlx.LanguageModel, script: Callable[..., Script], function: Callable[..., Any], told: str
) -> None:
    script([call("look")], "Well.")
    session = lm.session(tools=[tool(function)])
    session.respond("What?")
    assert asyncio.run(lm.session(tools=[tool(function)]).arespond("What?")).text == "Well."
    assert results(session) == [told]


@pytest.mark.parametrize("big", ["x" * 10**7, ["x" * 1000] * 10**4, b"x" * 10**7])
@pytest.mark.slow
def test_ten_megabytes_are_cut_and_the_model_is_told(
    lm: elm_mlx.LanguageModel, script: Callable[..., Script], big: object
) -> None:
    script([call("look")], "Well.")
    session = lm.session(tools=[tool(lambda: big)])
    session.respond("What?")
    (told,) = results(session)
    assert len(told) < tool_running.MOST_CHARACTERS + 100
    assert told.endswith("characters.]")
    assert "[Cut: these are the first 16,000 of 10," in told


def test_a_tool_that_hangs_is_left_alone(lm: elm_mlx.LanguageModel, script: Callable[..., Script]) -> None:
    done = threading.Event()

    async def wait() -> None:
        """Waits, and does not let itself be cancelled."""
        while not done.is_set():
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                continue

    script([call("look"), call("wait", 2)], "Well.")
    session = lm.session(tools=[tool(done.wait), wait], tool_seconds=0.05)
    assert session.respond("What?").text == "Well."
    assert results(session) == [
        f"Error: the tool {name} gave no result within 0.05 seconds." for name in ("look", "wait")
    ]
    script([call("look"), call("wait", 2)], "Well.")
    threading.Timer(0.5, done.set).start()
    assert asyncio.run(session.arespond("What?")).text == "Well."


def test_a_tools_time_ends_with_the_turns(lm: elm_mlx.LanguageModel, script: Callable[..., Script]) -> None:
    done = threading.Event()
    session = lm.session(tools=[tool(done.wait)])

    def late() -> Said:
        raise TimedOut("There was no whole answer.")

    script([call("look")], late)
    with pytest.raises(TimedOut):  # else it waits for ever
        session.respond("What?", timeout=0.05)
    assert session.transcript == []
    done.set()


def test_a_turn_is_cancelled_while_a_tool_runs(lm: elm_mlx.LanguageModel, script: Callable[..., Script]) -> None:
    runs, done = threading.Event(), threading.Event()

    def look() -> None:
        """Looks for long."""
        runs.set()
        done.wait()

    others: list[str] = []
    script([call("look"), call("weather", 2, city="Rome")], "Well.")

    def weather(city: str) -> None:
        """Notes that it ran."""
        others.append(city)

    session = lm.session(tools=[look, weather])
    threading.Thread(target=lambda: (runs.wait(), session.cancel())).start()
    with pytest.raises(Cancelled):
        session.respond("What?")
    assert (session.transcript, session.is_responding, others) == ([], False, [])
    done.set()

    async def cancelled() -> None:
        runs.clear()
        done.clear()
        task = asyncio.create_task(session.arespond("What?"))
        while not runs.is_set():
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    script([call("look")], "Well.")
    asyncio.run(cancelled())
    assert (session.transcript, session.is_responding) == ([], False)
    done.set()


def test_a_tool_cannot_ask_its_own_session(lm: elm_mlx.LanguageModel, script: Callable[..., Script]) -> None:
    script([call("look")], "Well.")
    session: Session = lm.session(tools=[tool(lambda: session.respond("Now?"))])
    session.respond("What?")
    assert results(session)[0].startswith(f"Error: {ConcurrentRequests.__name__}: This session is answering")


def test_a_model_that_never_stops_calling_ends_with_an_error(
    lm: elm_mlx.LanguageModel, script: Callable[..., Script]
) -> None:
    calls: list[int] = []
    script([call("look")])
    session = lm.session(tools=[tool(lambda: calls.append(1))], tool_rounds=3)
    for ask in (session.respond, lambda text: list(session.stream(text))):
        with pytest.raises(ToolCallError, match="called tools in 4 rounds"):
            ask("What?")
    assert (len(calls), session.transcript) == (6, [])


def test_a_wrong_call_is_told_and_not_run(lm: elm_mlx.LanguageModel, script: Callable[..., Script]) -> None:
    script([call("nothing"), call("weather", 2, town=3)], "Well.")
    session = lm.session(tools=[weather])
    session.respond("What?")
    assert results(session)[0] == "Error: there is no tool nothing; there are weather."
    assert results(session)[1].startswith("Error: ")


def test_calls_without_a_function_are_the_callers(lm: elm_mlx.LanguageModel, script: Callable[..., Script]) -> None:
    script([call("look", 1), call("weather", 2, city="Rome"), call("look", 3)], "Well.")
    session = lm.session(tools=[SCHEMA, weather])
    done = session.respond("What?")
    assert [one.id for one in done.tool_calls] == ["call-1", "call-2", "call-3"]
    assert [one.id for one in session.pending_calls] == ["call-1", "call-3"]
    assert results(session) == ["Sun in Rome."]
    with pytest.raises(InvalidRequest, match="has no result yet"):
        session.respond("Well?")
    for wrong in (["one"], {"call-9": "x"}, "ab", 3):
        with pytest.raises(InvalidRequest):
            session.add_results(wrong)  # type: ignore[arg-type]
    session.add_results({"call-3": {"found": True}})
    assert lm.session(transcript=session.transcript).pending_calls == session.pending_calls
    session.add_results(["a tree"])
    assert session.respond(None).text == "Well."
    assert results(session) == ["Sun in Rome.", '{"found": true}', "a tree"]


def test_a_stream_runs_the_calls_between_two_rounds(lm: elm_mlx.LanguageModel, script: Callable[..., Script]) -> None:
    script([call("weather", city="Rome")], "Dry.")
    session = lm.session(tools=[weather])
    stream = session.stream("What?", tool_choice="required")
    assert [piece.text for piece in stream] == ["", "Dry."]
    assert (stream.text_so_far, stream.completion.text, len(session.transcript)) == ("Dry.", "Dry.", 4)


def test_a_choice_of_tools_is_for_the_first_round(lm: elm_mlx.LanguageModel, script: Callable[..., Script]) -> None:
    asked = script([call("weather", city="Rome")], "Dry.").asked
    lm.session(tools=[weather]).respond("What?", tool_choice="required")
    assert [options.get("tool_choice") for _, options in asked] == ["required", None]


CHAT = (
    "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}<{{ m.role }}>{{ m.content }}"
    "{% for call in m.tool_calls %}{{ call.function | tojson }}{% endfor %}{% endfor %}<assistant>"
)


@pytest.mark.slow
def test_a_model_that_must_call_calls_and_the_next_turn_reads_what_is_new(tmp_path: Path) -> None:
    pytest.importorskip("llguidance")
    asked: list[str] = []

    def paint(colour: Literal["red", "blue"]) -> str:
        """Paints the house.

        Args:
            colour: the colour.
        """
        asked.append(colour)
        return f"It is {colour}."

    folder = checkpoints.write(tmp_path / "model", checkpoints.LLAMA | {"max_position_embeddings": 4096})
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": CHAT}), encoding="utf-8")
    with elm_mlx.load(folder) as lm:
        session = lm.session("Paint it.", tools=[paint])
        session.prewarm()
        done = session.respond("Paint my house.", 60, tool_choice="required", temperature=0.0)
        assert (len(asked), asked[0] in ("red", "blue")) == (1, True)
        assert [message["role"] for message in session.transcript[2:]] == ["assistant", "tool", "assistant"]
        assert session.transcript[3]["content"] == f"It is {asked[0]}."
        fresh = lm.chat(session.transcript[:-1], 60, tools=[paint], temperature=0.0, reuse=False)
        assert (done.tokens, done.text) == (fresh.tokens, fresh.text)
        again = session.respond("And now?", 4, temperature=0.0)
        assert again.stats.cached_tokens > done.stats.prompt_tokens - 4


def test_a_function_that_changes_its_arguments_changes_no_transcript(
    lm: elm_mlx.LanguageModel, script: Callable[..., Script]
) -> None:
    def sort(names: list[str]) -> str:
        """Sorts names."""
        names.sort()
        return names[0]

    script([call("sort", names=["b", "a"])], "Well.")
    session = lm.session(tools=[sort])
    session.respond("What?")
    assert (results(session), session.transcript[1]["tool_calls"][0]["function"]["arguments"]) == (
        ["a"],
        {"names": ["b", "a"]},
    )


def test_two_tools_of_one_name_are_refused(lm: elm_mlx.LanguageModel) -> None:
    with pytest.raises(InvalidRequest, match="Two tools have the name look"):
        lm.session(tools=[SCHEMA, SCHEMA])


def test_what_a_tool_says_is_saved(lm: elm_mlx.LanguageModel, script: Callable[..., Script], tmp_path: Path) -> None:
    script([call("weather", city="Rome")], "Dry.")
    session = lm.session("Be brief.", tools=[weather])
    session.respond("What?")
    session.save(tmp_path / "talk.json")
    assert lm.session(transcript=tmp_path / "talk.json").transcript == session.transcript


def test_a_turn_that_is_kept_amid_its_calls_says_which_were_cancelled(
    lm: elm_mlx.LanguageModel, script: Callable[..., Script]
) -> None:
    runs, done = threading.Event(), threading.Event()

    def look() -> str:
        """Looks for long."""
        runs.set()
        done.wait()
        return "a tree"

    script([call("weather", 1, city="Rome"), call("look", 2)], "Well.")
    session = lm.session(tools=[weather, look])
    stream = session.stream("What?")
    reader = threading.Thread(target=lambda: list(stream))
    reader.start()
    runs.wait()
    stream.keep()
    done.set()
    reader.join()
    assert results(session) == ["Sun in Rome.", "The turn was cancelled."]
    assert [message["role"] for message in session.transcript] == ["user", "assistant", "tool", "tool"]
    assert session.respond("And now?").text == "Well."


def test_a_session_can_be_asked_again_at_once_when_its_turn_was_cancelled(
    lm: elm_mlx.LanguageModel, script: Callable[..., Script]
) -> None:
    script("Well.")
    session = lm.session()
    stream = session.stream("What?")
    session.cancel()
    assert not session.is_responding
    session.respond("And?")
    assert list(stream) == []
    assert [message["content"] for message in session.transcript] == ["And?", "Well."]


class Colour(Enum):
    RED = "red"


def test_a_function_is_given_what_its_hints_say(lm: elm_mlx.LanguageModel, script: Callable[..., Script]) -> None:
    given: list[Any] = []

    def paint(colour: Colour, size: tuple[float, str], names: set[str] | None = None, more: object = 0) -> None:
        """Paints."""
        given.extend([colour, size, names, more])

    painter = elm_mlx.Tool("paint", "", {"type": "object"}, paint)
    script([call("paint", colour="red", size=[2, "m"], names=["a"], more=[1])], "Well.")
    lm.session(tools=[painter]).respond("What?")
    assert (given, type(given[1][0])) == ([Colour.RED, (2.0, "m"), {"a"}, [1]], float)
    script([call("paint", colour="blue", size=[10**400, "m"])], "Well.")
    lm.session(tools=[painter]).respond("What?")
    assert given[4:6] == ["blue", (sys.float_info.max, "m")]  # no colour; the largest float for a number beyond it


def test_who_changes_the_calls_that_wait_changes_no_transcript(
    lm: elm_mlx.LanguageModel, script: Callable[..., Script]
) -> None:
    script([call("look", where=["here"])], "Well.")
    session = lm.session(tools=[SCHEMA])
    done = session.respond("What?")
    before = session.transcript
    for one in (*done.tool_calls, *session.pending_calls):
        one.arguments["where"].append("there")
        one.arguments.clear()  # type: ignore[attr-defined]
    assert session.transcript == before


def test_no_call_begins_when_the_time_of_the_turn_is_over(
    lm: elm_mlx.LanguageModel, script: Callable[..., Script]
) -> None:
    ran: list[int] = []
    script([call("look", 1), call("weather", 2, city="Rome")], "Well.")
    session = lm.session(tools=[tool(lambda: time.sleep(0.1)), weather_noted(ran)])
    with pytest.raises(TimedOut, match=r"not answered after 0\.05 seconds"):
        session.respond("What?", timeout=0.05)
    assert (ran, session.transcript) == ([], [])


def weather_noted(ran: list[int]) -> Callable[..., Any]:
    def weather(city: str) -> None:
        """Notes that it ran."""
        ran.append(1)

    return weather
