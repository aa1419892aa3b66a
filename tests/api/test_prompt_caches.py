"""A prompt's keys and values go into a file and come back, in this process or another; all else is refused in a
sentence."""

from __future__ import annotations

import gc
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from helpers import checkpoints

import elm_mlx
from elm_mlx.engine.engine import Engine
from elm_mlx.errors import BadCheckpoint, InvalidRequest, NotEnoughMemory, NotFound, RequestFailed

PATIENCE_S = 90  # on a busy machine; it takes about a second
PROMPT = checkpoints.prompt(60)
WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "window": {"window": 16},
    "8 bits": {"kv_bits": 8},
    "k8v4 in a window": {"window": 20, "kv_bits": "k8v4"},
}
each_way = pytest.mark.parametrize("options", WAYS.values(), ids=WAYS)
each_family = pytest.mark.parametrize("source", checkpoints.FAMILIES, indirect=True)


@pytest.fixture
def fresh(openelm: Path) -> Iterator[elm_mlx.LanguageModel]:
    """A model that has answered nothing yet."""
    with elm_mlx.load(openelm) as lm:
        yield lm


@pytest.fixture
def saved(fresh: elm_mlx.LanguageModel, tmp_path: Path) -> Path:
    """A file of the prompt's keys and values, which `fresh` has forgotten."""
    path = tmp_path / "saved"
    fresh.save_cache(PROMPT, path)
    fresh.forget_prefixes()
    return path


@each_family
@each_way
def test_a_loaded_prompt_is_not_read_again_and_gives_the_same_ids(
    source: Path, options: dict[str, Any], tmp_path: Path
) -> None:
    path, prompts = tmp_path / "saved", ([*PROMPT, 7, 8], [*PROMPT, 9])
    with elm_mlx.load(source) as lm:
        expected = [lm.generate(prompt, 30, reuse=False, **options).tokens for prompt in prompts]
        assert lm.save_cache(PROMPT, path, **options) == len(PROMPT)
    with elm_mlx.load(source) as lm:
        assert lm.load_cache(path) == len(PROMPT)
        for prompt, tokens in zip(prompts, expected, strict=True):  # it stays for a later call
            answer = lm.generate(prompt, 30, **options)
            assert (answer.tokens, answer.stats.cached_tokens) == (tokens, len(PROMPT))
        same = lm.generate(PROMPT, 5, **options)
        assert same.stats.cached_tokens == len(PROMPT) - 1
        other = {} if options else {"kv_bits": 8}
        assert lm.generate(PROMPT, 3, **other).stats.cached_tokens == 0


def test_a_ring_that_was_turned_and_trimmed_is_saved_as_it_is(fresh: elm_mlx.LanguageModel, tmp_path: Path) -> None:
    prompt = checkpoints.prompt(400)
    fresh.generate(prompt, 20, window=16)  # it is kept, and what is saved begins with it
    other = [*prompt[:300], *checkpoints.prompt(30, seed=2)]
    assert fresh.generate(other, 3, window=16).stats.cached_tokens == 300
    fresh.save_cache(other[:310], tmp_path / "saved", window=16)
    expected = fresh.generate([*other[:310], 5], 20, window=16, reuse=False).tokens
    fresh.forget_prefixes()
    assert fresh.load_cache(tmp_path / "saved") == 310
    answer = fresh.generate([*other[:310], 5], 20, window=16)
    assert (answer.tokens, answer.stats.cached_tokens) == (expected, 310)


