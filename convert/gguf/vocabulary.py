"""The tokenizer in a GGUF file's metadata, rebuilt as a tokenizer.json and its settings.

Keys: ggml-org/ggml docs/gguf.md. Flags of single tokens (lstrip and the like) are not in the metadata.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from elm_mlx.convert.gguf import byte_level, pieces
from elm_mlx.convert.gguf.special import BOS, EOS, UNK, special_id
from elm_mlx.convert.gguf.tokens import KEY, read_vocabulary
from elm_mlx.errors import BadCheckpoint, MissingTokenizer, Unsupported

GIVE_ONE = "Give the model's own tokenizer: {tokenizer=PATH}."
TEMPLATE, TEMPLATES = "tokenizer.chat_template", "tokenizer.chat_templates"
MAX_TEMPLATES = 100
BYTE_LEVEL, PIECES = "gpt2", "llama"


def read_tokenizer(where: Path, metadata: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The objects of tokenizer.json and tokenizer_config.json.

    Raises MissingTokenizer where there is none, BadCheckpoint for a damaged one, and Unsupported, with the name, for a
    kind that elm-mlx cannot rebuild.
    """
    kind = metadata.get(f"{KEY}model")
    if kind is None or kind == "none":
        raise MissingTokenizer(f"{where} has no tokenizer in its metadata.", GIVE_ONE)
    if kind not in (BYTE_LEVEL, PIECES):
        raise Unsupported(f"{where} has a tokenizer of the kind {kind!r:.40}, and elm-mlx rebuilds {BYTE_LEVEL} and "
                          f"{PIECES}.", GIVE_ONE)  # fmt: skip
    if metadata.get(f"{KEY}add_eos_token"):
        raise Unsupported(f"{where} puts the token that ends a text after every prompt, which no model that elm-mlx "
                          "runs does.", GIVE_ONE)  # fmt: skip
    vocabulary = read_vocabulary(where, metadata)
    ids = {name: special_id(where, metadata, key, len(vocabulary.texts)) for name, key in
           (("bos_token", BOS), ("eos_token", EOS), ("unk_token", UNK))}  # fmt: skip
    build = byte_level.tokenizer_json if kind == BYTE_LEVEL else pieces.tokenizer_json
    content, adds_bos = build(where, metadata, vocabulary, ids)
    names = {name: vocabulary.texts[id] for name, id in ids.items() if id is not None}
    settings = names | {"add_bos_token": adds_bos, "tokenizer_class": "PreTrainedTokenizerFast"}
    return content, settings | chat_templates(where, metadata)


def chat_templates(where: Path, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The key `chat_template` of tokenizer_config.json: one template, or several with their names; empty without one.
    Raises BadCheckpoint for what is no text."""
    names = metadata.get(TEMPLATES, [])
    if not isinstance(names, list) or len(names) > MAX_TEMPLATES:
        raise BadCheckpoint(f"{where}: {TEMPLATES} is not a list of up to {MAX_TEMPLATES} names. Fetch it again.")
    keys = {"default": TEMPLATE} | {name: f"{TEMPLATE}.{name}" for name in names if name != "default"}
    found = {name: metadata[key] for name, key in keys.items() if key in metadata}
    if not all(isinstance(text, str) for text in found.values()):
        raise BadCheckpoint(f"{where} has a chat template that is no text. Fetch it again.")
    if not found:
        return {}
    several = [{"name": name, "template": text} for name, text in found.items()]
    return {"chat_template": found["default"] if [*found] == ["default"] else several}
