"""Text to ids and ids to text, on a tokenizer.json alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import tokenizers

from elm_mlx.errors import BadCheckpoint, InvalidRequest, MissingTokenizer, NotFound, Unsupported
from elm_mlx.files import MAX_LARGE_BYTES, read_bytes

T = TypeVar("T")
BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")
WORD_PREFIX = re.compile(rb'"continuing_subword_prefix"\s*:\s*"[^"]')


def guarded(call: Callable[[], T], error: Exception) -> T:
    """`call()`, any failure of the tokenizers library as `error`: it panics with a BaseException on crafted files."""
    try:
        return call()
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as cause:
        raise error from cause


def token_text(token: object) -> str | None:
    """A special token of tokenizer_config.json: its text, or an object with `content`."""
    value = token.get("content") if isinstance(token, Mapping) else token
    return value if isinstance(value, str) else None


class Tokenizer:
    """A model's tokenizer. Special tokens that a user writes out are text, never control.

    `data` is tokenizer.json's content and `where` its place, for messages; `settings` is tokenizer_config.json's
    object; `bos_token_id` the model configuration's, should `settings` name none. Raises BadCheckpoint where the
    library cannot use it.
    """

    def __init__(self, data: bytes, settings: Mapping[str, Any], bos_token_id: int | None, where: Path) -> None:
        self._where = where
        if WORD_PREFIX.search(data):
            raise Unsupported(f"{where} marks the insides of words with a prefix, as no tokenizer of OpenELM or Llama "
                              "does and on which the tokenizers library can abort.")  # fmt: skip
        self._backend = self._ask(lambda: tokenizers.Tokenizer.from_buffer(data))
        # A file may ask for truncation, padding and special tokens from user text; a runtime wants none of them.
        self._backend.no_truncation()
        self._backend.no_padding()
        self._backend.encode_special_tokens = True
        self._dropped = {i for i, t in self._backend.get_added_tokens_decoder().items() if t.special}
        self.bos_token_id = self._id(settings.get("bos_token"), bos_token_id)
        self.eos_token_id = self._id(settings.get("eos_token"), None)
        self.has_chat_template = bool(settings.get("chat_template"))
        self._adds_bos = self._wants_bos(settings.get("add_bos_token"))

    @classmethod
    def from_file(cls, path: Path, settings: Mapping[str, Any], bos_token_id: int | None = None) -> Tokenizer:
        """The tokenizer in a tokenizer.json. Raises MissingTokenizer where there is none."""
        try:
            data = read_bytes(path, MAX_LARGE_BYTES)
        except NotFound as error:
            raise MissingTokenizer(
                f"There is no {path.name} in {path.parent}.",
                "Convert the model with {tokenizer=PATH}, where PATH is a tokenizer.json, a tokenizer.model, or a "
                "directory with one.",
            ) from error
        return cls(data, settings, bos_token_id, path)

    def _ask(self, call: Callable[[], T]) -> T:
        """What the library answers; whatever it fails with is the file's fault."""
        damaged = f"{self._where} is not a tokenizer that the tokenizers library can use; fetch it again."
        return guarded(call, BadCheckpoint(damaged))

    def _id(self, token: object, otherwise: int | None) -> int | None:
        text = token_text(token) or ""  # no token is empty
        found = self._ask(lambda: self._backend.token_to_id(text))
        return otherwise if found is None else found

    def _wants_bos(self, setting: object) -> bool:
        """What the settings say, else whether the file's own post-processor begins with BOS."""
        if self.bos_token_id is None or isinstance(setting, bool):
            return bool(setting) and self.bos_token_id is not None
        probe = self._ask(lambda: self._backend.encode("a", add_special_tokens=True).ids)
        return probe[:1] == [self.bos_token_id]

    @property
    def vocab_size(self) -> int:
        """How many ids a model needs for every text: one more than the highest, special tokens aside."""
        vocabulary = self._backend.get_vocab(with_added_tokens=True).values()
        return max((i for i in vocabulary if i not in self._dropped), default=-1) + 1

    @property
    def ordinary_entries(self) -> int:
        """How many entries the vocabulary has, added tokens aside; quick, where `vocab_size` looks at each."""
        return self._backend.get_vocab_size(with_added_tokens=False)

    @property
    def stop_ids(self) -> frozenset[int]:
        """The ids that end an answer by this tokenizer's word; Llama 3's <|eot_id|> where it chats."""
        turn_end = self._backend.token_to_id("<|eot_id|>") if self.has_chat_template else None
        return frozenset(i for i in (self.eos_token_id, turn_end) if i is not None)

    @property
    def control_ids(self) -> dict[str, int]:
        """The id of every special token by its text."""
        added = self._backend.get_added_tokens_decoder()
        return {token.content: i for i, token in added.items() if token.special}

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, one BOS in front where the model wants it.

        Raises InvalidRequest for text that is not valid Unicode (a lone surrogate).
        """
        ids = self.encode_text(text)
        return [self.bos_token_id, *ids] if self._adds_bos and self.bos_token_id is not None else ids

    def encode_text(self, text: str) -> list[int]:
        """The ids of `text` alone, without BOS. Raises as `encode`."""
        if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
            raise InvalidRequest("The prompt holds bytes that are not valid text; give it as UTF-8.")
        return self._ask(lambda: self._backend.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`, special tokens dropped; ids outside the vocabulary have no text."""
        return self._ask(lambda: self._backend.decode(list(ids), skip_special_tokens=True))

    def has_text(self, token: int) -> bool:
        """Whether decoding keeps this id."""
        return token not in self._dropped and self._backend.id_to_token(token) is not None

    def is_byte(self, token: int) -> bool:
        """Whether this id stands for one byte, <0x00> to <0xFF>."""
        return bool(BYTE_TOKEN.fullmatch(self._backend.id_to_token(token) or ""))