@pytest.mark.slow
def test_another_process_gives_the_same_ids(openelm: Path, fresh: elm_mlx.LanguageModel, saved: Path) -> None:
    script = (
        "import sys, elm_mlx; lm = elm_mlx.load(sys.argv[1]); lm.load_cache(sys.argv[2]); "
        "a = lm.generate(eval(sys.argv[3]), 20, seed=1, temperature=1.0); print(a.tokens, a.stats.cached_tokens)"
    )
    command = [sys.executable, "-c", script, str(openelm), str(saved), str([*PROMPT, 7])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    expected = fresh.generate([*PROMPT, 7], 20, seed=1, temperature=1.0).tokens
    assert done.stdout.strip() == f"{expected} {len(PROMPT)}"


def test_saving_reports_progress_and_ctrl_c_leaves_nothing(fresh: elm_mlx.LanguageModel, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    fresh.save_cache(PROMPT, tmp_path / "one", progress=lambda *counts: told.append(counts))
    assert told[-1] == (len(PROMPT), len(PROMPT))

    def interrupt(*_: int) -> None:
        raise KeyboardInterrupt

    before = (tmp_path / "one").read_bytes()
    for name in ("one", "two"):
        with pytest.raises(KeyboardInterrupt):
            fresh.save_cache(checkpoints.prompt(80, seed=5), tmp_path / name, progress=interrupt)
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("one", before)]
    assert fresh._worker.call(lambda engine: (engine.limits.budget.reserved, engine.held)) == (0, {})


def test_a_disk_that_fills_up_leaves_nothing(
    fresh: elm_mlx.LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from elm_mlx.store import prompt_cache

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(prompt_cache.Writer, "write", full)
    with pytest.raises(elm_mlx.errors.DiskFull, match="the disk is full"):
        fresh.save_cache(PROMPT, tmp_path / "one")
    assert not list(tmp_path.iterdir())
    assert fresh._worker.call(lambda engine: (engine.limits.budget.reserved, engine.held)) == (0, {})


def test_what_cannot_be_saved_is_refused_before_it_is_read(fresh: elm_mlx.LanguageModel, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="is a directory"):
        fresh.save_cache(PROMPT, tmp_path)
    with pytest.raises(NotFound, match="There is no directory"):
        fresh.save_cache(PROMPT, tmp_path / "no" / "where")
    with pytest.raises(InvalidRequest, match="has 3 tokens, and of fewer than 16 nothing is reused"):
        fresh.save_cache([1, 2, 3], tmp_path / "one")
    with pytest.raises(InvalidRequest, match="window is 3"):
        fresh.save_cache(PROMPT, tmp_path / "one", window=3)
    with pytest.raises(NotFound, match="There is no file"):
        fresh.load_cache(tmp_path / "one")


def test_what_was_loaded_stays_while_others_go(fresh: elm_mlx.LanguageModel, saved: Path) -> None:
    fresh.load_cache(saved)
    nbytes = fresh._worker.call(lambda engine: engine.prefixes.nbytes)
    assert fresh.load_cache(saved) == len(PROMPT)  # the same again takes no more
    assert fresh._worker.call(lambda engine: engine.prefixes.nbytes) == nbytes
    for seed in range(9):  # more than there is room for
        fresh._worker.call(lambda engine: setattr(engine.limits.budget, "kept", 3 * nbytes))
        fresh.generate(checkpoints.prompt(50, seed=seed), 10)
    assert fresh.generate([*PROMPT, 1], 3).stats.cached_tokens == len(PROMPT)
    assert fresh._worker.call(lambda engine: engine.prefixes.nbytes) <= 3 * nbytes
    fresh.forget_prefixes()
    assert fresh.generate([*PROMPT, 1], 3).stats.cached_tokens == 0


def test_what_has_no_room_is_refused_with_numbers(openelm: Path, saved: Path) -> None:
    with elm_mlx.load(openelm, cache_bytes=60_000) as lm:
        with pytest.raises(NotEnoughMemory, match=r"take 23 kB, and 15 kB are left for what stays") as caught:
            lm.load_cache(saved)
        assert caught.value.needed > caught.value.available == 15_000


def rewritten(path: Path, edit: Callable[[dict[str, mx.array], dict[str, str]], object]) -> None:
    """Writes a file again, its tensors and metadata edited."""
    arrays, metadata = mx.load(str(path), "safetensors", True)  # type: ignore[misc]
    mx.eval(arrays)
    edit(arrays, metadata)  # type: ignore[arg-type]
    mx.save_safetensors(str(path.with_suffix(".new.safetensors")), arrays, metadata)  # type: ignore[arg-type]
    path.with_suffix(".new.safetensors").replace(path)


MISMATCHES = {
    "model": "saved with another model, or with other weights of it",
    "tokenizer": "saved with another tokenizer",
    "dtype": r"saved in another type of numbers \(another in place of float32\)",
    "adapter": "saved with an adapter",
    "version": "saved by a version of elm-mlx with another format",
}


@pytest.mark.parametrize("field", MISMATCHES)
def test_each_mismatch_is_refused_by_name(fresh: elm_mlx.LanguageModel, saved: Path, field: str) -> None:
    rewritten(saved, lambda arrays, metadata: metadata.update({field: "another"}))
    with pytest.raises(InvalidRequest, match=MISMATCHES[field]):
        fresh.load_cache(saved)


def test_other_weights_of_equal_shapes_are_another_model(openelm: Path, saved: Path, tmp_path: Path) -> None:
    other = checkpoints.write(tmp_path / "other", checkpoints.CONFIGS["openelm"], seed=1)
    with elm_mlx.load(other) as lm, pytest.raises(InvalidRequest, match="with another model"):
        lm.load_cache(saved)
    changed = Path(shutil.copytree(openelm, tmp_path / "changed"))
    raw = json.loads((changed / "config.json").read_text())
    (changed / "config.json").write_text(json.dumps(raw | {"rope_freq_constant": 20000}))
    with elm_mlx.load(changed) as lm, pytest.raises(InvalidRequest, match="with another model"):
        lm.load_cache(saved)


Edit = Callable[[dict[str, mx.array], dict[str, str]], object]
HOSTILE: dict[str, tuple[Edit, str]] = {
    "no such file": (lambda a, m: m.update(format="mlx"), "is not a file of saved keys and values"),
    "no metadata": (lambda a, m: m.clear(), "is not a file of saved keys and values"),
    "a missing layer": (lambda a, m: a.pop("layers.1.keys"), "layers.1.keys"),
    "one too many": (lambda a, m: a.update(more=mx.zeros((3,))), "more"),
    "another shape": (lambda a, m: a.update({"layers.0.keys": a["layers.0.keys"][:, :, 1:]}), "layers.0.keys"),
    "another type": (lambda a, m: a.update({"layers.0.keys": a["layers.0.keys"].astype(mx.float16)}), "layers.0.keys"),
    "ids beyond": (lambda a, m: a.update(ids=a["ids"] + checkpoints.VOCAB), "ids that the model does not have"),
    "ids below 0": (lambda a, m: a.update(ids=a["ids"] * 0 - 1), "ids that the model does not have"),
    "fewer ids": (lambda a, m: a.update(ids=a["ids"][1:]), "ids"),
    "not finite": (lambda a, m: a.update({"layers.1.values": a["layers.1.values"] * np.nan}), "NaN or infinite"),
    "a word for a number": (lambda a, m: m.update(positions="many"), "positions in its metadata is not"),
    "a number too large": (lambda a, m: m.update(positions="9" * 10), "positions in its metadata is not"),
    "other digits": (lambda a, m: m.update(positions="٦٠"), "positions in its metadata is not"),
    "no positions": (lambda a, m: m.update(positions="0"), "do not go together"),
    "a tiny window": (lambda a, m: m.update(window="1"), "do not go together"),
    "a window beyond the context": (lambda a, m: m.update(window="100000"), "do not go together"),
    "sinks without a window": (lambda a, m: m.update(sinks="4"), "do not go together"),
    "bits that cannot be": (lambda a, m: m.update(key_bits="5", value_bits="5"), "do not go together"),
    "half of the bits": (lambda a, m: m.update(key_bits="8"), "do not go together"),
    "a huge margin": (lambda a, m: m.update(window="16", margin="2000000000"), "do not go together"),
    "sinks that reach too far": (lambda a, m: m.update(window="16", sinks="4", reach="9999"), "do not go together"),
    "as many sinks as positions": (lambda a, m: m.update(window="60", sinks="60"), "do not go together"),
    "no ring, and yet forgotten": (lambda a, m: m.update(oldest="9"), "do not go together"),
    "all forgotten": (lambda a, m: m.update(window="16", sinks="4", reach="512", oldest="60"), "do not go together"),
    "more held than a ring has": (
        lambda a, m: m.update(window="16", sinks="4", reach="512", positions="600", oldest="300"),
        "do not go together",
    ),
    "another kind than its tensors": (lambda a, m: m.update(key_bits="8", value_bits="8"), "does not hold what"),
    "a promise of much": (lambda a, m: m.update(positions="2000000000"), "does not hold what"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_files_are_refused_in_a_sentence(fresh: elm_mlx.LanguageModel, saved: Path, what: str) -> None:
    edit, complaint = HOSTILE[what]
    rewritten(saved, edit)
    with pytest.raises(BadCheckpoint, match=complaint):
        fresh.load_cache(saved)
    assert fresh._worker.call(lambda engine: engine.prefixes.entries) == []


@pytest.mark.parametrize("length", [0, 5, 100, 2000, -1])
def test_torn_files_are_refused(fresh: elm_mlx.LanguageModel, saved: Path, length: int) -> None:
    saved.write_bytes(saved.read_bytes()[:length])
    with pytest.raises(BadCheckpoint, match=r"or is damaged"):
        fresh.load_cache(saved)


def test_a_window_goes_on_beyond_the_context_and_a_prompt_may_be_longer(fresh: elm_mlx.LanguageModel) -> None:
    context = fresh.config.context_length
    answer = fresh.generate(checkpoints.prompt(context - 5), 30, window=16)
    assert answer.stats.generated_tokens + (answer.finish_reason == "stop") > 5
    stats = fresh.generate(checkpoints.prompt(context + 5), 3, window=32, kv_bits=8).stats
    assert stats.prompt_tokens == context + 5
    assert stats.forgotten_tokens in range(context + 5 - 32 + 1, context + 5 - 32 + 4)
    with pytest.raises(InvalidRequest, match="window is 513, and the model's context 512"):
        fresh.generate([1], 3, window=513)


@pytest.mark.parametrize("options", [{"window": 15}, {"window": 2.5}, {"window": True}, {"window": "many"},
                                     {"kv_bits": 5}, {"kv_bits": "8"}, {"kv_bits": True}, {"kv_bits": 8.0},
                                     {"kv_bits": [8]}])  # fmt: skip
def test_values_without_a_meaning_are_refused_at_once(fresh: elm_mlx.LanguageModel, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=r"window is|kv_bits is"):
        fresh.generate([1], 3, **options)
    with pytest.raises(InvalidRequest, match=r"window is|kv_bits is"):
        fresh.batch([[1]], 3, **options)


def test_a_model_that_differs_in_its_last_rows_alone_is_another_model(
    openelm: Path, fresh: elm_mlx.LanguageModel, saved: Path, tmp_path: Path
) -> None:
    assert fresh.load_cache(saved)
    changed = Path(shutil.copytree(openelm, tmp_path / "changed"))
    [weights] = changed.glob("*.safetensors")
    arrays: Any = mx.load(str(weights))
    name = next(name for name, array in arrays.items() if array.shape[0] == checkpoints.VOCAB)
    arrays[name][-1] += 1  # as where new tokens were learned
    mx.eval(arrays)
    mx.save_safetensors(str(weights), arrays)
    with elm_mlx.load(changed) as lm, pytest.raises(InvalidRequest, match="with another model"):
        lm.load_cache(saved)


def test_copies_of_what_was_loaded_grow_as_other_caches_do(fresh: elm_mlx.LanguageModel, saved: Path) -> None:
    def grows(engine: Engine) -> list[int]:
        [entry] = engine.prefixes.entries
        return [layer.fork(20, 40).grow_by for layer in entry.cache]  # type: ignore[attr-defined]

    fresh._worker.call(lambda engine: setattr(engine, "execution", replace(engine.execution, grow_by=8)))
    fresh.load_cache(saved)
    assert set(fresh._worker.call(grows)) == {8}


def test_what_was_lost_in_a_failed_step_is_told(
    fresh: elm_mlx.LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise RuntimeError("[metal] out of memory")

    monkeypatch.setattr(Engine, "_drop", failing)  # after the answer has ended
    with pytest.raises(RequestFailed, match="Computing failed"):
        fresh.save_cache(PROMPT, tmp_path / "one")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_what_is_held_for_a_handle_goes_with_it(fresh: elm_mlx.LanguageModel) -> None:
    worker = fresh._worker
    handle = worker.submit(replace(fresh.request(PROMPT, 1), hold=True))
    assert handle.wait(None, PATIENCE_S)
    assert worker.call(lambda engine: len(engine.held)) == 1
    del handle  # Ctrl-C may come before anybody has it
    gc.collect()
    assert worker.call(lambda engine: (engine.limits.budget.reserved, engine.held)) == (0, {})
