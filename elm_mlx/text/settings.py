"""What the files beside a tokenizer.json say of its tokens, and which file wins.

The rules are transformers' (5.24: `_from_pretrained` in tokenization_utils_base.py and `__init__` in
tokenization_utils_tokenizers.py), so that a text becomes the ids with which the model was trained there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from elm_mlx.errors import BadCheckpoint
from elm_mlx.files import json_kind

NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
MAX_LISTED = 1 << 17  # tokens, which take about two seconds; the largest list that is known has 28,672
MAX_LETTERS = 512  # of an added token: those that are known have up to a hundred
CONFIG = Path("tokenizer_config.json")


def token_text(token: object) -> str | None:
    """The text of a special token, which a file writes as that text or as an object with `content`."""
    value = token.get("content") if isinstance(token, Mapping) else token
    return value if isinstance(value, str) and value else None


def flags_of(token: AddedToken) -> dict[str, bool]:
    """How a token is looked for in a text, and whether it is special."""
    return {name: getattr(token, name) for name in FLAGS}


@dataclass(frozen=True)
class TokenizerSettings:
    """What is said of a tokenizer beside its tokenizer.json.

    `named` are the tokens that have a name (bos_token, ...), which templates know; `listed` the tokens that
    tokenizer_config.json lists by their ids, whose flags replace those of tokenizer.json, None where it has no list;
    `appended` those of added_tokens.json, where tokenizer.json has nothing at their ids; `extra` further special
    tokens. `adds_bos` says whether a text begins with BOS, None leaves that to tokenizer.json. `chat_template` is what
    tokenizer_config.json has under that name.
    """

    named: Mapping[str, AddedToken] = field(default_factory=dict)
    listed: Mapping[int, AddedToken] | None = None
    appended: Mapping[int, AddedToken] = field(default_factory=dict)
    extra: tuple[AddedToken, ...] = ()
    adds_bos: bool | None = None
    chat_template: object = None

    @property
    def texts(self) -> dict[str, str]:
        """The texts of the named tokens, by name."""
        return {name: token.content for name, token in self.named.items()}

    def missing(self, present: Mapping[int, AddedToken]) -> list[AddedToken]:
        """The tokens to add to a tokenizer whose added tokens are `present`, in the order of the ids that they get;
        a token that it has is among them where other flags are to replace its own."""
        by_id = {**self.appended, **present} if self.listed is None else self.listed
        wanted = [token for _, token in sorted(by_id.items())]
        texts = {token.content for token in (*present.values(), *wanted)}
        more = {repr(token): token for token in (*self.named.values(), *self.extra) if token.content not in texts}
        wanted += more.values()  # of one text with several flags the last counts, each once
        named, known = set(self.texts.values()), set(map(repr, present.values()))
        special = [as_special(token) if token.content in named else token for token in wanted]
        return [token for token in special if repr(token) not in known]


def as_special(token: AddedToken) -> AddedToken:
    """The token, special whatever its flag says."""
    return AddedToken(token.content, **flags_of(token) | {"special": True})


def parse_settings(
    config: Mapping[str, Any],
    special_tokens_map: Mapping[str, Any] | None = None,
    added_tokens: Mapping[str, Any] | None = None,
    where: Path = CONFIG,
) -> TokenizerSettings:
    """Reads the objects of tokenizer_config.json, special_tokens_map.json and added_tokens.json; `where` is the path of
    the first. The other two count only where the first lists no added_tokens_decoder; then special_tokens_map.json
    wins.

    Raises BadCheckpoint for a token whose id, text or flags have no meaning.
    """
    decoder = config.get("added_tokens_decoder")
    merged = config if decoder is not None else {**config, **(special_tokens_map or {})}
    listed = None if decoder is None else dict(listed_tokens(decoder, where))
    named = dict(named_tokens(merged, {token.content: token for token in (listed or {}).values()}, where))
    extra = tuple(extra_tokens(config, {} if decoder is not None else special_tokens_map or {}, where))
    # A token that tokenizer_config.json names by an object counts as special only once it is added.
    written = {name for name in NAMES if isinstance(merged.get(name), str) or name in (special_tokens_map or {})}
    special = {named[name].content for name in written & named.keys()} | {token.content for token in extra}
    appended = {} if decoder is not None else added_tokens or {}
    adds_bos = config.get("add_bos_token")
    return TokenizerSettings(
        named=named,
        listed=listed,
        appended=dict(appended_tokens(appended, special, where.with_name("added_tokens.json"))),
        extra=extra,
        adds_bos=adds_bos if isinstance(adds_bos, bool) else None,
        chat_template=config.get("chat_template"),
    )


def check_count(tokens: Sized, where: Path) -> None:
    """Raises BadCheckpoint for more added tokens than a model can have, whose reading would take long."""
    if len(tokens) > MAX_LISTED:
        raise BadCheckpoint(f"{where} lists over {MAX_LISTED} added tokens, too many for a vocabulary. Fetch it again.")


def check_length(text: str, where: Path) -> None:
    """Raises BadCheckpoint for an added token that is so long that looking for it would take long."""
    if len(text) > MAX_LETTERS:
        raise BadCheckpoint(f"{where} has an added token of {len(text)} characters, more than the {MAX_LETTERS} that "
                            "elm-mlx reads. Fetch it again.")  # fmt: skip


def listed_tokens(decoder: object, where: Path) -> Iterator[tuple[int, AddedToken]]:
    """Reads (id, token) of each entry of added_tokens_decoder."""
    if not isinstance(decoder, Mapping | None):
        raise BadCheckpoint(
            f"{where}: added_tokens_decoder holds {json_kind(decoder)}, where an object belongs. Fetch it again."
        )
    check_count(decoder or {}, where)
    for number, token in (decoder or {}).items():
        if not (number.isascii() and number.isdigit() and len(number) < 10):
            raise BadCheckpoint(f"{where}: added_tokens_decoder has {number!r}, which is no token id. Fetch it again.")
        yield int(number), read_token(token, where, special=False)


def named_tokens(config: Mapping[str, Any], listed: Mapping[str, AddedToken], where: Path) -> dict[str, AddedToken]:
    """Reads the tokens that have a name, those with transformers' names first; `listed` has flags of tokens by text."""
    extra = config.get("extra_special_tokens")
    other = dict(extra) if isinstance(extra, Mapping) else {}
    named = {name: config[name] for name in (*NAMES, *config) if name in config and name.endswith("_token")} | other
    texts = {name: text for name, token in named.items() if (text := token_text(token))}
    return {name: listed.get(text) or read_token(named[name], where, special=True) for name, text in texts.items()}


