"""Runs a chat template as a program on a budget: Jinja as transformers offers it, with every operation paid for.

A template comes from the internet. What it may use is in operations.py, and what it pays in budget.py; see_through.py
lets it find control tokens in disguised texts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from types import BuiltinMethodType, CodeType, MethodType, TracebackType
from typing import Any

from jinja2 import Template
from jinja2.exceptions import SecurityError, TemplateSyntaxError
from jinja2.runtime import Context, LoopContext, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from elm_mlx.errors import InvalidRequest
from elm_mlx.text.chat.budget import Budget
from elm_mlx.text.chat.filters import Filters
from elm_mlx.text.chat.formats import format_text
from elm_mlx.text.chat.metering import MAX_NESTING, Generation, Metering, nesting
from elm_mlx.text.chat.operations import FILTERS, METHODS, REASONS, TESTS, Dicts, method_reason
from elm_mlx.text.chat.see_through import Hiding, Sight
from elm_mlx.text.chat.units import VALUE_UNITS, VIEWS, Overrun, units_of

BASE_UNITS = 1 << 25  # the cost that any rendering may have: about a second
PER_INPUT_UNIT = 16  # units more for each unit of the messages; templates of Llama 3 take 4 to 6, of Qwen 3 about 9
MAX_INPUT = 1 << 22  # units: four million characters, more than any context holds


class TemplateRefusal(Exception):
    """A template refuses the messages: it called raise_exception."""


class TemplateFault(Exception):
    """A template fails, or needs what is refused: the message says in which line."""


def raise_exception(message: object) -> None:
    """The global by which a template refuses messages. Raises TemplateRefusal."""
    raise TemplateRefusal(str(message))


def strftime_now(format: str) -> str:
    """The global that gives a template today's date."""
    return datetime.now().strftime(format)


def check_name(name: object) -> None:
    """Raises SecurityError for a name that no namespace may hold."""
    if str(name).startswith("_"):
        raise SecurityError(f"a namespace holds no name that begins with an underscore, such as {str(name)[:40]!r}")


