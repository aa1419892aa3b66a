"""The pickle inside a PyTorch file, interpreted without pickle: nothing it names is imported or called.

A pickle is a program for a stack machine (the opcodes are described in CPython's Lib/pickletools.py). A
state dict needs some thirty opcodes of protocol 2: those that torch's own weights_only reader knows, without
those that tensors do not use. A name (GLOBAL) is looked up by a function of the caller's, and becomes an inert
marker; a call (REDUCE) reaches a `Function` of ours, or an `Opaque`, which it does not change.

Every opcode costs constant time: values are put together and never walked, compared or printed, so depth
and sharing, which can make a small pickle stand for a huge value, cost nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from elm_mlx.errors import BadCheckpoint

PROTOCOL = b"\x80\x02"

# torch writes 30 to 50 opcodes a tensor, a third of them for the memo: this allows 50,000 tensors, seconds of work.
MAX_OPCODES = 3_000_000
MAX_MEMO = 1_500_000
MAX_BYTES = 2**26  # of one pickle
MAX_STRING = 2**16  # names of tensors and storages are short
MAX_NAME = 256  # of each line of a GLOBAL
MAX_INTEGER = 8  # bytes: sizes and offsets are int64, and wider ones could be keys that all have one hash
MAX_DEPTH = 100  # containers open at once; a state dict opens four


LookUp = Callable[[str, str], object]  # module, name -> what the name stands for; raises for one that is refused
Load = Callable[[object], object]  # a persistent id -> what it refers to (here, a storage)


@dataclass(frozen=True)
class Function:
    """What a name that the file may call does here. `call` checks its own arguments."""

    call: Callable[..., object]


@dataclass(frozen=True)
class Opaque:
    """An unknown name and whatever is made with it: it may be called and filled, without any effect."""

    name: str


class Ordered(dict[object, object]):
    """What collections.OrderedDict becomes: the one mapping that BUILD may give attributes (`_metadata`)."""


def interpret(file: memoryview, start: int, look_up: LookUp, load: Load) -> tuple[object, int]:
    """The value that the pickle at `start` describes, and where the pickle ends: another may follow.

    Raises BadCheckpoint for an opcode, a size or a call that no state dict needs, and struct.error, IndexError,
    KeyError, TypeError or ValueError where the pickle is merely broken.
    """
    code = file[start : start + MAX_BYTES]
    if code[:2] != PROTOCOL:
        raise BadCheckpoint("has no pickle of protocol 2 where torch.save puts one; download it or save it again.")
    machine = Machine(code, look_up, load)
    return machine.run(), start + machine.at


class Machine:
    """The stack machine: `stack` holds values, `outer` the stacks that a MARK has put aside."""

    def __init__(self, code: memoryview, look_up: LookUp, load: Load) -> None:
        self.code, self.at = code, len(PROTOCOL)
        self.look_up, self.load = look_up, load
        self.stack: list[object] = []
        self.outer: list[list[object]] = []
        self.memo: dict[int, object] = {}

    def run(self) -> object:
        """Runs the program up to its STOP, and returns its value."""
        for _ in range(MAX_OPCODES):
            opcode = self.take(1)
            if opcode == b".":
                return self.result()
            step = OPCODES.get(opcode)
            if step is None:
                raise pickle_refusal(f"uses the opcode 0x{opcode.hex()}")
            step(self)
        raise pickle_refusal(f"is longer than {MAX_OPCODES:,} opcodes")

    def result(self) -> object:
        if self.outer or len(self.stack) != 1:
            raise pickle_refusal("is more than one value")
        return self.stack[0]

    def take(self, count: int) -> bytes:
        start, self.at = self.at, self.at + count
        if self.at > len(self.code):
            raise BadCheckpoint(f"its pickle is cut short, or over {MAX_BYTES >> 20} MB; download the file again.")
        return bytes(self.code[start : self.at])

    def read_number(self, layout: str) -> int:
        (value,) = struct.unpack(layout, self.take(struct.calcsize(layout)))
        return value

    def push(self, value: object) -> None:
        self.stack.append(value)

    def push_integer(self) -> None:
        length = self.read_number("<B")
        if length > MAX_INTEGER:
            raise pickle_refusal(f"has an integer of {length} bytes")
        self.push(int.from_bytes(self.take(length), "little", signed=True))

    def push_text(self, length: int) -> None:
        if length > MAX_STRING:
            raise pickle_refusal(f"has a string of {length:,} bytes")
        self.push(self.take(length).decode())

    def read_line(self) -> str:
        ahead = bytes(self.code[self.at : self.at + MAX_NAME])
        length = ahead.index(b"\n")
        self.at += length + 1
        return ahead[:length].decode()

    def mark(self) -> None:
        if len(self.outer) == MAX_DEPTH:
            raise pickle_refusal(f"nests more than {MAX_DEPTH} deep")
        self.outer.append(self.stack)
        self.stack = []

    def pop_to_mark(self) -> list[object]:
        items, self.stack = self.stack, self.outer.pop()
        return items

    def push_tuple(self, count: int) -> None:
        """Replaces the last `count` values by one tuple of them."""
        items = [self.stack.pop() for _ in range(count)]
        self.push(tuple(reversed(items)))

    def append(self, items: list[object]) -> None:
        target = self.stack[-1]
        if isinstance(target, Opaque):
            return
        if type(target) is not list:
            raise pickle_refusal(f"appends to a {type(target).__name__}")
        target.extend(items)

    def set_items(self, items: list[object]) -> None:
        """Puts `items`, keys and values in turn, into the dict on top. Raises BadCheckpoint for anything else there."""
        target = self.stack[-1]
        if isinstance(target, Opaque):
            return
        if not isinstance(target, dict):
            raise pickle_refusal(f"sets items of a {type(target).__name__}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # A tuple would be hashed all the way down. State dicts have strings, optimizers have ints.
            if type(key) not in (str, int) or key in target:
                raise pickle_refusal("has a dictionary whose keys are not plain or not distinct")
            target[key] = value

    def put(self, index: int) -> None:
        if index >= MAX_MEMO:
            raise pickle_refusal(f"keeps more than {MAX_MEMO:,} values")
        self.memo[index] = self.stack[-1]

    def reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, Function | Opaque) or type(arguments) is not tuple:
            raise pickle_refusal(f"calls a {type(function).__name__}")
        # The arguments of an Opaque are not even unpacked: a long tuple could be handed to many calls.
        self.push(function if isinstance(function, Opaque) else function.call(*arguments))

    def new_object(self) -> None:
        """Makes an object without its __init__: tensors never need that, but what lies beside them may."""
        if not isinstance(self.stack[-2], Opaque):
            raise pickle_refusal(f"creates a {type(self.stack[-2]).__name__}")
        self.reduce()

    def build(self) -> None:
        """Drops the attributes of an OrderedDict: torch puts version numbers there, which no tensor depends on."""
        state, target = self.stack.pop(), self.stack[-1]
        decorated = isinstance(target, Ordered) and isinstance(state, dict)
        if not decorated and not isinstance(target, Opaque):
            raise pickle_refusal(f"sets the state of a {type(target).__name__}")


def pickle_refusal(what: str) -> BadCheckpoint:
    return BadCheckpoint(
        f"its pickle {what}, which no tensor file needs; refused, nothing was run. Use a safetensors copy of the model."
    )


OPCODES: dict[bytes, Callable[[Machine], None]] = {
    b"(": Machine.mark,
    b"N": lambda machine: machine.push(None),
    b"\x88": lambda machine: machine.push(True),
    b"\x89": lambda machine: machine.push(False),
    b"J": lambda machine: machine.push(machine.read_number("<i")),
    b"K": lambda machine: machine.push(machine.read_number("<B")),
    b"M": lambda machine: machine.push(machine.read_number("<H")),
    b"\x8a": Machine.push_integer,
    b"G": lambda machine: machine.push(machine.read_number(">d")),
    b"X": lambda machine: machine.push_text(machine.read_number("<I")),
    b"U": lambda machine: machine.push_text(machine.read_number("<B")),
    b")": lambda machine: machine.push(()),
    b"]": lambda machine: machine.push([]),
    b"}": lambda machine: machine.push({}),
    b"t": lambda machine: machine.push(tuple(machine.pop_to_mark())),
    b"\x85": lambda machine: machine.push_tuple(1),
    b"\x86": lambda machine: machine.push_tuple(2),
    b"\x87": lambda machine: machine.push_tuple(3),
    b"a": lambda machine: machine.append([machine.stack.pop()]),
    b"e": lambda machine: machine.append(machine.pop_to_mark()),
    b"s": lambda machine: machine.set_items([machine.stack.pop(-2), machine.stack.pop()]),
    b"u": lambda machine: machine.set_items(machine.pop_to_mark()),
    b"q": lambda machine: machine.put(machine.read_number("<B")),
    b"r": lambda machine: machine.put(machine.read_number("<I")),
    b"h": lambda machine: machine.push(machine.memo[machine.read_number("<B")]),
    b"j": lambda machine: machine.push(machine.memo[machine.read_number("<I")]),
    b"c": lambda machine: machine.push(machine.look_up(machine.read_line(), machine.read_line())),
    b"Q": lambda machine: machine.push(machine.load(machine.stack.pop())),
    b"R": Machine.reduce,
    b"\x81": Machine.new_object,
    b"b": Machine.build,
}
