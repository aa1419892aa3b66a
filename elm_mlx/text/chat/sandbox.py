"""A chat template as a program on a budget: Jinja with the operations that chats need, each paid for.

A template comes from the internet. It pays units of work for every value that it reads, makes or writes; an operation
that makes much out of little is paid in advance, and one that cannot be paid is not done. What chats do not need is
removed. The budget counts work, not seconds, so that a template ends in one way on every machine.
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
from elm_mlx.text.chat.messages import MAX_BITS, MAX_DEPTH

VALUE_UNITS = 32  # the cost of a value, about a microsecond and its memory; each of its characters adds one unit
BASE_UNITS = 1 << 25  # the cost that any rendering may have: about a second
PER_INPUT_UNIT = 16  # units more for each unit of the messages; templates of Llama 3 take 4 to 6, of Qwen 3 about 9
MAX_INPUT = 1 << 22  # units: four million characters, more than any context holds
MAX_NESTING = 20_000  # nodes, each counted for every block around it, as the compiler walks them; Llama 3.1: 800

FILTERS = frozenset(
    "abs capitalize count d default dictsort e escape first float int items join last length list lower map reject "
    "rejectattr replace reverse safe select selectattr string title tojson trim upper".split()
)
METHODS = frozenset(
    "capitalize changed cycle endswith find get index items join keys lower lstrip next removeprefix "
    "removesuffix replace rstrip split startswith strip title upper values".split()
)
# Operations that do not walk their subject, or only item by item on request. The names of tests begin with "is:".
SHALLOW = frozenset(
    "count d default first get items keys last length list map reject rejectattr reverse select selectattr values "
    "is:defined is:iterable is:mapping is:none is:sequence is:string is:undefined".split()
)
REFUSED_NODES = (nodes.Extends, nodes.Include, nodes.Import, nodes.FromImport, nodes.Block, nodes.Pow,
                 nodes.ScopedEvalContextModifier)  # fmt: skip
BLOCK_NODES = (nodes.For, nodes.If, nodes.Macro, nodes.CallBlock, nodes.FilterBlock, nodes.With, nodes.AssignBlock,
               nodes.Scope)  # fmt: skip


class Overrun(Exception):
    """A template needs more work or memory than its budget has."""


class TemplateRefusal(Exception):
    """A template refuses the messages: it called raise_exception."""


def own_units(value: Any) -> int:
    """The units of a value's characters, or of its items without what these hold in turn."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        raise Overrun
    held = VALUE_UNITS * len(value) if isinstance(value, dict | list | tuple | range) else 0
    return 2 * held if isinstance(value, dict) else held


def units_of(value: object, most: int) -> int:
    """The units of a value with all that it holds, a shared part as often as it is reached. Raises Overrun over `most`.

    Each level of lists in lists is counted before it is entered, so that neither width nor depth can take long.
    """
    total, level = VALUE_UNITS, [value]
    for _ in range(MAX_DEPTH):
        total += sum(map(own_units, level))
        if total > most:
            break
        parts = ((*one, *one.values()) if isinstance(one, dict) else one for one in level)
        level = [item for one in parts if isinstance(one, list | tuple) for item in one]
        if not level:
            return total
    raise Overrun


def product_units(left: Any, right: Any) -> int:
    """The units of a text or list that * repeats; none for a product of numbers."""
    text, number = (right, left) if isinstance(left, int) else (left, right)
    return own_units(text) * max(number, 0) if isinstance(text, str | list | tuple) and isinstance(number, int) else 0


def join_units(one: Any, d: Any = "", attribute: object = None) -> int:
    """The units of a join: the filter's (items, separator) or the method's (separator, items); a text has letters."""
    letters = sum(len(text) for text in (one, d) if isinstance(text, str))
    return len(one) * len(d) + VALUE_UNITS * letters