def extra_tokens(config: Mapping[str, Any], special_tokens_map: Mapping[str, Any], where: Path) -> Iterator[AddedToken]:
    """Reads the special tokens that have no name: transformers 5 writes them under another key than 4 did."""
    old, new = "additional_special_tokens", "extra_special_tokens"
    sources = [config.get(new) or config.get(old), special_tokens_map.get(new)]
    if not any(isinstance(tokens, list) for tokens in sources):
        sources = [special_tokens_map.get(old)]
    for token in chain.from_iterable(tokens for tokens in sources if isinstance(tokens, list)):
        if token_text(token):
            yield read_token(token, where, special=True)


def appended_tokens(added: Mapping[str, Any], special: Iterable[str], where: Path) -> Iterator[tuple[int, AddedToken]]:
    """Reads (id, token) of each entry of added_tokens.json, which has ids by text; `special` are the texts of special
    tokens."""
    check_count(added, where)
    for text, number in added.items():
        if type(number) is not int or not 0 <= number < 2**31:
            raise BadCheckpoint(f"{where} gives a token an id that is no whole number. Fetch it again.")
        yield number, read_token(text, where, special=text in special)


def read_token(token: object, where: Path, *, special: bool) -> AddedToken:
    """Reads a token that is a text or an object with `content` and flags; `special` is what it is without that flag.
    Raises BadCheckpoint for anything else."""
    text = token_text(token)
    given = token if isinstance(token, Mapping) else {}
    flags = {name: given[name] for name in FLAGS if name in given}
    if text is None or not all(isinstance(flag, bool) for flag in flags.values()):
        raise BadCheckpoint(f"{where} has an added token without a text, or with a flag that is neither true nor "
                            "false. Fetch it again.")  # fmt: skip
    check_length(text, where)
    try:
        return AddedToken(text, **{"special": special} | flags)
    except UnicodeEncodeError as error:
        raise BadCheckpoint(f"{where} has a token that is not valid Unicode. Fetch it again.") from error
