"""Verification finds no difference where there is none, every mistake where nothing was rounded, and the figures that
two loaded models give."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from helpers import checkpoints

import elm_mlx
from elm_mlx.config.quantization import Quantization
from elm_mlx.convert import convert
from elm_mlx.convert.output import pipeline
from elm_mlx.convert.verify import MAX_KL, Report, held_out, layerwise, stored_as, verify
from elm_mlx.convert.verify.rounding import are_same
from elm_mlx.errors import BadCheckpoint, InvalidRequest, MissingTokenizer, NotFound, VerificationFailed

DEMO = Path(__file__).parents[3] / "examples" / "demo_model" / "demo"
DRAFT = DEMO.with_name("draft")  # a fraction of its size
TOKENS = 60  # where a few are enough
WIDE = checkpoints.LLAMA | {"hidden_size": 128, "head_dim": 32, "num_attention_heads": 4}  # groups of 64 divide it
Weights = dict[str, mx.array]


def changed(source: Path, folder: Path, change: Callable[[Weights], Weights], **settings: Any) -> Path:
    """A copy of a checkpoint with other weights or another configuration."""
    shutil.copytree(source, folder)
    raw = json.loads((folder / "config.json").read_text(encoding="utf-8")) | settings
    (folder / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    arrays = mx.load(str(source / "model.safetensors"))
    assert isinstance(arrays, dict)
    checkpoints.save(folder, change(arrays))
    return folder


def plain(converted: Path, source: Path, tokens: int, window: int = 512) -> dict[str, float]:
    """The figures by their definitions, in float64, from both models loaded whole."""
    models = [elm_mlx.load(converted), elm_mlx.load(source)]
    ids = models[0].tokenizer.encode_text(held_out().read_text(encoding="utf-8"))[:tokens]
    parts = [[1, *ids[start : start + window]] for start in range(0, tokens, window)]
    a, b = (np.concatenate([np.array(lm.logits(part[:-1]), np.float64) for part in parts]) for lm in models)
    q, p = (logits - np.log(np.exp(logits).sum(-1, keepdims=True)) for logits in (a, b))
    chosen = np.arange(tokens), np.concatenate([part[1:] for part in parts])
    return {
        "tokens": tokens,
        "max_difference": np.abs(a - b).max(),
        "relative_difference": np.abs(a - b).max() / np.abs(b).max(),
        "kl_divergence": (np.exp(p) * (p - q)).sum(-1).mean(),
        "same_top": (a.argmax(-1) == b.argmax(-1)).mean(),
        "perplexity": np.exp(-q[chosen].mean()),
        "source_perplexity": np.exp(-p[chosen].mean()),
    }


def assert_equal_to_plain(report: Report, expected: dict[str, float]) -> None:
    for name, value in expected.items():
        assert getattr(report, name) == pytest.approx(value, rel=1e-4, abs=1e-6), name


@pytest.fixture
def short_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text of a hundred tokens or so, for who reads the held-out stories to the end."""
    path = tmp_path / "short.txt"
    path.write_text(held_out().read_text(encoding="utf-8")[:300], encoding="utf-8")
    monkeypatch.setattr("elm_mlx.convert.verify.held_out", lambda: path)


@pytest.mark.parametrize("source", checkpoints.FAMILIES, indirect=True)
def test_equal_weights_differ_by_nothing(source: Path, tmp_path: Path) -> None:
    report = verify(convert(source, tmp_path / "out", dtype="float32").output, source, tokens=TOKENS)
    assert (report.max_difference, report.relative_difference, report.kl_divergence, report.same_top) == (0, 0, 0, 1)
    assert report.perplexity == report.source_perplexity
    assert (report.stored, report.bound, report.passed, report.tokens) == ("exact", MAX_KL["exact"], True, TOKENS)


