"""A source's tokenizer, of any kind, becomes one compact tokenizer.json, so that the runtime needs nothing else."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elm_mlx.config import ModelConfig
from elm_mlx.convert.tokenizer import sentencepiece, tiktoken
from elm_mlx.convert.tokenizer.compact import compact
from elm_mlx.convert.tokenizer.sentencepiece import SentencePieceModel, added_token
from elm_mlx.convert.tokenizer.within import Within
from elm_mlx.errors import BadCheckpoint, MissingTokenizer, NotFound
from elm_mlx.files import MAX_LARGE_BYTES, read_bytes, read_json, reading, write_json
from elm_mlx.store.load import OWN_TOKENIZER, check_tokenizer
from elm_mlx.store.side_files import ADDED, GENERATION, SETTINGS, TOKENIZER, files_beside
from elm_mlx.store.text_settings import load_generation, read_checked, read_settings, read_tokens
from elm_mlx.text.settings import parse_settings
from elm_mlx.text.tokenizer import Tokenizer

MAX_MODEL_BYTES = 16 * 2**20  # Llama 2's tokenizer.model has 0.5 MB, Llama 3's 2, one with 256,000 pieces 4
WANTED = "a tokenizer.json, a tokenizer.model (SentencePiece's or tiktoken's), or a directory with one"


@dataclass(frozen=True)
class TokenizerFiles:
    """What will be written for the tokenizer in the file `source`: `content` is tokenizer.json's bytes, `settings` is
    tokenizer_config.json's object, `copied` the bytes of the other side files by their path in the directory. `files`
    is what they were read from, `tokenizer` what they make."""

    source: Path
    content: bytes
    settings: dict[str, Any]
    copied: dict[str, bytes]
    files: list[Path]
    tokenizer: Tokenizer

    def write(self, folder: Path) -> None:
        """Writes the tokenizer's files into `folder`."""
        (folder / TOKENIZER).write_bytes(self.content)
        write_json(folder / SETTINGS, self.settings)
        for name, content in self.copied.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)


def prepare_tokenizer(
    source: Path, given: Path | None, config: ModelConfig, within: Within | None = None
) -> TokenizerFiles:
    """Reads and checks the tokenizer of `given`, else the one `within` the weights' file, else that of `source`, with
    the settings beside it, and the source's generation_config.json, so that what will be written can be loaded. Beside
    weights that hold a tokenizer no file counts.

    Raises MissingTokenizer where there is none, BadCheckpoint for one that is damaged or of another model.
    """
    if within and not given:
        return prepare_within(within, config)
    with reading(given or source):
        file = find_tokenizer(given or source, None if given else config.family)
        beside = files_beside(file.parent)
        content, settings = read_tokenizer(file, config)
        data = compact(content, file)
    settings = {key: value for key, value in settings.items() if key != "auto_map"}  # Python that a loader would run
    said = read_settings(file.parent, settings)
    tokenizer = Tokenizer(data, said, file, config.bos_token_id, config.vocab_size)
    check_tokenizer(tokenizer, config, file)
    copied = {name: read_checked(file.parent, name) for name in beside if name != SETTINGS}
    return TokenizerFiles(
        source=file,
        content=data,
        settings=settings | {"clean_up_tokenization_spaces": False},
        copied=copied | (generation_within(within) if within else generation_beside(source)),
        files=[file, *(file.parent / name for name in beside)],
        tokenizer=tokenizer,
    )


def prepare_within(within: Within, config: ModelConfig) -> TokenizerFiles:
    """Reads and checks a tokenizer that lies in the weights' file. Raises as `prepare_tokenizer`, and Unsupported."""
    content, settings = within.read()
    data = compact(content, within.file)
    said = parse_settings(settings, where=within.file)
    tokenizer = Tokenizer(data, said, within.file, config.bos_token_id, config.vocab_size)
    check_tokenizer(tokenizer, config, within.file)
    whole = settings | {"clean_up_tokenization_spaces": False}
    return TokenizerFiles(within.file, data, whole, generation_within(within), [], tokenizer)


def generation_beside(source: Path) -> dict[str, bytes]:
    """The bytes of a source's generation_config.json by its name; empty where it has none. Raises BadCheckpoint."""
    load_generation(source)
    return {GENERATION: read_checked(source, GENERATION)} if (source / GENERATION).exists() else {}


def generation_within(within: Within) -> dict[str, bytes]:
    """The generation_config.json that says what the weights' file says of sampling; empty where that says nothing."""
    return {GENERATION: json.dumps(within.generation, indent=2).encode()} if within.generation else {}


