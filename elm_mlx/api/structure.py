"""The form that an answer is to have, from a call's options, and the value of an answer that has it."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
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
    """A form that a call asks for, and what turns an answer's text into its value. `read` may raise anything."""

    form: Form
    read: Callable[[str], Any]


class Structure:
    """What a request has as its constraint: it begins one for each answer, and reads the answer's value. An answer has
    at least so many `tokens`, the one that ends it included."""

    def __init__(self, begin: Callable[[], Constraint], read: Callable[[str], Any], tokens: int) -> None:
        self._begin, self.read, self._tokens = begin, read, tokens

    def __call__(self) -> Constraint:
        return self._begin()

    def check_room(self, room: int | None) -> None:
        """Raises NotEnforceable where no answer fits into so many tokens."""
        check_room("An answer of this form", self._tokens, room)


def check_room(what: str, tokens: int, room: int | None) -> None:
    """Raises NotEnforceable where an answer, told as `what`, takes more tokens than there is room for."""
    if room is not None and room < tokens:
        raise NotEnforceable(f"{what} takes at least {tokens} tokens, and there is room for {room}.",
                             "Give more {max_tokens}, or a shorter prompt.")  # fmt: skip


def fewest_tokens(least: float, grammars: Grammars) -> int:
    """How many tokens an answer of so many bytes has at least, the one that ends it included."""
    return math.ceil(least / grammars.longest_token) + 1


def constraint_for(options: Mapping[str, Any], grammars: Grammars, stop_ids: frozenset[int]) -> Structure | None:
    """The form that the options ask for, compiled for a model and its stop ids; None where they ask for none.

    Raises InvalidRequest for what is no form, or several; NotEnforceable, with the reason, for one that cannot be
    enforced; NotFound without the extra `structure`; Unsupported, QueueFull.
    """
    if not (asked := form_in(options)):
        return None
    begin = grammars.compile(asked.form, stop_ids)
    return Structure(begin, asked.read, fewest_tokens(least_bytes(asked.form), grammars))


def least_bytes(form: Form) -> float:
    """The fewest bytes of a text that has a form, or fewer. Raises NotEnforceable where no text has it."""
    if form.kind == "choice":
        return min(len(text.encode()) for text in json.loads(form.text))
    least = fewest_bytes(form.text) if form.kind == "json_schema" else 0
    if least == math.inf:
        raise NotEnforceable("The form of the answer cannot be enforced: no value fits the schema.")
    return least


def has_form(options: Mapping[str, Any]) -> bool:
    """Whether options ask for a form, which may take a second to compile."""
    return any(options.get(name) is not None for name in FORMS)


def without_form(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options without those that give a form."""
    return {name: value for name, value in options.items() if name not in FORMS}


def form_in(options: Mapping[str, Any]) -> Asked | None:
    """The form that the options ask for, if they ask for one. Raises as `constraint_for` for what is given."""
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
        return Asked(Form("json_schema", check_schema(schema_of(given))), partial(read_instance, given))
    if isinstance(given, str):
        given = schema_in(given)
    if isinstance(given, Mapping | bool):
        return Asked(Form("json_schema", check_schema(given)), read_json)
    raise InvalidRequest(f"schema is of type {type(given).__name__}; give a JSON schema as a dict or as text, a "
                         "dataclass, or a pydantic model's class.")  # fmt: skip


def asked_model(given: Any) -> Asked:
    """A model's class of pydantic's. Raises NotEnforceable for one that has no schema."""
    try:
        schema = given.model_json_schema()
    except Exception as error:  # of many kinds, a user's own among them
        why = str(error).partition("\n")[0]
        raise NotEnforceable(f"{given.__name__:.80} has no JSON schema: {why:.300}.") from error
    form = Form("json_schema", check_schema(schema))
    # A strict class takes dates, enums and tuples from JSON alone.
    return Asked(form, lambda text: given.model_validate_json(json.dumps(read_json(text))))


def schema_in(text: str) -> Any:
    """A JSON schema that is given as text. Raises InvalidRequest."""
    check_length(text)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"The schema is no JSON: {error or 'it is nested too deep'}.") from error


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
    return Asked(Form("choice", json.dumps(texts, ensure_ascii=False)), str)


def asked_format(given: Any) -> Asked | None:
    """OpenAI's response_format: {"type": "text"}, "json_object", or "json_schema" with the schema in it."""
    kind = given.get("type") if isinstance(given, Mapping) else None
    if not isinstance(kind, str) or kind not in FORMATS:
        raise InvalidRequest(f'response_format is {shown(given)}; its "type" must be one of {", ".join(FORMATS)}.')
    if others := given.keys() - {"type", FORMATS[kind]}:
        raise InvalidRequest(f"response_format has {shown(others.pop())}, which means nothing with the type {kind}.")
    if kind == "text":
        return None
    if kind == "json_object":
        return Asked(Form("json_object", ""), read_json)
    inner = given.get("json_schema")
    if not isinstance(inner, Mapping) or "schema" not in inner:
        raise InvalidRequest('response_format has no "schema" in its "json_schema".')
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
        return structure.read(text)
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
