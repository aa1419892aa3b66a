"""The kernels that Metal launches for a recorded step, by rules that are stated here once, as data, with their source.

Sources are files of ml-explore/mlx, read in public copies. An array's layout is a NumPy view without content: what is a
view in NumPy is a view in MLX, and NumPy's contiguity, which ignores axes of length 1, is MLX's `row_contiguous`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import numpy as np
from tape import Form, Node, Tape

Layout = np.ndarray


class Kernel(NamedTuple):
    """One launch: the primitive, the shape of what it writes, and the bytes that it reads and writes."""

    kind: str
    shape: tuple[int, ...]
    nbytes: int


class Rule(NamedTuple):
    """How many kernels a primitive launches, and which layout its inputs need: one test for all of them, or one for
    each. An input of another layout is copied first, which is one kernel more."""

    kernels: int
    needs: Callable[[Layout], bool] | tuple[Callable[[Layout], bool], ...]
    source: str

    def copied(self, inputs: list[Layout]) -> list[Layout]:
        """Those of the inputs that are copied first."""
        tests = self.needs if isinstance(self.needs, tuple) else [self.needs] * len(inputs)
        return [x for x, fits in zip(inputs, tests, strict=False) if not fits(x)]


def anything(x: Layout) -> bool:
    return True


def contiguous(x: Layout) -> bool:
    return x.flags.c_contiguous


def rows(x: Layout) -> bool:
    """Whether rows lie whole with nothing between them, judged by all strides, those of axes of length 1 included."""
    return x.ndim < 2 or (x.strides[-1] == x.itemsize and x.strides[-2] == x.itemsize * x.shape[-1])


def matrix(x: Layout) -> bool:
    """Whether rows or columns lie whole."""
    return x.ndim < 2 or x.itemsize in x.strides[-2:]


def heads(x: Layout) -> bool:
    """Whether [1, heads, L, D] has whole rows of D, with heads and positions in any order; of more than one row of a
    batch, whether all of it lies whole."""
    return contiguous(x) or (prod(x.shape[:-3]) == 1 and x.strides[-1] == x.itemsize)


def even(x: Layout) -> bool:
    """Whether one stride leads from each head to the next, across the rows of a batch, too. A mask that is equal for
    all heads has no such stride."""
    return x.shape[0] == 1 or x.shape[1] == 1 or x.strides[0] == x.strides[1] * x.shape[1]


def held(x: Layout) -> bool:
    """Whether keys or values [B, K, S, D] are read as they lie: whole rows of D, and heads at even distances. So is a
    view of some rows and columns of a larger cache."""
    return x.strides[-1] == x.itemsize and even(x)


def masking(x: Layout) -> bool:
    """Whether a mask [B, H, L, S] is read as it lies."""
    return contiguous(x) or even(x)


ELEMENTWISE = {
    "Add", "AsType", "BitwiseBinary", "Divide", "Equal", "Exp", "Greater", "GreaterEqual", "Less", "LessEqual", "Log",
    "LogicalAnd", "LogicalNot", "Maximum", "Minimum", "Multiply", "Negative", "Power", "Round", "Select", "Sigmoid",
    "Square", "Subtract", "Tanh",
}  # fmt: skip
FUSABLE = ELEMENTWISE | {"Broadcast"}  # mlx/compile.cpp `is_fusable`
STAND_INS = {
    "RMSNorm",
    "RoPE",
    "Attention",
    "Dequantize",
    "Contiguous",
    "Enter",
    "Leave",
}  # of tape.py; to MLX they are `Depends`
RESHAPES = {"ExpandDims", "Flatten", "Reshape", "Squeeze", "Unflatten"}
VIEWS = {"Broadcast", "Contiguous", "Copy", "Enter", "Leave", "Slice", "Split", "StopGradient", "Transpose", "View"}
RULES = {
    "RMSNorm": Rule(1, contiguous, "backend/metal/normalization.cpp: copies an input with holes"),
    "RoPE": Rule(1, (heads,), "backend/metal/rope.cpp: reads three axes in any order, copies other inputs of four"),
    "Attention": Rule(
        1, (heads, held, held, masking), "backend/metal/scaled_dot_product_attention.cpp: `q_copy_unless` and the like"
    ),
    "Matmul": Rule(1, matrix, "backend/metal/matmul.cpp `check_transpose`: transposed inputs are read as they lie"),
    "QuantizedMatmul": Rule(1, rows, "backend/metal/quantized.cpp `ensure_row_contiguous_matrix`"),
    "Dequantize": Rule(1, contiguous, "backend/metal/quantized.cpp"),
    "Quantize": Rule(1, contiguous, "backend/metal/quantized.cpp `fast::Quantize::eval_gpu`"),
    "GatherAxis": Rule(1, anything, "backend/metal/indexing.cpp"),
    "Partition": Rule(1, anything, "backend/metal/sort.cpp: sorts; more, in blocks that are merged, for a long row"),
    "Gather": Rule(1, anything, "backend/metal/indexing.cpp"),
    "ArgReduce": Rule(1, anything, "backend/metal/primitives.cpp"),
    "Reduce": Rule(1, contiguous, "backend/metal/reduce.cpp: more for a large array to one number"),
    "LogSumExp": Rule(1, contiguous, "backend/metal/logsumexp.cpp"),
    "Softmax": Rule(1, contiguous, "backend/metal/softmax.cpp"),
    "SliceUpdate": Rule(1, anything, "backend/gpu/primitives.cpp: copies the part; all before it unless donated"),
    "DynamicSliceUpdate": Rule(2, anything, "backend/gpu/primitives.cpp: one more computes where the part begins"),
    "DynamicSlice": Rule(2, anything, "backend/gpu/primitives.cpp: one more computes where the part begins"),
    "Concatenate": Rule(1, anything, "backend/metal/slicing.cpp: a copy of each input"),
    "Full": Rule(1, anything, "backend/gpu/primitives.cpp"),
    "Arange": Rule(1, anything, "backend/metal/primitives.cpp"),
} | dict.fromkeys(ELEMENTWISE, Rule(1, anything, "backend/metal/binary.cpp, unary.cpp, ternary.cpp, copy.cpp"))
# From how many keys attention takes two passes on Max and Ultra chips; on others from 4096, where heads are grouped.
LONG = 1024


def kernels(tape: Tape) -> list[Kernel]:
    """Every launch of a step, in order. Raises ValueError if the tape is not the graph that MLX drew, if the primitives
    that are fused here are not those that MLX fused, and for a primitive without a rule."""
    groups = fusions(tape)
    check_tape(tape)
    check_fusions(tape, groups)
    layouts = {name: new_layout(form) for name, form in tape.forms.items()}
    launched: list[Kernel] = []
    for place, node in enumerate(tape.nodes):
        if place in groups:
            members = groups[place]
            launched += [compiled(tape, members)] if place == members[-1] else []
        elif node.name in RESHAPES | VIEWS:
            launched += view(node, layouts, tape.forms)
        elif node.name in RULES:
            launched += launches(node, layouts, tape)
        else:
            raise ValueError(f"{node.name} has no rule. Give it one, with its source.")
    return launched


def new_layout(form: Form) -> Layout:
    """The layout that a new array has: row-contiguous. The memory behind it is never touched."""
    return np.empty(form.shape, dtype=np.dtype(("V", form.itemsize)))


def span(x: Layout) -> int:
    """The bytes that a kernel reads of an array; those of a broadcast axis count once."""
    return x.itemsize * prod(n for n, stride in zip(x.shape, x.strides, strict=True) if stride)


def view(node: Node, layouts: dict[str, Layout], forms: dict[str, Form]) -> list[Kernel]:
    """Sets the layouts of a view's outputs, which launches nothing. Only a reshape that NumPy cannot do as a view is a
    copy (common/common.cpp)."""
    x, shape = layouts[node.inputs[0]], forms[node.outputs[0]].shape
    if node.name == "Contiguous" and not contiguous(
        x
    ):  # backend/common/common.cpp; the output has a new layout already
        return [Kernel("Copy", shape, span(x) + layouts[node.outputs[0]].nbytes)]
    if node.name in RESHAPES:
        try:
            layouts[node.outputs[0]] = x.reshape(shape, copy=False)
        except ValueError:
            return [Kernel("Copy", shape, 2 * x.nbytes)]
        return []
    for name, one in zip(node.outputs, seen(node, x, shape), strict=False):
        layouts[name] = one
    return []


def seen(node: Node, x: Layout, shape: tuple[int, ...]) -> list[Layout]:
    """The views that a primitive makes of `x`."""
    arguments: list[Any] = node.arguments
    match node.name:
        case "Transpose":
            return [x.transpose(arguments[0])]
        case "Slice":
            return [x[tuple(slice(*ends) for ends in zip(*arguments, strict=True))]]
        case "Split":
            return np.split(x, arguments[0], axis=arguments[1])
        case "Broadcast":
            return [np.broadcast_to(x, shape)]
        case _:
            return [x]


def launches(node: Node, layouts: dict[str, Layout], tape: Tape) -> list[Kernel]:
    """The kernels of one primitive: copies of the inputs whose layout it cannot read, then its own."""
    rule, inputs, shape = RULES[node.name], [layouts[name] for name in node.inputs], tape.forms[node.outputs[0]].shape
    copies = [Kernel("Copy", x.shape, span(x) + x.nbytes) for x in rule.copied(inputs)]
    out = sum(layouts[name].nbytes for name in node.outputs)
    match node.name:
        case "Gather":
            own = [Kernel(node.name, shape, 2 * out + sum(span(x) for x in inputs[1:]))]
        case "Concatenate":
            own = [Kernel(node.name, x.shape, 2 * x.nbytes) for x in inputs]
        case "SliceUpdate" | "DynamicSliceUpdate":
            own = [Kernel("Copy", shape, 2 * out)] * tape.copied
            own += [Kernel("Offset", (1,), 16)] * (rule.kernels - 1)
            own += [Kernel(node.name, inputs[1].shape, 2 * inputs[1].nbytes)]
        case _:
            passes = 2 if node.name == "Attention" and inputs[1].shape[2] >= LONG else rule.kernels
            own = [Kernel(node.name, shape, sum(map(span, inputs)) + out)]
            own += [Kernel(f"{node.name}, pass {n}", shape, 2 * out) for n in range(2, passes + 1)]
    return copies + own


def compiled(tape: Tape, members: list[int]) -> Kernel:
    """The one kernel of several fused primitives, which reads the arrays that others computed, and writes those that
    others use."""
    nodes = [tape.nodes[place] for place in members]
    made = {name for node in nodes for name in node.outputs}
    used = {name for place, node in enumerate(tape.nodes) if place not in members for name in node.inputs}
    taken = {name for node in nodes for name in node.inputs} - made
    moved = sum(tape.forms[name].itemsize * prod(tape.forms[name].shape) for name in taken | (made & used))
    names = "".join(node.name for node in nodes if node.name != "Broadcast")
    return Kernel(f"Compiled{names}", tape.forms[nodes[-1].outputs[0]].shape, moved)


def fusions(tape: Tape) -> dict[int, list[int]]:
    """Which primitives MLX fuses into one kernel (mlx/compile.cpp `compile_fuse`): at least two elementwise ones of one
    compiled function, of which only the last has users outside. Maps the place of each to the places of its group."""
    users: dict[str, list[int]] = {}
    for place, node in enumerate(tape.nodes):
        for name in node.inputs:
            users.setdefault(name, []).append(place)
    groups: dict[int, list[int]] = {}
    for last in reversed(range(len(tape.nodes))):
        if last in groups or not fusable(tape.nodes[last]):
            continue
        group = {last}
        for place in reversed(range(last)):
            node = tape.nodes[place]
            inside = fusable(node) and node.scope == tape.nodes[last].scope and place not in groups
            if inside and {user for name in node.outputs for user in users.get(name, [])} <= group:
                group.add(place)
        if sum(tape.nodes[place].name in ELEMENTWISE for place in group) > 1:
            groups |= dict.fromkeys(group, sorted(group))
    return groups


def fusable(node: Node) -> bool:
    return node.scope > 0 and node.name in FUSABLE


def check_tape(tape: Tape) -> None:
    """Raises ValueError if the tape has not each primitive as often as MLX's graph has it. Views may differ: an export
    merges what is computed twice, which changes nothing for views alone."""
    own = Counter("Depends" if node.name in STAND_INS else node.name for node in tape.nodes)
    if differ := {name for name in own | tape.drawn if own[name] != tape.drawn[name]} - RESHAPES - VIEWS:
        raise ValueError(f"MLX's export has not the graph's numbers of {', '.join(sorted(differ))}.")


def check_fusions(tape: Tape, groups: dict[int, list[int]]) -> None:
    """Raises ValueError if the kernels left after fusion are not those of the graph that mx.compile made. Broadcasts
    are not compared: MLX adds some of its own, by shape."""
    counted = RULES.keys() - STAND_INS
    alone = Counter(node.name for place, node in enumerate(tape.nodes) if place not in groups and node.name in counted)
    apart = {tuple(group) for group in groups.values()}
    ours = alone + Counter(words("".join(tape.nodes[place].name for place in group)) for group in apart)
    mlx = Counter[str]()
    for name, times in tape.fused.items():
        if name in counted or name.startswith("Compiled"):
            mlx[words(name.removeprefix("Compiled")) if name.startswith("Compiled") else name] += times
    if ours != mlx:
        raise ValueError(f"MLX compiles to {dict(mlx - ours)} where the ledger has {dict(ours - mlx)}.")


def words(names: str) -> str:
    """The primitives in the name of a compiled kernel, in alphabetical order and without broadcasts, by the names that
    an export has for them."""
    names = re.sub("Bitwise(And|Or|Xor)|(Left|Right)Shift", "BitwiseBinary", names)
    return " ".join(sorted(word for word in re.findall("[A-Z][a-z]+", names) if word != "Broadcast"))
