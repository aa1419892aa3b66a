"""A GGUF file becomes the model that its numbers make: the same weights, configuration, tokenizer and ids."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import mlx.core as mx
import numpy as np
import pytest
from helpers import checkpoints
from helpers import gguf_craft as craft
from helpers.command_line import run

import elm_mlx
from elm_mlx.convert import convert, plan
from elm_mlx.convert.merge.float_source import find_floats
from elm_mlx.convert.sources import open_source
from elm_mlx.convert.verify import verify
from elm_mlx.errors import BadCheckpoint, ElmError, InvalidRequest, NotFinite, NotFound, Unsupported

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": craft.LLAMA,
    "llama-scaled": craft.LLAMA | {"rope_scaling": checkpoints.llama3_scaling(8.0), "tie_word_embeddings": True},
    "openelm": craft.OPENELM,
    "openelm-untied": craft.OPENELM | {"share_input_output_layers": False, "normalize_qk_projections": False},
}
SPELLINGS = {"num_gqa_groups", "qkv_multipliers", "rope_max_length"}  # keys that repeat what others say


class Pair:
    """A GGUF file, the safetensors directory of the same numbers, and the model that both hold."""

    def __init__(self, folder: Path, name: str, kinds: craft.Kinds = craft.like_q4_k_m) -> None:
        self.raw, self.folder = FAMILIES[name], folder
        self.model = craft.Model(self.raw, kinds)
        self.file = craft.write(folder / "model-Q4_K_M.gguf", self.model)
        self.original = craft.write_original(folder / "original", self.raw, self.model)


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("llama", "openelm-untied")]


@pytest.fixture(scope="module", params=["llama-scaled", "openelm", *SLOW])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(tmp_path_factory.mktemp("pair"), request.param)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(tmp_path_factory.mktemp("one"), "llama")


def arrays_of(folder: Path) -> dict[str, mx.array]:
    return {k: v for file in folder.glob("*.safetensors") for k, v in mx.load(str(file)).items()}  # type: ignore[union-attr]


def config_of(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config


def greedy(folder: Path, count: int = 24) -> list[int]:
    return elm_mlx.load(folder).generate(checkpoints.prompt(20), max_tokens=count, banned_ids=[2]).tokens


def test_weights_settings_and_tokenizer_are_those_of_the_safetensors(pair: Pair, tmp_path: Path) -> None:
    convert(pair.file, tmp_path / "ours", dtype="float32")
    convert(pair.original, tmp_path / "theirs", dtype="float32")
    ours, theirs = arrays_of(tmp_path / "ours"), arrays_of(tmp_path / "theirs")
    assert ours.keys() == theirs.keys()
    assert all(mx.array_equal(ours[name], theirs[name]).item() for name in theirs)
    here, there = config_of(tmp_path / "ours"), config_of(tmp_path / "theirs")
    assert here == {key: value for key, value in there.items() if key not in SPELLINGS}
    tokens = [(tmp_path / name / "tokenizer.json").read_bytes() for name in ("ours", "theirs")]
    assert tokens[0] == tokens[1]


def test_without_a_form_matrices_stay_in_their_few_bits(pair: Pair, tmp_path: Path) -> None:
    done = convert(pair.file, tmp_path / "ours")
    settings = config_of(done.output)["quantization"]
    bits = {one["bits"] if isinstance(one, dict) else one for one in settings.values()}
    assert {4, 8} <= bits
    assert done.kept
    assert 0 < done.kept["largest_error"] < 6e-3
    plain = convert(pair.original, tmp_path / "theirs", dtype="float32").output
    assert greedy(done.output) == greedy(plain)


def test_with_a_form_the_numbers_are_quantized_anew(one: Pair, tmp_path: Path) -> None:
    convert(one.file, tmp_path / "ours", bits=4)
    convert(one.original, tmp_path / "theirs", bits=4)
    ours, theirs = arrays_of(tmp_path / "ours"), arrays_of(tmp_path / "theirs")
    assert ours.keys() == theirs.keys()
    assert all(mx.array_equal(ours[name], theirs[name]).item() for name in theirs)


@pytest.mark.slow
@pytest.mark.parametrize("form", [{}, {"bits": 8}])
def test_what_was_converted_is_verified_against_the_file(one: Pair, tmp_path: Path, form: dict[str, Any]) -> None:
    done = convert(one.file, tmp_path / "ours", verify=True, **form)
    assert done.report
    assert done.report.passed
    assert verify(done.output, one.file, tokens=64).altered == []


OTHERS = [pytest.param(name, marks=pytest.mark.slow) for name in ("Q4_0", "Q4_1", "Q5_0", "Q8_0", "Q5_K", "F16", "F32")]


@pytest.mark.parametrize("kind", ["Q5_1", "BF16", *OTHERS])
def test_every_type_converts_without_loss_or_with_a_small_one(tmp_path: Path, kind: str) -> None:
    model = craft.Model(craft.OPENELM | {"num_transformer_layers": 1}, lambda _: kind)
    done = convert(craft.write(tmp_path / "x.gguf", model), tmp_path / "ours", dtype=None)
    if kind in craft.FLOATS:
        assert done.kept is None
    else:
        assert done.kept
        assert done.kept["largest_error"] <= (4e-4 if kind.endswith("K") else 0.0)


def test_a_series_of_files_is_one_model(one: Pair, tmp_path: Path) -> None:
    first = craft.write(tmp_path / "model.gguf", one.model, parts=3)
    whole = convert(one.file, tmp_path / "whole").output
    for place, named in enumerate((first.with_name("model-00003-of-00003.gguf"), tmp_path)):
        done = convert(named, tmp_path / "out" / str(place))
        assert arrays_of(done.output).keys() == arrays_of(whole).keys()
        assert (done.output / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    (tmp_path / "model-00002-of-00003.gguf").rename(tmp_path / "aside")
    with pytest.raises(NotFound, match=r"no model-00002-of-00003\.gguf .* a part of the model"):
        convert(first)
    craft.write(tmp_path / "model-00002-of-00003.gguf", one.model)
    with pytest.raises(BadCheckpoint, match="says that it is part 1 of 1, and is named as part 2 of 3"):
        convert(first)


def test_a_directory_with_one_model_is_that_model(one: Pair, tmp_path: Path) -> None:
    (tmp_path / "a.gguf").symlink_to(one.file)
    (tmp_path / "mmproj-a.gguf").write_bytes(b"GGUF")
    assert open_source(tmp_path).layout == "GGUF, Q4_K/Q6_K"
    (tmp_path / "b.gguf").symlink_to(one.file)
    with pytest.raises(InvalidRequest, match=r"holds 2 models: a\.gguf, b\.gguf\. Name one of these"):
        open_source(tmp_path)
    (tmp_path / "model.safetensors").symlink_to(one.original / "model.safetensors")
    (tmp_path / "config.json").symlink_to(one.original / "config.json")
    assert open_source(tmp_path).layout == "Hugging Face, safetensors"


def test_what_lies_beside_the_file_does_not_count(one: Pair, tmp_path: Path) -> None:
    file = tmp_path / "Some-1B-Q4_K_M.gguf"
    file.symlink_to(one.file)
    for name in ("tokenizer_config.json", "generation_config.json", "tokenizer.json", "config.json"):
        (tmp_path / name).write_text("{ no json", encoding="utf-8")
    job = plan(file)
    assert job.target == tmp_path / "Some-1B-Q4_K_M-mlx-4bit"
    assert job.source.files == [file]
    done = job.run(False, False, None, None)
    assert "# Some-1B-Q4_K_M-mlx" in (done.output / "README.md").read_text() or "Some-1B-Q4_K_M" in (
        done.output / "README.md"
    ).read_text(encoding="utf-8")
    record = json.loads((done.output / "conversion.json").read_text(encoding="utf-8"))
    assert [*record["files"]] == [file.name]
    assert record["source"] == {"directory": "Some-1B-Q4_K_M", "layout": "GGUF, Q4_K/Q6_K"}


def test_a_merge_finds_the_floats_that_a_model_was_made_from(tmp_path: Path) -> None:
    model = craft.Model(craft.OPENELM | {"num_transformer_layers": 1}, lambda _: "F16")
    file = craft.write(tmp_path / "Some-F16.gguf", model)
    done = convert(file, bits=4)
    found = find_floats(done.output, elm_mlx.load(done.output).config)
    assert not isinstance(found, str), found
    assert found.source.where == file
    file.rename(tmp_path / "other.gguf")
    assert "Some-F16 is not on this machine" in str(find_floats(done.output, found.source.config))


def test_a_stopped_conversion_goes_on_to_the_same_bytes(one: Pair, tmp_path: Path) -> None:
    whole, calls = convert(one.file, tmp_path / "whole"), iter(range(4))

    def stop(*_: int) -> None:
        if next(calls, None) is None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(one.file, tmp_path / "cut", progress=stop)
    cut = convert(one.file, tmp_path / "cut")
    for name in ("model.safetensors", "conversion.json", "config.json", "tokenizer.json"):
        assert (cut.output / name).read_bytes() == (whole.output / name).read_bytes()


def edited(one: Pair, path: Path, name: str, place: int, value: float) -> Path:
    """The file with another float16 at a place of a tensor's first block."""
    data = bytearray(one.file.read_bytes())
    tensor = next(each for each in gguf.GGUFReader(one.file).tensors if each.name == name)
    at = int(tensor.data_offset) + place
    data[at : at + 2] = np.array(value, "<f2").tobytes()
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("value", [np.nan, pytest.param(np.inf, marks=pytest.mark.slow)])
def test_a_scale_that_is_no_number_is_refused_in_every_form(one: Pair, tmp_path: Path, value: float) -> None:
    file = edited(one, tmp_path / "model.gguf", "blk.0.attn_v.weight", 0, value)
    for form in ({}, {"bits": 4}):
        with pytest.raises(NotFinite, match=r"blk\.0\.attn_v|v_proj"):
            convert(file, tmp_path / "out", **form)  # type: ignore[arg-type]
    assert convert(file, tmp_path / "out", allow_nonfinite=True).kept


