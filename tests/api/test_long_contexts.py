"""Contexts of 128k and 262k tokens: configurations are read, memory is reckoned exactly, what cannot fit is refused
with the numbers, and a long prompt can be watched and stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers import checkpoints
from helpers.command_line import answer, run

import elm_mlx
from elm_mlx.config import config_from_dict
from elm_mlx.errors import NotEnoughMemory, PromptTooLong

LONG: dict[str, dict[str, Any]] = {
    "llama-3.1": checkpoints.LLAMA
    | {
        "max_position_embeddings": 131_072,
        "rope_scaling": checkpoints.llama3_scaling(8.0) | {"original_max_position_embeddings": 8192},
    },
    "262k": checkpoints.LLAMA | {"max_position_embeddings": 262_144, "rope_theta": 283_461_213.0},
    "1048k": checkpoints.LLAMA | {"max_position_embeddings": 1_048_576, "rope_theta": 3_580_165_449.0},
}
LAYER = 2 * 2 * 24 * 4  # bytes of a position: k and v, kv heads, head dim, float32
POSITION = 3 * LAYER


@pytest.fixture(scope="module", params=LONG)
def long(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama of a long context."""
    return checkpoints.write(tmp_path_factory.mktemp("long") / request.param, LONG[request.param])


@pytest.fixture(scope="module")
def longest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Llama of 262,144 tokens with one layer."""
    return checkpoints.write(tmp_path_factory.mktemp("longest") / "model", LONG["262k"] | {"num_hidden_layers": 1})


def test_its_configuration_survives_a_conversion(long: Path, tmp_path: Path) -> None:
    from elm_mlx.convert import convert
    from elm_mlx.store.load import read_config

    raw = LONG[long.name]
    converted = read_config(convert(long, tmp_path / "out").output)
    assert converted.context_length == raw["max_position_embeddings"]
    assert converted.rope == config_from_dict(raw).rope
    assert converted.rope.theta == raw["rope_theta"]


def test_info_reckons_the_cache_of_every_context(long: Path) -> None:
    whole = LONG[long.name]["max_position_embeddings"]
    for context in (4096, 131_072, whole, whole + 1):
        shown = answer(run("info", long, "--json", "--context", context))
        positions = min(context, whole)
        assert shown["footprint"]["context"] == positions
        assert shown["footprint"]["cache"] == positions * POSITION
        assert shown["context_length"] == whole
    assert f"for {whole:,} tokens" in run("info", long, "--context", whole).out


def test_a_published_shape_takes_what_its_card_says() -> None:
    """Llama-3.1-8B: 128 KiB a position in 16 bits, so 16 GiB for its whole context."""
    config = config_from_dict(checkpoints.PUBLISHED["llama"]["3.1-8b"]["config"])
    assert config.context_length == 131_072
    assert config.kv_bytes_per_token(16) * config.context_length == 16 * 2**30


def test_a_request_whose_cache_cannot_fit_is_refused_with_the_numbers(longest: Path) -> None:
    lm = elm_mlx.load(longest, cache_bytes=20_000 * LAYER)
    with pytest.raises(NotEnoughMemory, match=r"for 200,009 tokens.*enough for 20,000 tokens") as caught:
        lm.generate([1] * 10, 200_000)
    assert (caught.value.needed, caught.value.available) == (200_009 * LAYER, 20_000 * LAYER)
    with pytest.raises(NotEnoughMemory, match="for 100,255 tokens"):
        lm.generate([1] * 100_000)
    with pytest.raises(PromptTooLong, match="262144"):
        lm.generate([1] * 262_144, 1)
    assert len(lm.generate([1] * 10, 3).tokens) <= 3
    lm.close()  # all models of a process share what was given to this one


class Enough(Exception):
    """What a reader raises that has seen enough."""


def test_a_prompt_of_100k_tells_its_progress_and_leaves_the_engine_when_its_reader_does(longest: Path) -> None:
    lm = elm_mlx.load(longest)
    heard: list[tuple[int, int]] = []

    def watch(read: int, total: int) -> None:
        heard.append((read, total))
        if len(heard) == 2:
            raise Enough

    stream = lm.stream([5] * 100_000, 4, progress=watch)
    with pytest.raises(Enough):
        next(stream)
    assert len(lm.generate([1] * 10, 2).tokens) <= 2  # it would wait until a prompt before it is read
    assert stream._handle.state.finish == "cancelled"
    assert [total for _, total in heard] == [100_000] * 2
    assert 0 < heard[0][0] < heard[1][0] < 100_000
    lm.close()
