"""--show-config: what each option comes to and where from, as it is then asked; nothing is loaded or fetched."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from helpers.command_line import Result, answer, run
from helpers.recommended import as_apples, say_sampling
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import elm_mlx
from elm_mlx.api.options import Options
from elm_mlx.config.generation import Sampling
from elm_mlx.engine.engine import Engine

APPLES = "recommendation, Apple's for OpenELM"
FILE = "the model's generation_config.json"


def shown(*arguments: object, command: str = "generate") -> dict[str, dict[str, Any]]:
    """What --show-config says, by option."""
    found: dict[str, dict[str, Any]] = answer(run(command, "--show-config", "--json", *arguments))
    return found


def pair(found: dict[str, dict[str, Any]], name: str) -> tuple[Any, str]:
    """The value of an option, and where it is from."""
    return found[name]["value"], found[name]["origin"]


@pytest.fixture
def apples(openelm: Path, tmp_path: Path) -> Path:
    """A model that says it was made from one of Apple's."""
    return as_apples(openelm, tmp_path / "apples")


# What is said


def test_every_option_of_the_library_has_a_row_and_so_have_the_model_and_its_stop_ids(openelm: Path) -> None:
    found = shown("--model", openelm)
    assert set(found) >= set(Options.__annotations__) - {"reuse", "response_format"} | {
        "max_tokens",
        "draft",
        "completions",
    }
    assert pair(found, "model") == (str(openelm), "option")
    assert pair(found, "bits") == ("not quantized", "the model's files")
    with elm_mlx.load(openelm) as lm:
        assert found["stop_ids"]["value"] == sorted(lm.stop_ids)
    assert pair(found, "stop_strings") == ([], "the model's files")
    assert pair(found, "seed") == (None, "default")
    assert pair(found, "max_tokens") == (256, "default")


def test_the_stop_strings_of_a_model_stand_beside_those_that_are_given(damaged: Path) -> None:
    found = shown("--model", say_sampling(damaged, stop_strings=["END"]), "--stop", "x")
    assert pair(found, "stop_strings") == (["END"], "the model's files")
    assert pair(found, "stop") == (["x"], "option")


def test_the_table_is_aligned_and_names_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELM_MLX_TOP_K", "5")
    done = run("generate", "--show-config", "--temperature", 0.5, "--stop", "a\nb", "--stop", "ü", "--ban", 3)
    lines = done.out.splitlines()
    rows = {line.split()[0]: line for line in lines}
    assert done.err == ""
    assert rows["temperature"].split() == ["temperature", "0.5", "option"]
    assert rows["top-k"].split(maxsplit=2) == ["top-k", "5", "environment, ELM_MLX_TOP_K"]
    assert rows["stop"].endswith("option")
    assert '"a\\nb", "ü"' in rows["stop"]
    assert rows["ban"].split() == ["ban", "3", "option"]
    assert "every position is kept" in rows["window"]
    assert "another one for each answer" in rows["seed"]
    assert len({line.index(line.split("  ")[-1].strip(), 30) for line in lines}) == 1  # where the last column begins


def test_a_recommendation_is_named_until_plain_or_an_option_replaces_it(apples: Path) -> None:
    found = shown("--model", apples)
    assert pair(found, "repetition_penalty") == (1.2, APPLES)
    assert pair(found, "temperature") == (0.0, APPLES)
    assert pair(found, "prompt") == ("as it is, without a chat template", APPLES)
    assert pair(shown("--model", apples, "--repetition-penalty", 1.1), "repetition_penalty") == (1.1, "option")
    plain = shown("--model", apples, "--plain")
    assert pair(plain, "repetition_penalty") == (1.0, "default")
    assert pair(plain, "plain") == (True, "option")
    assert APPLES not in {row["origin"] for row in plain.values()}


