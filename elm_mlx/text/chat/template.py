"""From messages to a prompt by the model's Jinja template: text, or ids whose control tokens are the template's own."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import CodeType
from typing import Any, TypeVar

from elm_mlx.errors import BadCheckpoint, ElmError, InvalidRequest, NotFound
from elm_mlx.files import MAX_LARGE_BYTES, read_json, read_text
from elm_mlx.text.chat.continuing import before_mark, new_mark, with_mark
from elm_mlx.text.chat.disguise import Disguise
from elm_mlx.text.chat.messages import check_messages, plain_json
from elm_mlx.text.tokenizer import Tokenizer
from elm_mlx.text.tools.wordings import Wording, wording_in

T = TypeVar("T")

ZEPHYR = """\
{{ bos_token }}{% if messages[0]['role'] != 'system' %}
{{ '<|system|>\\n' + eos_token }}
{% endif %}
{% for message in messages %}
{{ '<|' + message['role'] + '|>\\n' + message['content'] + eos_token }}
{% endfor %}
{% if add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
"""
UNCONFIRMED_FORMATS = {"zephyr": ZEPHYR}
"""Formats that a caller may ask for by name. zephyr is perhaps OpenELM-Instruct's: Apple published none, its tuning
recipe points to zephyr, and reports of it are mixed. BOS is our addition: OpenELM was trained with one."""

ANSWER = "Blue."
PROBE: list[dict[str, Any]] = [
    {"role": "user", "content": "Which colour?"},
    {"role": "assistant", "content": ANSWER},
    {"role": "user", "content": "Why?"},
]
CALLS: list[dict[str, Any]] = [  # the ids have the one length that Mistral's templates take
    {"id": name, "type": "function", "function": {"name": name, "arguments": {"word": "yes"}}}
    for name in ("firstcall", "othercall")
]
ONE_CALL, TWO_CALLS = (
    [PROBE[0], {"role": "assistant", "content": "", "tool_calls": CALLS[:count]}] for count in (1, 2)
)
OTHERWISE = "Give one by {chat_template}, or complete plain text, as `elm-mlx generate --raw` does."
USUAL, FOR_TOOLS = "default", "tool_use"  # the names of the templates that are ever chosen
# Options of transformers' apply_chat_template that would be lost as variables, which no template reads.
NO_VARIABLES = frozenset(
    "chat_template continue_final_message max_length padding return_assistant_tokens_mask return_dict return_tensors "
    "sanitize_control_tokens tokenize tokenizer_kwargs truncation".split()
)
MAX_TEMPLATE = 1 << 16  # characters; Llama 3.1's template has 4 thousand


class ChatTemplate:
    """A model's way of writing a conversation as one prompt.

    `source` is the Jinja template, up to 64 thousand characters; `special_tokens` are the texts that it knows by name
    (bos_token, ...); `where` is its path, for messages. Raises BadCheckpoint for a source that is no template.
    """

    def __init__(
        self, source: str, special_tokens: Mapping[str, str], where: Path = Path("chat_template.jinja")
    ) -> None:
        self._source, self._tokens, self._where = source, dict(special_tokens), where
        if len(source) > MAX_TEMPLATE:
            raise self.unusable(f"holds over {MAX_TEMPLATE >> 10} thousand characters, more than any chat needs")
        self._code: CodeType | None = None
        self._prepared: tuple[Tokenizer, Disguise] | None = None
        self._turn_ends: tuple[Tokenizer, frozenset[int]] | None = None

    @classmethod
    def from_name(cls, template: str | Path, special_tokens: Mapping[str, str]) -> ChatTemplate:
        """The unconfirmed format of this name, or the template in this file. Raises NotFound where there is neither,
        and BadCheckpoint for a file that is no template."""
        source = UNCONFIRMED_FORMATS.get(str(template))
        try:
            source = source or given_template(Path(template))
        except NotFound as error:
            named = ", ".join(UNCONFIRMED_FORMATS)
            raise NotFound(f"{template} is neither a file with a chat template nor a known format ({named}). Give a "
                           "file.") from error  # fmt: skip
        found = cls(source, special_tokens, Path(template))
        found.compile()
        return found

    def render(
        self, messages: Sequence[Mapping[str, Any]], *, tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True, **variables: Any,
    ) -> str:  # fmt: skip
        """Renders the prompt of `messages` as text, BOS included, as transformers renders it.

        Raises InvalidRequest for messages without a meaning or that the template refuses, BadCheckpoint for a
        template that fails or takes too much work.
        """
        return self._run(self._inputs(messages, tools, add_generation_prompt, variables))

    def encode(
        self, messages: Sequence[Mapping[str, Any]], tokenizer: Tokenizer, *,
        tools: Sequence[Mapping[str, Any]] | None = None, add_generation_prompt: bool = True, goes_on: bool = False,
        **variables: Any,
    ) -> list[int]:  # fmt: skip
        """Renders the prompt of `messages` as ids. The template's control tokens become control ids, BOS only where it
        writes one; control tokens in the caller's strings become text. With `goes_on` the prompt ends where the last
        message, an assistant's text, ends. Raises as `render`, and InvalidRequest where there is no such message.

        A template that builds a token around a text is trusted: most do so with a role or a key, the program's own.
        """
        mark = new_mark() if goes_on else None
        if mark:
            messages, add_generation_prompt = with_mark(check_messages(messages), mark), False
        inputs = self._inputs(messages, tools, add_generation_prompt, variables)
        used = set(self._source).union(json.dumps(inputs, ensure_ascii=False), *self._tokens.values())
        disguise = self._disguise(tokenizer, used)
        disguised = {key: plain_json(value, disguise, disguise.name) for key, value in inputs.items()}
        rendered = self._run(disguised, disguise)
        if mark:
            rendered = before_mark(rendered, disguise(mark))
        return tokenizer.encode_chat(disguise.mark(rendered), disguise.stand_ins)

    @property
    def source(self) -> str:
        """The Jinja template."""
        return self._source

    @property
    def shows_tools(self) -> bool:
        """Whether the template tells the model which tools there are."""
        return bool(re.search(r"\btools\b", self._source))

    @cached_property
    def wording(self) -> Wording | None:
        """How the template words a call of a tool; None where it writes none in words that are known."""
        name = CALLS[0]["id"]
        try:
            return wording_in(self.render(ONE_CALL, tools=[]), name, name)
        except ElmError:  # a template may refuse calls, and says so when it is used
            return None

    def takes_several_calls(self) -> bool:
        """Whether it writes two calls of one message, instead of refusing them."""
        try:
            shown = self.render(TWO_CALLS, tools=[])
        except ElmError:
            return False
        return all(str(call["id"]) in shown for call in CALLS)

    def turn_ends(self, tokenizer: Tokenizer) -> frozenset[int]:
        """The ids of the tokens that end an answer: the added token that follows one in a short conversation, blanks
        aside, and Llama 3's <|eot_id|>, which has no other use."""
        known = self._turn_ends
        if known is None or known[0] is not tokenizer:
            _, answer, after = self._probe.rpartition(ANSWER)
            text, token, *_ = [*tokenizer.added_tokens.split(after), ""]
            found = {token} if answer and token.strip() and not text.strip() else set()
            ends = frozenset(i for text, i in tokenizer.added_ids.items() if text in found | {"<|eot_id|>"})
            known = self._turn_ends = tokenizer, ends
        return known[1]

    def _disguise(self, tokenizer: Tokenizer, used: set[str]) -> Disguise:
        """The disguise of the tokens that no caller may write: the special ones, and those by which this template sets
        messages and calls of tools apart, special or not."""
        known = self._prepared
        if known is None or known[0] is not tokenizer or not known[1].fits(used):
            written = tokenizer.added_tokens.split(self._probe)[1::2]
            said = [text for message in PROBE for text in message.values()]
            marks = {token for token in written if token.strip() and not any(token in text for text in said)}
            marks |= tokenizer.added_ids.keys() & (self.wording.marks if self.wording else ())
            control = marks.union(tokenizer.control_ids)
            known = self._prepared = tokenizer, Disguise(tokenizer.added_tokens, control, used)
        return known[1]

    @cached_property
    def _probe(self) -> str:
        """A short conversation as this template writes it; an empty text where the template refuses it."""
        try:
            return self._run(self._inputs(PROBE, None, False, {}))
        except ElmError:  # a template may ask for more than that, and says so when it is used
            return ""

    def _inputs(self, messages: object, tools: object, add_generation_prompt: bool, variables: dict[str, Any]) -> Any:
        if tools is not None and not (isinstance(tools, list | tuple) and all(isinstance(t, Mapping) for t in tools)):
            raise InvalidRequest("tools must be a list of JSON schemas, each an object.")
        if strange := NO_VARIABLES.intersection(variables):
            raise InvalidRequest(f"A chat has no option {min(strange)}, and it cannot be a variable of the template. "
                                 "Leave it out.")  # fmt: skip
        named = {"messages": check_messages(messages), "tools": tools, "documents": None}
        return plain_json({**named, "add_generation_prompt": bool(add_generation_prompt), **variables})

    def _run(self, inputs: dict[str, Any], disguise: Disguise | None = None) -> str:
        from elm_mlx.text.chat import sandbox

        code = self.compile()
        try:
            return sandbox.render(code, self._tokens | inputs, disguise)
        except InvalidRequest:
            raise
        except sandbox.TemplateRefusal as said:
            raise InvalidRequest(f"The model's chat template refuses these messages: {str(said)[:500]}") from said
        except sandbox.Overrun as error:
            raise self.unusable("takes more time or memory than any chat needs, so it is damaged or hostile") from error
        except Exception as error:
            raise self.unusable(f"fails on these messages ({_brief(error)})") from error

    def compile(self) -> CodeType:
        """Compiles the template, once. Raises BadCheckpoint for a source that is no template."""
        from elm_mlx.text.chat import sandbox

        try:
            self._code = self._code or sandbox.compile_template(self._source)
            return self._code
        except Exception as error:
            raise self.unusable(f"is not one that elm-mlx can use ({_brief(error)})") from error

    def unusable(self, why: str) -> BadCheckpoint:
        """The error for a template of which `why` says what is wrong with it."""
        return BadCheckpoint(f"{self._where}: the chat template {why}.", OTHERWISE)


def _brief(error: Exception) -> str:
    """An error's message on one line, or the kind of error where it has no message."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def read_template(path: Path) -> str:
    """Reads a template file. Raises NotFound where there is none, and BadCheckpoint for one that is too large."""
    return read_text(path, 4 * MAX_TEMPLATE)  # UTF-8's longest characters have four bytes


def given_template(path: Path) -> str:
    """Reads the template in a file that a caller names: a template, or the default one in JSON such as
    tokenizer_config.json. Raises NotFound, and BadCheckpoint for JSON without one."""
    if path.suffix != ".json":
        return read_template(path)
    found = named_templates(read_json(path, MAX_LARGE_BYTES).get("chat_template"), path).get("default")
    if found is None:
        raise BadCheckpoint(f"{path} has no chat_template. Give a file that is a chat template, or has one.")
    return found


def named_templates(setting: object, where: Path) -> dict[str, str]:
    """Reads the templates in `chat_template` of tokenizer_config.json, whose path is `where`: a text, which is the
    default, objects with name and template, or texts by their names. Raises BadCheckpoint for anything else."""
    if setting is None:
        return {}
    if isinstance(setting, str):
        return {"default": setting}
    listed = setting if isinstance(setting, list) else []
    named: dict[str, Any] = {str(one.get("name")): one.get("template") for one in listed if isinstance(one, Mapping)}
    named |= setting if isinstance(setting, Mapping) else {}
    if not named or not all(isinstance(text, str) for text in named.values()):
        what = f"{where}: chat_template holds neither a text nor a list of templates with their names."
        raise BadCheckpoint(what, OTHERWISE)
    return named


def choose(templates: Mapping[str, T], where: Path, tools: object) -> T:
    """Chooses among a model's templates as transformers does: the one for tools where `tools` are given, even none, and
    there is one, else the default. Raises NotFound where the model in `where` has neither."""
    found = (templates.get(FOR_TOOLS) if tools is not None else None) or templates.get(USUAL)
    if found is None:
        named = f" but one for {', '.join(templates)}" if templates else ", as in models that were not made for chats"
        raise NotFound(f"There is no chat template in {where}{named}.", OTHERWISE)
    return found
