"""From messages to a prompt by the model's Jinja template: text, or ids whose control tokens are the template's own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from types import CodeType
from typing import Any

from elm_mlx.errors import BadCheckpoint, InvalidRequest, NotFound
from elm_mlx.files import read_text
from elm_mlx.text.chat.disguise import Disguise
from elm_mlx.text.chat.messages import check_messages, plain_json
from elm_mlx.text.tokenizer import Tokenizer, token_text

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
            raise BadCheckpoint(
                f"{where} holds over {MAX_TEMPLATE >> 10} thousand characters, too many for a chat template."
            )
        self._code = self._compile()

    @classmethod
    def from_directory(cls, directory: Path, settings: Mapping[str, Any], *, with_tools: bool = False) -> ChatTemplate:
        """Reads the template of a model directory: its chat_template.jinja, else the one in `settings`, the object of
        tokenizer_config.json. Of several templates there it takes the one for tools, if `with_tools`, or the default.

        Raises NotFound where there is none.
        """
        source, where = _read_source(directory / "chat_template.jinja"), directory / "chat_template.jinja"
        if source is None:
            where = directory / "tokenizer_config.json"
            source = _choose(settings.get("chat_template"), where, with_tools)
        return cls(source, _named_tokens(settings), where)

    @classmethod
    def from_name(cls, template: str | Path, settings: Mapping[str, Any]) -> ChatTemplate:
        """The unconfirmed format of this name, or the template in this file. Raises NotFound where there is neither."""
        source = UNCONFIRMED_FORMATS.get(str(template)) or _read_source(Path(template))
        if source is None:
            raise NotFound(
                f"{template} is neither a file with a chat template nor one of {', '.join(UNCONFIRMED_FORMATS)}."
            )
        return cls(source, _named_tokens(settings), Path(template))

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
        tools: Sequence[Mapping[str, Any]] | None = None, add_generation_prompt: bool = True, **variables: Any,
    ) -> list[int]:  # fmt: skip
        """Renders the prompt of `messages` as ids. The template's control tokens become control ids, BOS only where it
        writes one; control tokens in the caller's strings become text. Raises as `render`.

        A template that cuts strings up itself and joins them to a token, or builds a token around a role, is trusted.
        """
        inputs = self._inputs(messages, tools, add_generation_prompt, variables)
        used = set(self._source).union(json.dumps(inputs, ensure_ascii=False), *self._tokens.values())
        disguise = Disguise(tokenizer.control_ids, used)
        pieces = disguise.split(self._run({key: plain_json(value, disguise) for key, value in inputs.items()}))
        ids = [tokenizer.encode_text(piece) if place % 2 == 0 else [tokenizer.control_ids[piece]]
               for place, piece in enumerate(pieces) if piece]  # fmt: skip
        return list(chain.from_iterable(ids))

    def _inputs(self, messages: object, tools: object, add_generation_prompt: bool, variables: dict[str, Any]) -> Any:
        if tools is not None and not (isinstance(tools, list | tuple) and all(isinstance(t, Mapping) for t in tools)):
            raise InvalidRequest("Tools are a list of JSON schemas, each an object.")
        named = {"messages": check_messages(messages), "tools": tools, "documents": None}
        return plain_json({**named, "add_generation_prompt": bool(add_generation_prompt), **variables})

    def _run(self, inputs: dict[str, Any]) -> str:
        from elm_mlx.text.chat import sandbox

        try:
            return sandbox.render(self._code, self._tokens | inputs)
        except InvalidRequest:
            raise
        except sandbox.TemplateRefusal as said:
            raise InvalidRequest(f"The model's chat template refuses these messages: {str(said)[:500]}") from said
        except sandbox.Overrun as error:
            raise self._unusable("takes more time or memory than any chat needs, so it is damaged or hostile. Fetch "
                                 "it again") from error  # fmt: skip
        except Exception as error:
            raise self._unusable(f"fails on these messages ({_brief(error)}). Check what it expects of them") from error

    def _compile(self) -> CodeType:
        from elm_mlx.text.chat import sandbox

        try:
            return sandbox.compile_template(self._source)
        except Exception as error:
            raise self._unusable(f"is not one that elm-mlx can use ({_brief(error)}). Mend it") from error

    def _unusable(self, why: str) -> BadCheckpoint:
        return BadCheckpoint(
            f"{self._where}: the chat template {why},", "give another by {chat_template}, or the prompt as plain text."
        )


def _named_tokens(settings: Mapping[str, Any]) -> dict[str, str]:
    """The texts of the special tokens that the object of tokenizer_config.json names."""
    return {key: text for key, value in settings.items() if key.endswith("_token") and (text := token_text(value))}


def _brief(error: Exception) -> str:
    """An error's message on one line, or the kind of error where it has no message."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def _read_source(path: Path) -> str | None:
    """Reads a template file; None where there is none."""
    try:
        return read_text(path, 4 * MAX_TEMPLATE)  # UTF-8's longest characters have four bytes
    except NotFound:
        return None


def _choose(setting: object, where: Path, with_tools: bool) -> str:
    """Takes the template from `chat_template` of tokenizer_config.json: a text, or objects with name and template."""
    if setting is None:
        raise NotFound(f"There is no chat template in {where.parent}: the model was not made for chats. Give a prompt "
                       "as plain text.")  # fmt: skip
    if isinstance(setting, str):
        return setting
    named = {}
    if isinstance(setting, list) and all(isinstance(one, Mapping) for one in setting):
        named = {str(one.get("name")): one.get("template") for one in setting}
    found = (with_tools and named.get("tool_use")) or named.get("default")
    if not isinstance(found, str):
        raise BadCheckpoint(f"{where}: chat_template holds no text, nor a list with a template named default.")
    return found
