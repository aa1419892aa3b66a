"""A merged model says what the unmerged one says; a quantized one is made from its float source, or rounds no weight a
second time."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
import pytest
from helpers import checkpoints, relatives
from helpers.adapters import config_of, made_sums, merged_copy, write_sums

import elm_mlx
from elm_mlx.convert import convert
from elm_mlx.convert.merge.float_source import find_floats
from elm_mlx.convert.verify import compare, verify
from elm_mlx.convert.verify.layerwise import open_directory
from elm_mlx.errors import BadCheckpoint, InvalidRequest, NotFound, TargetExists
from elm_mlx.models.lora import LowRank
from elm_mlx.store.adapters.adapter_file import Base
from elm_mlx.store.adapters.write import Written, write_adapter
from elm_mlx.store.fingerprint import weights_fingerprint

WIDE = checkpoints.LLAMA | {"hidden_size": 128, "head_dim": 32, "num_attention_heads": 4, "num_hidden_layers": 2}
DEMO = Path(__file__).parents[3] / "examples" / "demo_model" / "demo"
IDS = [1, 17, 40, 300, 9, 77, 123, 5]
TOKENS = 40
ENDS = ("q_proj", "v_proj", "down_proj")


class Made(NamedTuple):
    """A float checkpoint, a quantized model of it, and an adapter of both."""

    floats: Path
    model: Path
    adapter: Path
    sums: dict[str, LowRank]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("merge")
    floats = checkpoints.write(folder / "floats", WIDE)
    sums = {name: LowRank(one.a, 0.1 * one.b) for name, one in made_sums(floats, ends=ENDS).items()}
    model = convert(floats, folder / "model", bits=4, group_size=32, dtype="float32").output
    return Made(floats, model, write_sums(folder / "adapter", floats, sums), sums)


def arrays_in(folder: Path) -> dict[str, mx.array]:
    found = mx.load(str(folder / "model.safetensors"))
    assert isinstance(found, dict)
    return found


def beside(model: Path, adapter: Path) -> np.ndarray:
    """The logits of a model with the adapter beside it."""
    with elm_mlx.load(model) as lm:
        lm.load_adapter("one", adapter)
        return np.array(lm.logits(IDS, adapter="one"))


def logits(model: Path) -> np.ndarray:
    with elm_mlx.load(model) as lm:
        return np.array(lm.logits(IDS))


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
@pytest.mark.parametrize("source", checkpoints.FAMILIES, indirect=True)
def test_a_merged_float_model_says_what_the_unmerged_one_says(source: Path, dora: bool, tmp_path: Path) -> None:
    adapter = write_sums(tmp_path / "a", source, made_sums(source, dora=dora), scale=0.5)
    done = elm_mlx.merge(source, adapter, tmp_path / "merged", tokens=TOKENS)
    ours, theirs = logits(done.output), beside(source, adapter)
    assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()
    assert done.report.kl_divergence < 1e-8
    assert (done.kind, done.stored_as, done.source) == ("dora" if dora else "lora", "float32", None)


@pytest.mark.slow
@pytest.mark.parametrize(
    "raw", [relatives.MOBILELLM_LS, relatives.MOBILLAMA, relatives.BITNET], ids=["mobilellm-ls", "mobillama", "bitnet"]
)
def test_relatives_that_share_weights_are_merged_as_others_are(raw: dict[str, Any], tmp_path: Path) -> None:
    model = convert(checkpoints.write(tmp_path / "s", raw), tmp_path / "model", dtype="float32").output
    adapter = write_sums(tmp_path / "a", model, made_sums(model), scale=0.3)
    done = elm_mlx.merge(model, adapter, tmp_path / "merged", tokens=TOKENS)
    ours, theirs = logits(done.output), beside(model, adapter)
    assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()


def test_a_quantized_model_is_merged_in_its_float_source_and_quantized_once(made: Made, tmp_path: Path) -> None:
    done = elm_mlx.merge(made.model, made.adapter, tmp_path / "merged", tokens=TOKENS)
    assert (done.source, done.stored_as, done.matrices) == (made.floats / "model.safetensors", "4-bit", len(made.sums))
    before, after, floats = arrays_in(made.model), arrays_in(done.output), arrays_in(made.floats)
    for name in before:
        if (stem := name.rpartition(".")[0]) not in made.sums:
            assert mx.array_equal(before[name], after[name]), name
        elif name.endswith("weight"):
            one = made.sums[stem]
            expected = mx.quantize(floats[name] + (one.a @ one.b).T, group_size=32, bits=4)
            assert (expected[0] == after[name]).mean() > 0.999
    assert json.loads((done.output / "config.json").read_text())["quantization"]["bits"] == 4


@pytest.mark.slow
def test_merging_in_the_source_loses_less_than_rounding_a_second_time(tmp_path: Path) -> None:
    """KL to the adapted floats of a trained model: merged in them, in 8 bits, and quantized a second time."""
    floats = shutil.copytree(DEMO, tmp_path / "demo")
    sums = small_sums(floats)
    adapter = write_sums(tmp_path / "adapter", floats, sums)
    model = convert(floats, tmp_path / "model", bits=4, group_size=32, dtype="float32").output
    right = open_directory(merged_copy(floats, tmp_path / "right", sums))
    once = elm_mlx.merge(model, adapter, tmp_path / "once", tokens=TOKENS).output
    kept = elm_mlx.merge(model, adapter, tmp_path / "kept", keep="8-bit", tokens=TOKENS).output
    twice = convert(kept, tmp_path / "twice", bits=4, group_size=32, dtype="float32").output
    in_source, in_8_bits, requantized = (
        compare(open_directory(one), right, tokens=300).kl_divergence for one in (once, kept, twice)
    )
    assert in_source < 0.9 * requantized
    assert in_source < in_8_bits < requantized


def small_sums(source: Path) -> dict[str, LowRank]:
    """Sums beside all matrices of a checkpoint, each a twentieth of its matrix."""
    arrays, made = arrays_in(source), {}
    for name, one in made_sums(source).items():
        weight = arrays[f"{name}.weight"]
        share = 0.05 * mx.linalg.norm(weight.astype(mx.float32)) / mx.linalg.norm(one.a @ one.b)
        made[name] = LowRank(one.a, one.b * share)
    return made


@pytest.mark.parametrize(("keep", "words"), [(None, "8-bit"), ("8-bit", "8-bit"), ("floats", "float32")])
def test_without_a_source_adapted_matrices_keep_more_bits_and_the_others_stay(
    made: Made, keep: str | None, words: str, tmp_path: Path
) -> None:
    alone = shutil.copytree(made.model, tmp_path / "alone")
    done = elm_mlx.merge(alone, made.adapter, tmp_path / "merged", keep=keep, tokens=TOKENS)
    assert (done.stored_as, done.source) == (words, None)
    assert done.why == ("it was asked for" if keep else "its float source floats is not on this machine")
    before, after = arrays_in(made.model), arrays_in(done.output)
    assert all(mx.array_equal(before[n], after[n]) for n in before if n.rpartition(".")[0] not in made.sums)
    assert done.report.kl_divergence < (1e-7 if keep == "floats" else 0.01)
    ours, theirs = logits(done.output), beside(made.model, made.adapter)
    assert np.abs(ours - theirs).max() < (1e-5 if keep == "floats" else 0.1) * np.abs(theirs).max()


@pytest.mark.slow
@pytest.mark.parametrize("form", [{"mode": "mxfp4"}, {"recipe": "mixed-3-5"}], ids=["mxfp4", "mixed-3-5"])
def test_every_way_of_quantizing_can_be_merged_with_a_source_and_without(
    made: Made, form: dict[str, str], tmp_path: Path
) -> None:
    model = convert(made.floats, tmp_path / "model", dtype="float32", **form).output
    for source, keep in ((made.floats, None), (None, "8-bit")):
        done = elm_mlx.merge(model, made.adapter, tmp_path / "m", source=source, keep=keep, tokens=TOKENS, force=True)
        assert ("8-bit" in done.stored_as) == (keep is not None)
        assert np.isfinite(logits(done.output)).all()


def test_what_was_merged_is_on_record_and_on_the_card(made: Made, tmp_path: Path) -> None:
    done = elm_mlx.merge(made.model, made.adapter, tmp_path / "merged", tokens=TOKENS)
    record = json.loads((done.output / "conversion.json").read_text())
    assert record["source"]["directory"] == "model"
    merged = record["merged"]
    assert merged["adapter"]["directory"] == "adapter"
    assert merged["adapter"]["rank"] == 4
    assert set(merged["adapter"]["files"]) == {"adapter_config.json", "adapters.safetensors"}
    assert merged["floats"]["directory"] == "floats"
    card = (done.output / "README.md").read_text()
    assert "An adapter (lora" not in card
    assert "An adapter (LoRA, rank 4" in card
    assert f"{done.report.kl_divergence:.3g}" in card


def test_a_merged_model_is_merged_again_without_the_source_that_lacks_the_first(made: Made, tmp_path: Path) -> None:
    one = elm_mlx.merge(made.model, made.adapter, tmp_path / "one", tokens=TOKENS)
    two = elm_mlx.merge(one.output, made.adapter, tmp_path / "two", tokens=TOKENS)
    assert two.source is None
    assert two.stored_as == "8-bit"
    assert two.why is not None
    assert "merged with an adapter before" in two.why


def test_a_source_that_changed_is_not_used_and_another_models_is_refused(made: Made, tmp_path: Path) -> None:
    for part in made.floats, made.model, made.adapter:
        shutil.copytree(part, tmp_path / part.name)
    checkpoints.write(tmp_path / "other", WIDE, seed=5)
    shutil.copy(tmp_path / "other" / "model.safetensors", tmp_path / "floats")
    done = elm_mlx.merge(tmp_path / "model", tmp_path / "adapter", tmp_path / "merged", tokens=TOKENS)
    assert (done.source, done.stored_as) == (None, "8-bit")
    assert done.why is not None
    assert "another model.safetensors" in done.why
    for source, words in ((tmp_path / "other", "other numbers"), (made.model, "quantized itself")):
        with pytest.raises(InvalidRequest, match=words):
            elm_mlx.merge(made.model, made.adapter, tmp_path / "m", source=source)
    assert not (tmp_path / "m").exists()


def test_a_conversion_record_from_anywhere_leads_nowhere(made: Made, tmp_path: Path) -> None:
    model = shutil.copytree(made.model, tmp_path / "model")
    for said in ({"directory": "../.."}, {"directory": ["x"]}, {"repository": "../x", "revision": "a" * 40},
                 {"repository": "a/b", "revision": "../../x"}, "source", {"directory": "\0"}):  # fmt: skip
        (model / "conversion.json").write_text(json.dumps({"source": said, "files": {"../x.bin": 1}}))
        assert isinstance(find_floats(model, config_of(made.floats)), str)


def test_verifying_a_merged_model_looks_at_its_divergence_alone(made: Made, tmp_path: Path) -> None:
    done = elm_mlx.merge(made.model, made.adapter, tmp_path / "merged", tokens=TOKENS)
    report = verify(done.output, made.floats, tokens=TOKENS)
    assert report.altered
    assert not report.must_match
    assert report.failure is None or report.failure.kind == "diverged"


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"keep": "4-bit"}, InvalidRequest, "8-bit, floats"),
        ({"keep": "8-bit", "source": "floats"}, InvalidRequest, "without a float source"),
        ({"tokens": 0}, InvalidRequest, "tokens is 0"),
        ({"adapter": "nowhere"}, NotFound, "no adapter"),
        ({"model": "nowhere/at-all"}, NotFound, "not on this machine"),
        ({"output": "model", "force": True}, TargetExists, "source"),
        ({"output": "adapter", "force": True}, TargetExists, "holds no model"),
    ],
)
def test_what_cannot_be_merged_is_refused_before_anything_is_written(
    made: Made, options: dict[str, Any], error: type[Exception], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(made.model.parent)
    with pytest.raises(error, match=words):
        elm_mlx.merge(**({"model": "./model", "adapter": "adapter", "output": "out"} | options))
    assert not Path("out").exists()


def test_an_adapter_of_other_weights_is_refused_unless_it_is_forced(made: Made, tmp_path: Path) -> None:
    base = Base("a name", weights_fingerprint(made.floats))
    write_adapter(tmp_path / "a", Written(made.sums, base), config_of(made.floats))
    with pytest.raises(InvalidRequest, match="other weights"):
        elm_mlx.merge(made.model, tmp_path / "a", tmp_path / "m", tokens=TOKENS)
    assert elm_mlx.merge(made.model, tmp_path / "a", tmp_path / "m", tokens=TOKENS, force=True).source


@pytest.mark.parametrize("when", ["progress", "measuring"])
def test_a_merge_that_ends_early_leaves_nothing(made: Made, when: str, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        elm_mlx.merge(made.model, made.adapter, tmp_path / "m", tokens=TOKENS, **{when: stop})
    assert [*tmp_path.iterdir()] == []


def test_sums_that_are_no_numbers_once_merged_leave_no_model(made: Made, tmp_path: Path) -> None:
    sums = {name: LowRank(1e30 * one.a, 1e30 * one.b) for name, one in made.sums.items()}
    with pytest.raises(BadCheckpoint):
        elm_mlx.merge(made.model, write_sums(tmp_path / "a", made.floats, sums), tmp_path / "m", tokens=TOKENS)
    assert not (tmp_path / "m").exists()
