"""Meta's own files become the model that Meta's own arithmetic gives, however many shards hold it."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from helpers import checkpoints, goldens, meta_reference
from helpers.checkpoints import META, META_PARAMS
from hypothesis import given, settings
from hypothesis import strategies as st

import elm_mlx
from elm_mlx.config import config_from_dict
from elm_mlx.config.values import Values
from elm_mlx.convert import convert
from elm_mlx.convert.keymap import match
from elm_mlx.convert.output import pipeline
from elm_mlx.convert.sources import meta, open_source
from elm_mlx.convert.tensor import LazyTensor
from elm_mlx.convert.verify import verify
from elm_mlx.errors import BadCheckpoint, ElmError, InvalidRequest, NotFound, Unsupported

ARRAYS = checkpoints.weights(META)
THEIRS = checkpoints.meta(ARRAYS, META)
PUBLISHED = checkpoints.PUBLISHED["llama"]
FFN = {"8b": (1.3, 1024), "70b": (1.3, 4096), "405b": (1.2, 4096), "1b": (1.5, 256), "3b": (1.0, 256)}


def write(folder: Path, shards: int = 1, copies: int = 1, **params: Any) -> Path:
    """The tiny model in Meta's files, each key/value head `copies` times."""
    return checkpoints.write_meta(folder, META_PARAMS | params, checkpoints.dealt(THEIRS, shards, 16, copies))


def lazy(array: np.ndarray) -> LazyTensor:
    return LazyTensor(array.shape, mx.float32, partial(mx.array, array))


@pytest.mark.parametrize(
    ("shards", "copies", "params"),
    [(1, 1, {}), (2, 1, {}), (4, 2, {"n_kv_heads": 4}), (8, 4, {"n_kv_heads": 8}), (8, 4, {}),
     (1, 1, {"use_scaled_rope": False}), pytest.param(8, 4, {"use_scaled_rope": False}, marks=pytest.mark.slow)],
    ids=["one", "two", "copies that are counted", "a head a shard", "copies that are not counted", "one plain rope",
         "copies and a plain rope"],
)  # fmt: skip
def test_metas_files_give_metas_logits(tmp_path: Path, shards: int, copies: int, params: dict[str, Any]) -> None:
    params = {"use_scaled_rope": True} | params
    done = convert(write(tmp_path / "source", shards, copies, **params), tmp_path / "out", dtype="float32")
    ids = checkpoints.prompt(60)
    expected = meta_reference.logits(META_PARAMS | {"use_scaled_rope": params["use_scaled_rope"]}, THEIRS, ids)
    goldens.assert_close(elm_mlx.load(done.output).logits(ids), expected)
    assert done.layout == ("Meta, 1 shard" if shards == 1 else f"Meta, {shards} shards")
    assert elm_mlx.info(done.output).parameters == sum(array.size for array in ARRAYS.values())


def test_the_same_files_come_of_one_shard_or_its_directory_or_hugging_faces_layout(tmp_path: Path) -> None:
    source = write(tmp_path / "meta", 2)
    theirs = checkpoints.write(tmp_path / "hf", META)
    outputs = [convert(place, tmp_path / f"{n}", bits=4).output for n, place in
               enumerate((source, source / "consolidated.01.pth", theirs))]  # fmt: skip
    first, *others = ((output / "model.safetensors").read_bytes() for output in outputs)
    assert all(other == first for other in others)


