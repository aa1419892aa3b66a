"""`elm-mlx bench`: lists in, a table or one JSON object out."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest
from helpers import checkpoints
from helpers.command_line import Result, run
from helpers.recommended import as_apples, say_sampling
from helpers.shallow import shallow

from elm_mlx.api.cache_kind import cache_kind
from elm_mlx.bench import bandwidth, clock, measure, random_model
from elm_mlx.bench.shapes import NARROW, SHAPES
from elm_mlx.config.generation import Sampling
from elm_mlx.engine import speculate
from elm_mlx.engine.cache.kind import PLAIN
from elm_mlx.engine.engine import Engine
from elm_mlx.engine.request import Request
from elm_mlx.engine.sequence import Sequence
from elm_mlx.errors import ElmError

SHORT = ["-p", "8", "-n", "4", "-r", "2"]
OWN = {"do_sample": True, "temperature": 0.6, "repetition_penalty": 1.3}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Little is read to see how fast memory is, nobody waits for threads to rest, and random models have two layers."""
    monkeypatch.setattr(bandwidth, "BUFFER_BYTES", 2**20)
    monkeypatch.setattr(measure, "PAUSE_S", 0.0)
    for name in NARROW:
        monkeypatch.setitem(SHAPES, name, shallow(SHAPES[name]))


def bench(*arguments: object) -> Result:
    return run("bench", *arguments)


def told(result: Result) -> list[tuple[str, str, list[str]]]:
    """(name, how it is stored, the tests) of every model in a JSON report, which is all of stdout."""
    assert (result.code, result.out.count("\n")) == (0, 1), result.err
    models: list[dict[str, Any]] = json.loads(result.out)["models"]
    return [(model["name"], model["stored_as"], [test["test"] for test in model["tests"]]) for model in models]


def test_without_options_but_short_ones_it_is_the_demo() -> None:
    done = bench(*SHORT)
    assert done.code == 0
    for line in ("| demo 8-bit | ttft16 |", "| demo 8-bit | pp8 ", "| demo 8-bit | tg4 "):
        assert line in done.out
    assert "2 runs a test" in done.out
    assert ("stand-in" in done.err) == done.out.startswith("CPU")
    assert bench(*SHORT, "--quiet").err == ""


def test_every_list_is_gone_through_and_nothing_is_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    done = bench("--random", "openelm-20x64,llama-16x64", "--bits", "4,8", "-p", "4,8", "-n", "2", "-d", "0,3",
               "-r", "1", "--json")  # fmt: skip
    tests = ["ttft16", "pp4", "pp8", "tg2", "pp4 @ d3", "pp8 @ d3", "tg2 @ d3"]
    shapes = [(shape, f"{bits}-bit") for shape in ("openelm-20x64", "llama-16x64") for bits in (4, 8)]
    assert told(done) == [(*shape, tests) for shape in shapes]
    assert not list(tmp_path.glob("elm-mlx-bench-*"))


def test_models_are_named_or_lie_somewhere(openelm: Path) -> None:
    done = bench("--model", f"{openelm},{openelm}", "-p", 0, "-n", 2, "-r", 1, "--json")
    assert told(done) == [(str(openelm), "float32", ["ttft16", "tg2"])] * 2


def test_several_requests_are_answered_together_instead() -> None:
    done = bench(*SHORT, "-b", "1,3", "--submit", "late", "--json")
    assert told(done) == [("demo", "8-bit", [])]
    model = json.loads(done.out)["models"][0]
    assert ([batch["rows"] for batch in model["batches"]], model["submit"]) == ([1, 3], "late")


