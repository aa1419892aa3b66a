"""The texts of a task, which its file gives as templates: Jinja in the sandbox of chat templates, as a function of a
question. lm-eval itself would run them outside of any sandbox."""

from __future__ import annotations

import ast
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

from jinja2 import StrictUndefined

from elm_mlx.errors import InvalidRequest
from elm_mlx.text.chat.budget import Budget
from elm_mlx.text.chat.sandbox import Sandbox, TemplateFault, TemplateRefusal, compile_template, render
from elm_mlx.text.chat.units import Overrun

Question = Mapping[str, Any]
MAX_LIST = 2**20  # characters of a list that is written as text


class TaskSandbox(Sandbox):
    """Jinja as lm-eval sets it up: every newline counts, and a name that a question lacks is an error."""

    def __init__(self, budget: Budget) -> None:
        super().__init__(budget)
        self.trim_blocks = self.lstrip_blocks = False
        self.keep_trailing_newline = True
        self.undefined = StrictUndefined


def writer(source: str, columns: Collection[str], what: str) -> Callable[[Question], Any]:
    """A function from a question to its text: the value of the column of that name, or what the template writes; `what`
    is what errors call it. Raises InvalidRequest for a template that is none, and when it is called, for one that
    fails."""
    if source in columns:
        return partial(column_of, name=source)
    try:
        code = compile_template(source, TaskSandbox)
    except (ValueError, RecursionError, MemoryError) as error:
        raise InvalidRequest(f"{what} is a template that does not run here: {error}.") from error

    def write(question: Question) -> str:
        try:
            return render(code, dict(question), kind=TaskSandbox)
        except (TemplateFault, TemplateRefusal, Overrun) as error:
            raise InvalidRequest(f"{what} fails for a question: {error}.") from error

    return write


def column_of(question: Question, name: str) -> Any:
    """A question's value in a column."""
    return question.get(name)


def text_writer(source: Any, columns: Collection[str], what: str, has_choices: bool) -> Callable[[Question], Any]:
    """What stands before an ending: a text, or with choices the number of the right one."""
    write = writer(text_of(source, what), columns, what)

    def before(question: Question) -> Any:
        value = numbered(write(question), has_choices)
        return value if has_choices and isinstance(value, int) else written(value, what)

    return before


def target_writer(source: Any, columns: Collection[str], what: str, has_choices: bool) -> Callable[[Question], Any]:
    """What is right: a text, the number of a choice, or a list of texts."""
    if isinstance(source, int) and not isinstance(source, bool):
        return lambda _: source
    if is_texts(source):
        return lambda _: list(source)
    write = writer(text_of(source, what), columns, what)

    def target(question: Question) -> Any:
        value = numbered(write(question), has_choices)
        looks_like_a_list = isinstance(value, str) and value[:1] == "[" and value[-1:] == "]"
        found = listed(value, what) if looks_like_a_list and source not in columns else value
        if isinstance(found, list):
            return [each if has_choices and isinstance(each, int) else written(each, what) for each in found]
        return int(found) if has_choices and isinstance(found, int) else written(found, what)

    return target


def target_among(
    target: Callable[[Question], Any], before: Callable[[Question], Any], choices: Callable[[Question], list[str]]
) -> Callable[[Question], Any]:
    """`target`, where it must name one of the choices, or several: by their numbers, or in their words. Where what
    stands `before` is the number of a choice, it is what follows all of them, and any text."""

    def checked(question: Question) -> Any:
        found, known = target(question), choices(question)
        for one in found if isinstance(found, list) else [found]:
            if one not in (range(len(known)) if isinstance(one, int) else known):
                raise InvalidRequest(f"doc_to_target gives {one!r:.80} for a question, which names none of its "
                                     f"{len(known)} choices.")  # fmt: skip
        return found

    return lambda question: target(question) if isinstance(before(question), int) else checked(question)


def choices_writer(source: Any, columns: Collection[str], what: str) -> Callable[[Question], list[str]]:
    """The endings of a question, at least two of which one is right."""
    if is_texts(source):
        return lambda _: list(source)
    write = writer(text_of(source, what), columns, what)

    def choices(question: Question) -> list[str]:
        value = write(question)
        found = listed(value, what) if isinstance(value, str) else value
        if not is_texts(found) or not found:
            raise InvalidRequest(f"{what} gives {found!r:.80} for a question; it must give a list of texts.")
        return list(found)

    return choices


def numbered(value: Any, has_choices: bool) -> Any:
    """A text of digits as the number of a choice, where there are some."""
    is_number = has_choices and isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10
    return int(value) if is_number else value


def listed(text: str, what: str) -> Any:
    """The list that a template has written as Python writes it. Raises InvalidRequest."""
    try:
        return ast.literal_eval(text[: MAX_LIST + 1] if len(text) > MAX_LIST else text)
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise InvalidRequest(f"{what} writes {text!r:.80} for a question; it must write a list.") from error


def written(value: Any, what: str) -> str:
    """A text, or a number as one. Raises InvalidRequest for anything else."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise InvalidRequest(f"{what} gives {value!r:.80} for a question; it must give a text.")
    return str(value)


def is_texts(value: Any) -> bool:
    """Whether a value is a list of texts."""
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def text_of(value: Any, what: str) -> str:
    """A text. Raises InvalidRequest for anything else."""
    if not isinstance(value, str):
        raise InvalidRequest(f"{what} is {value!r:.80}; it must be a text.")
    return value
