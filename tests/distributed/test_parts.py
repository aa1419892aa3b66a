"""A rank reads its own part of the files and nothing else, and holds that alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from helpers import checkpoints, quantized
from helpers.guests import guest_config
from helpers.ranks import in_ranks, share

from elm_mlx.bench.facts import arrays_of
from elm_mlx.config import ModelConfig, config_or_guest
from elm_mlx.device import memory
from elm_mlx.device.execution import Execution
from elm_mlx.distributed.part import PIPELINE, TENSOR, Kind, Part
from elm_mlx.errors import BadCheckpoint, NotEnoughMemory, NotFound, Unsupported
from elm_mlx.models import collectives
from elm_mlx.store import part_of
from elm_mlx.store.load import load_model, read_config
from elm_mlx.store.parts import Piece, rank_bytes, read_share

LLAMA = checkpoints.LLAMA | {"num_attention_heads": 12, "num_key_value_heads": 6, "head_dim": 32, "hidden_size": 96,
                             "intermediate_size": 192, "num_hidden_layers": 6, "tie_word_embeddings": True}  # fmt: skip
OPENELM = checkpoints.OPENELM | {"num_transformer_layers": 12}
FOUR_BITS = {"bits": 4, "group_size": 32}
KINDS: list[tuple[Kind, dict[str, Any]]] = [(TENSOR, LLAMA), (PIPELINE, LLAMA), (PIPELINE, OPENELM)]


def spans(piece: Piece) -> Iterator[tuple[int, int]]:
    """(first byte, byte after the last) of each run of bytes in its file that a rank holds of a tensor."""
    place, cut = piece.place, piece.cut
    row = place.entry.nbytes // place.entry.shape[0]
    if cut.axis == 0:
        yield place.start + cut.begin * row, place.start + cut.end * row
        return
    column = row // place.entry.shape[1]
    for number in range(place.entry.shape[0]):
        yield place.start + number * row + cut.begin * column, place.start + number * row + cut.end * column


def spoil_others(pieces: list[Piece], begins: dict[Path, int]) -> None:
    """Overwrites all data of some files, from where it begins, that are not in these pieces."""
    for path, begin in begins.items():
        data = bytearray(path.read_bytes())
        spoilt = data[:begin] + b"\xff" * (len(data) - begin)
        for piece in pieces:
            for first, end in spans(piece) if piece.place.path == path else ():
                spoilt[first:end] = data[first:end]
        assert spoilt != data, "there is something that is not the rank's"
        path.write_bytes(spoilt)


@pytest.mark.parametrize(("kind", "raw"), KINDS)
def test_a_rank_reads_none_of_the_others_bytes(kind: Kind, raw: dict[str, Any], tmp_path: Path) -> None:
    config = read_config(quantized.write(tmp_path, raw, FOUR_BITS, shards=3))
    _, pieces = read_share(tmp_path, config, Part(kind, 1, 3))
    arrays, places = dict(pieces), list(pieces.pieces.values())
    begins = {path: 8 + int.from_bytes(path.read_bytes()[:8], "little") for path in tmp_path.glob("*.safetensors")}
    assert len(begins) == 3
    spoil_others(places, begins)
    _, again = read_share(tmp_path, config, Part(kind, 1, 3))
    assert arrays.keys() == again.pieces.keys()
    for name, array in arrays.items():
        assert memoryview(array) == memoryview(again[name]), name  # type: ignore[arg-type]


def test_of_three_files_a_rank_opens_the_data_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = read_config(checkpoints.write(tmp_path, LLAMA, tokenizer=False))
    arrays = mx.load(str(tmp_path / "model.safetensors"))
    assert isinstance(arrays, dict)
    (tmp_path / "model.safetensors").unlink()
    for number in range(3):  # two layers to a file, as published models lie
        own = {name: array for name, array in arrays.items() if f".layers.{2 * number}." in name
               or f".layers.{2 * number + 1}." in name or (number == 2 and ".layers." not in name)}  # fmt: skip
        mx.save_safetensors(str(tmp_path / f"model-0000{number + 1}-of-00003.safetensors"), own)
    opened: list[str] = []
    plain = np.memmap
    monkeypatch.setattr(np, "memmap", lambda path, *more: opened.append(path.name) or plain(path, *more))
    dict(read_share(tmp_path, config, Part(PIPELINE, 2, 3))[1])
    assert {*opened} == {"model-00001-of-00003.safetensors"}


@pytest.mark.parametrize(("kind", "raw"), KINDS)
@pytest.mark.parametrize(("ranks", "most", "bits"), [(2, 0.55, None), (3, 0.4, 4)])
def test_a_rank_holds_its_share_of_the_bytes(
    kind: Kind, raw: dict[str, Any], ranks: int, most: float, bits: int | None, tmp_path: Path
) -> None:
    folder = quantized.write(tmp_path, raw, FOUR_BITS) if bits else checkpoints.write(tmp_path, raw, tokenizer=False)
    config = read_config(folder)
    whole = held_by(load_model(folder, config, Execution(compiled=False), None, True))
    held = in_ranks(ranks, lambda group: held_by(share(folder, config, kind, group)))
    assert max(held) <= most * whole
    assert sum(held) >= whole
    told = rank_bytes(folder, config, kind, ranks)
    assert [round(nbytes / whole, 2) for nbytes in told] == [round(nbytes / whole, 2) for nbytes in held]


@pytest.mark.parametrize("kind", [TENSOR, PIPELINE])
def test_nothing_else_stays_in_memory(kind: Kind, tmp_path: Path) -> None:
    raw = LLAMA | {"hidden_size": 256, "intermediate_size": 1536, "num_hidden_layers": 2}
    config = read_config(checkpoints.write(tmp_path, raw, tokenizer=False))
    before = mx.get_active_memory()
    models = in_ranks(2, lambda group: share(tmp_path, config, kind, group))
    mx.synchronize()
    assert mx.get_active_memory() - before <= 1.02 * sum(rank_bytes(tmp_path, config, kind, 2))
    assert models


def held_by(model: object) -> int:
    """The bytes of a model's arrays; a view of an array counts as it."""
    arrays = {id(array): array for array in arrays_of(model)}
    return sum(array.nbytes for array in arrays.values())


