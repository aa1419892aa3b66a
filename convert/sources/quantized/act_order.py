"""Matrices whose groups lie scattered among their columns (GPTQ's act-order), put in order where nothing else changes.

The inputs of an FFN's last matrix are the outputs of the ones before it, row by row: with the same new order of the
columns there and of the rows here, the FFN computes the same numbers. Only its columns are ours to move: the inputs of
the other matrices are the states that all layers share, or heads that several queries share.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial

import mlx.core as mx
import numpy as np

from elm_mlx.convert.sources.quantized.floats8 import Floats8
from elm_mlx.convert.sources.quantized.integers import Integers
from elm_mlx.convert.sources.quantized.parts import regular_size
from elm_mlx.convert.tensor import LazyTensor

# (name of the matrix with the columns, names of those with the rows, how often each hidden unit has a row there)
FFNS = (
    (re.compile(r"(.*)\bmlp\.down_proj\.weight"), ("mlp.gate_proj.weight", "mlp.up_proj.weight"), 1),
    (re.compile(r"(.*)\bffn\.proj_2\.weight"), ("ffn.proj_1.weight",), 2),  # OpenELM: gates, then values
)
Matrices = dict[str, Integers | Floats8]


def sorted_columns(matrices: Matrices, tensors: dict[str, LazyTensor]) -> tuple[Matrices, dict[str, LazyTensor]]:
    """The matrices, and the plain tensors beside them, with the hidden units of FFNs in the order of the last matrix's
    groups, where that order is all that keeps it from MLX's form."""
    matrices, tensors = dict(matrices), dict(tensors)
    for name, matrix in list(matrices.items()):
        found = ffn_of(name)
        order = column_order(matrix) if isinstance(matrix, Integers) else None
        if found is None or order is None:
            continue
        before, copies = found
        columns, size = order
        if not all(has_rows(each, len(columns) * copies, matrices, tensors) for each in before):
            continue
        rows = np.concatenate([columns + len(columns) * copy for copy in range(copies)])
        assert isinstance(matrix, Integers)
        matrices[name] = matrix.in_column_order(columns, size)
        for each in before:
            if isinstance(there := matrices.get(each), Integers):
                matrices[each] = there.in_row_order(rows)
            else:
                tensors[each] = in_row_order(tensors[each], rows)
    return matrices, tensors


def ffn_of(name: str) -> tuple[list[str], int] | None:
    """(the matrices whose outputs this one reads, how many rows a hidden unit has in each); None for another matrix."""
    for pattern, before, copies in FFNS:
        if found := pattern.fullmatch(name):
            return [found[1] + each for each in before], copies
    return None


def column_order(matrix: Integers) -> tuple[np.ndarray, int] | None:
    """(the columns in the order of their groups, the size of a group) of a matrix whose groups are scattered and, once
    they are in order, all alike; else None."""
    if matrix.order is None or 32 % matrix.bits:
        return None
    columns = np.argsort(matrix.order, kind="stable")
    size = regular_size(matrix.order[columns])
    return (columns, size) if size and size % 32 == 0 else None


def has_rows(name: str, rows: int, matrices: Mapping[str, object], tensors: Mapping[str, LazyTensor]) -> bool:
    """Whether a matrix with so many rows is there that can be read in another order of rows."""
    if name in matrices:
        there = matrices[name]
        return isinstance(there, Integers) and there.shape[0] == rows
    return name in tensors and tensors[name].shape[:1] == (rows,)


def in_row_order(tensor: LazyTensor, order: np.ndarray) -> LazyTensor:
    """The tensor whose row i is this one's row order[i]."""
    return LazyTensor(tensor.shape, tensor.dtype, partial(read_rows, tensor, order))


def read_rows(tensor: LazyTensor, order: np.ndarray) -> mx.array:
    """Reads the rows of a tensor in this order."""
    return tensor.read()[mx.array(order)]
