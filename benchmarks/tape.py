"""One decode step of a program as the graph that a GPU would get, recorded on a machine without a GPU.

MLX's CPU backend expands the calls of `mx.fast`, and `mx.dequantize`, into other operations while a graph is built.
Here a stand-in keeps each of these calls whole: `mx.depends`, one primitive with the inputs and the shape of the call,
tagged by a constant that spells the kernel's name. Such tags also mark where a function under `mx.compile` begins and
ends. All else is MLX's own graph of what the program submits (`mx.async_eval`), which `mx.export_function` reports with
every shape.

Import this module, and call `install`, before importing the program whose step is to be recorded.
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from math import inf, prod
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_map

from elm_mlx.device import exponential

STEP = 3  # which submission is recorded by default: the first comes with the prompt, and the second warms up
FUSED_HEADS = {64, 96, 128, 256}  # mlx/backend/metal/scaled_dot_product_attention.cpp `has_fused_kernel`
EXPORTED = dict.fromkeys(["And", "Max", "Min", "Or", "Prod", "Sum"], "Reduce") | dict.fromkeys(
    ["BitwiseAnd", "BitwiseOr", "BitwiseXor", "LeftShift", "RightShift"], "BitwiseBinary"
)  # what an export calls the primitives that MLX draws by these names
PLAIN_COMPILE, PLAIN_ATTENTION = mx.compile, mx.fast.scaled_dot_product_attention
PLAIN_QUANTIZED, PLAIN_PRODUCT = mx.quantized_matmul, mx.array.__matmul__


class Form(NamedTuple):
    """The shape of an array, and the bytes of one element."""

    shape: tuple[int, ...]
    itemsize: int


class Node(NamedTuple):
    """A primitive with its arrays by name. `scope` numbers the call of a compiled function that it is in; 0: none."""

    name: str
    arguments: list[Any]
    inputs: list[str]
    outputs: list[str]
    scope: int


@dataclass
class Tape:
    """A step in an order in which it can run. `drawn` and `fused` count the primitives of the graph by name, without
    and with mx.compile; `copied`: writing into a cache copied it whole when the step ran."""

    forms: dict[str, Form] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    drawn: Counter[str] = field(default_factory=Counter)
    fused: Counter[str] = field(default_factory=Counter)
    copied: bool = False


class Done(Exception):
    """Ends a program whose step is recorded."""


class Recorder:
    """The stand-ins that depend on the moment: while `fusing`, mx.compile is MLX's own, which it becomes for the last
    step if this run `fuses`; while `idle`, products, which are slow on a CPU, are zeros."""

    def __init__(self) -> None:
        self.fuses = self.fusing = self.idle = self.inside = False
        self.numbers = count(1)

    def compile(self, fun: Callable[..., Any], *options: Any, **named: Any) -> Callable[..., Any]:
        """Stands in for mx.compile: a function that marks its inputs and outputs, or, while `fusing`, MLX's own."""
        compiled = PLAIN_COMPILE(fun, *options, **named)

        def call(*args: Any, **kwargs: Any) -> Any:
            if self.fusing:
                return compiled(*args, **kwargs)
            if self.inside:  # MLX, too, compiles only the outermost function
                return fun(*args, **kwargs)
            self.inside, number = True, next(self.numbers)
            args, kwargs = tree_map(lambda leaf: marked(leaf, f"Enter {number}"), (list(args), kwargs))
            try:
                return tree_map(lambda leaf: marked(leaf, "Leave"), fun(*args, **kwargs))
            finally:
                self.inside = False

        return call

    def quantized_product(self, x: mx.array, w: mx.array, *options: Any, **named: Any) -> mx.array:
        """Stands in for mx.quantized_matmul with w [out, in]; a product with quantized keys or values is made."""
        return zeros(x, w.shape[0]) if self.idle and w.ndim == 2 else PLAIN_QUANTIZED(x, w, *options, **named)

    def product(self, x: mx.array, w: mx.array) -> mx.array:
        """Stands in for x @ w with w [in, out]."""
        return zeros(x, w.shape[-1]) if self.idle else PLAIN_PRODUCT(x, w)


