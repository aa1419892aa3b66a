"""The architectures. A model knows no files: it gets a configuration, and its parameters by name."""

from __future__ import annotations

from elm_mlx.config import BitNetConfig, LlamaConfig, ModelConfig, OpenELMConfig
from elm_mlx.distributed.part import TENSOR, Share
from elm_mlx.models.bitnet import BitNet
from elm_mlx.models.collectives import Collectives
from elm_mlx.models.llama import Llama
from elm_mlx.models.model import Model
from elm_mlx.models.openelm import OpenELM
from elm_mlx.models.parameters import Parameters
from elm_mlx.models.pipelined import LowerStage, UpperStage
from elm_mlx.models.sharded import ShardedLlama

MODELS: dict[type[ModelConfig], type[Model]] = {OpenELMConfig: OpenELM, LlamaConfig: Llama, BitNetConfig: BitNet}


def build(config: ModelConfig, parameters: Parameters, *, compiled: bool = True) -> Model:
    """Builds the model of `config`'s family, which takes every parameter exactly once; `parameters` decides when the
    arrays are evaluated. With `compiled` its gate, and steps of one token, are compiled."""
    model = MODELS[type(config)](config, parameters)
    model.set_compiled(compiled)
    return model


def build_share(
    share: Share, parameters: Parameters, group: Collectives, *, compiled: bool = True
) -> ShardedLlama | UpperStage | LowerStage:
    """Builds what one of several ranks holds of a model, from parameters that are cut as `share` says; it computes
    together with the other ranks of `group`."""
    model: ShardedLlama | UpperStage | LowerStage
    if share.part.kind == TENSOR:
        model = ShardedLlama(share, parameters, group)
    else:
        stage = LowerStage if share.part.rank else UpperStage
        model = stage(MODELS[type(share.config)], share, parameters, group)
    model.set_compiled(compiled)
    return model