@pytest.mark.parametrize(
    "name",
    ["openelm", "llama-3.1", *(pytest.param(n, marks=pytest.mark.slow) for n in ("openelm-untied", "llama-3.2"))],
)
@pytest.mark.parametrize("how", [{}, {"bits": 4, "group_size": 32}], ids=str)
def test_the_figures_are_those_of_both_models_loaded_whole(tmp_path: Path, name: str, how: dict[str, Any]) -> None:
    source = checkpoints.write(tmp_path / "source", checkpoints.CONFIGS[name])
    output = convert(source, tmp_path / "out", **how).output
    report = verify(output, source, tokens=TOKENS)
    assert_equal_to_plain(report, plain(output, source, TOKENS))
    assert report.kl_divergence > 1e-6
    assert report.stored == ("4-bit" if how else "bfloat16")


@pytest.mark.parametrize("how", [{"bits": 3}, {"bits": 8}, {"mode": "mxfp4"}, {"mode": "nvfp4"}], ids=str)
def test_every_way_of_quantizing_has_its_bound(tmp_path: Path, how: dict[str, Any]) -> None:
    source = checkpoints.write(tmp_path / "source", WIDE)
    output = convert(source, tmp_path / "out", **how).output
    report = verify(output, source, tokens=TOKENS)
    assert report.stored == (f"{how['bits']}-bit" if "bits" in how else how["mode"])
    assert report.bound == MAX_KL[report.stored]
    assert_equal_to_plain(report, plain(output, source, TOKENS))


def test_a_bound_that_is_given_replaces_the_usual_one(openelm: Path, tmp_path: Path) -> None:
    output = convert(openelm, tmp_path / "out").output
    report = verify(output, openelm, tokens=TOKENS, max_kl=1e-9)
    assert (report.bound, report.passed) == (1e-9, False)


@pytest.mark.slow
def test_the_demo_passes_with_any_bits_and_loses_more_with_fewer(tmp_path: Path) -> None:
    outputs = [convert(DEMO, tmp_path / str(bits), bits=bits).output for bits in (8, 4, 2)]
    reports = [verify(output, DEMO, tokens=TOKENS // 2) for output in outputs]
    assert all(report.passed for report in reports)
    eight, four, two = (report.kl_divergence for report in reports)
    assert 10 * eight < four < two / 10


def test_of_several_settings_the_coarsest_counts(openelm: Path) -> None:
    model = layerwise.open_directory(openelm)
    mixed = Quantization(8, overrides={"a": Quantization(3), "b": None, "c": Quantization(4, 32, "mxfp4")})
    assert stored_as(replace(model, quantization=mixed), model) == "3-bit"
    half, single = replace(model, dtypes=dict.fromkeys(model.dtypes, mx.float16)), model
    assert [stored_as(*pair) for pair in ((half, single), (single, half), (half, half))] == ["float16", *["exact"] * 2]


def types(convert_type: Callable[[str], mx.Dtype]) -> Callable[[Weights], Weights]:
    """Gives each weight the type that goes with its name."""
    return lambda arrays: {name: array.astype(convert_type(name)) for name, array in arrays.items()}


@pytest.mark.usefixtures("short_text")
def test_every_weight_counts_for_how_a_model_is_stored(tmp_path: Path) -> None:
    """A source whose embedding alone is bfloat16, and a result whose norms alone are."""
    single = checkpoints.write(tmp_path / "single", checkpoints.LLAMA)
    source = changed(single, tmp_path / "mixed", types(lambda name: mx.bfloat16 if "embed" in name else mx.float32))
    report = convert(source, tmp_path / "out", verify=True).report
    assert report
    assert (report.stored, report.bound, report.altered) == ("bfloat16", MAX_KL["bfloat16"], [])
    assert report.kl_divergence > MAX_KL["exact"]
    exact = convert(source, tmp_path / "exact", dtype="float32", verify=True).report
    assert exact
    assert (exact.stored, exact.kl_divergence) == ("exact", 0)
    norms = changed(single, tmp_path / "norms", types(lambda name: mx.bfloat16 if "norm" in name else mx.float32))
    rounded = verify(norms, single, tokens=TOKENS)
    assert (rounded.stored, rounded.altered) == ("bfloat16", [])


@pytest.mark.usefixtures("short_text")
def test_a_quantized_source_that_is_expanded_is_rounded(tmp_path: Path) -> None:
    """With an embedding that nobody quantized."""
    plain = checkpoints.write(tmp_path / "plain", WIDE, dtype=mx.bfloat16)
    quantized = convert(plain, tmp_path / "q", bits=8).output
    (quantized / "model.safetensors.index.json").unlink()
    name = "model.embed_tokens."
    table = mx.load(str(plain / "model.safetensors"))[f"{name}weight"]  # type: ignore[index]
    how = json.loads((quantized / "config.json").read_text(encoding="utf-8"))["quantization"] | {name[:-1]: False}

    def with_a_plain_table(arrays: Weights) -> Weights:
        return {n: array for n, array in arrays.items() if not n.startswith(name)} | {f"{name}weight": table}

    source = changed(quantized, tmp_path / "source", with_a_plain_table, quantization=how)
    report = convert(source, tmp_path / "out", verify=True).report
    assert report
    assert (report.stored, report.kl_divergence > MAX_KL["exact"]) == ("bfloat16", True)


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"dtype": "float16"},
        {"bits": 2},
        {"bits": 4, "dtype": "float16"},
        {"mode": "mxfp4"},
        {"recipe": "mixed-3-5"},
    ],
    ids=str,
)
def test_no_weight_of_a_conversion_is_altered(tmp_path: Path, how: dict[str, Any]) -> None:
    source = checkpoints.write(tmp_path / "source", WIDE)
    assert verify(convert(source, tmp_path / "out", **how).output, source, tokens=TOKENS).altered == []


