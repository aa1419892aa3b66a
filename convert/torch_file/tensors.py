"""What the names in a PyTorch file's pickle stand for: element types, storages, and tensors over them.

Format: torch/_utils.py (`_rebuild_*`) and torch/storage.py. A tensor is an offset, a shape and strides, all
counted in elements, over a storage; several tensors may share one. Each is checked against the bounds of
its storage here, before its elements are read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import prod

import mlx.core as mx
import numpy as np

from elm_mlx.convert.tensor import LazyTensor
from elm_mlx.convert.torch_file.pickle import Function, Opaque, Ordered, pickle_refusal
from elm_mlx.errors import BadCheckpoint, Unsupported, unsupported

MAX_TENSORS = 50_000  # what the limits of `pickle` allow
MAX_NAMES = 1_000  # that stand for nothing here; training checkpoints have dozens
MAX_DIMS = 32  # weights have up to 5
MAX_DIM = 2**31 - 1  # MLX counts a dimension in 32 bits
SMALL = 2**20  # bytes that any tensor may take, however small its file
NOWHERE = memoryview(b"")


@dataclass(frozen=True)
class Element:
    """How an element is stored, as a NumPy type string, and the MLX type that it is read as."""

    stored: str
    dtype: mx.Dtype

    @property
    def size(self) -> int:
        return np.dtype(self.stored).itemsize


ELEMENTS = {
    "float64": Element("<f8", mx.float32),  # Metal has no float64: rounded when read
    "float32": Element("<f4", mx.float32),
    "float16": Element("<f2", mx.float16),
    "bfloat16": Element("<u2", mx.bfloat16),  # NumPy has none: the bits travel as uint16
    "int64": Element("<i8", mx.int64),
    "int32": Element("<i4", mx.int32),
    "int16": Element("<i2", mx.int16),
    "int8": Element("i1", mx.int8),
    "uint64": Element("<u8", mx.uint64),
    "uint32": Element("<u4", mx.uint32),
    "uint16": Element("<u2", mx.uint16),
    "uint8": Element("u1", mx.uint8),
    "bool": Element("u1", mx.bool_),  # a byte that is neither 0 nor 1 reads as true
    "complex64": Element("<c8", mx.complex64),
}

# Storage classes that name their type; the types missing here are saved over an UntypedStorage.
STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
}

# Real types that no model here needs: refused as unsupported, not as an attack.
OTHER_TYPES = re.compile(r"(ComplexDouble|QU?Int\w+)Storage|complex(32|128)|q?u?int\d+(x\d)?|bits\w+")
SMALL_FLOATS = re.compile(r"float[48]_\w+")


@dataclass(frozen=True)
class StorageClass:
    """A storage's class: the type of its elements, or None where it counts bytes and each tensor gives its type."""

    element: Element | None


@dataclass(eq=False)
class Storage:
    """`length` elements, or `length` bytes where `element` is None.

    That is all that the pickle gives; `data`, the bytes in the file, is set once the container has found them.
    """

    element: Element | None
    length: int
    data: memoryview = NOWHERE

    @property
    def width(self) -> int:
        """Bytes of one element."""
        return self.element.size if self.element else 1

    @property
    def size(self) -> int:
        """Bytes of all elements."""
        return self.length * self.width


@dataclass(frozen=True)
class View:
    """A tensor over its storage; offset and strides in elements."""

    storage: Storage
    element: Element
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def inside(self) -> bool:
        """Whether the storage has the last element: as no stride is negative, it then has them all."""
        last = self.offset + sum((n - 1) * step for n, step in zip(self.shape, self.stride, strict=True))
        return last < self.storage.size // self.element.size or prod(self.shape) == 0

    def __call__(self) -> mx.array:
        """Copies the elements out of the file, row-major."""
        return self.rows(slice(None))

    def rows(self, rows: slice) -> mx.array:
        """Copies only these rows out of the file, row-major."""
        dtype, size = self.element.dtype, self.element.size
        if prod(self.shape) == 0:
            return mx.zeros(self.shape, dtype)[rows]
        # The stride of a dimension of one leads nowhere, and may be a number that NumPy cannot hold.
        steps = [size * step if n > 1 else 0 for n, step in zip(self.shape, self.stride, strict=True)]
        there = np.ndarray(self.shape, self.element.stored, self.storage.data, size * self.offset, steps)
        wanted = there[rows] if self.shape else there
        array = mx.array(np.require(wanted, requirements=["C_CONTIGUOUS", "ALIGNED"]))
        return array.view(dtype) if dtype == mx.bfloat16 else array.astype(dtype)


