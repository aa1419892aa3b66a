"""CoreNet's OpenELM checkpoints with LoRA or DoRA: whole models with low-rank sums beside their matrices, which are
merged as they are read.

Names: `<matrix>.base_layer.weight` [O, I], `.lora_A.lora.weight` [R, I], `.lora_B.lora.weight` [O, R], DoRA's
`.lora_magnitude_vector.lora` [O], in newer versions of PEFT with `.weight`; for the embedding `.lora_embedding_A.lora`
[R, V], `.lora_embedding_B.lora` [E, R], and a magnitude for each column [E].
Sources: apple/corenet, projects/openelm/peft_configs (r 32, lora_alpha 32, no rslora) and general_gpt.py; peft,
tuners/lora/{layer,dora,variants}.py.

The embedding of CoreNet's models is their head, too, but not with its sum: logits are made from
`token_embeddings.weight`, which PEFT's layer gives as the weight of its base. So the model that comes out has two
tables: the embedding with its sum, and the head without.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import mlx.core as mx

from elm_mlx.convert.sums import adapt
from elm_mlx.convert.tensor import LazyTensor
from elm_mlx.errors import BadCheckpoint, Unsupported
from elm_mlx.models.lora import LowRank
from elm_mlx.store.other_names import unwrap
from elm_mlx.store.weight_files import some

RANK = 32  # of all that CoreNet has, with an alpha of 32, so the sums are multiplied with 1; no file says so
PART = re.compile(r"(.+)\.(base_layer|lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)"
                  r"((?:\.[^.]+?)??)(\.weight)?")  # fmt: skip
BASE, A, B, MAGNITUDE = "base_layer", "lora_A", "lora_B", "lora_magnitude_vector"
EMBEDDING, HEAD = "token_embeddings", "classifier.weight"
TABLE = {"lora_embedding_A": A, "lora_embedding_B": B}
UNTIED = {"share_input_output_layers": False}  # in a config.json
MERGE_IT = "Merge it with PEFT (merge_and_unload), and convert what that gives."


def merge(where: Path, tensors: Mapping[str, LazyTensor]) -> tuple[dict[str, LazyTensor], str | None]:
    """The tensors of a checkpoint with its sums merged, and "LoRA" or "DoRA"; those of any other checkpoint as they
    are, and None. Raises BadCheckpoint where parts are missing or have other shapes, Unsupported for another rank."""
    names = {unwrap(name): name for name in tensors}
    if not any(re.fullmatch(r"(layers\.\d+\..+|token_embeddings)\.base_layer\.weight", name) for name in names):
        return dict(tensors), None
    sums: dict[str, dict[str, LazyTensor]] = {}
    plain: dict[str, LazyTensor] = {}
    adapters = set()
    for name, given in names.items():
        if not (found := PART.fullmatch(name)):
            plain[name] = tensors[given]
            continue
        stem, part, adapter = found[1], TABLE.get(found[2], found[2]), found[3]
        adapters |= {adapter} - {""}
        sums.setdefault(stem, {})[part] = tensors[given]
    if len(adapters) != 1:
        raise Unsupported(f"{where} holds {len(adapters)} adapters, and one is merged here. {MERGE_IT}")
    for stem, parts in sums.items():
        plain[f"{stem}.weight"] = merged(where, stem, parts)
    if EMBEDDING in sums:
        plain.setdefault(HEAD, sums[EMBEDDING][BASE])
    return plain, "DoRA" if any(MAGNITUDE in parts for parts in sums.values()) else "LoRA"


def merged(where: Path, stem: str, parts: Mapping[str, LazyTensor]) -> LazyTensor:
    """One matrix with its sum, which is read when the matrix is."""
    if missing := [part for part in (BASE, A, B) if part not in parts]:
        raise BadCheckpoint(f"{where}: {stem} has no {some(missing)}. Fetch it again.")
    base, shapes = parts[BASE], {part: tensor.shape for part, tensor in parts.items()}
    rank = parts[A].shape[0] if parts[A].shape else 0
    O, I = base.shape if len(base.shape) == 2 else (0, 0)
    is_table = stem == EMBEDDING
    into, out = (O, I) if is_table else (I, O)
    expected: dict[str, tuple[int, ...]] = {BASE: (O, I), A: (rank, into), B: (out, rank)}
    if MAGNITUDE in parts:
        expected[MAGNITUDE] = (out,)
    if shapes != expected:
        raise BadCheckpoint(f"{where}: the parts of {stem} have shapes that do not fit each other: {shapes}. Fetch it "
                            "again.")  # fmt: skip
    if rank != RANK:
        raise Unsupported(f"{where}: {stem} has a sum of rank {rank}. CoreNet's own have rank and alpha {RANK}, and no "
                          f"file says which alpha this one was trained with. {MERGE_IT}")  # fmt: skip
    if not is_table:
        return adapt(base, partial(read_sum, parts))
    if MAGNITUDE not in parts:
        return adapt(base, partial(read_table_sum, parts))
    return LazyTensor(base.shape, mx.float32, TableOfLengths(parts))


def read_sum(parts: Mapping[str, LazyTensor]) -> LowRank:
    """The sum beside a matrix of a layer: W + B A, of rows with learned lengths where there is a magnitude."""
    lengths = floats(parts[MAGNITUDE]) if MAGNITUDE in parts else None
    return LowRank(floats(parts[A]).T, floats(parts[B]).T, lengths)


def read_table_sum(parts: Mapping[str, LazyTensor]) -> LowRank:
    """The sum beside the embedding [V, E]: W + (B A)^T."""
    return LowRank(floats(parts[B]), floats(parts[A]))


@dataclass(frozen=True)
class TableOfLengths:
    """Reads an embedding with its sum, whose columns have learned lengths (DoRA): all rows count, padding, too."""

    parts: Mapping[str, LazyTensor]

    def __call__(self) -> mx.array:
        """Reads the whole embedding."""
        summed = adapt(self.parts[BASE], partial(read_table_sum, self.parts)).read()
        return summed * (floats(self.parts[MAGNITUDE]) / mx.linalg.norm(summed, axis=0))


def floats(tensor: LazyTensor) -> mx.array:
    """Reads a tensor in float32."""
    return tensor.read().astype(mx.float32)