def test_ids_are_chosen_as_the_options_say_and_greedily_without_whatever_the_models_files_say(
    openelm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Sampling] = []
    submit = Engine.submit

    def note(engine: Engine, request: Request) -> Sequence:
        asked.append(request.sampling)
        return submit(engine, request)

    monkeypatch.setattr(Engine, "submit", note)
    for model in (as_apples(openelm, tmp_path / "apples"), say_sampling(as_apples(openelm, tmp_path / "own"), **OWN)):
        asked.clear()
        told(bench(*SHORT, "--model", model, "--json"))
        assert set(asked) == {Sampling()}
        asked.clear()
        done = bench(*SHORT, "--model", model, "--temperature", 0.7, "--top-p", 0.9, "--json")
        assert set(asked) == {Sampling(temperature=0.7, top_p=0.9)}
        assert json.loads(done.out)["models"][0]["options"] == {"temperature": 0.7, "top_p": 0.9}


def test_caches_and_proposals_are_as_the_options_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speculate, "measure_costs", lambda *_: {2: 0.5})
    seen: list[Any] = []
    decode = measure.Ours.decode

    def note(ours: measure.Ours, *arguments: Any) -> Any:
        seen.append((ours.asked.cache, ours.asked.lookup, ours.speculation.draft is not None))
        return decode(ours, *arguments)

    monkeypatch.setattr(measure.Ours, "decode", note)
    kind = cache_kind({"window": 64, "kv_bits": 8}, 512)
    for typed, wanted, options in (
        ("--window 64 --kv-bits 8", (kind, False, False), {"window": 64, "kv_bits": 8}),
        ("--lookup", (PLAIN, True, False), {"lookup": True}),
        ("--draft auto", (PLAIN, False, True), {"draft": "draft"}),
    ):
        seen.clear()
        done = bench(*SHORT, "-r", 1, "-b", "2", *typed.split(), "--json")
        told(done)
        told(alone := bench(*SHORT, "-r", 1, *typed.split(), "--json"))
        assert set(seen) == {wanted}
        (model,) = json.loads(alone.out)["models"]
        assert model["options"] == options
        assert (model["tests"][-1]["bytes_per_token"] is None) == ("window" not in options)


def test_a_draft_that_is_not_here_is_a_sentence(openelm: Path) -> None:
    done = bench(*SHORT, "--model", openelm, "--draft", "auto")
    assert (done.code, "Name one as --draft, or leave it out." in done.err) == (2, True)


def test_sampling_is_not_compared_with_mlx_lm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "measure_bandwidth", lambda: pytest.fail("measured"))
    typed = bench(*SHORT, "--compare", "mlx-lm", "--temperature", 0.7)
    assert (typed.code, "Leave --compare or --temperature out." in typed.err) == (2, True)


@pytest.mark.slow
def test_a_comparison_prints_the_ratio_with_its_spread() -> None:
    done = bench("--random", "openelm-20x64", *SHORT, "--compare", "mlx-lm")
    assert done.code == 0, done.err
    rows = [line for line in done.out.splitlines() if line.startswith("| openelm-20x64 float32 |")]
    assert len(rows) == 3
    assert all(re.search(r"\| +[\d.]+ \([\d.]+ to [\d.]+\) \| +[\d.]* +\|$", row) for row in rows)
    assert "32 of 32 greedy tokens" in done.out


def test_a_standing_wish_yields_to_random_weights(monkeypatch: pytest.MonkeyPatch, openelm: Path) -> None:
    monkeypatch.setenv("ELM_MLX_MODEL", str(openelm))
    monkeypatch.setenv("ELM_MLX_DTYPE", "bfloat16")
    assert told(bench(*SHORT, "--json"))[0][:2] == (str(openelm), "float32")
    assert told(bench(*SHORT, "--random", "llama-16x64", "--json"))[0][:2] == ("llama-16x64", "bfloat16")


def test_a_wrong_name_is_told_before_anything_is_measured(monkeypatch: pytest.MonkeyPatch, openelm: Path) -> None:
    monkeypatch.setattr(measure, "measure_bandwidth", lambda: pytest.fail("measured"))
    for wrong in ("nowhere", openelm / "nowhere"):
        done = bench(*SHORT, "--model", f"{openelm},{wrong}")
        assert (done.code, "nowhere" in done.err) == (66, True)