class TorchNames:
    """What names and storages mean in the pickle of one file; `unknown` collects the names that stand for nothing."""

    def __init__(self, file_size: int) -> None:
        # A stride of 0 makes a tensor of any size from one element; past this limit it is an attack.
        self.largest = max(file_size, SMALL)
        self.tensors = 0
        self.storages: dict[str, Storage] = {}
        self.unknown: dict[str, Opaque] = {}
        self.known: dict[tuple[str, str], object] = {
            ("collections", "OrderedDict"): Function(lambda: Ordered()),
            ("torch", "Size"): Function(lambda size: size),
            ("torch", "device"): Function(lambda kind, index=0: kind),
            ("torch.storage", "UntypedStorage"): StorageClass(None),
            **{("torch", name): element for name, element in ELEMENTS.items()},
            **{("torch", name): StorageClass(ELEMENTS[kind]) for name, kind in STORAGES.items()},
            ("torch._utils", "_rebuild_tensor"): Function(self.rebuild),
            ("torch._utils", "_rebuild_tensor_v2"): Function(self.rebuild_v2),
            ("torch._utils", "_rebuild_tensor_v3"): Function(self.rebuild_v3),
            ("torch._utils", "_rebuild_parameter"): Function(_rebuild_parameter),
            ("torch._utils", "_rebuild_parameter_with_state"): Function(_rebuild_parameter),
        }

    def look_up(self, module: str, name: str) -> object:
        """The marker that a name stands for; nothing is imported. Raises BadCheckpoint, Unsupported."""
        if (module, name) in self.known:
            return self.known[module, name]
        if module == "torch" and SMALL_FLOATS.fullmatch(name):
            raise Unsupported(
                f"has tensors of {name}, and MLX has no such type; take the model's bfloat16 files, or dequantize it "
                "to bfloat16 in torch and save that."
            )
        if module == "torch" and OTHER_TYPES.fullmatch(name):
            raise unsupported("the tensor type", name, ELEMENTS)
        if module in ("torch._utils", "torch._tensor") and name.startswith("_rebuild_"):
            raise unsupported("the kind of tensor", name, ["dense tensors"])
        full = f"{module}.{name}"
        if len(self.unknown) == MAX_NAMES and full not in self.unknown:
            raise pickle_refusal(f"has more than {MAX_NAMES:,} names")
        return self.unknown.setdefault(full, Opaque(full))

    def storage(self, identity: object) -> Storage:
        """The storage meant by `("storage", class, key, device, length)`."""
        if type(identity) is not tuple or len(identity) != 5:
            raise pickle_refusal("refers to something that is no storage")
        kind, cls, key, _, length = identity
        if kind != "storage" or not isinstance(cls, StorageClass) or type(key) is not str:
            raise pickle_refusal("refers to something that is no storage")
        (length,) = _checked_counts((length,))
        storage = self.storages.setdefault(key, Storage(cls.element, length))
        if storage.element is not cls.element or storage.length != length:
            raise pickle_refusal(f"describes storage {key[:80]!r} in two ways")
        return storage

    def rebuild(self, storage: object, offset: object, shape: object, stride: object) -> LazyTensor:
        """Makes a tensor over a storage that knows the type of its elements."""
        if not isinstance(storage, Storage) or storage.element is None:
            raise pickle_refusal("makes a tensor of something that is no storage")
        return self.view(storage, storage.element, offset, shape, stride)

    def view(self, storage: Storage, element: Element, offset: object, shape: object, stride: object) -> LazyTensor:
        """Makes a tensor, and checks that it lies within the bounds of its storage."""
        self.tensors += 1
        if self.tensors > MAX_TENSORS:
            raise pickle_refusal(f"makes more than {MAX_TENSORS:,} tensors")
        (start,) = _checked_counts((offset,))
        view = View(storage, element, start, _checked_counts(shape), _checked_counts(stride))
        if len(view.shape) != len(view.stride) or max(view.shape, default=0) > MAX_DIM or not view.inside():
            raise BadCheckpoint("a tensor reaches out of its storage; download the file again.")
        if prod(view.shape) * element.size > self.largest:
            raise BadCheckpoint("a tensor repeats its elements until it is larger than the file; take a safetensors "
                                "copy of the model.")  # fmt: skip
        return LazyTensor(view.shape, element.dtype, view)

    def rebuild_v2(self, storage: object, offset: object, shape: object, stride: object, *rest: object) -> LazyTensor:
        """Makes a tensor as `rebuild`; `rest` is what autograd adds: requires_grad, hooks and perhaps metadata."""
        _require_plain(*rest)
        return self.rebuild(storage, offset, shape, stride)

    def rebuild_v3(
        self,
        storage: object,
        offset: object,
        shape: object,
        stride: object,
        requires_grad: object,
        hooks: object,
        element: object,
        metadata: object = None,
    ) -> LazyTensor:
        """Makes a tensor over an UntypedStorage: the tensor gives the type."""
        _require_plain(requires_grad, hooks, metadata)
        if not isinstance(storage, Storage) or storage.element or not isinstance(element, Element):
            raise pickle_refusal("makes a tensor of something that is no storage")
        return self.view(storage, element, offset, shape, stride)


def _rebuild_parameter(data: object, requires_grad: object, hooks: object, state: object = None) -> LazyTensor:
    """Returns the tensor of a parameter; `state` holds Python attributes, which no element depends on."""
    _require_plain(requires_grad, hooks)
    if not isinstance(data, LazyTensor):
        raise pickle_refusal("makes a parameter of something that is no tensor")
    return data


def _require_plain(requires_grad: object, hooks: object, metadata: object = None) -> None:
    if type(requires_grad) is not bool or not isinstance(hooks, dict) or hooks:
        raise pickle_refusal("gives a tensor hooks")
    if metadata:  # flags that conjugate or negate the elements when they are read
        raise Unsupported("a tensor is a conjugated or negated view; save it with .resolve_conj().resolve_neg().")


def _checked_counts(values: object) -> tuple[int, ...]:
    """The values, if they are a short tuple of int64 numbers that are not negative."""
    if type(values) is not tuple or len(values) > MAX_DIMS:
        raise pickle_refusal("has a tensor whose shape is no short tuple")
    if any(type(value) is not int or value < 0 for value in values):
        raise BadCheckpoint("a tensor has a length, a stride or an offset below 0 or no integer; download it again.")
    return values
