"""RoPE as checkpoints say it: its base and its scaling under any of their keys, once, and of a kind that runs."""

from __future__ import annotations

import math
from typing import Any

import pytest
from helpers import checkpoints

from elm_mlx.config import RopeConfig, config_from_dict
from elm_mlx.config.values import Values
from elm_mlx.errors import BadCheckpoint, Unsupported


def rope_of(raw: dict[str, Any]) -> RopeConfig:
    return RopeConfig.from_values(Values(raw))


def test_a_base_inside_the_scaling_counts() -> None:
    scaling = checkpoints.llama3_scaling(8.0)
    inside = {"rope_scaling": scaling | {"rope_theta": 500000.0}}
    assert rope_of(inside) == rope_of({"rope_theta": 500000.0, "rope_scaling": scaling})
    assert rope_of({"rope_parameters": {"rope_theta": 500000.0}}) == RopeConfig(500000.0)
    plain = {"rope_type": "default", "rope_theta": 500000.0, "partial_rotary_factor": 1.0}
    assert rope_of({"rope_parameters": plain}) == RopeConfig(500000.0)


def test_type_is_an_alias_of_rope_type() -> None:
    scaling = checkpoints.llama3_scaling(8.0)
    alias = {"type" if key == "rope_type" else key: value for key, value in scaling.items()}
    assert rope_of({"rope_scaling": alias}) == rope_of({"rope_scaling": scaling})


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"rope_theta": -1.0}, "rope_theta"),
        ({"rope_theta": math.inf}, "rope_theta"),
        ({"rope_theta": 10**400}, "rope_theta"),
        ({"rope_theta": 1e300}, "rope_theta"),
        ({"rope_theta": "abc", "rope_parameters": {"rope_theta": 1e4}}, "rope_theta"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0}}, "two RoPE bases"),
        ({"rope_scaling": checkpoints.llama3_scaling(8.0) | {"rope_theta": 1e4}}, "two RoPE bases"),
        ({"rope_scaling": "llama3"}, "object belongs"),
        ({"rope_scaling": {"rope_type": "llama3"}}, "no factor"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": None}}, "no factor"),
        ({"rope_scaling": checkpoints.llama3_scaling(1e9)}, "factor"),
        ({"rope_scaling": checkpoints.llama3_scaling(8.0) | {"low_freq_factor": 9.0}}, "not below"),
        ({"rope_scaling": {"factor": 8.0}}, "names 0 kinds"),
        ({"rope_scaling": checkpoints.llama3_scaling(8.0) | {"type": "linear"}}, "names 2 kinds"),
    ],
)
def test_impossible_values_are_refused(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(BadCheckpoint, match=complaint):
        config_from_dict(checkpoints.LLAMA | change)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "'yarn'.*llama3"),
        ({"rope_scaling": {"rope_type": ["llama3"], "factor": 8.0}}, "llama3"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e6}}}, "'full_attention'"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    ],
)
def test_other_kinds_are_refused_by_name_with_those_that_run(change: dict[str, Any], named: str) -> None:
    with pytest.raises(Unsupported, match=named):
        config_from_dict(checkpoints.LLAMA | change)
