"""What is known of other families without importing mlx-lm: which may run, what is refused, and why."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from functools import reduce
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from helpers import seen
from helpers.guests import guest_config

import elm_mlx
from elm_mlx.api.unable import refuse_adapters, refuse_draft, refuse_files, refuse_unable
from elm_mlx.config import GuestConfig, LlamaConfig, config_from_dict, config_or_guest, guest_families
from elm_mlx.doctor import examine_guests
from elm_mlx.engine.budget import Budget
from elm_mlx.engine.cache.kind import PLAIN
from elm_mlx.engine.cache.layer import can_shorten
from elm_mlx.engine.limits import Limits
from elm_mlx.errors import BadCheckpoint, CannotTrim, InvalidRequest, MissingBackend, Unsupported
from elm_mlx.models.guest_cache import GuestCache, Sizes
from elm_mlx.store.mlx_lm_classes import with_older_pattern, with_older_rope, with_older_spelling


def guest(**changes: Any) -> GuestConfig:
    config = config_or_guest(guest_config("qwen3", **changes))
    assert isinstance(config, GuestConfig)
    return config


def test_nothing_of_mlx_lm_is_imported_by_looking_at_a_guest() -> None:
    script = (
        "import sys, elm_mlx, elm_mlx.store.load, elm_mlx.convert\n"
        "from elm_mlx.config import config_or_guest\n"
        "config_or_guest({'model_type': 'qwen3', 'vocab_size': 9})\n"
        "print([name for name in sys.modules if name.startswith(('mlx_lm', 'transformers'))])"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_without_mlx_lm_the_sentence_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest_families, "models_folder", lambda: None)
    with pytest.raises(MissingBackend, match=r"pip install 'elm-mlx\[mlx-lm\]'"):
        guest()
    assert isinstance(config_or_guest({"model_type": "llama"}), LlamaConfig)


@pytest.mark.parametrize("model_type", ["no_such_model", "../../etc/passwd", "base", "cache", "olmo", "a" * 9999])
def test_what_mlx_lm_does_not_run_is_refused_in_a_sentence(model_type: str) -> None:
    with pytest.raises(Unsupported) as caught:
        config_or_guest({"model_type": model_type, "vocab_size": 9})
    assert len(str(caught.value)) < 600


def test_the_families_of_our_own_are_no_guests() -> None:
    assert isinstance(config_or_guest({"model_type": "mistral", "sliding_window": None}), LlamaConfig)
    with pytest.raises(Unsupported):
        config_from_dict({"model_type": "qwen3"})


@pytest.mark.parametrize("changes", [
    {"num_hidden_layers": 10**9}, {"num_local_experts": 10**9}, {"rope_scaling": {"num_layers": 5000}},
    {"intermediate_size": 1e30},
    {"vocab_size": "many"}, {"hidden_size": -4}, {"x": reduce(lambda inner, _: {"x": inner}, range(12), {})},
])  # fmt: skip
def test_absurd_configurations_are_refused_before_anything_is_built(changes: dict[str, Any]) -> None:
    with pytest.raises(BadCheckpoint):
        guest(**changes)


def test_what_caches_cannot_do_is_said_with_a_way_out() -> None:
    able, unable = guest(), config_or_guest(guest_config("recurrent_gemma"))
    for options in ({"window": 32}, {"kv_bits": 4}):
        with pytest.raises(InvalidRequest, match=f"Leave {next(iter(options))} out"):
            refuse_unable(able, options)
    refuse_unable(able, {"lookup": True})
    refuse_draft(able, "a")
    with pytest.raises(InvalidRequest, match="cannot forget"):
        refuse_unable(unable, {"lookup": True})
    with pytest.raises(InvalidRequest, match="cannot forget"):
        refuse_draft(unable, "a")
    for refuse in (refuse_files, refuse_adapters):
        with pytest.raises(InvalidRequest, match="llama and openelm"):
            refuse(able)
    llama = config_or_guest({"model_type": "llama"})
    refuse_files(llama), refuse_adapters(llama), refuse_unable(llama, {"window": 32, "kv_bits": 4, "lookup": True})


class State:
    """A stand-in for a cache of mlx-lm's that holds a state and no positions."""

    def __init__(self) -> None:
        self.cache = [mx.zeros((1, 4)), None]


class KVCache:
    """A stand-in for mlx-lm's plain cache, by whose name it is known."""

    def __init__(self) -> None:
        self.keys, self.offset = mx.zeros((1, 1, 8, 2)), 0

    def trim(self, n: int) -> None:
        self.offset -= n


def cache_of(*caches: Any, trims: bool = True) -> GuestCache:
    made = GuestCache([*caches], 8, trims, Sizes(0, ((16, 8),)))
    made.offset = 5
    return made


def test_a_cache_forgets_only_where_all_of_it_can() -> None:
    plain = KVCache()
    plain.offset = 5
    whole = cache_of(plain)
    assert whole.trim(2) == 2
    assert (whole.offset, plain.offset) == (3, 3)
    for mixed in (cache_of(KVCache(), State()), cache_of(KVCache(), trims=False)):
        assert not can_shorten([mixed], 4)
        assert can_shorten([mixed], 5)
        assert mixed.trim(0) == 0
        with pytest.raises(CannotTrim):
            mixed.trim(1)


