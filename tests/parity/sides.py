"""The two sides of the differential tests: elm-mlx and transformers on one model directory, asked in the same words."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path
from typing import Any

import transformers
from helpers.wild.chats import Chat
from helpers.wild.spelling import public

from elm_mlx.config import config_from_dict
from elm_mlx.errors import ElmError
from elm_mlx.store.load import load_tokenizer
from elm_mlx.store.text_settings import read_settings, read_templates
from elm_mlx.text.chat.template import ChatTemplate, choose

transformers.logging.set_verbosity_error()
PROBE = [
    {"role": "user", "content": "Which?"},
    {"role": "assistant", "content": "This."},
    {"role": "user", "content": "Why?"},
]


REFUSED = "refused"
NO_ANSWER = "no answer"
NO_PLAIN_TEXT = "refused, as plain text becomes a control token here"


def ours_of(call: Callable[[], Any]) -> Any:
    """What a call of elm-mlx returns, or REFUSED where it raises one of its own errors."""
    try:
        return call()
    except ElmError as error:
        return NO_PLAIN_TEXT if "even out of plain text" in str(error) else REFUSED


def theirs_of(call: Callable[[], Any]) -> Any:
    """What a call of transformers returns, or REFUSED where it raises an error; NO_ANSWER where that says nothing about
    the right one: its tokenizers panic, or there are templates of which none is the default, which ours may have."""
    try:
        return call()
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        none = "multiple chat templates with no default" in str(error)
        return REFUSED if isinstance(error, Exception) and not none else NO_ANSWER


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


class Ours:
    """elm-mlx on a directory. This is the only place of the differential tests that knows how it is called."""

    def __init__(self, directory: Path) -> None:
        self.directory, settings = directory, read_settings(directory)
        config = config_from_dict(read_json(directory / "config.json"))
        self.tokenizer = load_tokenizer(directory, settings, config)
        self._templates = read_templates(directory, settings)

    def _template(self, chat: Chat) -> ChatTemplate:
        return choose(self._templates, self.directory, chat.tools)

    def chat_ids(self, chat: Chat) -> list[int]:
        return self._template(chat).encode(chat.messages, self.tokenizer, tools=chat.tools, **chat.variables)

    def chat_text(self, chat: Chat) -> str:
        return self._template(chat).render(chat.messages, tools=chat.tools, **chat.variables)

    def text_ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text)


class Theirs:
    """transformers on a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
        self.tokenizer.backend_tokenizer.no_truncation()  # which a call of `tokenizer` does, and `spans` does not

    @property
    def added(self) -> dict[str, bool]:
        """Every added token, and whether it is special."""
        return {token.content: token.special for token in self.tokenizer.added_tokens_decoder.values()}

    def chat_ids(self, chat: Chat) -> list[int]:
        return self.tokenizer.apply_chat_template(
            chat.messages, tools=chat.tools, tokenize=True, return_dict=False, **chat.variables
        )

    def chat_text(self, chat: Chat) -> str:
        return self.tokenizer.apply_chat_template(chat.messages, tools=chat.tools, tokenize=False, **chat.variables)

    def text_ids(self, text: str) -> list[int]:
        """The ids of a prompt, with BOS where add_bos_token says so, else with what the tokenizer writes in front; an
        EOS that it writes at the end is left out."""
        setting = read_json(self.directory / "tokenizer_config.json").get("add_bos_token")
        probe = self.tokenizer("a", return_special_tokens_mask=True)
        masked = zip(probe.input_ids, probe.special_tokens_mask, strict=True)
        front = [token for token, _ in takewhile(lambda pair: pair[1], masked)]
        if isinstance(setting, bool):
            front = [self._bos()] if setting and self._bos() is not None else []
        return [*front, *self.tokenizer(text, add_special_tokens=False).input_ids]

    def _bos(self) -> int | None:
        config, settings = (read_json(self.directory / name) for name in ("config.json", "tokenizer_config.json"))
        tokenizer = read_json(self.directory / "tokenizer.json")
        decoder = settings.get("added_tokens_decoder", {}).values()
        listed = {token["content"] for token in [*tokenizer["added_tokens"], *decoder]}
        added = self.directory / "added_tokens.json"
        listed |= set(read_json(added)) if "added_tokens_decoder" not in settings and added.exists() else set()
        name, otherwise = self.tokenizer.bos_token, config["bos_token_id"]
        if name is None or (otherwise is not None and name not in listed | set(tokenizer["model"]["vocab"])):
            return otherwise
        return self.tokenizer.bos_token_id

    def marks(self, tools: Any) -> tuple[set[str], set[str]]:
        """The added tokens by which the template sets the messages of a short conversation apart, and those that it
        writes where their flags keep them from being found."""
        text = theirs_of(lambda: self.chat_text(Chat("", PROBE, tools, {"add_generation_prompt": False})))
        spans = theirs_of(lambda: self.spans(text))
        found = {token for token, _ in spans} if isinstance(spans, list) else set()
        return found, {token for token in self.added if token in text} - found

    def spans(self, text: str) -> list[tuple[str, range]]:
        """The added tokens that are found in a text, with their places, blanks at their ends perhaps left out."""
        found = self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
        texts = {i: token.content for i, token in self.tokenizer.added_tokens_decoder.items()}
        return [(texts[i], range(*span)) for i, span in zip(found.ids, found.offsets, strict=True)
                if i in texts and texts[i].strip() in text[slice(*span)]]  # fmt: skip

    def may_make_control_of_plain_text(self, chat: Chat) -> bool:
        """Whether the prompt holds a special token whose text is a word of the vocabulary, too."""
        prompt, words = self.chat_text(chat), self.tokenizer.backend_tokenizer.model
        return any(special and token in prompt and words.token_to_id(token) is not None
                   for token, special in self.added.items())  # fmt: skip

    def safe_ids(self, chat: Chat) -> list[int]:
        """The ids of a chat in the private spelling. Where a token of the template is no token in its place, it is
        spelled in public again, since its text counts there."""
        prompt = self.chat_text(chat)
        seen = {place for _, span in self.spans(prompt) for place in span}
        text = "".join(letter if place in seen else public(letter) for place, letter in enumerate(prompt))
        return self.tokenizer(text, add_special_tokens=False).input_ids
