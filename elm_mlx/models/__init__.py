"""The architectures. A model knows no files: it gets a configuration, and its parameters by name."""

from __future__ import annotations

from elm_mlx.config import LlamaConfig, ModelConfig, OpenELMConfig
from elm_mlx.models.llama import Llama
from elm_mlx.models.model import Model
from elm_mlx.models.openelm import OpenELM
from elm_mlx.models.parameters import Parameters

MODELS: dict[type[ModelConfig], type[Model]] = {OpenELMConfig: OpenELM, LlamaConfig: Llama}


def build(config: ModelConfig, parameters: Parameters, *, compiled: bool = True) -> Model:
    """Builds the model of `config`'s family and takes every parameter exactly once; its arrays are not evaluated yet.
    With `compiled` its decode steps run in compiled stretches."""
    model = MODELS[type(config)](config, parameters)
    model.set_compiled(compiled)
    return model