# What an operation costs beyond its operands and its result, because it makes or walks their product.
EXTRA_UNITS: dict[str, Callable[..., int]] = {
    **dict.fromkeys(("strip", "lstrip", "rstrip", "trim"), lambda text, chars=None: len(str(text)) * len(chars or "")),
    "join": join_units,
    "replace": lambda text, old="", new="", count=None: str(text).count(str(old)) * len(str(new)),
    "split": lambda text, sep=None, maxsplit=-1: VALUE_UNITS * (text.count(sep) if sep else len(text) // 2),
    "title": lambda text: VALUE_UNITS * len(str(text)),
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

    def pay_new(self, value: Any) -> Any:
        """Pays for a new value and returns it. What it holds is older, and paid already."""
        self.pay(VALUE_UNITS + own_units(value))
        return value

    def pay_whole(self, value: Any) -> Any:
        """Pays for a value and all that it holds, as an operation walks it, and returns it; a generator as a list."""
        value = list(value) if isinstance(value, GeneratorType) else value
        self.pay(units_of(value, self.left))
        return value

    def pay_each(self, values: Iterable[Any]) -> Iterator[Any]:
        """Yields `values` and pays for each as it comes."""
        for value in values:
            self.pay(VALUE_UNITS)
            yield value

    def run(self, name: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Calls the operation `name` and pays for its operands and its result; the first operand is its subject."""
        self.pay(VALUE_UNITS)
        unseen = int(name in SHALLOW)
        args = (*args[:unseen], *map(self.pay_whole, args[unseen:]))
        kwargs = {key: self.pay_whole(value) for key, value in kwargs.items()}
        if name in EXTRA_UNITS:
            self.pay(EXTRA_UNITS[name](*args, **kwargs))
        result = call(*args, **kwargs)
        if isinstance(result, Iterator):
            return self.pay_each(result)
        return self.pay_new([*result] if isinstance(result, KeysView | ValuesView | ItemsView) else result)

    def meter(self, name: str, function: Any) -> Callable[..., Any]:
        """Makes a filter or test pay. Where it has Jinja's mark for it, it still gets Jinja's context first."""
        given = hasattr(function, "jinja_pass_arg")

        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            return self.run(name, partial(function, *args[:given]), *args[given:], **kwargs)

        return call


def raise_exception(message: object) -> None:
    raise TemplateRefusal(str(message))


def strftime_now(format: str) -> str:
    return datetime.now().strftime(format)


class Variables(Namespace):
    """namespace(): printing one does not show what it holds, since that would not be paid."""

    def __repr__(self) -> str:
        return "<Namespace>"


class Generation(Extension):
    """{% generation %}: marks what the assistant says, for training; here it is a block without an effect."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Any) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class Sandbox(ImmutableSandboxedEnvironment):
    """A Jinja environment for one rendering, in which every operation of a template is paid from `budget`."""

    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)

    def __init__(self, budget: Budget) -> None:
        # Not optimized, since what Jinja computes while it compiles would not be paid.
        super().__init__(trim_blocks=True, lstrip_blocks=True, optimized=False,
                         extensions=[Generation, "jinja2.ext.loopcontrols"])  # fmt: skip
        self.budget, self.pay_each = budget, budget.pay_each
        self.pay_new, self.pay_whole = budget.pay_new, budget.pay_whole
        self.filters |= {"list": lambda values: list(budget.pay_each(values)), "tojson": self.tojson}
        self.filters = {name: budget.meter(name, self.filters[name]) for name in FILTERS}
        self.tests = {name: budget.meter(f"is:{name}", self.tests[name]) for name in self.tests}
        self.globals = {name: self.globals[name] for name in ("range", "cycler", "joiner")}
        self.globals |= {"raise_exception": raise_exception, "strftime_now": strftime_now, "namespace": Variables}

    def tojson(
        self, value: object, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None,
        sort_keys: bool = False,
    ) -> str:  # fmt: skip
        """Writes JSON as transformers' filter does; Jinja's own filter would escape it for HTML."""
        if not 0 <= (indent or 0) <= 16:
            raise ValueError("tojson indents by 0 to 16 spaces")
        form = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
        return "".join(map(self.pay_new, form.iterencode(value)))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "%" and isinstance(left, str):
            raise TypeError("% formats no text in chat templates; ~ joins it")
        product = product_units(self.pay_new(left), self.pay_new(right))
        self.budget.pay(product if operator == "*" else 0)
        return self.pay_new(super().call_binop(context, operator, left, right))

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Calls what a template calls. A method's subject is an operand, too; a macro only passes its arguments on."""
        kwargs = {key: value for key, value in kwargs.items() if key not in ("_loop_vars", "_block_vars")}
        call, subject = partial(super().call, __context, __obj), getattr(__obj, "__self__", None)
        if subject is __self.budget:
            return __obj(*args)
        if isinstance(__obj, Macro):
            __self.budget.pay(VALUE_UNITS * (len(args) + len(kwargs)))
            return __self.pay_new(call(*args, **kwargs))
        name = getattr(__obj, "__name__", "")
        return __self.budget.run(name, lambda _, *a, **k: call(*a, **k), subject, *args, **kwargs)

    def wrap_str_format(self, value: Any) -> None:
        """Gives str.format no special treatment: it is a method that METHODS does not have."""

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        known = attr in METHODS or isinstance(obj, Namespace) or not callable(value)
        return known and super().is_safe_attribute(obj, attr, value)

    def getattr(self, obj: Any, attribute: str) -> Any:
        self.budget.pay(VALUE_UNITS)
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        self.budget.pay(VALUE_UNITS)
        return super().getitem(obj, argument)


def payment(method: str, node: Any) -> nodes.Call:
    """A node that calls the sandbox's `pay_new`, `pay_whole` or `pay_each` on the value of `node`."""
    return nodes.Call(nodes.EnvironmentAttribute(method), [node], [], None, None, lineno=node.lineno)


class Metering(NodeTransformer):
    """Makes a template pay for every loop, comparison, display, slice and output; the Sandbox sees the rest."""

    def visit(self, node: Any, *_: Any, **__: Any) -> Any:
        """Adds a payment for what a node walks or makes, to its children first."""
        self.generic_visit(node)
        match node:
            case nodes.For():
                node.iter = payment("pay_each", node.iter)
            case nodes.Output() | nodes.Concat():
                node.nodes = [payment("pay_whole", one) for one in node.nodes]
            case nodes.Compare() | nodes.Operand():
                node.expr = payment("pay_whole", node.expr)
            case nodes.Pair():
                node.key = payment("pay_whole", node.key)
            case nodes.Getitem(arg=nodes.Slice()) | nodes.List() | nodes.Dict() | nodes.Tuple(ctx="load"):
                return payment("pay_new", node)
            case nodes.Getitem():
                node.arg = payment("pay_whole", node.arg)
        return node


def nesting(node: nodes.Node, depth: int = 1) -> int:
    """Counts the nodes below, each for every block around it. Raises ValueError for what chats do not need."""
    if isinstance(node, REFUSED_NODES) or (isinstance(node, nodes.For) and node.recursive):
        raise ValueError(f"line {node.lineno} has a {type(node).__name__} that chat templates do not use")
    inner = depth + isinstance(node, BLOCK_NODES)
    return depth + sum(nesting(child, inner) for child in node.iter_child_nodes())


def compile_template(source: str) -> CodeType:
    """Compiles a template. Raises Jinja's errors, and ValueError for a template that chats do not need."""
    sandbox = Sandbox(Budget(0))
    tree = sandbox.parse(source)
    if nesting(tree) > MAX_NESTING:
        raise ValueError("it nests its blocks too deep")
    return sandbox.compile(Metering().visit(tree))


def render(code: CodeType, variables: dict[str, Any]) -> str:
    """Runs a template. Raises InvalidRequest over MAX_INPUT, TemplateRefusal, Overrun, and Jinja's errors."""
    try:
        units = BASE_UNITS + PER_INPUT_UNIT * units_of(variables, MAX_INPUT)
    except Overrun as error:
        raise InvalidRequest(f"The messages hold over {MAX_INPUT >> 20} million characters; shorten them.") from error
    sandbox = Sandbox(Budget(units))
    template = sandbox.template_class.from_code(sandbox, code, sandbox.make_globals(None))
    return "".join(template.root_render_func(template.new_context(variables)))