class Variables(Namespace):
    """namespace(): printing one does not show what it holds, since that would not be paid."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        held = dict(*args[1:], **kwargs)
        for name in held:
            check_name(name)
        Namespace.__init__(args[0], held)

    def __setitem__(self, name: str, value: Any) -> None:
        check_name(name)
        super().__setitem__(name, value)

    def __repr__(self) -> str:
        return "<Namespace>"


def refuse(kind: str, name: str, *_: Any, **__: Any) -> None:
    """Stands for a filter or a global that is refused, so that a template fails only if it is used."""
    raise SecurityError(f"the {kind} {name} is refused, since it {REASONS[kind, name]}")


class Sandbox(ImmutableSandboxedEnvironment):
    """A Jinja environment for one rendering, in which every operation of a template is paid from `budget`."""

    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)

    def __init__(self, budget: Budget) -> None:
        # Not optimized, since what Jinja computes while it compiles would not be paid.
        super().__init__(trim_blocks=True, lstrip_blocks=True, optimized=False,
                         extensions=[Generation, "jinja2.ext.loopcontrols"])  # fmt: skip
        self.budget = budget
        self.pay_new, self.pay_whole, self.pay_each = budget.pay_new, budget.pay_whole, budget.pay_each
        self.shown, self.seen = budget.shown, budget.seen
        self.filters |= Filters(self).named()
        self.filters = {name: budget.meter(f"|{name}", self.filters[name]) for name in FILTERS}
        self.tests = {name: budget.meter(f"is:{name}", self.tests[name]) for name in TESTS}
        self.globals = {name: self.globals[name] for name in ("range", "cycler", "joiner")}
        self.globals |= {"raise_exception": raise_exception, "strftime_now": strftime_now, "namespace": Variables,
                         "dict": Dicts()}  # fmt: skip
        for kind, named in (("filter", self.filters), ("global", self.globals)):
            named |= {name: partial(refuse, kind, name) for known, name in REASONS if known == kind}

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if isinstance(left, VIEWS) or isinstance(right, VIEWS):
            raise TypeError("the keys, values or items of an object are no set in chat templates")
        return self.budget.run(operator, partial(super().call_binop, context, operator), left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Calls what a template calls, and pays for it. The value that a method belongs to is paid as an operand; a
        macro only passes its arguments on."""
        kwargs = {key: value for key, value in kwargs.items() if key not in ("_loop_vars", "_block_vars")}
        subject, call = getattr(__obj, "__self__", None), super().call
        if subject is __self.budget:
            return __obj(*args)
        if isinstance(__obj, Macro):
            __self.budget.pay(VALUE_UNITS * (len(args) + len(kwargs)))
            return __self.pay_new(call(__context, __obj, *args, **kwargs))
        if isinstance(__obj, LoopContext):
            (items,) = (*args, *kwargs.values())
            return __self.pay_new(call(__context, __obj, __self.pay_each(items)))
        name = getattr(__obj, "__name__", None) or type(__obj).__name__

        def invoke(shown: Any, /, *args: Any, **kwargs: Any) -> Any:
            return call(__context, __obj if shown is subject else getattr(shown, name), *args, **kwargs)

        return __self.budget.run(f"{name}()" if subject is None else f".{name}", invoke, subject, *args, **kwargs)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Gives a text's format and format_map as functions that look up, and pay, as the sandbox does."""
        if not isinstance(value, BuiltinMethodType | MethodType) or value.__name__ not in ("format", "format_map"):
            return None
        text = value.__self__
        if not isinstance(text, str):
            return None

        def format(*args: Any, **kwargs: Any) -> str:
            return format_text(self, self.budget, text, args, kwargs)

        def format_map(mapping: Mapping[str, Any], /) -> str:
            return format_text(self, self.budget, text, (), mapping)

        return format if value.__name__ == "format" else format_map

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if callable(value) and not isinstance(obj, Namespace):
            return any(isinstance(obj, kind) and attr in names for kind, names in METHODS.items())
        return super().is_safe_attribute(obj, attr, value)

    def unsafe_undefined(self, obj: Any, attribute: str) -> Undefined:
        what = f"{attribute} of a {type(obj).__name__} is refused{method_reason(obj, attribute)}"
        return self.undefined(what, name=attribute, obj=obj, exc=SecurityError)

    def getattr(self, obj: Any, attribute: str) -> Any:
        self.budget.pay(VALUE_UNITS)
        return super().getattr(obj, self.budget.sight.key(obj, attribute))

    def getitem(self, obj: Any, argument: Any) -> Any:
        self.budget.pay(VALUE_UNITS)
        return super().getitem(obj, self.budget.sight.key(obj, argument))


def compile_template(source: str, kind: type[Sandbox] = Sandbox) -> CodeType:
    """Compiles a template for a `kind` of sandbox. Raises ValueError, with the line, for a mistake in it or a tag that
    is refused."""
    sandbox = kind(Budget(0, Sight()))
    try:
        tree = sandbox.parse(source)
    except TemplateSyntaxError as error:
        raise ValueError(f"line {error.lineno}: {error.message}") from error
    if nesting(tree) > MAX_NESTING:
        raise ValueError("its blocks lie too deep within one another")
    return sandbox.compile(Metering().visit(tree))


def line_in(template: Template, trace: TracebackType | None) -> int:
    """The line of the template's source in which an error arose."""
    line = 1
    while trace:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = template.get_corresponding_lineno(trace.tb_lineno)
        trace = trace.tb_next
    return line


def render(
    code: CodeType, variables: dict[str, Any], disguise: Hiding | None = None, kind: type[Sandbox] = Sandbox
) -> str:
    """Runs a template in a `kind` of sandbox; its operations see through `disguise`, in which the texts of `variables`
    are.

    Raises InvalidRequest over MAX_INPUT, TemplateRefusal, Overrun, and TemplateFault for all that fails.
    """
    try:
        units = BASE_UNITS + PER_INPUT_UNIT * units_of(variables, MAX_INPUT)
    except Overrun as error:
        raise InvalidRequest(f"The messages hold over {MAX_INPUT >> 20} million characters; shorten them.") from error
    sandbox = kind(Budget(units, Sight(disguise)))
    template = sandbox.template_class.from_code(sandbox, code, sandbox.make_globals(None))
    try:
        return "".join(template.root_render_func(template.new_context(variables)))
    except (Overrun, TemplateRefusal):
        raise
    except Exception as error:
        raise TemplateFault(
            f"line {line_in(template, error.__traceback__)}: {error or type(error).__name__}"
        ) from error
