"""A chat template as a program on a budget: Jinja with the operations that chats need, each paid for.

A template comes from the internet. Every value that it reads, makes or writes is paid for, operations that make much
out of little in advance, and one that cannot be paid is not done; what chats do not need is not there at all. The
budget counts work and not seconds, so the same template and messages end alike on every machine.
"""

from __future__ import annotations

import json
from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, ValuesView
from datetime import datetime
from functools import partial, wraps
from types import CodeType, GeneratorType
from typing import Any

from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.runtime import Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from elm_mlx.errors import InvalidRequest

VALUE = 32  # units of work that a value costs, and each character one more; about a microsecond and its memory
BASE = 1 << 25  # units that any rendering may cost: about a second
PER_UNIT = 16  # units more for each unit of the messages; templates of Llama 3 take 4 to 6, of Qwen 3 about 9
MAX_INPUT = 1 << 22  # units: four million characters, more than any context holds
MAX_DEPTH = 64  # of lists in lists: hashing deep tuples overflows the C stack
MAX_BITS = 4096  # of an integer
MAX_NESTING = 20_000  # nodes, each once for every block it stands in, as the compiler walks them; Llama 3.1: 800

FILTERS = frozenset(
    "abs capitalize count d default dictsort e escape first float int items join last length list lower map reject "
    "rejectattr replace reverse safe select selectattr string title tojson trim upper".split()
)
METHODS = frozenset(
    "capitalize changed cycle endswith find get index items join keys lower lstrip next removeprefix "
    "removesuffix replace rstrip split startswith strip title upper values".split()
)
# These do not walk their subject, or only as it is asked for; tests are told from filters by "is:".
SHALLOW = frozenset(
    "count d default first get items keys last length list map reject rejectattr reverse select selectattr values "
    "is:defined is:iterable is:mapping is:none is:sequence is:string is:undefined".split()
)
REFUSED = (nodes.Extends, nodes.Include, nodes.Import, nodes.FromImport, nodes.Block, nodes.Pow,
           nodes.ScopedEvalContextModifier)  # fmt: skip
BLOCKS = (nodes.For, nodes.If, nodes.Macro, nodes.CallBlock, nodes.FilterBlock, nodes.With, nodes.AssignBlock,
          nodes.Scope)  # fmt: skip


class Overrun(Exception):
    """More work or memory than the budget has."""


class Refusal(Exception):
    """What a template says by raise_exception."""


def size(value: Any) -> int:
    """The units of a value beside its own: its characters, or its items without what they hold."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        raise Overrun
    held = VALUE * len(value) if isinstance(value, dict | list | tuple | range) else 0
    return 2 * held if isinstance(value, dict) else held


def weight(value: object, most: int) -> int:
    """The units of a value with all it holds, shared parts as often as they are reached. Raises Overrun over `most`.

    Level by level, each counted before it is entered: neither width nor depth can run away.
    """
    total, level = VALUE, [value]
    for _ in range(MAX_DEPTH):
        total += sum(map(size, level))
        if total > most:
            break
        parts = ((*one, *one.values()) if isinstance(one, dict) else one for one in level)
        level = [item for one in parts if isinstance(one, list | tuple) for item in one]
        if not level:
            return total
    raise Overrun


def times(left: Any, right: Any) -> int:
    text, number = (right, left) if isinstance(left, int) else (left, right)
    return size(text) * max(number, 0) if isinstance(text, str | list | tuple) and isinstance(number, int) else 0


def joined(one: Any, d: Any = "", attribute: object = None) -> int:
    """The filter's items and separator, or the method's separator and items; a text's items are its letters."""
    letters = sum(len(text) for text in (one, d) if isinstance(text, str))
    return len(one) * len(d) + VALUE * letters