def find_tokenizer(place: Path, family: str | None = None) -> Path:
    """The tokenizer file at `place`, tokenizer.json before tokenizer.model; `family` is that of a checkpoint there.

    Raises NotFound, MissingTokenizer.
    """
    if not place.exists():
        raise NotFound(f"There is no file or directory {place}.", f"{{tokenizer}} wants {WANTED}.")
    if place.is_file():
        return place
    for name in (TOKENIZER, "tokenizer.model"):
        if (place / name).is_file():
            return place / name
    hint = "OpenELM's repositories ship none: it uses Llama 2's. " if family == "openelm" else ""
    raise MissingTokenizer(f"{place} has no tokenizer.", f"{hint}Give {{tokenizer=PATH}}: {WANTED}.")


def read_tokenizer(file: Path, config: ModelConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads a tokenizer file of any kind: (tokenizer.json's object, tokenizer_config.json's object)."""
    settings = read_tokens(file.parent / SETTINGS)
    if file.suffix == ".json":
        return from_json(file, settings)
    data = read_bytes(file, MAX_MODEL_BYTES)
    if is_tiktoken(data):
        return from_tiktoken(file, data, settings, config)
    return from_sentencepiece(file, data, settings)


def is_tiktoken(data: bytes) -> bool:
    """Whether this is a vocabulary of tiktoken's: its first line is `base64 rank`."""
    words = data[:256].split(b"\n")[0].split()
    return len(words) == 2 and words[1].isdigit()


def from_json(file: Path, settings: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A tokenizer.json as it is. A class that would rebuild it from parts, and cut blanks differently, is replaced."""
    content = read_json(file, MAX_LARGE_BYTES)
    kind = settings.get("tokenizer_class", "")
    if not isinstance(kind, str) or kind.startswith("LlamaTokenizer"):
        settings = settings | {"tokenizer_class": "PreTrainedTokenizerFast"}
    return content, settings


def from_sentencepiece(file: Path, data: bytes, settings: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A SentencePiece tokenizer.model, and added_tokens.json if there is one, rebuilt by the original's own rules."""
    model = sentencepiece.parse(data, file)
    content = sentencepiece.tokenizer_json(model, file)
    content["added_tokens"] += read_added_tokens(file.parent / ADDED, model)
    names = {
        key: model.text_of(token)
        for key, token in (("bos_token", model.bos_id), ("eos_token", model.eos_id), ("unk_token", model.unk_id))
    }
    defaults = {key: text for key, text in names.items() if text is not None} | {"add_bos_token": True}
    return content, defaults | settings | {"tokenizer_class": "PreTrainedTokenizerFast"}


def read_added_tokens(file: Path, model: SentencePieceModel) -> list[dict[str, Any]]:
    """The tokens that added_tokens.json puts after the model's pieces, in the order of their ids, which the tokenizers
    library counts for itself. Raises BadCheckpoint where they do not follow the pieces, each once."""
    first, taken = len(model.pieces), {"", *(piece.text for piece in model.pieces)}
    # transformers lists the model's own control pieces here too
    listed = read_tokens(file)
    if not all(type(i) is int for i in listed.values()):
        raise BadCheckpoint(f"{file} gives a token an id that is no whole number. Fetch it again.")
    later = sorted((i, text) for text, i in listed.items() if i >= first)
    if any(i != place or text in taken for place, (i, text) in enumerate(later, start=first)):
        raise BadCheckpoint(f"{file} does not number its new tokens from {first} on, each once. Fetch it again.")
    return [added_token(i, text, special=True) for i, text in later]


def from_tiktoken(
    file: Path, data: bytes, settings: dict[str, Any], config: ModelConfig
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Meta's vocabulary for Llama 3, with the special tokens of 3.1 and later where the model scales its RoPE."""
    tokens = tiktoken.parse(data, file)
    specials = tiktoken.special_tokens(later=config.rope.kind == "llama3")
    check_id_count(len(tokens) + len(specials), config, file)
    content = tiktoken.tokenizer_json(tokens, specials, file)
    names = {"bos_token": specials[0], "eos_token": specials[1]}
    return content, names | settings | {"tokenizer_class": "PreTrainedTokenizerFast"}


def check_id_count(count: int, config: ModelConfig, file: Path) -> None:
    """Checks that the embedding has a row for each of `count` ids. Raises BadCheckpoint."""
    if count > config.vocab_size:
        raise BadCheckpoint(f"{file} has ids up to {count - 1} and the model only {config.vocab_size} of them: it is "
                            "another model's tokenizer.", OWN_TOKENIZER)  # fmt: skip