def test_two_layers_that_change_places_are_seen_at_any_bits(tmp_path: Path) -> None:
    source = checkpoints.write(tmp_path / "source", WIDE)
    output = convert(source, tmp_path / "out", bits=2).output
    arrays = mx.load(str(output / "model.safetensors"))
    assert isinstance(arrays, dict)
    swap = {"layers.0.": "layers.1.", "layers.1.": "layers.0."}
    moved = {re.sub(r"layers\.[01]\.", lambda found: swap[found[0]], name): array for name, array in arrays.items()}
    assert {name: array.shape for name, array in moved.items()} == {name: a.shape for name, a in arrays.items()}
    mx.save_safetensors(str(output / "model.safetensors"), moved, {"format": "mlx"})
    report = verify(output, source, tokens=TOKENS)
    assert report.altered
    assert all(re.search(r"layers\.[01]\.", name) for name in report.altered)


@pytest.mark.parametrize(("context", "window", "tokens"), [(16, 16, TOKENS), (1024, 512, 600)])
def test_windows_are_of_512_and_no_longer_than_the_context(
    tmp_path: Path, context: int, window: int, tokens: int
) -> None:
    raw = checkpoints.LLAMA | {"max_position_embeddings": context, "num_hidden_layers": 1}
    source = checkpoints.write(tmp_path / "source", raw)
    output = convert(source, tmp_path / "out").output
    assert_equal_to_plain(verify(output, source, tokens=tokens), plain(output, source, tokens, window))


def test_without_bos_the_first_token_of_a_window_is_not_foretold(openelm: Path, tmp_path: Path) -> None:
    output = convert(openelm, tmp_path / "out", dtype="float32").output
    (output / "tokenizer_config.json").write_text('{"add_bos_token": false}', encoding="utf-8")
    (tmp_path / "text").write_text("A text of some words.", encoding="utf-8")
    count = len(elm_mlx.load(output).tokenizer.encode("A text of some words."))
    assert verify(output, openelm, tmp_path / "text").tokens == count - 1


# What it is compared with


