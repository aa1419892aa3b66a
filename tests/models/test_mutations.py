"""The golden check can fail: each way of getting an architecture wrong turns it red."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import pytest
from helpers import checkpoints, goldens

from elm_mlx.config import config_from_dict
from elm_mlx.models import blocks, build, openelm
from elm_mlx.models.attention import QKV, CacheLayer
from elm_mlx.models.blocks import Block
from elm_mlx.models.model import Model
from elm_mlx.models.parameters import Parameters
from elm_mlx.models.rope import Position, Rotation

Change = Callable[[pytest.MonkeyPatch], None]


def interleaved_rope(patch: pytest.MonkeyPatch) -> None:
    def wrong(self: Rotation, x: mx.array, offset: int) -> mx.array:
        return mx.fast.rope(x, self.dims, traditional=True, base=self.base, scale=self.scale, offset=offset,
                            freqs=self.freqs)  # fmt: skip

    patch.setattr(Rotation, "__call__", wrong)
    patch.setattr(Rotation, "prepare", lambda self, offset, count, dtype: offset)


def second_chunk_one_late(patch: pytest.MonkeyPatch) -> None:
    right = Rotation.prepare
    patch.setattr(Rotation, "prepare", lambda self, offset, *how: right(self, offset + (offset > 0), *how))


def gate_and_up_swapped(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(blocks.Gate, "__call__", lambda self, gate, up: self.function(up, gate))


def q_and_k_norm_swapped(patch: pytest.MonkeyPatch) -> None:
    def wrong(self: openelm.OpenELMProjections, p: Parameters, name: str) -> mx.array:
        q, k = p.vector(f"{name}.q_norm"), p.vector(f"{name}.k_norm")
        return mx.stack([k] * self.heads + [q] * self.kv_heads)[:, None, :]

    patch.setattr(openelm.OpenELMProjections, "_per_head", wrong)


def norm_after_rope(patch: pytest.MonkeyPatch) -> None:
    """q/k norm where it does not belong: rotate first, then normalise."""

    def wrong(self: openelm.OpenELMProjections, x: mx.array, position: Position) -> QKV:
        B, L, _ = x.shape
        H, K = self.heads, self.kv_heads
        qkv = self.qkv(x).reshape(B, L, H + 2 * K, self.head_dim).swapaxes(1, 2)
        qk = self.rotate(qkv[:, : H + K], position)
        qk = mx.fast.rms_norm(qk, None, self.eps) * self.qk_norm
        return qk[:, :H], qk[:, H:], qkv[:, H + K :]

    patch.setattr(openelm.OpenELMProjections, "__call__", wrong)


def heads_grouped_by_tiling(patch: pytest.MonkeyPatch) -> None:
    """Query head h reads kv head h % K instead of h // (H / K)."""
    right = mx.fast.scaled_dot_product_attention

    def wrong(q: mx.array, k: mx.array, v: mx.array, **how: object) -> mx.array:
        times = q.shape[1] // k.shape[1]
        return right(q, mx.tile(k, (1, times, 1, 1)), mx.tile(v, (1, times, 1, 1)), **how)

    patch.setattr(mx.fast, "scaled_dot_product_attention", wrong)


def post_norm(patch: pytest.MonkeyPatch) -> None:
    def wrong(self: Block, h: mx.array, cache: CacheLayer, position: Position) -> mx.array:
        q, k, v = self.attn(h, position)
        mixed = cache.attend(q, k, v).swapaxes(1, 2).reshape(*h.shape[:2], -1)
        h = h + mx.fast.rms_norm(self.attn.out(mixed), self.norms[0], self.eps)
        return h + mx.fast.rms_norm(self.ffn(h), self.norms[1], self.eps)

    patch.setattr(Block, "__call__", wrong)


def model(name: str, **changes: object) -> Model:
    """The tiny model built in memory, its configuration changed."""
    raw = checkpoints.CONFIGS[name]
    arrays = {key: mx.array(value) for key, value in checkpoints.weights(raw).items()}
    config = replace(config_from_dict(raw), **changes)
    return build(config, Parameters(arrays, None, mx.float32), compiled=False)


@pytest.mark.parametrize("name", list(checkpoints.CONFIGS))
def test_unchanged_models_pass(name: str) -> None:
    goldens.check(model(name), name)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        *((name, change)
          for name in ("openelm", "llama-3", "llama-3.1")
          for change in (interleaved_rope, second_chunk_one_late, gate_and_up_swapped, heads_grouped_by_tiling,
                         post_norm)),
        ("openelm", q_and_k_norm_swapped),
        ("openelm", norm_after_rope),
    ],
)  # fmt: skip
def test_a_wrong_model_fails(name: str, change: Change, monkeypatch: pytest.MonkeyPatch) -> None:
    change(monkeypatch)
    with pytest.raises(AssertionError):
        goldens.check(model(name), name)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("openelm", {"norm_eps": 1e-5}),
        ("llama-3", {"norm_eps": 1e-6}),
        ("llama-3.1", {"rope": replace(config_from_dict(checkpoints.CONFIGS["llama-3.1"]).rope, factor=32.0)}),
        ("llama-3.2", {"rope": replace(config_from_dict(checkpoints.CONFIGS["llama-3.2"]).rope, factor=8.0)}),
        ("llama-3.1", {"rope": replace(config_from_dict(checkpoints.CONFIGS["llama-3.1"]).rope, kind="default")}),
        ("llama-3", {"rope": replace(config_from_dict(checkpoints.CONFIGS["llama-3"]).rope, theta=10_000.0)}),
    ],
)
def test_a_wrong_constant_fails(name: str, changes: dict[str, object]) -> None:
    with pytest.raises(AssertionError):
        goldens.check(model(name, **changes), name)


def test_weights_in_the_wrong_place_fail(openelm: Path) -> None:
    raw = checkpoints.CONFIGS["openelm"]
    arrays = {key: mx.array(value) for key, value in checkpoints.weights(raw).items()}
    swapped = [f"transformer.layers.0.{norm}.weight" for norm in ("attn_norm", "ffn_norm")]
    arrays[swapped[0]], arrays[swapped[1]] = arrays[swapped[1]], arrays[swapped[0]]
    with pytest.raises(AssertionError):
        goldens.check(build(config_from_dict(raw), Parameters(arrays, None, mx.float32), compiled=False), "openelm")