def test_scales_that_float16_cannot_hold_are_refused(one: Pair, tmp_path: Path) -> None:
    file = edited(one, tmp_path / "model.gguf", "blk.0.attn_v.weight", 0, 60_000.0)
    with pytest.raises(BadCheckpoint, match="scales above 65504"):
        convert(file, tmp_path / "out")
    assert convert(file, tmp_path / "out", dtype="float32").output.is_dir()


def test_nan_that_is_let_through_is_not_measured_and_numbers_too_large_are_still_refused(
    one: Pair, tmp_path: Path
) -> None:
    file = edited(one, tmp_path / "nan.gguf", "token_embd.weight", 208, np.nan)  # of the matrix that is read first
    done = convert(file, tmp_path / "out", allow_nonfinite=True)
    assert done.kept
    assert 0 < done.kept["largest_error"] < 6e-3
    record = (done.output / "conversion.json").read_text(encoding="utf-8")
    json.loads(record, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    large = edited(one, tmp_path / "large.gguf", "blk.0.attn_v.weight", 0, 60_000.0)
    with pytest.raises(BadCheckpoint, match="scales above 65504"):
        convert(large, tmp_path / "large", allow_nonfinite=True)


def test_the_command_line_says_what_is_kept_and_what_it_costs(one: Pair, tmp_path: Path) -> None:
    planned = run("convert", one.file, "--output", tmp_path / "out", "--dry-run")
    assert planned.code == 0
    assert "GGUF, Q4_K/Q6_K llama" in planned.out
    assert "16 matrices as the source has them" in planned.out
    assert not (tmp_path / "out").exists()
    done = run("convert", one.file, "--output", tmp_path / "out")
    assert done.code == 0, done.err
    assert "quantized anew, as MLX lacks their form, which changes up to 0.00" in done.err


def with_more(one: Pair, folder: Path, more: Callable[[gguf.GGUFWriter], None]) -> Path:
    return craft.write(folder / "more.gguf", one.model, more=more)


def test_a_chat_template_and_sampling_come_with_the_file(one: Pair, tmp_path: Path) -> None:
    def more(writer: gguf.GGUFWriter) -> None:
        writer.add_chat_template("{% for m in messages %}{{ m.content }}{% endfor %}")
        writer.add_float32("general.sampling.temp", 0.6)
        writer.add_int32("general.sampling.top_k", 40)
        writer.add_float32("general.sampling.min_p", float("nan"))  # which JSON lacks
        writer.add_uint32("tokenizer.ggml.eot_token_id", 7)

    done = convert(with_more(one, tmp_path, more), tmp_path / "ours")
    assert done.chat_refusal is None
    settings = json.loads((done.output / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert settings["chat_template"].startswith("{% for m")
    generation = json.loads((done.output / "generation_config.json").read_text(encoding="utf-8"))
    assert generation == {"do_sample": True, "temperature": 0.6, "top_k": 40}
    assert config_of(done.output)["eos_token_id"] == [2, 7]


def test_a_given_tokenizer_stands_for_one_that_cannot_be_rebuilt(one: Pair, tmp_path: Path) -> None:
    def of_another_kind(writer: gguf.GGUFWriter) -> None:
        writer.add_tokenizer_model("rwkv")

    file = craft.write(tmp_path / "model.gguf", one.model, tokenizer=of_another_kind)
    with pytest.raises(Unsupported, match="'rwkv'"):
        convert(file)
    done = convert(file, tmp_path / "ours", tokenizer=checkpoints.TOKENIZER)
    assert elm_mlx.load(done.output).tokenizer.encode_text("the") == [261]


KEYS: dict[str, tuple[Callable[[gguf.GGUFWriter], None], str]] = {
    "experts": (lambda writer: writer.add_expert_count(8), "llama.expert_count is 8, which elm-mlx does not run"),
    "an unknown key": (lambda writer: writer.add_uint32("llama.new_thing", 1), "llama.new_thing is 1"),
    "a window": (lambda writer: writer.add_sliding_window(64), "sliding_window is 64"),
    "a scaling": (lambda writer: writer.add_rope_scaling_type(gguf.RopeScalingType.YARN), "'yarn' is not one"),
    "another type": (lambda writer: writer.add_string("general.type", "adapter"), "is not a model"),
}


@pytest.mark.parametrize("name", KEYS)
def test_settings_that_elm_mlx_does_not_run_are_named(one: Pair, tmp_path: Path, name: str) -> None:
    more, words = KEYS[name]
    with pytest.raises(ElmError, match=words):
        open_source(with_more(one, tmp_path, more))


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        ("blk.0.attn_q.bias", "has biases"),
        ("rope_factors_long.weight", "LongRoPE"),
        ("rope_freqs.weight", "not those of Llama 3's scaling"),
    ],
)
def test_tensors_that_elm_mlx_does_not_run_are_named(one: Pair, tmp_path: Path, tensor: str, words: str) -> None:
    factors = np.linspace(1, 7, 32, dtype=np.float32)
    with pytest.raises(Unsupported, match=words):
        open_source(with_more(one, tmp_path, lambda writer: writer.add_tensor(tensor, factors)))


def test_other_architectures_are_named(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "qwen3")
    writer.add_tensor("token_embd.weight", np.zeros((4, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(
        Unsupported, match="architecture 'qwen3'; of GGUF files elm-mlx reads those of llama and openelm"
    ):
        open_source(tmp_path / "x.gguf")
    with pytest.raises(InvalidRequest, match="rope_factor"):
        open_source(tmp_path / "x.gguf", rope_factor=8.0)
