"""From text to ids and from ids to text, with a tokenizer.json and what other files say of its tokens."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from itertools import takewhile
from pathlib import Path
from typing import TypeVar

import tokenizers

from elm_mlx.arguments import is_unicode, whole_number
from elm_mlx.errors import BadCheckpoint, InvalidRequest, MissingTokenizer, NotFound, Unsupported
from elm_mlx.files import MAX_LARGE_BYTES, read_bytes
from elm_mlx.text.added_tokens import AddedTokens
from elm_mlx.text.settings import TokenizerSettings, check_count, check_length
from elm_mlx.text.stand_ins import StandInEncoder

T = TypeVar("T")
MAX_IDS = 2**32  # of the tokenizers library
BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")
WORD_PREFIX = re.compile(rb'"continuing_subword_prefix"\s*:\s*"[^"]')


def call_guarded(call: Callable[[], T], error: Exception) -> T:
    """Returns `call()`. Raises `error` for any failure in it: on crafted files the tokenizers library panics with a
    BaseException."""
    try:
        return call()
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as cause:
        raise error from cause


class Tokenizer:
    """A model's tokenizer. Special tokens that a user writes out are text, never control.

    `data` is the content of a tokenizer.json and `where` its path, for messages; `settings` is what the files beside it
    say; `bos_token_id` is the model configuration's, used where `settings` name none; `entries` is how many ids the
    model has, which may be more than the tokenizer's; 0 leaves that open. Raises BadCheckpoint where the
    tokenizers library cannot use the data, and Unsupported for a word prefix.
    """

    def __init__(
        self,
        data: bytes,
        settings: TokenizerSettings,
        where: Path,
        bos_token_id: int | None = None,
        entries: int = 0,
    ) -> None:
        self._where = where
        if WORD_PREFIX.search(data):
            raise Unsupported(f"{where} marks the insides of words with a prefix, on which the tokenizers library can "
                              "abort. No tokenizer of OpenELM or Llama does so: take the model's own.")  # fmt: skip
        self._backend = self._ask(lambda: tokenizers.Tokenizer.from_buffer(data))
        # A file may ask for truncation, padding, special tokens out of a user's text, and merges left out by chance (as
        # in a training); a runtime wants none of them.
        if getattr(self._backend.model, "dropout", None):
            self._backend.model.dropout = None
        self._backend.no_truncation()
        self._backend.no_padding()
        self._backend.encode_special_tokens = True
        self.special_tokens = settings.texts
        self.bos_token_id = self._add_tokens(settings, bos_token_id)
        self.eos_token_id = self._id("eos_token")
        self._added = self._backend.get_added_tokens_decoder()
        check_count(self._added, where)
        for token in self._added.values():
            check_length(token.content, where)
        self._dropped = {i for i, token in self._added.items() if token.special}
        self._unknown = self._unknown_ids()
        self._front = self._ids_in_front(settings.adds_bos)
        self._entries = max(entries, self._backend.get_vocab_size()) if entries else MAX_IDS
        self._stand_ins: StandInEncoder | None = None

    @classmethod
    def from_file(
        cls, path: Path, settings: TokenizerSettings, bos_token_id: int | None = None, entries: int = 0
    ) -> Tokenizer:
        """Reads the tokenizer in a tokenizer.json. Raises MissingTokenizer where there is none."""
        try:
            data = read_bytes(path, MAX_LARGE_BYTES)
        except NotFound as error:
            raise MissingTokenizer(
                f"There is no {path.name} in {path.parent}.",
                "Convert the model with {tokenizer=PATH}, where PATH is a tokenizer.json, a tokenizer.model, or a "
                "directory with one.",
            ) from error
        return cls(data, settings, path, bos_token_id, entries)

    def _ask(self, call: Callable[[], T]) -> T:
        """Calls the tokenizers library. Raises BadCheckpoint for any failure in it, since the file is the cause."""
        damaged = f"{self._where} is not a tokenizer that the tokenizers library can use; fetch it again."
        return call_guarded(call, BadCheckpoint(damaged))

    def _add_tokens(self, settings: TokenizerSettings, otherwise: int | None) -> int | None:
        """Adds the tokens that other files have, and returns BOS: `otherwise` where the files name one that no file
        lists, as that one has a new id, which no model was trained with."""
        missing = settings.missing(self._ask(self._backend.get_added_tokens_decoder))
        bos = settings.texts.get("bos_token", "")
        known = self._ask(lambda: self._backend.token_to_id(bos)) is not None
        self._ask(lambda: self._backend.add_tokens(missing))
        listed = {token.content for token in (*(settings.listed or {}).values(), *settings.appended.values())}
        if bos and (known or otherwise is None or bos in listed):
            return self._id("bos_token")
        return otherwise

    def _id(self, name: str) -> int | None:
        """The id of the special token of this name, if there is one."""
        text = self.special_tokens.get(name)
        return None if text is None else self._ask(lambda: self._backend.token_to_id(text))

    def _unknown_ids(self) -> set[int | None]:
        """The ids that the vocabulary itself makes out of plain text, special or not: those of unknown text."""
        texts = {"<unk>", self.special_tokens.get("unk_token"), getattr(self._backend.model, "unk_token", None)}
        return {self._ask(partial(self._backend.token_to_id, text)) for text in texts if isinstance(text, str)}

    def _ids_in_front(self, setting: bool | None) -> list[int]:
        """The ids before those of a text: BOS or nothing as the settings say, else what the post-processor in the file
        puts there, whatever any file calls BOS."""
        if setting is not None:
            return [self.bos_token_id] if setting and self.bos_token_id is not None else []
        probe = self._ask(lambda: self._backend.encode("a", add_special_tokens=True))
        return [i for i, _ in takewhile(lambda pair: pair[1], zip(probe.ids, probe.special_tokens_mask, strict=True))]

    @property
    def vocab_size(self) -> int:
        """How many ids the vocabulary takes, added tokens not counted: one more than its highest id. Only a vocabulary
        whose words do not end there is looked at whole, since that takes a tenth of a second."""
        count = self._backend.get_vocab_size(with_added_tokens=False)
        word = self._backend.model.id_to_token
        if count == 0 or (word(count - 1) is not None and word(count) is None):
            return count
        return max(self._backend.get_vocab(with_added_tokens=False).values()) + 1

    @property
    def vocabulary(self) -> dict[str, int]:
        """The id of every token by its text, added ones left out. It takes a tenth of a second with a large one."""
        return self._backend.get_vocab(with_added_tokens=False)

    def words(self, rows: int) -> Iterator[tuple[int, str]]:
        """Each id below `rows` of the vocabulary with its text, added tokens left out. One by one, as all at once would
        keep Python's other threads waiting for a tenth of a second where there are many."""
        word = self._backend.model.id_to_token
        return ((id, text) for id in range(rows) if (text := word(id)) is not None)

    @property
    def control_ids(self) -> dict[str, int]:
        """The id of every special token by its text."""
        return {token.content: i for i, token in self._added.items() if token.special}

    @cached_property
    def added_tokens(self) -> AddedTokens:
        """The tokens that are looked for in a text before anything else, special or not."""
        return AddedTokens(self._added.values())

    @property
    def added_ids(self) -> dict[str, int]:
        """The id of every token by its text that is looked for in a text before anything else, special or not."""
        return {token.content: i for i, token in self._added.items()}

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, with BOS in front where the model wants it.

        Raises InvalidRequest for what is no text, or no valid Unicode (a lone surrogate).
        """
        return [*self._front, *self.encode_text(text)]

    def encode_text(self, text: str) -> list[int]:
        """The ids of `text` alone, without BOS. Raises as `encode`."""
        check_text(text)
        ids = self._ask(lambda: self._backend.encode(text, add_special_tokens=False).ids)
        self._check_plain(ids, self._dropped)
        return ids

    def encode_inside(self, text: str) -> list[int]:
        """The ids of `text` as they are inside of a longer text: without the blank that some tokenizers put before a
        beginning. Control tokens that are written out may be among them."""
        if self.is_of_bytes:
            return self._ask(lambda: self._backend.encode(text, add_special_tokens=False).ids)
        mark = self._ask(lambda: self._backend.token_to_id("<0x02>"))
        ids = self._ask(lambda: self._backend.encode(f"\x02{text}", add_special_tokens=False).ids)
        return ids[ids.index(mark) + 1 :] if mark in ids else ids

    def encode_chat(self, pieces: Sequence[str], stand_ins: Mapping[str, str]) -> list[int]:
        """The ids of the joined `pieces` (text, stand-in, text, ..., text), in which each key of `stand_ins` means the
        added token that is its value; such a token written out is text. Raises as `encode`."""
        for piece in pieces:
            check_text(piece)
        encoder = self._stand_ins  # of the last call, which may have been another thread's
        if encoder is None or encoder.tokens != stand_ins:
            encoder = self._stand_ins = self._ask(lambda: StandInEncoder(self._backend, stand_ins))
        ids, plain = self._ask(partial(encoder.encode, pieces))
        self._check_plain(plain, self._dropped | encoder.meant)
        return ids

    def _check_plain(self, ids: list[int], control: set[int]) -> None:
        """Raises InvalidRequest for a control id among those that plain text became: a tokenizer gives one where the
        token's text is a word of its vocabulary, too."""
        if found := control.intersection(ids) - self._unknown:
            token = self._backend.id_to_token(min(found))
            raise InvalidRequest(f"{self._where} makes the control token {token!r} even out of plain text, as that is "
                                 "a word in it, too. Write the prompt without it, or in another way.")  # fmt: skip

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`, special tokens left out; ids that a model has beyond its tokenizer's have no text.

        Raises InvalidRequest for what is no id of the model.
        """
        listed = [whole_number("A token id", token) for token in ids]
        if listed and not (min(listed) >= 0 and max(listed) < self._entries):
            wrong = min(listed) if min(listed) < 0 else max(listed)
            raise InvalidRequest(f"{wrong} is not a token id of this model; its ids go from 0 to {self._entries - 1}.")
        return self._ask(lambda: self._backend.decode(listed, skip_special_tokens=True))

    def why_beyond(self, token: int, rows: int) -> str:
        """Says why a model with `rows` ids cannot read `token`. An added token's id stands in the tokenizer's files, so
        that no user gave it."""
        text = next((text for text, i in self.added_ids.items() if i == token), None)
        if text is None:
            return f"{token} is not a token id of this model; its ids go from 0 to {rows - 1}."
        return (f"{self._where}, with the files beside it, gives {text!r} the id {token}, and the model has only 0 to "
                f"{rows - 1}, so it can read no text with {text!r}. Leave that out.")  # fmt: skip

    def has_text(self, token: int) -> bool:
        """Whether decoding shows the text of this id."""
        return token not in self._dropped and self._backend.id_to_token(token) is not None

    def written(self, token: int) -> str | None:
        """How the vocabulary writes the token of this id, before decoding; None where it has none."""
        return self._backend.id_to_token(token)

    def is_byte(self, token: int) -> bool:
        """Whether this id stands for one byte, <0x00> to <0xFF>."""
        return bool(BYTE_TOKEN.fullmatch(self._backend.id_to_token(token) or ""))

    def byte_of(self, token: int) -> int | None:
        """The byte that this id stands for where decoding joins bytes to characters, else None."""
        text = self._backend.id_to_token(token) or ""
        return int(text[3:5], 16) if BYTE_TOKEN.fullmatch(text) and self.joins_bytes else None

    @cached_property
    def joins_bytes(self) -> bool:
        """Whether decoding shows ids of bytes as the characters that these make."""
        token = self._ask(lambda: self._backend.token_to_id("<0x41>"))
        return token is not None and self.decode([token]) == "A"

    @cached_property
    def is_of_bytes(self) -> bool:
        """Whether each letter of a token stands for a byte, as in Llama 3's tokenizer, and decoding joins the bytes."""
        decoder = self._backend.decoder
        return decoder is not None and b'"ByteLevel"' in bytes(decoder.__getstate__())


def check_text(text: object) -> None:
    """Raises InvalidRequest for what is no text, or no valid Unicode."""
    if not isinstance(text, str):
        raise InvalidRequest(f"The prompt is of type {type(text).__name__}; it must be text.")
    if not is_unicode(text):
        raise InvalidRequest("The prompt holds bytes that are not valid text; give it as UTF-8.")