def test_what_the_last_model_has_no_room_for_is_told_before_anything_is_measured_or_written(
    monkeypatch: pytest.MonkeyPatch, openelm: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(measure, "measure_bandwidth", lambda: pytest.fail("measured"))
    monkeypatch.setattr(random_model, "write_weights", lambda *_: pytest.fail("written"))
    raw = checkpoints.OPENELM | {"max_context_length": 64}
    short = checkpoints.write(tmp_path / "short", raw)
    for subjects in (["--random", "llama-16x64", "-d", 200_000], ["--model", f"{openelm},{short}", "-d", 100]):
        done = bench(*SHORT, *subjects)
        assert (done.code, "and the model's context has" in done.err) == (2, True), done.err


def test_what_was_measured_before_it_failed_is_told(monkeypatch: pytest.MonkeyPatch, openelm: Path) -> None:
    left = iter(range(2 + 1))  # the first test's runs, with the one that warms up

    def sample(*_: object) -> clock.Sample:
        if next(left, None) is None:
            raise ElmError("The power is gone.")
        return clock.Sample(1.0, 1.0, 1)

    monkeypatch.setattr(measure, "sample", sample)
    done = bench(*SHORT, "--model", openelm, "--json")
    assert (done.code, "The power is gone." in done.err) == (1, True)
    assert [test["test"] for test in json.loads(done.out)["models"][0]["tests"]] == ["ttft16"]


def test_bits_of_a_directory_or_the_demo_are_refused_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, openelm: Path
) -> None:
    monkeypatch.setattr(measure, "measure_bandwidth", lambda: pytest.fail("measured"))
    for subject, complaint in (
        ([], "The built-in demo runs in the bits"),
        (["--model", openelm], f"{openelm} runs in the bits that it is stored in"),
    ):
        done = bench(*SHORT, *subject, "--bits", 4)
        assert (done.code, complaint in done.err) == (2, True)


@pytest.mark.parametrize(
    ("line", "code", "complaint"),
    [
        ("--random llama-5", 2, "'llama-5' is not one of"),
        ("--random llama-16x64,", 2, "'' is not one of"),
        ("--random llama-16x64 --bits 7", 2, "'7' is not one of"),
        ("--random llama-16x64 --model demo", 2, "--random makes its own model"),
        ("--dtype float16", 2, "--dtype is the type of random weights"),
        ("--model nowhere", 66, "no model 'nowhere'"),
        ("--bits 4", 2, "built-in demo"),
        ("-p many", 2, "'many' is not a valid integer"),
        ("-n -1", 2, "-1 is not in the range"),
        ("-p 0 -n 0", 2, "nothing to measure"),
        ("-r 0", 2, "0 is not in the range"),
        ("-d 600", 2, "pp512 @ d600 takes 1112 positions, and the model's context has 512"),
        ("--compare llama.cpp", 2, "'llama.cpp' is not"),
        ("--random llama-16x64 --draft auto", 2, "Leave --draft or --random out"),
        ("--compare mlx-lm --window 64", 2, "Leave --compare or --window out"),
        ("--compare mlx-lm --lookup", 2, "Leave --compare or --lookup out"),
        ("--draft auto --lookup", 2, "Leave --draft or --lookup out"),
        ("--window 513", 2, "Give at most --window 512"),
        ("--top-p 0.9", 2, "Give a --temperature, or leave --top-p out"),
        ("--cpu-policy fast", 2, "'fast' is not one of"),
        ("--submit never", 2, "'never' is not one of"),
        ("-b 0", 2, "0 is not in the range"),
        ("-b 4 -n 0", 2, "-p, -n and --batch numbers above 0"),
        ("-b 4 -d 8", 2, "Leave -d out, or at 0"),
        ("-b 4 -p 500", 2, "and the model's context has 512"),
    ],
)
def test_mistakes_are_sentences_with_their_codes(line: str, code: int, complaint: str) -> None:
    done = bench(*line.split())
    assert (done.code, done.out) == (code, "")
    assert complaint in done.err.splitlines()[-1]