@pytest.mark.parametrize("form", ["file", "bin", "sharded"])
def test_any_source_of_a_conversion_will_do(tmp_path: Path, form: str) -> None:
    source = {"file": DRAFT / "model.safetensors", "bin": DRAFT / "pytorch_model.bin", "sharded": tmp_path / "s"}[form]
    if form == "sharded":
        shutil.copytree(DRAFT, source, ignore=shutil.ignore_patterns("*.bin", "*.safetensors"))
        arrays = mx.load(str(DRAFT / "model.safetensors"))
        assert isinstance(arrays, dict)
        checkpoints.save(source, arrays, shards=3)
    report = verify(convert(DRAFT, tmp_path / "out").output, source, tokens=TOKENS)
    assert (report.max_difference, report.passed) == (0, True)


def test_an_mlx_directory_will_do_quantized_too(openelm: Path, tmp_path: Path) -> None:
    fine, coarse = (convert(openelm, tmp_path / f"{bits}", bits=bits, group_size=32).output for bits in (8, 4))
    assert verify(fine, fine, tokens=TOKENS).max_difference == 0
    assert_equal_to_plain(verify(coarse, fine, tokens=TOKENS), plain(coarse, fine, TOKENS))


# Mistakes


def swapped_layers(arrays: Weights) -> Weights:
    """Layers 1 and 2, whose shapes are the same."""
    other = {".layers.1.": ".layers.2.", ".layers.2.": ".layers.1."}
    names = {name: name.replace(part, other[part]) for name in arrays for part in other if part in name}
    return {name: arrays[names.get(name, name)] for name in arrays}


def interleaved_q_rows(arrays: Weights) -> Weights:
    """One layer's, as Meta's layout has them: the halves of each head row by row."""
    name = "model.layers.1.self_attn.q_proj.weight"
    heads = arrays[name].reshape(6, 2, 12, -1)  # [H, halves, D/2, E]
    return arrays | {name: heads.swapaxes(1, 2).reshape(arrays[name].shape)}


def a_norm_one_percent_off(arrays: Weights) -> Weights:
    name = "model.layers.1.input_layernorm.weight"
    return arrays | {name: arrays[name] * 1.01}


def untouched(arrays: Weights) -> Weights:
    return arrays


