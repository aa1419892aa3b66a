"""The public API keeps its word: completions, streams, limits and refusals."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from helpers import checkpoints

import elm_mlx
from elm_mlx.errors import InvalidRequest, NotFound, PromptTooLong

TEXT = "Once upon a time there was"


@pytest.fixture(scope="module")
def demo() -> elm_mlx.LanguageModel:
    """The built-in demo."""
    return elm_mlx.load()


def with_generation(source: Path, target: Path, **generation: object) -> elm_mlx.LanguageModel:
    """A copy of a checkpoint with this generation_config.json, loaded."""
    shutil.copytree(source, target)
    (target / "generation_config.json").write_text(json.dumps(generation), encoding="utf-8")
    return elm_mlx.load(target)


def test_the_stream_joined_is_the_completion_and_the_decoding(demo: elm_mlx.LanguageModel) -> None:
    for seed in range(2):
        options = {"max_tokens": 20, "temperature": 1.5, "seed": seed}
        stream = demo.stream(TEXT, **options)
        pieces = list(stream)
        whole = demo.generate(TEXT, **options)
        assert "".join(piece.text for piece in pieces) == whole.text == demo.tokenizer.decode(whole.tokens)
        assert [p.token for p in pieces if p.finish_reason != "stop"] == whole.tokens == stream.completion.tokens
        assert [p.finish_reason for p in pieces[:-1]] == [None] * (len(pieces) - 1)
        assert pieces[-1].finish_reason == whole.finish_reason


def test_every_stop_id_ends_the_text_and_is_not_part_of_it(openelm: Path, tmp_path: Path) -> None:
    ids = checkpoints.prompt(20)
    free = elm_mlx.load(openelm).generate(ids, max_tokens=30).tokens
    last = next(token for i, token in enumerate(free) if i >= 3 and token not in free[:i])
    lm = with_generation(openelm, tmp_path / "m", eos_token_id=[400, last])
    stopped = lm.generate(ids, max_tokens=30)
    assert stopped.finish_reason == "stop"
    assert stopped.tokens == free[: free.index(last)]
    assert stopped.stats.generated_tokens == len(stopped.tokens)
    assert [p.token for p in lm.stream(ids, max_tokens=30)][-1] == last


def test_none_means_the_models_own_sampling_and_arguments_override_it(openelm: Path, tmp_path: Path) -> None:
    ids = checkpoints.prompt(20)
    plain = elm_mlx.load(openelm)
    lm = with_generation(openelm, tmp_path / "m", do_sample=True, temperature=0.6, top_p=0.9, max_length=3)
    assert lm.generate(ids, 12, seed=5).tokens == plain.generate(ids, 12, temperature=0.6, top_p=0.9, seed=5).tokens
    assert (
        lm.generate(ids, 12, temperature=2.0, seed=5).tokens
        == plain.generate(ids, 12, temperature=2.0, top_p=0.9, seed=5).tokens
    )
    assert lm.generate(ids, 12, temperature=0).tokens == plain.generate(ids, 12).tokens
    assert len(lm.generate(ids, 12, temperature=0).tokens) == 12  # max_length is never inherited


def test_without_do_sample_a_model_is_greedy(openelm: Path, tmp_path: Path) -> None:
    lm = with_generation(openelm, tmp_path / "m", temperature=0.0, top_k=-1)  # as some say it who never sample
    ids = checkpoints.prompt(20)
    assert lm.generate(ids, 12).tokens == lm.generate(ids, 12, temperature=0).tokens


def test_ids_may_be_an_array(demo: elm_mlx.LanguageModel) -> None:
    ids = demo.tokenizer.encode(TEXT)
    expected = demo.generate(ids, 4).tokens
    assert demo.generate(np.array(ids), np.int64(4)).tokens == expected  # type: ignore[arg-type]
    assert demo.generate(mx.array(ids), 4).tokens == expected  # type: ignore[arg-type]


def test_a_stream_is_read_in_any_thread(demo: elm_mlx.LanguageModel) -> None:
    stream = demo.stream(TEXT, 4)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(next, stream).result()
    assert [first.token, *(piece.token for piece in stream)] == demo.generate(TEXT, 4).tokens


def test_a_huge_limit_costs_only_what_is_used(openelm: Path, tmp_path: Path) -> None:
    source = checkpoints.write(tmp_path / "s", checkpoints.OPENELM | {"max_context_length": 10**9})
    stream = elm_mlx.load(source).stream("Hi", None)
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    assert len([next(stream) for _ in range(5)]) == 5
    assert mx.get_peak_memory() - before < 20e6


def test_an_option_that_would_be_ignored_is_refused(demo: elm_mlx.LanguageModel) -> None:
    assert demo.generate(TEXT, 2, top_k=0, top_p=1.0, min_p=0.0).tokens == demo.generate(TEXT, 2).tokens
    with pytest.raises(InvalidRequest, match="top_p would change nothing"):
        demo.generate(TEXT, top_p=0.9)
    assert demo.generate(TEXT, 2, temperature=0, top_p=0.9).tokens == demo.generate(TEXT, 2).tokens


def test_what_in_a_models_files_has_no_meaning_is_told_and_changes_nothing(openelm: Path, tmp_path: Path) -> None:
    lm = with_generation(openelm, tmp_path / "m", do_sample=True, temperature=0.0, top_p=0.9)
    ids = checkpoints.prompt(20)
    assert lm.generate(ids, 12).tokens == elm_mlx.load(openelm).generate(ids, 12).tokens
    told = [notice for notice in lm.notices if notice != lm.notice]
    assert told == [f"{tmp_path / 'm' / 'generation_config.json'} asks for sampling at temperature 0, "
                    "which is greedy decoding."]  # fmt: skip
    assert [notice for notice in elm_mlx.load(openelm).notices if notice != lm.notice] == []


def test_a_text_prompt_is_its_encoding_with_one_bos(demo: elm_mlx.LanguageModel) -> None:
    ids = demo.tokenizer.encode(TEXT)
    assert ids[0] == 1
    assert ids.count(1) == 1
    assert demo.generate(TEXT, 8).tokens == demo.generate(ids, 8).tokens
    assert demo.generate("", 1).stats.prompt_tokens == 1


def test_generation_ends_at_the_context(openelm: Path) -> None:
    lm = elm_mlx.load(openelm)
    context = lm.config.context_length
    done = lm.generate(checkpoints.prompt(context - 3), max_tokens=100)
    assert (len(done.tokens), done.finish_reason) == (3, "length")
    with pytest.raises(PromptTooLong, match=f"{context} tokens and the model's context {context}"):
        lm.generate(checkpoints.prompt(context))
    with pytest.raises(PromptTooLong):
        lm.logits(checkpoints.prompt(context + 1))
    assert lm.logits(checkpoints.prompt(context)).shape == (context, checkpoints.VOCAB)


@pytest.mark.parametrize("ids", [[2048], [-1], [1.0], [True], ["1"], [], None, b"abc", {1: 2}, 5, np.array(5)])
def test_ids_that_the_model_does_not_have_are_refused(demo: elm_mlx.LanguageModel, ids: list[int]) -> None:
    with pytest.raises(InvalidRequest):
        demo.generate(ids)
    with pytest.raises(InvalidRequest):
        demo.logits(ids)


@pytest.mark.parametrize("count", [0, -1, 1.5, True, math.inf])
def test_max_tokens_must_be_a_whole_number_above_zero(demo: elm_mlx.LanguageModel, count: int) -> None:
    with pytest.raises(InvalidRequest, match="max_tokens"):
        demo.generate(TEXT, count)


def test_logits_are_float32_one_row_a_token_and_evaluated(demo: elm_mlx.LanguageModel) -> None:
    logits = demo.logits([1, 2, 3])
    assert (logits.shape, logits.dtype) == ((3, demo.config.vocab_size), mx.float32)
    assert int(mx.argmax(demo.logits(demo.tokenizer.encode(TEXT))[-1]).item()) == demo.generate(TEXT, 1).tokens[0]


def test_stats_add_up(demo: elm_mlx.LanguageModel) -> None:
    done = demo.generate(TEXT, 10, temperature=1.0, seed=0)
    stats = done.stats
    assert stats.prompt_tokens == len(demo.tokenizer.encode(TEXT))
    assert stats.generated_tokens == len(done.tokens)
    assert stats.time_to_first_token_s > 0
    assert stats.prefill_tokens_per_s == pytest.approx(stats.prompt_tokens / stats.time_to_first_token_s)
    assert stats.decode_tokens_per_s is not None
    assert stats.decode_tokens_per_s > 0
    assert stats.peak_memory_bytes > 200_000
    assert demo.generate(TEXT, 1).stats.decode_tokens_per_s is None


def test_a_stream_closed_early_keeps_what_came(demo: elm_mlx.LanguageModel) -> None:
    stream = demo.stream(TEXT, 50)
    taken = [next(stream) for _ in range(3)]
    stream.close()
    assert list(stream) == []
    assert stream.completion.tokens == [piece.token for piece in taken]
    assert stream.completion.finish_reason == "cancelled"


def test_progress_ends_at_its_total_for_every_way_of_loading(openelm: Path, tmp_path: Path) -> None:
    from elm_mlx.convert import convert

    output = convert(openelm, tmp_path / "4bit", bits=4, group_size=32).output
    for policy in ("auto", "plain"):
        heard: list[tuple[int, int]] = []
        elm_mlx.load(output, cpu_policy=policy, progress=lambda *at, into=heard: into.append(at))
        assert [done for done, _ in heard] == sorted(done for done, _ in heard)
        assert heard[-1] == (elm_mlx.info(output).weight_bytes,) * 2


def test_numbers_without_a_meaning_are_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for bits in (7, "4", 4.0, True, 0):
        with pytest.raises(InvalidRequest, match=f"bits is {bits!r}"):
            elm_mlx.load("openelm-450m", bits=bits)  # type: ignore[arg-type]
        with pytest.raises(InvalidRequest, match=f"bits is {bits!r}"):
            elm_mlx.info(bits=bits)  # type: ignore[arg-type]
        with pytest.raises(InvalidRequest, match=f"bits is {bits!r}"):
            elm_mlx.load(bits=bits)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="cpu_policy is 'fast'"):
        elm_mlx.load("openelm-450m", cpu_policy="fast")
    for context in (0, -5, 1.5):
        with pytest.raises(InvalidRequest, match=f"context is {context}"):
            elm_mlx.info(context=context)  # type: ignore[arg-type]


def test_unknown_options_are_an_error(demo: elm_mlx.LanguageModel) -> None:
    with pytest.raises(TypeError):
        demo.generate(TEXT, temprature=1.0)  # type: ignore[call-arg]
    with pytest.raises(InvalidRequest, match="cpu_policy"):
        elm_mlx.load(cpu_policy="fast")


@pytest.mark.parametrize("call", [elm_mlx.load, elm_mlx.info, elm_mlx.pull])
@pytest.mark.parametrize(
    ("model", "kind"),
    [
        ("x" * 300, NotFound),
        (Path("x" * 300), NotFound),
        ("./" + "a/" * 3000, NotFound),
        ("a/" * 3000, InvalidRequest),
        ("a\0b", InvalidRequest),
        (Path("a\0b"), NotFound),
        ("", InvalidRequest),
    ],
    ids=["long name", "long path", "deep path", "deep name", "NUL in a name", "NUL in a path", "nothing"],
)
def test_a_model_that_no_file_system_can_hold_is_a_sentence_of_a_few_lines(
    call: Callable[[str | Path], object], model: str | Path, kind: type[Exception]
) -> None:
    with pytest.raises(kind) as caught:
        call(model)
    assert len(str(caught.value)) < 400


def test_a_link_to_itself_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(NotFound, match="no directory"):
        elm_mlx.load(tmp_path / "loop")


def test_the_package_lists_each_name_once() -> None:
    assert len(dir(elm_mlx)) == len(set(dir(elm_mlx)))
    assert {*elm_mlx.__all__, "convert", "errors"} <= set(dir(elm_mlx))