def test_bytes_of_ranks_are_those_of_the_files_with_norms_on_each(tmp_path: Path) -> None:
    config = read_config(quantized.write(tmp_path, LLAMA, FOUR_BITS))
    norms = 4 * sum(shape[0] for shape in config.weight_shapes().values() if len(shape) == 1)
    (whole,) = rank_bytes(tmp_path, config, TENSOR, 1)
    assert sum(rank_bytes(tmp_path, config, TENSOR, 3)) == whole + 2 * norms
    assert sum(rank_bytes(tmp_path, config, PIPELINE, 4)) == whole


def test_a_feed_forward_of_all_layers_is_on_every_rank(tmp_path: Path) -> None:
    config = read_config(checkpoints.write(tmp_path, LLAMA | {"model_type": "mobillama"}, tokenizer=False))
    shared = 4 * 3 * config.ffn_dims[0] * config.model_dim
    (whole,) = rank_bytes(tmp_path, config, PIPELINE, 1)
    assert sum(rank_bytes(tmp_path, config, PIPELINE, 3)) == whole + 2 * shared


def test_memory_is_asked_for_the_part_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = read_config(checkpoints.write(tmp_path, LLAMA, tokenizer=False))
    part, execution = Part(TENSOR, 0, 3), Execution(compiled=False)
    needed = memory.footprint(config, rank_bytes(tmp_path, config, TENSOR, 3)[0], 32).total
    monkeypatch.setattr(part_of, "world", lambda _: collectives.MlxGroup(mx.distributed.init()))
    monkeypatch.setattr(memory, "memory_limit", lambda: needed)
    assert part_of.load_part(tmp_path, config, part, execution, None, False)
    monkeypatch.setattr(
        memory, "memory_limit", lambda: needed - 2 * memory.footprint(config, 0, 32).cache // 3 - 99_999
    )
    with pytest.raises(NotEnoughMemory, match="Take a smaller model or fewer bits"):
        part_of.load_part(tmp_path, config, part, execution, None, False)


# What comes from outside


def both(tmp_path: Path, raw: dict[str, Any]) -> tuple[ModelConfig, dict[str, mx.array]]:
    """A tied model whose files repeat its embedding as a head: its configuration, and the files' arrays."""
    config = read_config(checkpoints.write(tmp_path, raw, tokenizer=False))
    arrays = mx.load(str(tmp_path / "model.safetensors"))
    assert isinstance(arrays, dict)
    return config, arrays | {"lm_head.weight": arrays[config.embedding_name]}