@pytest.mark.parametrize(
    ("change", "settings"),
    [
        (swapped_layers, {}),
        (interleaved_q_rows, {}),
        (a_norm_one_percent_off, {}),
        (untouched, {"rope_theta": 10_000.0}),
        (untouched, {"rope_scaling": checkpoints.llama3_scaling(8.0)}),
        (untouched, {"rms_norm_eps": 1e-3}),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_mistake_in_one_place_fails(tmp_path: Path, change: Any, settings: dict[str, Any]) -> None:
    source = checkpoints.write(tmp_path / "source", checkpoints.LLAMA)
    wrong = changed(source, tmp_path / "wrong", change, **settings)
    report = verify(convert(wrong, tmp_path / "out", dtype="float32").output, source, tokens=TOKENS)
    assert not report.passed
    assert report.kl_divergence > 100 * report.bound


def test_a_mistake_in_every_layer_fails_at_four_bits(tmp_path: Path) -> None:
    """The rows of all heads, in the order that another RoPE takes them in."""

    def interleaved(arrays: Weights) -> Weights:
        rows = {name: array for name, array in arrays.items() if name.endswith("qkv_proj.weight")}
        return arrays | {n: a.reshape(-1, 2, 16, 128).swapaxes(1, 2).reshape(a.shape) for n, a in rows.items()}

    wrong = changed(DRAFT, tmp_path / "wrong", interleaved)
    (wrong / "pytorch_model.bin").unlink()
    report = verify(convert(wrong, tmp_path / "out", bits=4).output, DRAFT, tokens=TOKENS)
    assert not report.passed


def test_what_is_no_number_fails(openelm: Path, tmp_path: Path) -> None:
    name = "transformer.norm.weight"
    wrong = changed(openelm, tmp_path / "wrong", lambda arrays: arrays | {name: arrays[name] * float("nan")})
    assert not verify(wrong, openelm, tokens=TOKENS, max_kl=1e9).passed


# Weights that must be the source's, rounded


def with_a_flipped_bit(converted: Path, folder: Path, seed: int) -> Path:
    """A copy of a conversion with one bit of its weights' data flipped."""
    shutil.copytree(converted, folder)
    file = folder / "model.safetensors"
    data = bytearray(file.read_bytes())
    begin = 8 + int.from_bytes(data[:8], "little")
    at = np.random.RandomState(seed).randint(begin * 8, len(data) * 8)
    data[at // 8] ^= 1 << at % 8
    file.write_bytes(data)
    return folder


OTHER_WAYS = [pytest.param(how, marks=pytest.mark.slow) for how in ({}, {"recipe": "mixed-3-5"}, {"mode": "mxfp4"})]


@pytest.mark.parametrize("how", [{"bits": 4}, *OTHER_WAYS], ids=str)
def test_one_flipped_bit_of_a_conversion_fails_it(tmp_path: Path, how: dict[str, Any]) -> None:
    source = checkpoints.write(tmp_path / "source", WIDE)
    output = convert(source, tmp_path / "out", **how).output
    for seed in range(3):
        report = verify(with_a_flipped_bit(output, tmp_path / str(seed), seed), source, tokens=4)
        assert report.failure
        assert (report.passed, report.failure.kind, len(report.altered)) == (False, "altered", 1)
        assert report.altered[0] in report.failure.what


def test_equal_weights_are_those_of_equal_bits() -> None:
    """The sign of a zero counts; of NaN there are many, and a cast may give any."""
    for dtype in (mx.float32, mx.bfloat16, mx.float16):
        array = mx.array([0.0, 1.0, float("nan")], dtype)
        assert are_same(array, mx.array([0.0, 1.0, -float("nan")], dtype))
        assert not are_same(array, mx.array([-0.0, 1.0, float("nan")], dtype))
        assert not are_same(array, mx.array([0.0, 1.0, 1.0], dtype))
    assert are_same(mx.array([3, 4]), mx.array([3, 4]))
    assert not are_same(mx.array([3, 4]), mx.array([3, 5]))


def undecided(folder: Path, seed: int = 0) -> Path:
    """A checkpoint that holds all tokens for nearly as likely, so that no divergence is large."""
    source = checkpoints.write(folder.with_name(f"{folder.name}-decided"), WIDE, seed=seed)
    return changed(source, folder, lambda arrays: arrays | {"lm_head.weight": arrays["lm_head.weight"] * 1e-3})


def test_a_conversion_of_another_model_of_equal_shape_fails(tmp_path: Path) -> None:
    one, other = (undecided(tmp_path / str(seed), seed) for seed in (0, 1))
    output = convert(one, tmp_path / "out", bits=4).output
    assert verify(output, one, tokens=TOKENS).passed
    report = verify(output, other, tokens=TOKENS)
    assert report.failure
    assert (report.failure.kind, len(report.altered)) == ("altered", len(checkpoints.weights(WIDE)))
    assert report.kl_divergence < report.bound


def test_where_no_conversion_json_says_how_weights_were_rounded_the_divergence_alone_decides(tmp_path: Path) -> None:
    """As it is with learned quantization; or where the caller says how much it may be."""
    source = undecided(tmp_path / "source")
    output = convert(source, tmp_path / "out", bits=4).output
    damaged = with_a_flipped_bit(output, tmp_path / "damaged", seed=0)
    allowed = verify(damaged, source, tokens=TOKENS, max_kl=1.0)
    assert (allowed.passed, len(allowed.altered), allowed.must_match) == (True, 1, False)
    assert allowed.kl_divergence > 0
    assert not verify(damaged, source, tokens=TOKENS, max_kl=allowed.kl_divergence / 2).passed
    for record in (None, "{}", '{"elm_mlx": "0.1.0"}'):
        if record is None:
            (damaged / "conversion.json").unlink()
        else:
            (damaged / "conversion.json").write_text(record, encoding="utf-8")
        report = verify(damaged, source, tokens=TOKENS)
        assert (report.passed, len(report.altered), report.bound) == (True, 1, MAX_KL["4-bit"])


# Numbers that are none


def with_number(source: Path, folder: Path, name: str, value: float) -> Path:
    """A copy of a checkpoint with one element of a weight changed."""

    def change(arrays: Weights) -> Weights:
        arrays[name][..., 3] = value
        return arrays

    return changed(source, folder, change)


UP = "model.layers.1.mlp.up_proj.weight"


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
@pytest.mark.parametrize("how", [{}, {"bits": 8}], ids=str)
def test_a_source_that_is_not_finite_is_named_and_nobody_else_is_blamed(
    tmp_path: Path, value: float, how: dict[str, Any]
) -> None:
    source = with_number(checkpoints.write(tmp_path / "good", WIDE), tmp_path / "source", UP, value)
    output = convert(source, tmp_path / "out", allow_nonfinite=True, **how).output
    report = verify(output, source, tokens=TOKENS)
    assert report.failure == ("source", f"the source's own weights are NaN or infinite: {UP}")
    assert (report.altered, report.source_not_finite) == ([], [UP])
    assert f"NaN or infinite in the source: {UP}" in report.weights


def test_a_converted_model_that_is_not_finite_is_named(tmp_path: Path) -> None:
    source = checkpoints.write(tmp_path / "source", WIDE)
    wrong = with_number(source, tmp_path / "wrong", UP, float("nan"))
    report = verify(wrong, source, tokens=TOKENS)
    assert report.failure == ("broken", f"its weights are NaN or infinite, and the source's are not: {UP}")
    assert (report.not_finite, report.source_not_finite, report.altered) == ([UP], [], [UP])


def test_sums_that_overflow_are_told_from_weights_that_are_not_finite(tmp_path: Path) -> None:
    source = checkpoints.write(tmp_path / "source", WIDE)
    large = with_number(source, tmp_path / "large", "lm_head.weight", 3e38)
    both = verify(convert(large, tmp_path / "out").output, large, tokens=TOKENS)
    assert both.failure == ("source", "the source's own logits are NaN or infinite, though its weights are not")
    assert verify(large, source, tokens=TOKENS).failure == (
        "broken",
        "its logits are NaN or infinite, and the source's are not",
    )


@pytest.mark.usefixtures("short_text")
def test_a_conversion_that_verifies_itself_blames_the_source_for_its_numbers(tmp_path: Path) -> None:
    source = with_number(checkpoints.write(tmp_path / "good", WIDE), tmp_path / "source", UP, float("inf"))
    with pytest.raises(
        VerificationFailed, match=rf"the source's own weights are NaN or infinite: {UP}\. There is nothing"
    ):
        convert(source, tmp_path / "out", bits=8, allow_nonfinite=True, verify=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("short_text")
def test_a_conversion_that_verifies_itself_blames_the_program_for_other_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = pipeline.convert_rows

    def wrong(name: str, rows: mx.array, shards: pipeline.Shards) -> dict[str, mx.array]:
        return right(name, rows * 1.5 if name == UP else rows, shards)

    monkeypatch.setattr(pipeline, "convert_rows", wrong)
    source = checkpoints.write(tmp_path / "source", WIDE)
    with pytest.raises(VerificationFailed, match=rf"says: {UP}\. That is a fault of elm-mlx or of this machine"):
        convert(source, tmp_path / "out", bits=8, verify=True)


# Refusals


@pytest.mark.parametrize(
    ("raw", "complaint"),
    [
        (checkpoints.LLAMA, r"not a conversion of .*token_embeddings.weight is \(512, 64\) here and missing there"),
        (checkpoints.OPENELM | {"vocab_size": 600}, r"is \(512, 64\) here and \(600, 64\) there"),
        (checkpoints.OPENELM | {"normalize_qk_projections": False}, "q_norm.*missing there"),
    ],
    ids=["family", "vocabulary", "without q and k norms"],
)
def test_another_model_is_refused(openelm: Path, tmp_path: Path, raw: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InvalidRequest, match=complaint):
        verify(openelm, checkpoints.write(tmp_path / "other", raw))


def test_what_is_missing_is_named(openelm: Path, tmp_path: Path) -> None:
    bare = checkpoints.write(tmp_path / "bare", checkpoints.OPENELM, tokenizer=False)
    for places, error in (
        ((tmp_path / "nowhere", openelm), NotFound),
        ((openelm, tmp_path / "nowhere"), NotFound),
        ((openelm, openelm, tmp_path / "nowhere.txt"), NotFound),
        ((bare, openelm), MissingTokenizer),
    ):
        with pytest.raises(error, match=r"There is no (directory )?.*(nowhere|tokenizer\.json)"):
            verify(*places)


@pytest.mark.parametrize(("content", "complaint"), [(b"", "no token in it is left"), (b"\xff\xfe", "not UTF-8")])
def test_a_text_that_cannot_be_read_is_refused(openelm: Path, tmp_path: Path, content: bytes, complaint: str) -> None:
    (tmp_path / "text").write_bytes(content)
    with pytest.raises(InvalidRequest, match=complaint):
        verify(openelm, openelm, tmp_path / "text")


def test_a_text_with_a_token_beyond_the_model_is_refused_by_that_token(openelm: Path, tmp_path: Path) -> None:
    model = shutil.copytree(openelm, tmp_path / "model")
    tokenizer = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))
    word = {"content": "Once", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    tokenizer["added_tokens"].append(word | {"id": checkpoints.VOCAB, "special": False})
    (model / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    with pytest.raises(BadCheckpoint, match=r"gives 'Once' the id 512, and the model has only 0 to 511"):
        verify(model, openelm)


@pytest.mark.parametrize(
    "options", [{"tokens": 0}, {"tokens": 10**30}, {"tokens": 1.5}, {"max_kl": -1}, {"max_kl": float("nan")}], ids=str
)
def test_numbers_without_a_meaning_are_refused(openelm: Path, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=next(iter(options))):
        verify(openelm, openelm, **options)


# What it takes


def test_progress_counts_the_layers_of_both(openelm: Path) -> None:
    told: list[tuple[int, int]] = []
    verify(openelm, openelm, tokens=TOKENS, progress=lambda *at: told.append(at))
    total = 2 * (checkpoints.OPENELM["num_transformer_layers"] + 2) + 1
    assert told == [(i + 1, total) for i in range(total)]


def anonymous_bytes(process: int) -> int:
    """Memory of a process that no file backs."""
    status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon")), 0)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_one_layer_is_in_memory_at_a_time(tmp_path: Path) -> None:
    """12 layers of 14 MB each in float32 and two heads of 1 MB: the models are 12 times a layer, verifying is not."""
    raw = checkpoints.LLAMA | {"hidden_size": 512, "intermediate_size": 1536, "num_attention_heads": 8, "head_dim": 64,
                               "num_key_value_heads": 8, "num_hidden_layers": 12}  # fmt: skip
    shapes = elm_mlx.config.config_from_dict(raw).weight_shapes()
    source = checkpoints.write(tmp_path / "source", checkpoints.LLAMA)
    (source / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    checkpoints.save(source, {name: mx.zeros(shape, mx.bfloat16) for name, shape in shapes.items()})
    mx.clear_cache()
    script = (
        "import sys; from elm_mlx.convert.verify import verify; print('ready', flush=True); sys.stdin.readline();"
        "print(verify(sys.argv[1], sys.argv[1], tokens=8).passed)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(source)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdin
    assert child.stdout
    try:
        assert child.stdout.readline() == "ready\n"
        before = peak = anonymous_bytes(child.pid)
        child.stdin.write("\n")
        child.stdin.flush()
        while child.poll() is None:
            peak = max(peak, anonymous_bytes(child.pid))
            time.sleep(0.002)
        assert child.stdout.read() == "True\n"
    finally:
        child.kill()
    whole = sum(4 * int(np.prod(shape)) for shape in shapes.values())
    assert whole > 150e6
    assert peak - before < whole / 3