# What an operation costs beyond its operands and its result, because it makes or walks their product.
EXTRA: dict[str, Callable[..., int]] = {
    **dict.fromkeys(("strip", "lstrip", "rstrip", "trim"), lambda text, chars=None: len(str(text)) * len(chars or "")),
    "join": joined,
    "replace": lambda text, old="", new="", count=None: str(text).count(str(old)) * len(str(new)),
    "split": lambda text, sep=None, maxsplit=-1: VALUE * (text.count(sep) if sep else len(text) // 2),
    "title": lambda text: VALUE * len(str(text)),
    "strftime_now": lambda _, format: 256 * len(format),
}


class Budget:
    """The units that one rendering has left."""

    def __init__(self, units: int) -> None:
        self.left = units

    def pay(self, units: int) -> None:
        """Takes `units`, or raises Overrun."""
        self.left -= units
        if self.left < 0:
            raise Overrun

    def made(self, value: Any) -> Any:
        """`value`, paid without what it holds: that is older and paid."""
        self.pay(VALUE + size(value))
        return value

    def paid(self, value: Any) -> Any:
        """`value`, paid with all it holds, for operations that walk it; a generator as the list of its items."""
        value = list(value) if isinstance(value, GeneratorType) else value
        self.pay(weight(value, self.left))
        return value

    def steps(self, values: Iterable[Any]) -> Iterator[Any]:
        """`values`, each paid as it comes."""
        for value in values:
            self.pay(VALUE)
            yield value

    def run(self, name: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """`call` on its operands, paid; `name` says which operation it is, and its subject comes first."""
        self.pay(VALUE)
        unseen = int(name in SHALLOW)
        args = (*args[:unseen], *map(self.paid, args[unseen:]))
        kwargs = {key: self.paid(value) for key, value in kwargs.items()}
        if name in EXTRA:
            self.pay(EXTRA[name](*args, **kwargs))
        result = call(*args, **kwargs)
        if isinstance(result, Iterator):
            return self.steps(result)
        return self.made([*result] if isinstance(result, KeysView | ValuesView | ItemsView) else result)

    def metered(self, name: str, function: Any) -> Callable[..., Any]:
        """A filter or test that pays; one that Jinja hands its context first (as an attribute tells) still gets it."""
        given = hasattr(function, "jinja_pass_arg")

        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            return self.run(name, partial(function, *args[:given]), *args[given:], **kwargs)

        return call


def raise_exception(message: object) -> None:
    raise Refusal(str(message))


def strftime_now(format: str) -> str:
    return datetime.now().strftime(format)


class Variables(Namespace):
    """namespace(): one that is printed does not show what it holds, unpaid."""

    def __repr__(self) -> str:
        return "<Namespace>"


class Generation(Extension):
    """{% generation %}: marks what the assistant says, for training; here a block as any."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Any) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class Sandbox(ImmutableSandboxedEnvironment):
    """An environment for one rendering: a template's operations, each paid from `budget`."""

    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)

    def __init__(self, budget: Budget) -> None:
        # Unoptimized: what is computed when compiling would be paid by nobody.
        super().__init__(trim_blocks=True, lstrip_blocks=True, optimized=False,
                         extensions=[Generation, "jinja2.ext.loopcontrols"])  # fmt: skip
        self.budget, self.made, self.paid, self.steps = budget, budget.made, budget.paid, budget.steps
        self.filters |= {"list": lambda values: list(budget.steps(values)), "tojson": self.tojson}
        self.filters = {name: budget.metered(name, self.filters[name]) for name in FILTERS}
        self.tests = {name: budget.metered(f"is:{name}", self.tests[name]) for name in self.tests}
        self.globals = {name: self.globals[name] for name in ("range", "cycler", "joiner")}
        self.globals |= {"raise_exception": raise_exception, "strftime_now": strftime_now, "namespace": Variables}

    def tojson(
        self, value: object, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None,
        sort_keys: bool = False,
    ) -> str:  # fmt: skip
        """As transformers: Jinja's own would escape for HTML."""
        if not 0 <= (indent or 0) <= 16:
            raise ValueError("tojson indents by 0 to 16 spaces")
        form = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
        return "".join(map(self.made, form.iterencode(value)))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "%" and isinstance(left, str):
            raise TypeError("% formats no text in chat templates; ~ joins it")
        product = times(self.made(left), self.made(right))
        self.budget.pay(product if operator == "*" else 0)
        return self.made(super().call_binop(context, operator, left, right))

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """A method's subject is an operand as well; what a macro is given, it only passes on."""
        kwargs = {key: value for key, value in kwargs.items() if key not in ("_loop_vars", "_block_vars")}
        call, subject = partial(super().call, __context, __obj), getattr(__obj, "__self__", None)
        if subject is __self.budget:
            return __obj(*args)
        if isinstance(__obj, Macro):
            __self.budget.pay(VALUE * (len(args) + len(kwargs)))
            return __self.made(call(*args, **kwargs))
        name = getattr(__obj, "__name__", "")
        return __self.budget.run(name, lambda _, *a, **k: call(*a, **k), subject, *args, **kwargs)

    def wrap_str_format(self, value: Any) -> None:
        """str.format is a method like any: not among METHODS."""

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        known = attr in METHODS or isinstance(obj, Namespace) or not callable(value)
        return known and super().is_safe_attribute(obj, attr, value)

    def getattr(self, obj: Any, attribute: str) -> Any:
        self.budget.pay(VALUE)
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        self.budget.pay(VALUE)
        return super().getitem(obj, argument)


def own(method: str, node: Any) -> nodes.Call:
    """A call of the sandbox's `made`, `paid` or `steps` on the node's value."""
    return nodes.Call(nodes.EnvironmentAttribute(method), [node], [], None, None, lineno=node.lineno)


class Metering(NodeTransformer):
    """Has every loop, comparison, display, slice and output of a template paid; the rest its environment sees."""

    def visit(self, node: Any, *_: Any, **__: Any) -> Any:
        """The node, its parts first, with what it walks or makes paid."""
        self.generic_visit(node)
        match node:
            case nodes.For():
                node.iter = own("steps", node.iter)
            case nodes.Output() | nodes.Concat():
                node.nodes = [own("paid", one) for one in node.nodes]
            case nodes.Compare() | nodes.Operand():
                node.expr = own("paid", node.expr)
            case nodes.Pair():
                node.key = own("paid", node.key)
            case nodes.Getitem(arg=nodes.Slice()) | nodes.List() | nodes.Dict() | nodes.Tuple(ctx="load"):
                return own("made", node)
            case nodes.Getitem():
                node.arg = own("paid", node.arg)
        return node


def nesting(node: nodes.Node, depth: int = 1) -> int:
    """The nodes below, each once for every block around it. Raises ValueError for what chats do not need."""
    if isinstance(node, REFUSED) or (isinstance(node, nodes.For) and node.recursive):
        raise ValueError(f"line {node.lineno} has a {type(node).__name__} that chat templates do not use")
    inner = depth + isinstance(node, BLOCKS)
    return depth + sum(nesting(child, inner) for child in node.iter_child_nodes())


def compiled(source: str) -> CodeType:
    """A template's program. Raises whatever Jinja does, or ValueError, for one that chats do not need."""
    sandbox = Sandbox(Budget(0))
    tree = sandbox.parse(source)
    if nesting(tree) > MAX_NESTING:
        raise ValueError("it nests its blocks too deep")
    return sandbox.compile(Metering().visit(tree))


def rendered(code: CodeType, variables: dict[str, Any]) -> str:
    """A program's text. Raises InvalidRequest for variables over MAX_INPUT, Refusal, Overrun, or what Jinja does."""
    try:
        units = BASE + PER_UNIT * weight(variables, MAX_INPUT)
    except Overrun as error:
        raise InvalidRequest(f"The messages hold over {MAX_INPUT >> 20} million characters; shorten them.") from error
    sandbox = Sandbox(Budget(units))
    template = sandbox.template_class.from_code(sandbox, code, sandbox.make_globals(None))
    return "".join(template.root_render_func(template.new_context(variables)))
