"""The whole report: its form, every sample in it, figures that follow from them, and a peer that must agree."""

from __future__ import annotations

import json
import signal
import statistics
import subprocess
import threading
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import Mock

import pytest
from helpers import checkpoints

import elm_mlx
from elm_mlx.bench import bandwidth, measure, peer
from elm_mlx.bench.cases import Case, Sample, Together, cases, together
from elm_mlx.bench.loads import Mark, Run
from elm_mlx.bench.measure import SCHEMA, Series, bench
from elm_mlx.bench.report import case_report, text, together_report
from elm_mlx.convert import convert
from elm_mlx.errors import ElmError, EngineStopped, InvalidRequest, NotFound, PromptTooLong

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


class Maybe(NamedTuple):
    """A value of this form, or null."""

    form: Any


class Some(NamedTuple):
    """A list of values of this form, or of none."""

    form: Any


SPREAD = {"mean": float, "stdev": Maybe(float), "median": float}
FIGURES = {"samples_s": [float], "host_samples_s": [float], "seconds": SPREAD, "host_seconds": SPREAD,
           "tokens_per_s": Maybe(SPREAD), "peak_memory_bytes": int}  # fmt: skip
RATIO = {"samples": [float], "median": float, "min": float, "max": float}
TEST = {"test": str, "kind": str, "tokens": int, "depth": int, **FIGURES, "bytes_per_token": Maybe(int),
        "bandwidth_share": Maybe(float), "mlx-lm": Maybe(FIGURES | {"ratio": RATIO, "host_ratio": RATIO})}  # fmt: skip
RUNS = {"prompt_samples_s": [float], "samples_s": [float], "cpu_samples_s": [float], "prompt_tokens_per_s": SPREAD,
        "tokens_per_s": SPREAD, "cpu_seconds_per_token": SPREAD, "peak_memory_bytes": int}  # fmt: skip
BATCH = {"test": str, "prompt": int, "tokens": int, "rows": int, **RUNS,
         "mlx-lm": Maybe(RUNS | {"prompt_ratio": RATIO, "ratio": RATIO, "cpu_ratio": RATIO})}  # fmt: skip
PEER = {"version": str, "load_s": float, "computed_in": str, "blas": Maybe(str), "torch": bool,
        "judged_tokens": int, "same_tokens": int, "below_best": float}  # fmt: skip
MODEL = {"name": str, "family": str, "parameters": int, "stored_as": str, "bits_per_weight": float,
         "weight_bytes": int, "fingerprint": str, "computed_in": str, "compiled": bool, "cpu_policy": str,
         "submit": str, "notice": Maybe(str), "load_s": float, "mlx-lm": Maybe(PEER), "tests": Some(TEST),
         "batches": Some(BATCH)}  # fmt: skip
MACHINE = {"device": str, "cores": int, "memory_bytes": int, "system": str, "blas": str, "budget": str,
           "read": {"bytes_per_s": float, "by": str, "buffer_bytes": int}}  # fmt: skip
REPORT = {"schema": str, "machine": MACHINE, "software": {"elm-mlx": str, "mlx": str, "numpy": str, "python": str},
          "repetitions": int, "models": [MODEL]}  # fmt: skip
# Before there were requests that are answered together.
MODEL_2 = {key: form for key, form in MODEL.items() if key not in ("submit", "batches")} | {"tests": [TEST]}
REPORTS = {SCHEMA: REPORT, "elm-mlx bench 2": REPORT | {"models": [MODEL_2]}}


def check(value: Any, form: Any, where: str = "report") -> None:
    """Fails, naming the place, for a value that is not of this form: exactly these keys, exactly these types."""
    if isinstance(form, Maybe):
        if value is not None:
            check(value, form.form, where)
    elif isinstance(form, dict):
        assert list(value) == list(form), where
        for key, inner in form.items():
            check(value[key], inner, f"{where}.{key}")
    elif isinstance(form, list | Some):
        assert value or isinstance(form, Some), where
        for number, item in enumerate(value):
            check(item, form[0], f"{where}[{number}]")
    else:
        assert type(value) is form, f"{where} is {value!r}"


@pytest.fixture(autouse=True, scope="module")
def small_buffer() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bandwidth, "BUFFER_BYTES", 2**20)
        patch.setattr(measure, "PAUSE_S", 0.0)
        yield