def test_a_copy_of_a_cache_shares_nothing_with_it() -> None:
    plain, state = KVCache(), State()
    held = cache_of(plain, state, trims=False)
    other = held.fork(5, 8)
    plain.keys[..., 0] = 1.0
    state.cache[0] = mx.ones((1, 4))
    assert other.offset == 5
    assert other.caches[0].keys.sum().item() == 0
    assert other.caches[1].cache[0].sum().item() == 0


def test_the_budget_counts_what_a_guest_holds() -> None:
    sizes = Sizes(1000, ((8, 512), (4, sys.maxsize)))
    limits = Limits(4096, sizes.per_position, Budget(10**6), held=sizes.bytes_of)
    assert limits.bytes_of(PLAIN, 256) == 1000 + 12 * 256
    assert limits.bytes_of(PLAIN, 1024) == 1000 + 8 * 512 + 4 * 1024
    assert limits.positions_in(PLAIN, 1000 + 12 * 256) == 256
    assert limits.positions_in(PLAIN, 10**6) == 4096
    assert limits.positions_in(PLAIN, 10) == 0


def test_transformers_5_spelling_of_rope_reaches_classes_that_read_the_older_one() -> None:
    flat = with_older_rope({"rope_parameters": {"rope_theta": 5e5, "rope_type": "linear", "factor": 4.0}})
    assert flat["rope_theta"] == 5e5
    assert flat["rope_scaling"] == {"rope_type": "linear", "factor": 4.0}
    assert with_older_rope({"rope_theta": 1e6, "rope_parameters": {"rope_theta": 5.0}})["rope_theta"] == 1e6
    each = {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}}
    both = with_older_rope({"rope_parameters": each})
    assert (both["rope_global_base_freq"], both["rope_local_base_freq"]) == (1e6, 1e4)
    kinds = ["sliding_attention", "full_attention"] * 2
    gemma = {"model_type": "gemma3_text", "layer_types": kinds}
    assert with_older_pattern(gemma)["sliding_window_pattern"] == 2
    text = with_older_spelling({"model_type": "gemma3", "text_config": gemma | {"rope_parameters": each}})[
        "text_config"
    ]
    assert (text["sliding_window_pattern"], text["rope_global_base_freq"]) == (2, 1e6)


def test_layers_that_mlx_lm_would_compute_in_another_order_are_refused() -> None:
    kinds = ["sliding_attention", "full_attention"] * 2
    for changes in ({"layer_types": kinds[::-1]}, {"layer_types": kinds, "sliding_window_pattern": 3}):
        with pytest.raises(Unsupported, match="no regular order"):
            with_older_pattern({"model_type": "gemma3_text"} | changes)
    few = with_older_pattern({"model_type": "gemma3_text", "layer_types": ["sliding_attention"] * 5})
    assert few["sliding_window_pattern"] == 6


def test_a_pattern_in_letters_is_left_alone() -> None:
    exaone = {"model_type": "exaone4", "layer_types": ["full_attention"] * 3, "sliding_window_pattern": None}
    for raw in (exaone, {"model_type": ["gemma3_text"], "layer_types": []}):
        assert with_older_pattern(raw) == raw


def test_doctor_names_what_loading_a_guest_does() -> None:
    found = examine_guests()
    assert "4,096" in found.detail
    assert "transformers" in found.detail


def test_the_table_of_families_is_that_of_the_tested_ones() -> None:
    root = Path(__file__).parents[2]
    made = runpy.run_path(str(root / "docs" / "make_guests.py"))
    assert (root / "docs" / "guests.md").read_text(encoding="utf-8") == made["page"]()
    tested = guest_families.TESTED
    assert {name: (one["proposals"], one["shorter prefix"], one["rows"]) for name, one in seen.read().items()} == {
        name: (able.trims, able.trims, able.rows) for name, able in tested.items()
    }


def test_a_window_that_mlx_lm_does_not_compute_is_said() -> None:
    assert "window of 16 positions" in " ".join(guest(sliding_window=16).notices)
    for changes in ({"sliding_window": 16, "use_sliding_window": False}, {"sliding_window": 4096}, {}):
        assert guest(**changes).notices == ()
    gemma = config_or_guest(guest_config("gemma3_text"))
    assert isinstance(gemma, GuestConfig)
    assert gemma.unread_window is None


def test_info_says_what_is_not_known_of_a_guest(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(guest_config("stablelm")))
    mx.save_safetensors(str(folder / "model.safetensors"), {"model.embed_tokens.weight": mx.zeros((512, 64))})
    notices = elm_mlx.info(folder).notices
    assert any("tests run none of them" in notice for notice in notices)
    done = subprocess.run([sys.executable, "-m", "elm_mlx", "info", folder], capture_output=True, text=True)
    assert all(notice in done.stdout for notice in notices)


@pytest.mark.parametrize(
    ("changes", "rows"),
    [
        ({}, True),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, True),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, False),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, False),
    ],
)
def test_rows_go_together_where_the_rope_takes_positions_of_several(changes: dict[str, Any], rows: bool) -> None:
    """mlx-lm's DynamicNTKScalingRoPE compares the one position that it is given with a number."""
    assert config_or_guest(guest_config("qwen2", **changes)).abilities.rows is rows
