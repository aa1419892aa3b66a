"""The form that an answer is to have, from a call's options, and the value of an answer that has it."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import Any

from elm_mlx.api.dataclass_schema import instance_of, schema_of
from elm_mlx.arguments import is_unicode, shown
from elm_mlx.engine.constraint import Constraint
from elm_mlx.engine.request import Request
from elm_mlx.engine.sequence import STOP
from elm_mlx.errors import InvalidRequest, NotEnforceable
from elm_mlx.text.constraint_row import ConstraintRow
from elm_mlx.text.form_bounds import check_written
from elm_mlx.text.grammar import Form, Grammars
from elm_mlx.text.schema import check_length, check_schema
from elm_mlx.text.schema_length import fewest_bytes

FORMS = ("schema", "regex", "choices", "grammar", "response_format")  # the options of which a call may have one
FORMATS = {"text": None, "json_object": None, "json_schema": "json_schema"}  # of response_format -> what else it has
MOST_CHOICES = 4096
LONGEST_DIGITS = 4000  # that Python reads as a number without being asked
DIRECTIVES = ("%json", "%llguidance", "%regex")  # in a grammar: parts in other notations, which nobody would check


@dataclass(frozen=True)
class Asked:
    """A form that a call asks for. `read`, which may raise anything, turns an answer's text into its value; None where
    it has none. An answer, which messages call `name`, has at least so many bytes as `least`."""

    form: Form
    read: Callable[[str], Any] | None
    least: float = 0
    name: str = "An answer of this form"


class Structure:
    """What a request has as its constraint: it begins one for each answer, as soon as the form is `compiled`, in a
    thread of its own. `read` is as of Asked; `begin` makes an answer's constraint of a compiled form."""

    def __init__(
        self,
        compiled: Future[ConstraintRow],
        begin: Callable[[ConstraintRow], Constraint],
        read: Callable[[str], Any] | None,
    ) -> None:
        self.compiled, self._begin, self.read = compiled, begin, read

    def __call__(self) -> Constraint:
        """Begins an answer's constraint. Waits until the form is compiled, and raises what is wrong with it."""
        return self._begin(self.compiled.result())


def structure_of(asked: Asked, grammars: Grammars, stop_ids: frozenset[int], room: int | None) -> Structure:
    """The constraint of answers that have a form, end with one of the `stop_ids`, and have room for so many tokens,
    that id included (None: for any number). Raises as `Grammars.compile`; NotEnforceable without a stop id, and, where
    the form is compiled, without room for any answer."""
    if not stop_ids:
        raise NotEnforceable("This model has no token that ends an answer, so an answer never completes its form. Ask "
                             "without a form, or take another model.")  # fmt: skip

    def begin(row: ConstraintRow) -> Constraint:
        least = math.ceil(asked.least / grammars.longest_token) + 1
        if room is not None and room < least:
            raise NotEnforceable(f"{asked.name} takes at least {least} tokens, and there is room for {room}.",
                                 "Give more {max_tokens}, or a shorter prompt.")  # fmt: skip
        return row.begin(stop_ids)

    return Structure(grammars.compile(asked.form), begin, asked.read)