def zeros(x: mx.array, width: int) -> mx.array:
    """Zeros [..., width] in place of a product of `x`; they depend on `x`, as the product would."""
    return mx.depends([mx.zeros((*x.shape[:-1], width), x.dtype)], [x])[0]


def stand_in(name: str, x: mx.array, *others: mx.array) -> mx.array:
    """One primitive with these inputs and the shape of `x`, tagged with a kernel's name."""
    return mx.depends([x], [*others, mx.array(list(name.encode()), dtype=mx.uint8)])[0]


def marked(leaf: Any, name: str) -> Any:
    """An array tagged with a mark's name; any other leaf as it is."""
    return stand_in(name, leaf) if isinstance(leaf, mx.array) else leaf


def rms_norm(x: mx.array, weight: mx.array | None, eps: float, **_: Any) -> mx.array:
    """Stands in for mx.fast.rms_norm, as one primitive."""
    return stand_in("RMSNorm", x) if weight is None else stand_in("RMSNorm", x, weight)


def contiguous(x: mx.array, *_: Any) -> mx.array:
    """Stands in for mx.contiguous, which an export cannot tell."""
    return stand_in("Contiguous", x)


def rope(x: mx.array, dims: int, *, offset: Any, freqs: mx.array | None = None, **_: Any) -> mx.array:
    """Stands in for mx.fast.rope, as one primitive."""
    return stand_in("RoPE", x, *(one for one in (offset, freqs) if isinstance(one, mx.array)))


def attention(q: mx.array, k: mx.array, v: mx.array, **options: Any) -> mx.array:
    """Stands in for mx.fast.scaled_dot_product_attention: as one primitive where Metal has a kernel for heads of this
    width, else as the operations into which MLX expands it."""
    if q.shape[-1] not in FUSED_HEADS:
        return PLAIN_ATTENTION(q, k, v, **options)
    mask = options.get("mask")
    return stand_in("Attention", q, k, v, *([whole_mask(mask, q, k)] if isinstance(mask, mx.array) else []))


def whole_mask(mask: mx.array, q: mx.array, k: mx.array) -> mx.array:
    """The mask as Metal's attention gets it (mlx/fast.cpp): [B, H, L, S], in booleans or in the type of q."""
    mask = mask if mask.dtype == mx.bool_ else mask.astype(q.dtype)
    return mx.broadcast_to(mask, (*q.shape[:3], k.shape[2]))


def dequantize(
    w: mx.array, scales: mx.array, biases: mx.array | None = None, group_size: int = 64, *_: Any, **named: Any
) -> mx.array:
    """Stands in for mx.dequantize, as one primitive. Its result has the shape of no input, so the primitive gets one
    more input that has it, which `read` drops."""
    width, dtype = scales.shape[-1] * group_size, named.get("dtype") or scales.dtype
    like = mx.array(np.zeros((*w.shape[:-1], width), dtype=np.float32)).astype(dtype)
    mx.eval(like)
    return stand_in("Dequantize", like, w, scales, *([] if biases is None else [biases]))


def install() -> Recorder:
    """Puts the stand-ins in the place of MLX's calls, and all work on the CPU, until this process ends."""
    recorder = Recorder()
    mx.set_default_device(mx.cpu)
    mx.compile, mx.array.__matmul__ = recorder.compile, lambda x, w: recorder.product(x, w)
    mx.fast.rms_norm, mx.fast.rope, mx.fast.scaled_dot_product_attention = rms_norm, rope, attention
    mx.dequantize, mx.quantized_matmul, mx.contiguous = dequantize, recorder.quantized_product, contiguous
    exponential.has_slow_exp = lambda: False  # type: ignore[attr-defined]  # as on any GPU
    return recorder