def test_a_tied_head_that_repeats_the_embedding_is_compared_by_the_ranks_that_hold_it(tmp_path: Path) -> None:
    config, arrays = both(tmp_path, LLAMA)
    checkpoints.save(tmp_path, arrays)
    assert "lm_head.weight" not in read_share(tmp_path, config, Part(TENSOR, 1, 2))[1].pieces
    head = arrays["lm_head.weight"]
    checkpoints.save(tmp_path, arrays | {"lm_head.weight": mx.concatenate([head[:-1], head[-1:] + 1])})
    for part in (Part(TENSOR, 0, 2), Part(PIPELINE, 1, 2)):  # whose rows are equal, who has none
        read_share(tmp_path, config, part)
    for part in (Part(TENSOR, 1, 2), Part(PIPELINE, 0, 2)):
        with pytest.raises(BadCheckpoint, match="differs from the embedding"):
            read_share(tmp_path, config, part)
    for odd in (head[:100], head[:, :32], head[0], mx.array(1.0)):
        checkpoints.save(tmp_path, arrays | {"lm_head.weight": odd})
        with pytest.raises(BadCheckpoint, match="differs from the embedding"):
            read_share(tmp_path, config, Part(TENSOR, 0, 2))


@pytest.mark.parametrize(("places", "error"), [
    ({"model.norm.weight": "../model.safetensors"}, BadCheckpoint),
    ({"model.norm.weight": "/etc/passwd"}, BadCheckpoint),
    ({"model.norm.weight": "model-00009-of-00009.safetensors"}, NotFound),
    ({"model.norm.weight": 7}, BadCheckpoint),
    ([], BadCheckpoint),
])  # fmt: skip
def test_a_hostile_index_is_refused(places: Any, error: type[Exception], tmp_path: Path) -> None:
    config = read_config(checkpoints.write(tmp_path, LLAMA, tokenizer=False, shards=3))
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    with pytest.raises(error):
        read_share(tmp_path, config, Part(TENSOR, 0, 2))


def test_an_index_that_places_tensors_wrongly_changes_nothing(tmp_path: Path) -> None:
    config = read_config(checkpoints.write(tmp_path, LLAMA, tokenizer=False, shards=3))
    index = tmp_path / "model.safetensors.index.json"
    places = json.loads(index.read_text())["weight_map"]
    index.write_text(json.dumps({"weight_map": dict(zip(places, reversed(places.values()), strict=True))}))
    assert len(read_share(tmp_path, config, Part(TENSOR, 0, 2))[1]) == len(config.weight_shapes())


def test_tensors_of_another_shape_are_refused_before_a_byte_is_read(tmp_path: Path) -> None:
    config = read_config(checkpoints.write(tmp_path, LLAMA, tokenizer=False))
    other = read_config(checkpoints.write(tmp_path / "other", LLAMA | {"head_dim": 16}, tokenizer=False))
    for kind in (TENSOR, PIPELINE):
        with pytest.raises(BadCheckpoint, match="has shape"):
            read_share(tmp_path, other, Part(kind, 0, 2))  # type: ignore[arg-type]
    assert config != other


def test_a_file_that_becomes_shorter_is_a_sentence(tmp_path: Path) -> None:
    config = read_config(checkpoints.write(tmp_path, LLAMA, tokenizer=False))
    _, pieces = read_share(tmp_path, config, Part(TENSOR, 1, 2))
    with (tmp_path / "model.safetensors").open("r+b") as file:
        file.truncate(5000)
    with pytest.raises(BadCheckpoint, match="became shorter"):
        dict(pieces)


def test_more_ranks_than_blocks_are_refused(tmp_path: Path) -> None:
    config = read_config(checkpoints.write(tmp_path, LLAMA, tokenizer=False))
    assert len(rank_bytes(tmp_path, config, PIPELINE, 6)) == 6
    with pytest.raises(Unsupported, match=r"has 6 blocks of weights, so up to that many machines .* here are 7"):
        rank_bytes(tmp_path, config, PIPELINE, 7)


@pytest.mark.parametrize("kind", [TENSOR, PIPELINE])
def test_a_model_of_mlx_lms_classes_is_refused_by_name(kind: Kind, tmp_path: Path) -> None:
    config = config_or_guest(guest_config("qwen2"))
    for ask in (lambda: rank_bytes(tmp_path, config, kind, 2), lambda: read_share(tmp_path, config, Part(kind, 0, 2))):
        with pytest.raises(Unsupported, match=r"of the kind qwen2, .* run this one on one machine"):
            ask()