def without_form(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options without those that give a form."""
    return {name: value for name, value in options.items() if name not in FORMS}


def form_in(options: Mapping[str, Any]) -> Asked | None:
    """The form that the options ask for, if they ask for one. Raises InvalidRequest for what is no form, or several;
    NotEnforceable, with the reason, for one of which it can be seen that it cannot be enforced."""
    given = [name for name in FORMS if options.get(name) is not None]
    if not given:
        return None
    if len(given) > 1:
        raise InvalidRequest(f"{' and '.join(given)} each give a form to the answer, which has only one.",
                             f"Leave all but one of {', '.join(f'{{{name}}}' for name in given)} out.")  # fmt: skip
    name = given[0]
    return READERS[name](options[name])


def asked_schema(given: Any) -> Asked:
    """A schema as a dict, JSON text, a dataclass, or a class with `model_json_schema` and `model_validate_json`."""
    if isinstance(given, type) and hasattr(given, "model_json_schema"):
        return asked_model(given)
    if isinstance(given, type) and dataclasses.is_dataclass(given):
        return asked_json(schema_of(given), partial(read_instance, given))
    if isinstance(given, str):
        given = schema_in(given)
    if isinstance(given, Mapping | bool):
        return asked_json(given, read_json)
    raise InvalidRequest(f"schema is of type {type(given).__name__}; give a JSON schema as a dict or as text, a "
                         "dataclass, or a pydantic model's class.")  # fmt: skip


def asked_json(schema: object, read: Callable[[str], Any]) -> Asked:
    """An answer that fits a JSON schema. Raises NotEnforceable for one that cannot be enforced, or that no value
    fits."""
    text = check_schema(schema)
    if (least := fewest_bytes(text)) == math.inf:
        raise NotEnforceable("The form of the answer cannot be enforced: no value fits the schema. Correct it.")
    return Asked(Form("json_schema", text), read, least)


def asked_model(given: Any) -> Asked:
    """A model's class of pydantic's. Raises NotEnforceable for one that has no schema."""
    try:
        schema = given.model_json_schema()
    except Exception as error:  # of many kinds, a user's own among them
        why = str(error).partition("\n")[0]
        raise NotEnforceable(f"{given.__name__:.80} has no JSON schema: {why:.300}. Give one as a dict.") from error
    # A strict class takes dates, enums and tuples from JSON alone.
    return asked_json(schema, lambda text: given.model_validate_json(json.dumps(read_json(text))))


def schema_in(text: str) -> Any:
    """A JSON schema that is given as text. Raises InvalidRequest."""
    check_length(text)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"The schema is not valid JSON: {error or 'it is too deep'}. Correct it.") from error


def asked_regex(given: Any) -> Asked:
    """A regular expression, which the whole answer has to fit."""
    return Asked(Form("regex", check_text("regex", given)), str)


def asked_grammar(given: Any) -> Asked:
    """A grammar in Lark's notation."""
    text = check_text("grammar", given)
    if found := next((name for name in DIRECTIVES if name in text), None):
        raise NotEnforceable(f"The grammar has {found}, a part in another notation, which elm-mlx does not check. "
                             "Write it as rules.")  # fmt: skip
    return Asked(Form("lark", text), str)


def asked_choices(given: Any) -> Asked:
    """Several texts, of which the answer is to be one."""
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Sequence):
        raise InvalidRequest(f"choices is {shown(given)}; it must be a list of texts.")
    texts = [check_text("A text in choices", one) for one in given]
    if not 1 <= len(texts) <= MOST_CHOICES:
        raise InvalidRequest(f"choices has {len(texts):,} texts; it may have 1 to {MOST_CHOICES:,}.")
    for text in texts:
        check_written("A text in choices", text)
    least = min(len(text.encode()) for text in texts)
    return Asked(Form("choice", json.dumps(texts, ensure_ascii=False)), str, least)


def asked_format(given: Any) -> Asked | None:
    """OpenAI's response_format: {"type": "text"}, "json_object", or "json_schema" with the schema in it."""
    kind = given.get("type") if isinstance(given, Mapping) else None
    if not isinstance(kind, str) or kind not in FORMATS:
        raise InvalidRequest(f'response_format is {shown(given)}; its "type" must be one of {", ".join(FORMATS)}.')
    if others := given.keys() - {"type", FORMATS[kind]}:
        raise InvalidRequest(f"response_format has {shown(others.pop())}, which means nothing with the type {kind}. "
                             "Leave it out.")  # fmt: skip
    if kind == "text":
        return None
    if kind == "json_object":
        return Asked(Form("json_object", ""), read_json)
    inner = given.get("json_schema")
    if not isinstance(inner, Mapping) or "schema" not in inner:
        raise InvalidRequest('response_format has no "schema" in its "json_schema". Add it.')
    return asked_schema(inner["schema"])


READERS: dict[str, Callable[[Any], Asked | None]] = {
    "schema": asked_schema, "regex": asked_regex, "choices": asked_choices, "grammar": asked_grammar,
    "response_format": asked_format,
}  # fmt: skip


def check_text(name: str, given: Any) -> str:
    """A text that says a form. Raises InvalidRequest for an empty one, or none, or one that is no Unicode."""
    if not isinstance(given, str) or not given or not is_unicode(given):
        raise InvalidRequest(f"{name} is {shown(given)}; it must be a text, and not an empty one.")
    return given


def value_of(request: Request, text: str, reason: str | None, ended_by: int | str | None) -> Any:
    """The value of an answer that has the form its request asks for. None where it asks for none, where the answer did
    not end by itself, where the class that is to hold it refuses the value for reasons that no schema says, whatever it
    raises, and where it is nested deeper than Python reads."""
    structure = request.constraint
    if not isinstance(structure, Structure) or reason != STOP or isinstance(ended_by, str):
        return None
    try:
        return structure.read(text) if structure.read else None
    except Exception:  # the class is the caller's, and may raise anything
        return None


def read_instance(made: type, text: str) -> Any:
    """A JSON text as an instance of a dataclass."""
    return instance_of(made, read_json(text))


def read_json(text: str) -> Any:
    """The value of a JSON text. A number beyond those of floats is the largest of these."""
    return json.loads(text, parse_int=whole, parse_float=real)


def whole(digits: str) -> int:
    """A whole number, also one of so many digits that Python would not read it."""
    return int(digits) if len(digits) < LONGEST_DIGITS else int(Decimal(digits))


def real(digits: str) -> float:
    """A number, or the largest float of its sign."""
    return max(-sys.float_info.max, min(float(digits), sys.float_info.max))