def recorded(decode: Callable[[], Iterable[Any]], recorder: Recorder, step: int = STEP) -> Tape:
    """The step that `decode` submits as its `step`-th. The program runs three times, since an export keeps buffers that
    would be donated, and a compiled step that ran would build its kernels."""
    tape = Tape()

    def export(outputs: list[mx.array]) -> None:
        tape.drawn = primitives(outputs)
        read(outputs, tape)

    def fuse(outputs: list[mx.array]) -> None:
        tape.fused = primitives(outputs)

    def run(outputs: list[mx.array]) -> None:
        # Half is enough: while one buffer is copied, a few bytes may be let go of, sooner or later as threads run.
        tape.copied = growth(outputs) > min(buffer_sizes(tape), default=inf) / 2

    run_to_step(decode, recorder, step, export)
    recorder.fuses = True
    run_to_step(decode, recorder, step, fuse)
    recorder.fuses = False
    run_to_step(decode, recorder, step, run)
    return tape


def run_to_step(
    decode: Callable[[], Iterable[Any]], recorder: Recorder, step: int, use: Callable[[list[mx.array]], None]
) -> None:
    """Runs a program up to submission `step` and calls `use` with its arrays. Earlier submissions are computed at
    once."""
    plain, calls = mx.async_eval, count(1)

    def submit(*trees: Any) -> None:
        outputs, number = [array for _, array in tree_flatten(list(trees))], next(calls)
        if number == step:
            use(outputs)
            raise Done
        mx.eval(outputs)
        mx.synchronize()  # the thread that computed releases its buffers a little later
        recorder.idle = number < step - 1
        recorder.fusing = recorder.fuses and not recorder.idle  # a compiled step is never run: that would build kernels

    mx.async_eval, recorder.idle = submit, True
    try:
        with suppress(Done):
            deque(decode(), maxlen=0)
    finally:
        mx.async_eval, recorder.fusing, recorder.idle = plain, False, False


def primitives(outputs: list[mx.array]) -> Counter[str]:
    """How often each primitive occurs in a graph, counted in MLX's own drawing of the graph."""
    with tempfile.TemporaryDirectory(prefix="elm-mlx-ledger-") as folder:
        path = Path(folder) / "graph.dot"
        mx.export_to_dot(str(path), *outputs)
        drawn = re.findall(r'label ="(\w+)"', path.read_text(encoding="utf-8"))
    return Counter(EXPORTED.get(name, name) for name in drawn)


def growth(outputs: list[mx.array]) -> int:
    """Runs the step, and returns by how many bytes memory grows at most. The figure holds for a GPU, too, which donates
    buffers by the rule of the CPU."""
    mx.reset_peak_memory()
    held = mx.get_active_memory()
    mx.eval(outputs)
    return mx.get_peak_memory() - held


def buffer_sizes(tape: Tape) -> list[int]:
    """The bytes of every array into which a slice update writes a part."""
    forms = [tape.forms[node.inputs[0]] for node in tape.nodes if node.name.endswith("SliceUpdate")]
    return [form.itemsize * prod(form.shape) for form in forms]


def read(outputs: list[mx.array], tape: Tape) -> None:
    """Fills `tape` from MLX's export of a graph. A scope begins at its `Enter` marks and ends at its `Leave` marks."""
    tags: dict[str, str] = {}
    scopes: dict[str, int] = {}

    def receive(record: dict[str, Any]) -> None:
        if record["type"] == "constants":
            tags.update({name: bytes(a.tolist()).decode() for name, a in record["constants"] if a.dtype == mx.uint8})
        if record["type"] == "primitive":
            add(record)

    def add(record: dict[str, Any]) -> None:
        for name, shape, dtype in [*record["inputs"], *record["outputs"]]:
            tape.forms[name] = Form(tuple(shape), dtype.size)
        inputs, outs = ([name for name, _, _ in record[side]] for side in ("inputs", "outputs"))
        name = record["name"]
        scope = max((scopes.get(one, 0) for one in inputs), default=0)
        if name == "Depends" and inputs[-1] in tags:
            name, _, number = tags[inputs.pop()].partition(" ")
            scope = {"Enter": int(number or 0), "Leave": 0}.get(name, scope)
            inputs = inputs[name == "Dequantize" :]
        scopes.update(dict.fromkeys(outs, scope))
        tape.nodes.append(Node(name, record["arguments"], inputs, outs, scope))

    mx.export_function(receive, lambda: outputs)