def test_the_prompt_is_put_by_the_first_of_raw_a_given_template_and_the_models_own(
    damaged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_one = tmp_path / "mine.jinja"
    given_one.write_text("{{ messages[0].content }}", encoding="utf-8")
    assert pair(shown("--model", damaged), "prompt") == ("as it is, without a chat template", "the model's files")
    (damaged / "chat_template.jinja").write_text("{{ messages[0].content }}!", encoding="utf-8")
    assert pair(shown("--model", damaged), "prompt") == ("by the model's chat template", "the model's files")
    asked = shown("--model", damaged, "--chat-template", given_one)
    assert pair(asked, "prompt") == (f"by the chat template {given_one}", "option")
    monkeypatch.setenv("ELM_MLX_RAW", "1")
    assert pair(shown("--model", damaged), "prompt") == ("as it is", "environment, ELM_MLX_RAW")


def test_chat_shows_it_too_with_what_the_model_is_told(damaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typed = run("chat", "--model", damaged, "--system", "Be short.", "--show-config")
    assert (typed.code, "Leave --system out, or give a --chat-template" in typed.err) == (2, True)
    monkeypatch.setenv("ELM_MLX_SYSTEM", "Be kind.")
    assert pair(shown("--model", damaged, command="chat"), "system") == (None, "default")
    (damaged / "chat_template.jinja").write_text("{{ messages[0].content }}!", encoding="utf-8")
    found = shown("--model", damaged, command="chat")
    assert pair(found, "system") == ("Be kind.", "environment, ELM_MLX_SYSTEM")
    assert pair(found, "max_tokens") == (1024, "default")
    assert "logprobs" not in found


def test_a_wish_that_means_nothing_is_shown_as_dropped(damaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELM_MLX_TOP_P", "0.9")
    done = run("generate", "--show-config", "--json")
    assert pair(json.loads(done.out), "top_p") == (1.0, "default")
    assert "ELM_MLX_TOP_P=0.9 is ignored" in done.err
    monkeypatch.setenv("ELM_MLX_PLAIN", "1")
    sampled = say_sampling(damaged, do_sample=True)
    done = run("generate", "--show-config", "--json", "--model", sampled, "--top-p", 0.5)
    assert pair(json.loads(done.out), "plain") == (False, "default")
    assert "ELM_MLX_PLAIN=1 is ignored" in done.err


@pytest.mark.parametrize("typed", ["--top-p 0.9", "--plain --top-k 5", "--bits 4", "--raw --chat-template zephyr",
                                   "--save-cache no/where", "--load-cache no/where"])  # fmt: skip
def test_what_the_command_would_refuse_is_refused(openelm: Path, typed: str) -> None:
    itself = run("generate", "--model", openelm, *typed.split())
    done = run("generate", "--model", openelm, "--show-config", *typed.split())
    assert (done.code, done.out, done.err) == (66 if "where" in typed else 2, "", itself.err)


# What is not done


def test_no_weights_are_read_and_no_prompt(damaged: Path) -> None:
    (damaged / "model.safetensors").write_bytes(b"no weights")
    assert run("generate", "--show-config", "--model", damaged, stdin=b"\xff").code == 0
    assert run("generate", "--model", damaged).code == 65


def test_a_model_that_is_not_here_is_a_sentence_and_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def pull(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(elm_mlx, "pull", pull)
    done = run("generate", "--show-config", "--model", "some/model", "--bits", 4)
    assert (done.code, done.out) == (66, "")
    assert "some/model in 4 bits is not on this machine" in done.err
    assert "`elm-mlx pull some/model --bits 4`. --show-config fetches nothing." in done.err


# Precedence: an option, the environment, the model's file, a recommendation, the default


class Place(NamedTuple):
    """Where a value may come from, the strongest first: None is nowhere."""

    typed: float | None
    wished: float | None
    in_file: float | None


VALUES: dict[str, st.SearchStrategy[float]] = {
    "temperature": st.sampled_from([0.5, 0.9, 2.0]),
    "top_k": st.sampled_from([3, 40]),
    "top_p": st.sampled_from([0.5, 0.95]),
    "min_p": st.sampled_from([0.05, 0.5]),
    "repetition_penalty": st.sampled_from([1.1, 1.5]),
}
places = st.fixed_dictionaries({
    name: st.builds(Place, *(st.none() | values for _ in range(3))) for name, values in VALUES.items()
})  # fmt: skip


def expected(name: str, place: Place, file_says: bool, is_apples: bool, plain: bool) -> tuple[float, str]:
    """What an option comes to by the one rule of precedence, and where from."""
    if place.typed is not None:
        return place.typed, "option"
    if place.wished is not None:
        return place.wished, f"environment, ELM_MLX_{name.upper()}"
    if plain:
        return getattr(Sampling(), name), "default"
    if file_says:
        in_file = 1.0 if name == "temperature" and place.in_file is None else place.in_file
        return (getattr(Sampling(), name), "default") if in_file is None else (in_file, FILE)
    if is_apples and name in ("temperature", "repetition_penalty"):
        return {"temperature": 0.0, "repetition_penalty": 1.2}[name], APPLES
    return getattr(Sampling(), name), "default"


@pytest.fixture(scope="module")
def scratch(openelm: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool], Path]:
    """A model's directory to write into: by whether it says that it was made from Apple's."""
    folder = tmp_path_factory.mktemp("precedence")
    own, apples = Path(shutil.copytree(openelm, folder / "own")), as_apples(openelm, folder / "apples")
    return lambda is_apples: apples if is_apples else own


@pytest.fixture(scope="module")
def requests() -> Iterator[list[Any]]:
    """The sampling of what engines are asked from now on."""
    seen: list[Any] = []
    submit = Engine.submit

    def note(engine: Engine, request: Any) -> Any:
        seen.append(request.sampling)
        return submit(engine, request)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "submit", note)
        yield seen


@settings(max_examples=60, suppress_health_check=list(HealthCheck), derandomize=True)
@given(places=places, file_says=st.booleans(), is_apples=st.booleans(), plain=st.booleans(), asks=st.integers(0, 5))
def test_of_any_combination_the_strongest_counts_is_named_and_is_what_the_engine_is_asked(
    scratch: Callable[[bool], Path], requests: list[Any], places: dict[str, Place], file_says: bool, is_apples: bool,
    plain: bool, asks: int,
) -> None:  # fmt: skip
    filters = any(place.typed or place.wished for name, place in places.items() if name in ("top_k", "top_p", "min_p"))
    if filters and not places["temperature"].typed:  # a filter alone means nothing to a greedy model: tests above
        places = places | {"temperature": places["temperature"]._replace(typed=0.7)}
    in_file = {name: place.in_file for name, place in places.items() if place.in_file is not None}
    directory = say_sampling(
        scratch(is_apples), **({"do_sample": True} | in_file if file_says else {"eos_token_id": 2})
    )
    typed = [word for name, one in places.items() if one.typed is not None for word in (flag(name), one.typed)]
    command = ["--model", directory, *(["--plain"] if plain else []), *typed]
    with pytest.MonkeyPatch.context() as patch:
        for name, one in places.items():
            if one.wished is not None:
                patch.setenv(f"ELM_MLX_{name.upper()}", str(one.wished))
        found = shown(*command)
        wanted = {name: expected(name, one, file_says, is_apples, plain) for name, one in places.items()}
        assert {name: pair(found, name) for name in places} == wanted
        if not asks:  # loading takes longer than all the rest
            done: Result = run("generate", "-p", "Hi", "-n", 1, *command)
            assert done.code == 0, done.err
            assert requests[-1] == Sampling(**{name: value for name, (value, _) in wanted.items()})  # type: ignore[arg-type]


def flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
