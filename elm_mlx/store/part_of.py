"""Loading what one rank holds of a model."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from pathlib import Path

import mlx.core as mx

from elm_mlx.arguments import Progress
from elm_mlx.config import ModelConfig
from elm_mlx.device.execution import Execution
from elm_mlx.device.memory import check_memory
from elm_mlx.distributed.part import Part
from elm_mlx.models import build_share
from elm_mlx.models.collectives import Collectives, world
from elm_mlx.models.parameters import Arrays, Parameters
from elm_mlx.models.pipelined import LowerStage, UpperStage
from elm_mlx.models.sharded import ShardedLlama
from elm_mlx.store.evaluate import Evaluate
from elm_mlx.store.parts import read_share
from elm_mlx.store.stored_form import expand


def load_part(
    directory: Path, config: ModelConfig, part: Part, execution: Execution, progress: Progress | None, force: bool
) -> ShardedLlama | UpperStage | LowerStage:
    """Brings what a rank holds of a model into memory, and builds it, to be run as `execution` says, together with the
    other ranks of MLX's distributed group."""
    share, pieces = read_share(directory, config, part)
    dtype, quantization = execution.dtype or pieces.dtype, config.quantization
    if not force:
        as_stored = quantization is not None and not execution.expand
        weights = pieces.nbytes if as_stored else share.parameter_count * dtype.size
        check_memory(directory, share.held, weights, 8 * dtype.size, held=mx.get_active_memory())
    arrays: Arrays = pieces
    elements, nbytes = sum(prod(piece.shape) for piece in pieces.pieces.values()), pieces.nbytes
    if execution.expand and quantization:
        arrays, quantization = expand(dict(pieces), quantization, dtype), None
        elements = share.parameter_count
    parameters = Parameters(arrays, quantization, dtype, Evaluate(elements, nbytes, progress))
    return build_share(share, parameters, world(part), compiled=execution.compiled)


def execution_of_all(execution: Execution, group: Collectives) -> Execution:
    """How all ranks compute: in another type than the stored one, and with expanded matrices, only where each of them
    would, as they add up each other's numbers. On streams of the device none does: what ranks do together must come in
    one order. Every rank must ask."""
    wishes = [execution.dtype is not None, execution.expand]
    agreed = group.least(mx.array(wishes, mx.int32)).tolist()
    assert isinstance(agreed, list)
    dtype = execution.dtype if agreed[0] else None
    return replace(execution, streams=(), dtype=dtype, expand=bool(agreed[1]))
