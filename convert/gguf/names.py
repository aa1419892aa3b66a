"""The tensors of a GGUF file by their names: those that belong together joined, heads in Hugging Face's order.

Names and layouts: ggml-org/llama.cpp gguf-py/gguf/constants.py, and of what the converter changes
convert_hf_to_gguf.py: LlamaModel.permute puts the rows of queries and keys in pairs, and OpenELMModel.modify_tensors
cuts proj_1 into ffn_gate and ffn_up; qkv stays whole, its rows unchanged. convert.keymap has the rules of the names.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial

from elm_mlx.config import ModelConfig
from elm_mlx.config.quantization import Quantization
from elm_mlx.convert.gguf.header import StoredTensor
from elm_mlx.convert.gguf.tensors import Rows, is_exact, join, measure_cast, plain, read_packed, setting_kept
from elm_mlx.convert.packed import Packed
from elm_mlx.convert.tensor import LazyTensor
from elm_mlx.errors import Unsupported

BIAS = re.compile(r"blk\.\d+\.\w+\.bias")


def arrange(where: object, stored: dict[str, StoredTensor], config: ModelConfig) -> dict[str, LazyTensor]:
    """The tensors of a model that has this configuration, packed where MLX can keep their few bits. Raises Unsupported
    for biases, which no model here has."""
    if biases := [name for name in stored if BIAS.fullmatch(name)]:
        raise Unsupported(f"{where} has biases ({biases[0]}), which the models that elm-mlx runs do not have.")
    tensors = {}
    for name, parts in joined(stored, config).items():
        heads = heads_in_pairs(name, config)
        each = [plain(part, heads if fits(part, heads) else 0) for part in parts]
        whole = each[0] if len(each) == 1 else join(each)
        setting = setting_kept(parts)
        rows = [part.read for part in each if isinstance(part.read, Rows)]
        tensors[name] = replace(whole, packed=keep(rows, setting) if setting else None)
    return tensors


def keep(rows: list[Rows], setting: Quantization) -> Packed:
    """Matrices that become one, as MLX keeps them in this setting."""
    read = partial(read_packed, rows, setting.bits)
    if not all(is_exact(part.stored) for part in rows):
        return Packed(setting, read, anew=True)
    return Packed(setting, read, measure=partial(measure_cast, rows))


def joined(stored: dict[str, StoredTensor], config: ModelConfig) -> dict[str, list[StoredTensor]]:
    """The parts of each tensor by a name of it; an OpenELM's ffn_gate and ffn_up are one."""
    parts: dict[str, list[StoredTensor]] = {}
    for name, tensor in stored.items():
        gate = name.replace(".ffn_up.", ".ffn_gate.")
        up = name.replace(".ffn_gate.", ".ffn_up.")
        are_halves = config.family == "openelm" and gate != up and gate in stored and up in stored
        if are_halves and alike(stored[gate], stored[up]):
            parts[gate.replace(".ffn_gate.", ".ffn_gate+ffn_up.")] = [stored[gate], stored[up]]
        else:
            parts[name] = [tensor]
    return parts


def alike(gate: StoredTensor, up: StoredTensor) -> bool:
    """Whether two tensors are matrices of one shape."""
    return len(gate.shape) == 2 and gate.shape == up.shape


def heads_in_pairs(name: str, config: ModelConfig) -> int:
    """How many heads of a Llama's tensor have their rows in pairs; 0 for all other tensors."""
    if config.family != "llama":
        return 0
    kinds = {"attn_q": config.num_heads[0], "attn_k": config.num_kv_heads[0]}
    return kinds.get(name.removesuffix(".weight").rpartition(".")[2], 0)


def fits(part: StoredTensor, heads: int) -> bool:
    """Whether the rows of a tensor are those of so many heads; one of another shape is refused later, by its name."""
    return len(part.shape) == 2 and heads > 0 and part.shape[0] % (2 * heads) == 0
