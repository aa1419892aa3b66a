"""GPTQ's matrices, as AutoGPTQ and GPTQModel write them.

Layout (AutoGPTQ, auto_gptq/nn_modules/qlinear/qlinear_cuda.py, `QuantLinear.pack`), for a matrix [out, in]:

    qweight  int32 [in * bits / 32, out]       numbers packed along the inputs, lowest bits first
    qzeros   int32 [groups, out * bits / 32]   packed along the outputs
    scales   float [groups, out]
    g_idx    int32 [in]                        the group of each input; GPTQ-for-LLaMa's first files lack it
    value    = scales[g_idx] * (number - zero)

In 3 bits the words are one stream of bits, as MLX has it, so the transposed qweight is MLX's own layout in any bits.

Zeros. `checkpoint_format` "gptq" stores zero - 1, "gptq_v2" the zero itself. Back from the first, 1 is added to each
number of a word by one addition of 32 bits, carries included: so GPTQModel reads and writes it
(gptqmodel/utils/model.py, `convert_gptq_v1_to_v2_format_module`), and only so a zero of 0 survives, stored as all ones.
Some writers call "gptq" what holds the zeros themselves (github.com/vllm-project/vllm/pull/38966). In a symmetric file
every zero is 2^(bits - 1); where a matrix stores just that number everywhere, it is taken as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import mlx.core as mx

from elm_mlx.config.values import MAX_WIDTH, Values
from elm_mlx.convert.sources.quantized.bits import as_words, columns_of, numbers_of
from elm_mlx.convert.sources.quantized.integers import Integers, Rows
from elm_mlx.convert.sources.quantized.parts import WHOLE, Parts, matrices, regular_size
from elm_mlx.convert.tensor import LazyTensor
from elm_mlx.errors import Unsupported

SIGN, PARTS = "qweight", ("qzeros", "scales", "g_idx", "bias")
BITS = (2, 3, 4, 8)
FORMATS = ("gptq", "gptq_v2")


def read(where: Path, settings: Values, tensors: Mapping[str, LazyTensor]) -> list[tuple[Parts, Integers]]:
    """GPTQ's matrices among the tensors; `settings` is the object of the configuration.

    Raises Unsupported for a layout of GPTQ's that is another one, BadCheckpoint for parts that do not fit.
    """
    form = settings.get("checkpoint_format") or settings.get("format") or "gptq"
    if settings.get("is_marlin_format") or form not in FORMATS:
        named = "marlin" if form in FORMATS else form
        raise Unsupported(f"{settings.where}: GPTQ in the format {named!r:.40} is not one that elm-mlx reads. Take the "
                          f"same model in the format {' or '.join(FORMATS)}.")  # fmt: skip
    settings.require("pack_dtype", ["int32"])
    return [(parts, matrix(settings, form, parts)) for parts in matrices(where, tensors, SIGN, PARTS)]


def matrix(settings: Values, form: str, parts: Parts) -> Integers:
    """One matrix. Raises BadCheckpoint."""
    words, zeros, scales = parts.matrix(SIGN, WHOLE), parts.matrix("qzeros", WHOLE), parts.matrix("scales")
    groups, outputs = scales.shape
    bits = bits_of(settings, parts, zeros.shape[1], outputs)
    inputs = words.shape[0] * 32 // bits
    parts.expect(SIGN, (inputs * bits // 32, outputs))
    parts.expect("qzeros", (groups, outputs * bits // 32))
    if inputs % 32 or outputs % 32:
        raise parts.wrong(f"{SIGN} makes a matrix of {outputs} x {inputs}, and both are multiples of 32")
    indices = parts.group_indices("g_idx", inputs, groups)
    size = regular_size(indices) if indices is not None else group_size(settings, parts, inputs, groups)
    if size and -(-inputs // size) != groups:
        raise parts.wrong(f"scales has {groups} groups, where {inputs} inputs make {-(-inputs // size)} of {size}")
    minus_one = form == "gptq"
    return Integers(
        parts.name,
        (outputs, inputs),
        bits,
        size or 0,
        words=lambda rows: as_words(columns_of(words, rows)),
        scales=lambda rows: columns_of(scales, rows).astype(mx.float32),
        zeros=partial(read_zeros, zeros, bits, minus_one, settings.get("sym", True) is not False),
        order=None if size else indices,
    )


def bits_of(settings: Values, parts: Parts, zero_words: int, outputs: int) -> int:
    """The bits of a matrix by its shapes. The configuration has to say the same, unless matrices differ (`dynamic`)."""
    bits = zero_words * 32 // outputs
    said = settings.integer("bits", bits, 64)
    if bits not in BITS or (bits != said and not settings.get("dynamic")):
        raise parts.wrong(f"qzeros has {bits} bits by its shape, and {settings.where} says {said} (GPTQ has "
                          f"{', '.join(map(str, BITS))})")  # fmt: skip
    return bits


def group_size(settings: Values, parts: Parts, inputs: int, groups: int) -> int:
    """The columns of a group by the configuration, where no g_idx names the groups; -1 means all."""
    size = settings.integer("group_size", -1, MAX_WIDTH, -1)
    if settings.get("desc_act") and groups > 1 and size != -1:
        raise parts.wrong("g_idx is missing, which desc_act needs to say which input is of which group")
    if settings.get("dynamic") and inputs % groups == 0:
        return inputs // groups
    if size == 0:
        raise settings.wrong("group_size is 0.")
    return inputs if size == -1 else size


def read_zeros(zeros: LazyTensor, bits: int, minus_one: bool, symmetric: bool, rows: Rows) -> mx.array:
    """The zeros of some outputs, float32 [n, groups]."""
    words = as_words(zeros.read())
    numbers = numbers_of(words, bits)
    if minus_one and not (symmetric and bool(mx.all(numbers == 1 << (bits - 1)).item())):
        numbers = plus_one(words, numbers, bits)
    chosen = rows if isinstance(rows, slice) else mx.array(rows)
    return mx.contiguous(numbers[:, chosen].T)


def plus_one(words: mx.array, numbers: mx.array, bits: int) -> mx.array:
    """The zeros for words that store zero - 1, of which these are the numbers. In 3 bits, where numbers straddle words,
    1 is added to each alone, as GPTQModel does."""
    if bits == 3:
        return mx.where(numbers == 7, 0, numbers + 1)
    ones = sum(1 << at for at in range(0, 32, bits))
    return numbers_of(words + mx.array(ones, dtype=mx.uint32), bits)
