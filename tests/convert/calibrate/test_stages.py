"""A model is calibrated stage by stage: what the parts are, what the stages depend on, and what text is refused."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from elm_mlx.config import HEAD_NAME, ModelConfig, config_from_dict
from elm_mlx.config.quantization import Quantization
from elm_mlx.convert.calibrate import rounding, stages
from elm_mlx.convert.calibrate.stages import Calibration
from elm_mlx.convert.tensor import LazyTensor
from elm_mlx.device.cpu import make_streams
from elm_mlx.errors import InvalidRequest, NotFinite
from elm_mlx.models import build
from elm_mlx.models.parameters import Parameters
from elm_mlx.store.stored_form import expand, quantize, stored_entries

OPENELM = {
    "model_type": "openelm", "model_dim": 128, "num_transformer_layers": 2, "head_dim": 32, "vocab_size": 96,
    "num_query_heads": [2, 4], "num_kv_heads": [1, 2], "ffn_multipliers": [0.5, 1.0], "ffn_dim_divisor": 64,
    "num_gqa_groups": 2, "qkv_multipliers": [0.5, 1.0], "share_input_output_layers": True, "max_context_length": 64,
    "normalize_qk_projections": True, "rope_freq_constant": 10000, "ffn_with_glu": True,
    "activation_fn_name": "swish", "normalization_layer_name": "rms_norm",
}  # fmt: skip
LLAMA = {
    "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "head_dim": 32, "vocab_size": 96,
    "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 128, "tie_word_embeddings": False,
    "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
}  # fmt: skip
CONFIGS = [config_from_dict(OPENELM), config_from_dict(LLAMA), config_from_dict(LLAMA | {"tie_word_embeddings": True})]
IDS = ["openelm", "llama", "llama-tied"]
HOW = Quantization(3, 32)
SLOW = pytest.mark.slow
QUICK = [pytest.param(CONFIGS[0], marks=SLOW), CONFIGS[1], pytest.param(CONFIGS[2], marks=SLOW)]


@pytest.fixture(autouse=True)
def one_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    """What more sweeps do is in test_rounding; here they would only take time."""
    monkeypatch.setattr(rounding, "SWEEPS", 1)


def weights_of(config: ModelConfig) -> dict[str, mx.array]:
    """Seeded weights in bfloat16."""
    rng = np.random.default_rng(0)
    shapes = config.weight_shapes()
    arrays = {name: rng.normal(len(shape) == 1, 2 * shape[-1] ** -0.5, shape) for name, shape in shapes.items()}
    return {name: mx.array(array.astype(np.float32)).astype(mx.bfloat16) for name, array in arrays.items()}


def windows(count: int = 6, length: int = 48) -> list[list[int]]:
    """Ids in which a few occur often."""
    return (np.random.default_rng(1).geometric(0.05, (count, length)) % 96).tolist()


def calibration(config: ModelConfig, how: Quantization = HOW, text: list[list[int]] | None = None) -> Calibration:
    """The calibration of seeded weights."""
    tensors = {
        name: LazyTensor(array.shape, array.dtype, lambda array=array: array)
        for name, array in weights_of(config).items()
    }
    settings = {name: how.of(name, tensor.shape) for name, tensor in tensors.items()}
    return Calibration(config, tensors, settings, mx.bfloat16, windows() if text is None else text)


def run_all(job: Calibration) -> dict[str, mx.array]:
    """The parts that all stages give."""
    parts, states = {}, job.begin()
    for stage in range(job.count):
        own, states = job.run(stage, states, lambda share: None)
        parts |= own
    return parts


def logits(config: ModelConfig, arrays: dict[str, mx.array], ids: list[int]) -> mx.array:
    """What a model of these plain arrays gives: [L, V]."""
    return build(config, Parameters(dict(arrays), None, mx.float32), compiled=False)(mx.array([ids]))[0]


@pytest.mark.parametrize("config", QUICK, ids=IDS)
def test_the_stages_give_every_quantized_matrix_once_as_it_is_stored(config: ModelConfig) -> None:
    job = calibration(config)
    named = [name for stage in range(job.count) for name in job.names(stage)]
    assert sorted(named) == sorted(name for name, setting in job.settings.items() if setting)
    expected = stored_entries(replace(config, quantization=HOW), mx.bfloat16, lambda name: True)
    for name, array in run_all(job).items():
        assert (array.shape, array.dtype) == (expected[name].shape, expected[name].dtype)


@pytest.mark.slow
@pytest.mark.parametrize("config", QUICK, ids=IDS)
def test_logits_stay_nearer_than_with_plain_rounding(config: ModelConfig) -> None:
    weights = weights_of(config)
    plain = {part: array for name, weight in weights.items() for part, array in
             quantize(name, weight, HOW.of(name, weight.shape)).items()}  # fmt: skip
    truth = [logits(config, weights, ids) for ids in windows()]

    def error(parts: dict[str, mx.array]) -> float:
        arrays = expand(plain | parts, HOW, mx.float32)
        pairs = zip(truth, windows(), strict=True)
        return sum(mx.square(true - logits(config, arrays, ids)).sum().item() for true, ids in pairs)

    assert error(run_all(calibration(config))) < 0.8 * error({})


@pytest.mark.parametrize("config", QUICK[:2], ids=IDS[:2])
def test_a_stage_depends_on_the_states_before_it_alone(config: ModelConfig) -> None:
    job = calibration(config)
    parts, states = {}, job.begin()
    for stage in range(job.count):
        again = calibration(config).run(stage, {name: mx.array(np.array(state)) for name, state in states.items()},
                                        lambda share: None)  # fmt: skip
        parts, states = job.run(stage, states, lambda share: None)
        for ours, theirs in zip((parts, states), again, strict=True):
            assert ours.keys() == theirs.keys()
            assert all(mx.array_equal(array, theirs[name]) for name, array in ours.items())


def test_windows_give_the_same_bytes_on_two_streams_and_on_one(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for count in (1, 2):
        streams = [mx.stream(stream) for stream in make_streams(2)[:count]]
        monkeypatch.setattr(stages, "places", lambda config, streams=streams: nullcontext(streams))
        found.append(run_all(calibration(CONFIGS[1])))
    one, two = found
    assert one.keys() == two.keys()
    assert all(mx.array_equal(array, two[name]) for name, array in one.items())


def test_matrices_may_be_stored_in_several_ways_or_left_as_they_are() -> None:
    config = CONFIGS[1]
    attention = "model.layers.0.self_attn"
    how = replace(HOW, overrides={f"{attention}.k_proj": None, f"{attention}.v_proj": Quantization(8, 64),
                                  "model.layers.1.mlp.down_proj": Quantization(4, 32, "mxfp4")})  # fmt: skip
    parts = run_all(calibration(config, how))
    assert f"{attention}.k_proj.weight" not in parts
    assert parts[f"{attention}.v_proj.scales"].shape == (32, 1)
    assert parts["model.layers.1.mlp.down_proj.scales"].dtype == mx.uint8
    assert HEAD_NAME in parts


@pytest.mark.parametrize("config", QUICK[1:], ids=IDS[1:])
def test_progress_is_told_block_by_block_and_grows_to_the_whole(
    config: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "BLOCK_ROWS", 40)
    job = calibration(config)
    states = job.begin()
    for stage in range(job.count):
        told: list[float] = []
        _, states = job.run(stage, states, told.append)
        blocks = sum(-(-job.tensors[name].shape[0] // 40) for name in job.names(stage))
        assert len(told) > blocks
        assert told == sorted(told)
        assert told[-2:] == [1, 1] if stage or not config.tied else [1]


@pytest.mark.parametrize("config", QUICK, ids=IDS)
@pytest.mark.parametrize(
    "text", [pytest.param([[7]], marks=SLOW), [[7], [], [8, 9]]], ids=["one token", "short windows"]
)
def test_the_shortest_text_is_enough(config: ModelConfig, text: list[list[int]]) -> None:
    arrays = run_all(calibration(config, text=text)).values()
    assert all(np.isfinite(np.array(array.astype(mx.float32))).all() for array in arrays)


@pytest.mark.parametrize(("text", "why"), [([], "no token"), ([[]], "no token"), ([[1, 96]], "holds the id 96"),
                                           ([[-1]], "holds the id -1")])  # fmt: skip
def test_text_without_ids_or_with_those_of_another_model_is_refused(text: list[list[int]], why: str) -> None:
    with pytest.raises(InvalidRequest, match=why):
        calibration(CONFIGS[0], text=text)


def test_a_weight_that_is_not_finite_is_refused_by_the_first_matrix_behind_it() -> None:
    job = calibration(CONFIGS[1])
    states = {"hidden": mx.full((6 * 48, 64), float("nan"))}
    with pytest.raises(NotFinite, match=r"layers\.0\.self_attn\.q_proj"):
        job.run(1, states, lambda share: None)