@pytest.fixture(scope="module")
def tiny(openelm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny OpenELM in float32, in the layout that mlx-lm reads."""
    return convert(openelm, tmp_path_factory.mktemp("bench") / "tiny", dtype="float32").output


def whole(*arguments: Any) -> dict[str, Any]:
    """The report when all is measured."""
    return list(bench(*arguments))[-1]


@pytest.fixture(scope="module")
def compared(tiny: Path) -> dict[str, Any]:
    """Two runs of all kinds of test, mlx-lm beside ours."""
    tests = [*cases([8], [4], [0, 20]), *together([8], [4], [1, 3])]
    return whole([("tiny", tiny)], Series(tests, repetitions=2, compare=True))


def test_the_report_has_its_form(compared: dict[str, Any], tiny: Path) -> None:
    alone = whole([("tiny", tiny), ("again", tiny)], Series(cases([8], [], [0]), repetitions=1))
    for report in (compared, alone):
        check(json.loads(json.dumps(report, allow_nan=False)), REPORT)
        assert report["schema"] == SCHEMA
    assert [model["name"] for model in alone["models"]] == ["tiny", "again"]
    assert alone["models"][0]["mlx-lm"] is None
    assert alone["models"][0]["tests"][0]["seconds"]["stdev"] is None


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_what_lies_in_results_has_its_form(path: Path) -> None:
    report = json.loads(path.read_text(encoding="utf-8"))
    if report.get("schema", "").startswith("elm-mlx bench"):  # older ones have none, and other scripts theirs
        check(report, REPORTS[report["schema"]], path.name)


def test_a_report_of_another_form_is_noticed(compared: dict[str, Any]) -> None:
    for change in ({"repetitions": 2.5}, {"models": []}, {"more": 1}, {"software": {"mlx": "0"}}):
        with pytest.raises(AssertionError):
            check(compared | change, REPORT)


def test_every_test_is_there_with_every_sample_and_no_warm_up(compared: dict[str, Any]) -> None:
    tests = compared["models"][0]["tests"]
    assert [test["test"] for test in tests] == ["ttft16", "pp8", "tg4", "pp8 @ d20", "tg4 @ d20"]
    for test in tests:
        for side in (test, test["mlx-lm"]):
            assert len(side["samples_s"]) == 2
            assert min(side["samples_s"]) > 0
            assert side["peak_memory_bytes"] > 0
        assert (test["tokens_per_s"] is None) == (test["kind"] == "ttft")
        assert (test["bytes_per_token"] is None) == (test["kind"] != "tg")


def test_the_warm_up_is_a_run_of_both_and_no_sample(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []
    monkeypatch.setattr(measure, "sample", lambda _, case, ids: runs.append(case.name) or Sample(len(runs), 1, 1))
    report = whole([("tiny", tiny)], Series([Case("tg", 4)], repetitions=3))
    assert runs == ["tg4"] * 4
    assert report["models"][0]["tests"][0]["samples_s"] == [2, 3, 4]


def test_our_runs_are_on_the_device_thread_and_the_models_are_given_back(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, loaded, load = [], list[elm_mlx.LanguageModel](), elm_mlx.load
    monkeypatch.setattr(elm_mlx, "load", lambda *given, **options: loaded.append(load(*given, **options)) or loaded[-1])

    def watch(run: Any) -> Any:
        return lambda *given: seen.append(threading.current_thread().name) or run(*given)

    monkeypatch.setattr(measure, "sample", watch(measure.sample))
    monkeypatch.setattr(measure, "answer", watch(measure.answer))
    whole([("tiny", tiny)], Series([Case("tg", 4), Together(4, 4, 2)], repetitions=1))
    assert seen == ["elm-mlx device"] * 4
    assert len(loaded) == 2  # the first one warms up the system's cache of files
    for lm in loaded:
        with pytest.raises(EngineStopped):
            _ = lm.model


def test_what_was_measured_is_there_after_each_test(tiny: Path) -> None:
    reports = bench([("tiny", tiny), ("again", tiny)], Series(cases([4], [2], [0]), repetitions=1))
    found = [[(model["name"], len(model["tests"])) for model in report["models"]] for report in reports]
    one, two = ([("tiny", count) for count in (1, 2, 3)], [("again", count) for count in (1, 2, 3)])
    assert found == [[first] for first in one] + [[one[-1], second] for second in two]


def test_progress_counts_every_run(tiny: Path) -> None:
    told: list[tuple[int, int]] = []
    whole([("tiny", tiny)], Series(cases([4], [2], [0]), repetitions=1), lambda *step: told.append(step))
    assert told == [(done, 6) for done in range(1, 7)]


def test_figures_follow_from_the_samples() -> None:
    runs = enumerate([(0.5, 10), (1.0, 30), (2.0, 20)])
    rounds = [(Sample(s, s / 2, peak), Sample(3 * s + i, 2 * s, 7)) for i, (s, peak) in runs]
    done = case_report(Case("tg", 8, 2), rounds, nbytes=1000, read=16_000.0)
    assert done["samples_s"] == [0.5, 1.0, 2.0]
    rates = [16.0, 8.0, 4.0]
    assert done["tokens_per_s"] == {"mean": sum(rates) / 3, "stdev": statistics.stdev(rates), "median": 8.0}
    assert (done["peak_memory_bytes"], done["bytes_per_token"], done["bandwidth_share"]) == (30, 1000, 0.5)
    assert done["mlx-lm"]["ratio"] == {"samples": [3.0, 4.0, 4.0], "median": 4.0, "min": 3.0, "max": 4.0}
    assert done["host_seconds"]["median"] == 0.5
    assert done["mlx-lm"]["host_ratio"] == {"samples": [4.0, 4.0, 4.0], "median": 4.0, "min": 4.0, "max": 4.0}
    first = case_report(Case("ttft", 16), [(Sample(0.25, 0.1, 1), None)], nbytes=None, read=1.0)
    assert first["seconds"] == {"mean": 0.25, "stdev": None, "median": 0.25}
    assert (first["tokens_per_s"], first["mlx-lm"]) == (None, None)


def test_figures_of_requests_that_are_answered_together_follow_from_the_runs() -> None:
    ours = [
        Run(Mark(0.5, 1.0, 2), Mark(0.5 + s, 1.0 + 2 * s, 10), peak) for s, peak in [(1.0, 10), (2.0, 30), (4.0, 20)]
    ]
    theirs = [Run(Mark(1.0, 1.0, 2), Mark(4.0, 4.0, 10), 7)] * 3
    done = together_report(Together(16, 4, 2), list(zip(ours, theirs, strict=True)))
    assert (done["test"], done["peak_memory_bytes"]) == ("pp16 tg4 b2", 30)
    assert done["prompt_samples_s"] == [0.5] * 3
    assert done["prompt_tokens_per_s"]["median"] == 64  # two prompts of 16 ids in half a second
    assert done["tokens_per_s"]["median"] == 4  # eight tokens in two seconds
    assert (done["cpu_samples_s"], done["cpu_seconds_per_token"]["median"]) == ([2.0, 4.0, 8.0], 0.5)
    assert done["mlx-lm"]["prompt_ratio"]["samples"] == [2.0] * 3
    assert done["mlx-lm"]["ratio"] == {"samples": [3.0, 1.5, 0.75], "median": 1.5, "min": 0.75, "max": 3.0}
    assert done["mlx-lm"]["cpu_ratio"]["median"] == 0.75
    assert together_report(Together(16, 4, 2), [(run, None) for run in ours])["mlx-lm"] is None


def test_requests_that_are_answered_together_have_a_table_of_their_own(compared: dict[str, Any]) -> None:
    assert [test["test"] for test in compared["models"][0]["batches"]] == ["pp8 tg4 b1", "pp8 tg4 b3"]
    told = text(compared).splitlines()
    head = next(line for line in told if " S_PP t/s " in line)
    assert [cell.strip() for cell in head.strip("|").split("|")][:6] == [
        "model",
        "PP",
        "TG",
        "B",
        "S_PP t/s",
        "S_TG t/s",
    ]
    assert [line.split("|")[2:5] for line in told[told.index(head) + 2 :]] == [[" 8  ", "  4 ", f" {b} "] for b in "13"]


def test_a_person_reads_one_aligned_table(compared: dict[str, Any]) -> None:
    table = text(compared).split("\n\n")[1].splitlines()
    assert len({len(line) for line in table}) == 1
    assert [cell.strip() for cell in table[0].strip("|").split("|")] == [
        "model", "test", "t/s", "median", "MB/t", "share", "host ms", "peak MB", "mlx-lm", "ratio",
        "host ratio"]  # fmt: skip
    assert [line.split("|")[2].strip() for line in table[2:]] == ["ttft16", "pp8", "tg4", "pp8 @ d20", "tg4 @ d20"]
    assert "tiny float32" in table[2]
    assert "32 of 32 greedy tokens" in text(compared)
    assert compared["models"][0]["fingerprint"][:12] in text(compared)


# mlx-lm


def test_mlx_lm_computes_the_same_from_the_same_files(compared: dict[str, Any]) -> None:
    said = compared["models"][0]["mlx-lm"]
    assert (said["same_tokens"], said["judged_tokens"], said["torch"]) == (32, 32, False)
    assert said["below_best"] <= 1e-4
    assert said["computed_in"] == compared["models"][0]["computed_in"] == "float32"
    assert compared["models"][0]["cpu_policy"] == "compiled"


@pytest.mark.slow
def test_mlx_lm_with_another_model_is_noticed(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = checkpoints.write(tmp_path / "source", checkpoints.OPENELM, seed=5)
    other = convert(source, tmp_path / "other", dtype="float32").output
    monkeypatch.setattr(measure, "Peer", lambda _: peer.Peer(other))
    with pytest.raises(ElmError, match=r"mlx-lm says \d+ of 32 greedy tokens of tiny as elm-mlx does.*nothing was"):
        whole([("tiny", tiny)], Series(cases([8], [4], [0]), repetitions=1, compare=True))


class Judge:
    """A peer that says this."""

    def __init__(self, same: int, below: float, computed_in: str) -> None:
        self.same, self.below, self.facts = same, below, {"computed_in": computed_in}

    def judge(self, prompt: list[int], tokens: list[int]) -> tuple[list[int], float]:
        return [*tokens[: self.same], *(token + 1 for token in tokens[self.same :])], self.below


@pytest.mark.parametrize(
    ("same", "below", "computed_in", "passes"),
    [
        (32, 0.0, "float32", True),
        (31, 0.0, "float32", False),
        (20, 0.009, "bfloat16", True),
        (32, 0.011, "bfloat16", False),
        (32, float("nan"), "bfloat16", False),
    ],
)
def test_float32_must_say_the_same_and_others_nearly(
    tiny: Path, same: int, below: float, computed_in: str, passes: bool
) -> None:
    ours, judge = measure.Ours(elm_mlx.load(tiny)), Judge(same, below, computed_in)
    facts = {"name": "tiny", "computed_in": computed_in, "cpu_policy": "compiled"}
    if passes:
        assert measure.check_agreement(ours, judge, facts, 512)["same_tokens"] == same  # type: ignore[arg-type]
        return
    with pytest.raises(ElmError, match=f"{same} of 32"):
        measure.check_agreement(ours, judge, facts, 512)  # type: ignore[arg-type]


def test_another_type_than_mlx_lms_is_the_policys_fault_and_not_the_files(tiny: Path) -> None:
    ours, judge = measure.Ours(elm_mlx.load(tiny)), Judge(32, 0.0, "bfloat16")
    facts = {"name": "tiny", "computed_in": "float32", "cpu_policy": "auto"}
    with pytest.raises(
        InvalidRequest, match=r"in float32, which is fastest here, and mlx-lm in bfloat16.* cpu_policy out"
    ):
        measure.check_agreement(ours, judge, facts, 512)  # type: ignore[arg-type]


@pytest.mark.slow
def test_mlx_lm_that_fails_says_what_it_said(tmp_path: Path) -> None:
    with pytest.raises(ElmError, match=r"mlx-lm failed: FileNotFoundError.*nowhere.* Leave compare out"):
        peer.Peer(tmp_path / "nowhere")


def test_mlx_lm_that_dies_is_a_sentence(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer.Peer, "_introduction", lambda *_: {})  # it does not live that long
    with peer.Peer(tiny) as child:
        child._process.kill()
        with pytest.raises(ElmError, match="mlx-lm failed: it ended without a word"):
            child.sample(Case("pp", 4), [1, 2, 3, 4])


@pytest.mark.parametrize("answers", [0, 1])  # of loading, and of the request after it
def test_who_interrupts_does_not_wait_for_mlx_lm(tiny: Path, monkeypatch: pytest.MonkeyPatch, answers: int) -> None:
    children: list[subprocess.Popen[str]] = []
    start, said = subprocess.Popen, [{"blas": elm_mlx.fast_blas()}] * answers
    monkeypatch.setattr(peer.subprocess, "Popen", lambda *a, **k: children.append(start(*a, **k)) or children[0])
    monkeypatch.setattr(peer.Peer, "_answer", Mock(side_effect=[*said, KeyboardInterrupt]))
    with pytest.raises(KeyboardInterrupt), peer.Peer(tiny) as child:
        child.sample(Case("tg", 4), [1, 2, 3, 4, 5])
    assert [process.returncode for process in children] == [-signal.SIGKILL]


def test_without_mlx_lm_a_comparison_says_what_to_install(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer, "find_spec", lambda name: None)
    with pytest.raises(NotFound, match=r"pip install 'elm-mlx\[mlx-lm\]'"):
        whole([("tiny", tiny)], Series(cases([8], [4], [0]), compare=True))


def test_another_blas_over_there_is_refused(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer.Peer, "_answer", lambda _: {"blas": "libopenblas.so.0"})
    with pytest.raises(ElmError, match=r"mlx-lm computes with libopenblas\.so\.0 and elm-mlx with"):
        peer.Peer(tiny)


def test_a_context_too_short_is_a_sentence_before_anything_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(checkpoints.OPENELM), encoding="utf-8")
    with pytest.raises(PromptTooLong, match="tg4 @ d510 takes 515 positions"):
        whole([("tiny", tmp_path)], Series(cases([], [4], [510])))