@settings(max_examples=40)
@given(st.data())
def test_whatever_was_dealt_is_gathered(data: st.DataObject) -> None:
    """Every tensor comes back bit for bit, for any number of heads, shards and copies."""
    shards = data.draw(st.sampled_from([1, 2, 4, 8]))
    groups, D = data.draw(st.integers(1, 3)), 2 * data.draw(st.integers(1, 4))
    K = data.draw(st.sampled_from([k for k in (1, 2, 4, 8, 16) if shards % k == 0 or k % shards == 0]))
    copies = max(shards // K, 1)
    H = K * copies * groups
    params = {"dim": H * D, "n_layers": 1, "n_heads": H, "multiple_of": 8 * data.draw(st.integers(1, 3)),
              "n_kv_heads": K * data.draw(st.sampled_from([1, copies]))}  # fmt: skip
    raw = META | {"hidden_size": H * D, "head_dim": D, "num_hidden_layers": 1, "num_attention_heads": H,
                  "num_key_value_heads": K, "intermediate_size": meta.ffn_dim(Values(params, "params.json"), H * D),
                  "vocab_size": 8 * data.draw(st.integers(1, 4))}  # fmt: skip
    arrays = checkpoints.weights(raw, data.draw(st.integers(0, 99)))
    parts = [{n: lazy(a) for n, a in part.items()}
             for part in checkpoints.dealt(checkpoints.meta(arrays, raw), shards, D, copies)]  # fmt: skip
    joined = meta.join_shards(Path("there"), parts, H * D)
    config = config_from_dict(meta.raw_config(Values(params, "params.json"), joined, parts, None))
    found = match(config, ("llama", "meta"), meta.arrange_heads(joined, config), Path("there")).tensors
    assert config.num_kv_heads == (K,)
    assert found.keys() == arrays.keys()
    assert all(np.array_equal(np.array(found[name].read()), array) for name, array in arrays.items())


@pytest.mark.parametrize("size", list(PUBLISHED))
def test_published_sizes_become_their_published_configurations(size: str) -> None:
    """From params.json as Meta published it, and tensors whose shapes alone are there."""
    config = config_from_dict(PUBLISHED[size]["config"])
    E, K, one = config.model_dim, config.num_kv_heads[0], mx.zeros((1, 1))
    table = LazyTensor((config.vocab_size, E), mx.bfloat16, lambda: one)
    head = table if config.tied else LazyTensor(table.shape, mx.bfloat16, partial(pytest.fail, "was read"))
    multiplier, multiple = FFN[size.partition("-")[2]]
    version, scaled = float(size.partition("-")[0]), {"use_scaled_rope": True}
    params = {"dim": E, "n_layers": config.num_layers, "n_heads": config.num_heads[0], "n_kv_heads": K,
              "vocab_size": -1, "ffn_dim_multiplier": multiplier, "multiple_of": multiple, "norm_eps": 1e-5,
              "rope_theta": 500000.0} | (scaled if version > 3 else {})  # fmt: skip
    tensors = {meta.EMBEDDING: table, meta.OUTPUT: head}
    assert config_from_dict(meta.raw_config(Values(params, "params.json"), tensors, [], None)) == config
    copies = [{meta.FIRST_KEYS: LazyTensor((1, 1), mx.bfloat16, lambda i=i: one + i // 2)} for i in range(2 * K)]
    doubled = params | {"n_kv_heads": 2 * K}  # as the 405B for 16 devices says it
    assert config_from_dict(meta.raw_config(Values(doubled, "params.json"), tensors, copies, None)) == config


def test_a_missing_output_is_the_embedding(tmp_path: Path) -> None:
    tied = {name: array for name, array in THEIRS.items() if name != "output.weight"}
    params = META_PARAMS | {"use_scaled_rope": True}
    source = checkpoints.write_meta(tmp_path / "s", params, checkpoints.dealt(tied, 2, 16))
    output = convert(source, tmp_path / "out", dtype="float32").output
    ids = checkpoints.prompt(150)
    goldens.assert_close(elm_mlx.load(output).logits(ids), meta_reference.logits(params, tied, ids, factor=32.0))


@pytest.mark.parametrize("equal", [True, False])
def test_an_output_in_the_sizes_of_3_2_is_dropped_where_it_is_the_embedding(tmp_path: Path, equal: bool) -> None:
    params = META_PARAMS | {"dim": 2048, "n_heads": 8, "n_layers": 1, "ffn_dim_multiplier": 0.01, "n_kv_heads": 1}
    raw = META | {"hidden_size": 2048, "head_dim": 256, "num_hidden_layers": 1, "num_key_value_heads": 1,
                  "intermediate_size": 64}  # fmt: skip
    theirs = checkpoints.meta(checkpoints.weights(raw), raw)
    if equal:
        theirs["output.weight"] = theirs["tok_embeddings.weight"]
    done = convert(checkpoints.write_meta(tmp_path / "s", params, [theirs]), tmp_path / "out")
    assert done.dropped == ["output.weight"] * equal
    written = json.loads((done.output / "config.json").read_text(encoding="utf-8"))
    assert written["tie_word_embeddings"] is equal


def test_embeddings_dealt_by_their_width_are_told_by_their_shape(tmp_path: Path) -> None:
    """As Llama 2's were."""
    shards = checkpoints.dealt(THEIRS, 4, 16, 2)
    for rank, shard in enumerate(shards):
        shard["tok_embeddings.weight"] = np.split(THEIRS["tok_embeddings.weight"], 4, axis=1)[rank]
        shard["rope.freqs"] = np.ones(8, np.float32)
    done = convert(checkpoints.write_meta(tmp_path / "s", META_PARAMS, shards), tmp_path / "out", dtype="float32")
    ids = checkpoints.prompt()
    goldens.assert_close(elm_mlx.load(done.output).logits(ids), meta_reference.logits(META_PARAMS, THEIRS, ids))
    assert done.dropped == ["rope.freqs"]


def test_the_rope_factor_can_be_said(tmp_path: Path) -> None:
    source = write(tmp_path / "s", use_scaled_rope=True)
    output = convert(source, tmp_path / "out", dtype="float32", rope_factor=32).output
    written = json.loads((output / "config.json").read_text(encoding="utf-8"))
    assert written["rope_scaling"]["factor"] == 32.0
    assert written["max_position_embeddings"] == 131_072
    ids, params = checkpoints.prompt(150), META_PARAMS | {"use_scaled_rope": True}
    ours = elm_mlx.load(output).logits(ids)
    goldens.assert_close(ours, meta_reference.logits(params, THEIRS, ids, factor=32.0))
    with pytest.raises(AssertionError):
        goldens.assert_close(ours, meta_reference.logits(params, THEIRS, ids, factor=8.0))
    made = json.loads((output / "conversion.json").read_text(encoding="utf-8"))
    assert made["options"]["rope_factor"] == 32.0
    assert verify(output, source, tokens=150, rope_factor=32).kl_divergence == 0
    assert not verify(output, source, tokens=150).passed


@pytest.mark.parametrize("factor", [0, -8, 1e6, float("nan"), "8", True])
def test_a_rope_factor_without_a_meaning_is_refused(tmp_path: Path, openelm: Path, factor: Any) -> None:
    with pytest.raises(InvalidRequest, match="rope_factor"):
        convert(write(tmp_path / "s", use_scaled_rope=True), rope_factor=factor)


def test_a_rope_factor_with_nothing_to_scale_is_refused(tmp_path: Path, openelm: Path) -> None:
    with pytest.raises(InvalidRequest, match="use_scaled_rope"):
        convert(write(tmp_path / "s"), rope_factor=8)
    with pytest.raises(InvalidRequest, match=r"config\.json says it"):
        convert(openelm, tmp_path / "out", rope_factor=8)


@pytest.mark.parametrize(
    ("params", "kind"),
    [
        ({"quantization_args": {"group_size": 32}}, "SpinQuant"),
        ({"lora_args": {"rank": 16, "scale": 2.0}}, "QLoRA"),
        ({"vision_chunk_size": 560}, "a vision model"),
        ({"vision_model": {"cross_attention_adapter": {}}}, "a vision model"),
        ({"moe_args": {"num_experts": 16}}, "mixture of experts"),
    ],
)
def test_other_kinds_are_refused_by_name(tmp_path: Path, params: dict[str, Any], kind: str) -> None:
    with pytest.raises(Unsupported, match=kind):
        convert(write(tmp_path / "s", **params))


def test_fp8_files_are_refused_by_name(tmp_path: Path) -> None:
    source = write(tmp_path / "s", vision_chunk_size=-1)
    (source / "fp8_scales_0.pt").write_bytes(b"")
    with pytest.raises(Unsupported, match="fp8"):
        convert(source)


def test_shards_that_are_not_a_whole_are_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "s", 2)
    (source / "consolidated.01.pth").rename(source / "consolidated.02.pth")
    with pytest.raises(BadCheckpoint, match=r"no consolidated\.01\.pth"):
        convert(source)
    (source / "consolidated.02.pth").unlink()
    with pytest.raises(BadCheckpoint, match=r"1 of 2 shards and no consolidated\.01\.pth"):
        convert(source)
    (source / "params.json").unlink()
    with pytest.raises(NotFound, match=r"params\.json"):
        convert(source)


@pytest.mark.parametrize("change", [lambda s: s.pop("norm.weight"), lambda s: s.update(extra=np.ones(2, np.float32)),
                                    lambda s: s.update({"norm.weight": np.ones(9, np.float32)})])  # fmt: skip
def test_shards_of_different_models_are_refused(tmp_path: Path, change: Any) -> None:
    shards = checkpoints.dealt(THEIRS, 2, 16)
    change(shards[1])
    with pytest.raises(BadCheckpoint, match="shard 1 does not hold"):
        convert(checkpoints.write_meta(tmp_path / "s", META_PARAMS, shards))


def test_heads_that_should_be_copies_and_differ_are_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "s", n_kv_heads=1)
    with pytest.raises(BadCheckpoint, match="no copies of 1"):
        convert(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "params",
    [{key: value} for key in META_PARAMS for value in (0, -2, "x", [], 1e300, float("nan"), {"a": 1})]
    + [{"n_heads": 7}, {"n_heads": 128}, {"dim": 10**9}, {"n_kv_heads": 3}, {"multiple_of": 4096}, {"n_layers": 3},
       {"vocab_size": 500}, {"use_scaled_rope": "yes"}, {"dim": None}, {"ffn_dim_multiplier": 1e-9}],
    ids=str,
)  # fmt: skip
def test_parameters_that_cannot_be_are_refused_in_a_sentence(tmp_path: Path, params: dict[str, Any]) -> None:
    with pytest.raises((BadCheckpoint, Unsupported)) as refused:
        convert(write(tmp_path / "s", **params), tmp_path / "out")
    assert "config.json" not in str(refused.value)


@pytest.mark.parametrize(
    ("params", "complaint"),
    [
        ({"dim": None}, r"params\.json has no dim\."),
        ({"n_layers": None}, r"params\.json has no n_layers\."),
        ({"n_heads": None}, r"params\.json has no n_heads\."),
        ({"dim": 256}, "dim is 256, and the shards have 128"),
        ({"n_layers": 3}, "n_layers is 3, and the shards have 2"),
        ({"vocab_size": 500}, "vocab_size is 500, and the shards have 512"),
        ({"n_heads": 7}, "n_heads is 7, and dim 128 does not make"),
        ({"n_heads": 128}, "n_heads is 128, and dim 128 does not make"),
        ({"n_heads": 4}, "n_heads and n_kv_heads make keys of 64, and the shards have 32"),
        ({"n_kv_heads": None}, "n_heads and n_kv_heads make keys of 128, and the shards have 32"),
        ({"multiple_of": 256}, "multiple_of and ffn_dim_multiplier make an FFN of 512, and the shards have 384"),
        ({"ffn_dim_multiplier": None}, "multiple_of and ffn_dim_multiplier make an FFN of 352"),
        ({"n_heads": 16}, "more heads than n_heads and n_kv_heads in params.json make"),  # seen in the weights alone
    ],
    ids=str,
)
@pytest.mark.parametrize("shards", [1, 2])
def test_the_key_of_params_json_that_is_wrong_is_named(
    tmp_path: Path, params: dict[str, Any], complaint: str, shards: int
) -> None:
    with pytest.raises(BadCheckpoint, match=complaint):
        convert(write(tmp_path / "s", shards, **params), tmp_path / "out")


EACH = [name for name in THEIRS if not name.startswith("layers.0.")]
MISSHAPEN = [np.ones((), np.float32), np.ones(3, np.float32), np.ones((2, 0), np.float32),
             np.ones((8, 8, 8), np.float32)]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[(name, None) for name in EACH],
        *[(name, MISSHAPEN[n % 4]) for n, name in enumerate(EACH)],
        *[pytest.param(name, MISSHAPEN[(n + k) % 4], marks=pytest.mark.slow)
          for n, name in enumerate(EACH) for k in (1, 2, 3)],
    ],
)  # fmt: skip
def test_a_tensor_that_is_missing_or_misshapen_is_refused(tmp_path: Path, name: str, value: Any) -> None:
    for shards in (1, 2):
        broken = {key: array for key, array in THEIRS.items() if key != name}
        parts = checkpoints.dealt(broken, shards, 16)
        for part in parts if value is not None else ():
            part[name] = value
        if name == "output.weight" and value is None:
            continue  # a tied model
        with pytest.raises(ElmError, match=r"params\.json|tok_embeddings"):
            open_and_match(checkpoints.write_meta(tmp_path / f"{shards}", META_PARAMS, parts, tokenizer=False))


def open_and_match(where: Path) -> None:
    opened = open_source(where)
    match(opened.config, opened.family_layout, opened.tensors, where)


def test_one_joined_tensor_is_in_memory_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "AHEAD_BYTES", 0)
    params = META_PARAMS | {"dim": 512, "n_heads": 8, "n_layers": 6}
    raw = META | {"hidden_size": 512, "head_dim": 64, "num_hidden_layers": 6,
                  "intermediate_size": meta.ffn_dim(Values(params, "params.json"), 512)}  # fmt: skip
    arrays = checkpoints.weights(raw)
    source = checkpoints.write_meta(tmp_path / "s", params, checkpoints.dealt(checkpoints.meta(arrays, raw), 2, 64))
    largest = max(array.nbytes for array in arrays.values())
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    done = convert(source, tmp_path / "out", bits=8)
    assert done.parameters * 4 > 10 * largest
    assert mx.get_peak_memory() - before < 4 * largest
