"""Messages to a prompt by the model's Jinja template: its text, or ids in which only the template speaks control."""

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
UNCONFIRMED = {"zephyr": ZEPHYR}
"""Formats that a caller may ask for by name. zephyr is perhaps OpenELM-Instruct's: Apple published none, its tuning
recipe points to this one, and reports of it are mixed. BOS is ours: OpenELM was trained with one."""

MAX_TEMPLATE = 1 << 16  # characters; Llama 3.1's template has 4 thousand


class ChatTemplate:
    """A model's way of writing a conversation as one prompt.

    `source` is the Jinja template, up to 64 thousand characters; `special_tokens` the texts it knows by name
    (bos_token, ...); `where` its place, for messages. Raises BadCheckpoint for what is no template.
    """

    def __init__(
        self, source: str, special_tokens: Mapping[str, str], where: Path = Path("chat_template.jinja")
    ) -> None:
        self._source, self._tokens, self._where = source, dict(special_tokens), where
        if len(source) > MAX_TEMPLATE:
            raise BadCheckpoint(
                f"{where} holds over {MAX_TEMPLATE >> 10} thousand characters, too many for a chat template."
            )
        self._code = self._compiled()

    @classmethod
    def from_directory(cls, directory: Path, settings: Mapping[str, Any], *, with_tools: bool = False) -> ChatTemplate:
        """The template of a model directory: its chat_template.jinja, else what `settings`, tokenizer_config.json's
        object, holds; of several the one for tools, where it has one, or the default.

        Raises NotFound where there is none.
        """
        source, where = _beside(directory / "chat_template.jinja"), directory / "chat_template.jinja"
        if source is None:
            where = directory / "tokenizer_config.json"
            source = _chosen(settings.get("chat_template"), where, with_tools)
        return cls(source, _named_tokens(settings), where)

    @classmethod
    def named(cls, template: str | Path, settings: Mapping[str, Any]) -> ChatTemplate:
        """The unconfirmed format of that name, or the template in a file. Raises NotFound where there is neither."""
        source = UNCONFIRMED.get(str(template)) or _beside(Path(template))
        if source is None:
            raise NotFound(f"{template} is neither a file with a chat template nor one of {', '.join(UNCONFIRMED)}.")
        return cls(source, _named_tokens(settings), Path(template))

    def render(
        self, messages: Sequence[Mapping[str, Any]], *, tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True, **variables: Any,
    ) -> str:  # fmt: skip
        """The prompt of `messages` as text, BOS and all: what transformers' renderer gives.

        Raises InvalidRequest for messages without a meaning or that the template refuses, BadCheckpoint for a
        template that fails or runs away.
        """
        return self._run(self._inputs(messages, tools, add_generation_prompt, variables))

    def encode(
        self, messages: Sequence[Mapping[str, Any]], tokenizer: Tokenizer, *,
        tools: Sequence[Mapping[str, Any]] | None = None, add_generation_prompt: bool = True, **variables: Any,
    ) -> list[int]:  # fmt: skip
        """The prompt's ids. The template's control tokens are control, and BOS is there if it writes one; those that
        the caller's strings write out are text. Raises as `render`.

        A template that itself cuts strings up and joins them to a token, or builds one around a role, is trusted.
        """
        inputs = self._inputs(messages, tools, add_generation_prompt, variables)
        used = set(self._source).union(json.dumps(inputs, ensure_ascii=False), *self._tokens.values())
        disguise = Disguise(tokenizer.control_ids, used)
        pieces = disguise.pieces(self._run({key: plain_json(value, disguise) for key, value in inputs.items()}))
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
            return sandbox.rendered(self._code, self._tokens | inputs)
        except InvalidRequest:
            raise
        except sandbox.Refusal as said:
            raise InvalidRequest(f"The model's chat template refuses these messages: {str(said)[:500]}") from said
        except sandbox.Overrun as error:
            raise self._unusable("takes more time or memory than any chat needs, so it is damaged or hostile. Fetch "
                                 "it again") from error  # fmt: skip
        except Exception as error:
            raise self._unusable(f"fails on these messages ({_short(error)}). Check what it expects of them") from error

    def _compiled(self) -> CodeType:
        from elm_mlx.text.chat import sandbox

        try:
            return sandbox.compiled(self._source)
        except Exception as error:
            raise self._unusable(f"is not one that elm-mlx can use ({_short(error)}). Fetch it again") from error

    def _unusable(self, why: str) -> BadCheckpoint:
        return BadCheckpoint(f"{self._where}: the chat template {why}, or give a prompt as plain text.")


def _named_tokens(settings: Mapping[str, Any]) -> dict[str, str]:
    """The special tokens that tokenizer_config.json's object names."""
    return {key: text for key, value in settings.items() if key.endswith("_token") and (text := token_text(value))}


def _short(error: Exception) -> str:
    """An error's own words on one line, or its kind where it has none."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def _beside(path: Path) -> str | None:
    """A template file's text, or None where there is none."""
    try:
        return read_text(path, 4 * MAX_TEMPLATE)  # UTF-8's longest characters have four bytes
    except NotFound:
        return None


def _chosen(setting: object, where: Path, with_tools: bool) -> str:
    """The template in tokenizer_config.json's `chat_template`: a text, or a list of objects with name and template."""
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
