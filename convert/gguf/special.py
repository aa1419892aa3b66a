"""The ids with a meaning in a GGUF file's metadata: where a text begins, and what ends an answer; and its sampling."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from elm_mlx.errors import BadCheckpoint

BOS, EOS, UNK = (f"tokenizer.ggml.{name}_token_id" for name in ("bos", "eos", "unknown"))
STOPS = (EOS, "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id")
# Control tokens at which llama.cpp stops whatever the metadata says (src/llama-vocab.cpp, `special_eog_ids`), of models
# of Llama's shape.
ENDS = ("<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|endoftext|>", "<|im_end|>", "<|end|>", "</s>")
CONTROL = 3


def special_id(where: object, metadata: Mapping[str, Any], key: str, count: int) -> int | None:
    """The id under a key, None where there is none. Raises BadCheckpoint for one that no token has."""
    found = metadata.get(key)
    if found is None or found in (-1, 2**32 - 1):  # how some files say that there is none
        return None
    if type(found) is not int or not 0 <= found < count:
        raise BadCheckpoint(f"{where}: {key} is {found!r:.40}, which is none of {count} ids. Fetch the file again.")
    return found


def bos_and_stops(where: object, metadata: Mapping[str, Any], count: int) -> dict[str, Any]:
    """The keys of config.json for the special ids of a model with `count` ids. Raises BadCheckpoint."""
    stops = [found for key in STOPS if (found := special_id(where, metadata, key, count)) is not None]
    tokens, kinds = metadata.get("tokenizer.ggml.tokens"), metadata.get("tokenizer.ggml.token_type")
    if isinstance(tokens, list) and isinstance(kinds, np.ndarray):
        controls = np.flatnonzero(kinds[: min(count, len(tokens))] == CONTROL).tolist()
        stops += [id for id in controls if tokens[id] in ENDS]
    distinct = list(dict.fromkeys(stops))
    ends = distinct[0] if len(distinct) == 1 else distinct
    return {"bos_token_id": special_id(where, metadata, BOS, count), "eos_token_id": ends}


# Keys of general.sampling, which a publisher recommends, by transformers' names (gguf-py/gguf/constants.py).
SAMPLING = {"temp": "temperature", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p",
            "penalty_repeat": "repetition_penalty"}  # fmt: skip


def sampling(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The object of a generation_config.json that samples as the metadata recommends; empty where it says nothing.
    Values without a meaning are passed on, to be told of where they are read."""
    found = {name: metadata[f"general.sampling.{key}"] for key, name in SAMPLING.items()
             if isinstance(metadata.get(f"general.sampling.{key}"), int | float)}  # fmt: skip
    return {"do_sample": True} | found if found else {}
