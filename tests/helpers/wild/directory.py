"""Random model directories without weights: tokenizer.json and the files beside it, agreeing or not."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from helpers.checkpoints import LLAMA
from helpers.wild.spelling import private, public
from helpers.wild.templates import STYLES, Style, random_template
from helpers.wild.vocabulary import BYTE_LEVEL, Base, random_base

FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
JSON, DECODER, FILE, NAMED = "tokenizer.json", "added_tokens_decoder", "added_tokens.json", "named"
# Classes with which transformers 5.24 takes tokenizer.json as it is, the last only for byte-level ones: it rebuilds
# others as Llama 2's.
CLASSES = ("PreTrainedTokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend", "NobodyKnowsIt", None,
           "LlamaTokenizerFast")  # fmt: skip


@dataclass(frozen=True)
class Added:
    """An added token: its text in the private spelling where it is control, its flags, and the file that has it."""

    text: str
    place: str
    flags: dict[str, bool]

    @property
    def entry(self) -> dict[str, Any]:
        return {"content": self.text, **self.flags}


@dataclass(frozen=True)
class Directory:
    """A model directory: `files` by name, JSON or text, in the private spelling; `added` are its added tokens."""

    files: dict[str, Any]
    added: list[Added]

    @property
    def control(self) -> list[str]:
        """The tokens of the format, in the public spelling."""
        return [public(token.text) for token in self.added if public(token.text) != token.text]

    @property
    def ordinary(self) -> list[str]:
        """The other added tokens."""
        return [token.text for token in self.added if public(token.text) == token.text]

    def write(self, path: Path, *, published: bool) -> Path:
        """Writes the files, in the public or the private spelling, and returns `path`."""
        for name, content in (public(self.files) if published else self.files).items():
            text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_text(text, encoding="utf-8", newline="")
        return path


def random_directory(rng: Random) -> Directory:
    """A directory of a random format, tokenizer, and distribution of what is known over the files."""
    style = rng.choice(STYLES)
    reserved = style.tokens[:2] if rng.random() < 0.8 else []
    base = random_base(rng, reserved)
    added = added_tokens(rng, style, base)
    files: dict[str, Any] = {"tokenizer.json": tokenizer_json(rng, base, added)}
    last = max(base.vocab.values()) + 2 * len(added) + 64
    files["config.json"] = {**LLAMA, "vocab_size": last, "bos_token_id": rng.choice([1, None, 0, 5])}
    settings: dict[str, Any] = {"clean_up_tokenization_spaces": False}
    if named_class := rng.choice(CLASSES if base.family == BYTE_LEVEL else CLASSES[:-1]):
        settings["tokenizer_class"] = named_class
    add_side_tokens(rng, style, base, added, settings, files)
    add_templates(rng, style, settings, files)
    files["tokenizer_config.json"] = settings
    return Directory(files, added)


def added_tokens(rng: Random, style: Style, base: Base) -> list[Added]:
    """The format's tokens, and others that overlap them, hold blanks or are words; some places and flags are odd."""
    tokens = [token for token in style.tokens if token in base.vocab or rng.random() < 0.92]
    odd = [*(token + "user" for token in style.tokens[2:3]), *(token + "\n" for token in style.tokens[1:2]),
           private("<|"), private("<unk>"), private("<| two words |>"), private("<｜fim▁hole｜>"), private("<pad>"),
           private("<tool_response>"), "Hello", "  ", "\n\n", "weather", "日本", "def f", "straße"]  # fmt: skip
    tokens += rng.sample(odd, rng.choice([0, 1, 2, 4, 7]))
    if private("<unk>") in base.vocab and private("<unk>") not in tokens and rng.random() < 0.9:
        tokens.insert(0, private("<unk>"))
    strange = rng.choice([0, 0, 0.15, 0.5])  # how often a flag is not what it usually is
    elsewhere = rng.choice([0, 0, 0.3, 1])  # how often a token is not in tokenizer.json
    made = []
    for token in tokens:
        place = JSON
        if rng.random() < elsewhere and token not in base.vocab:
            place = rng.choice([DECODER, DECODER, FILE, NAMED])
        control = public(token) != token
        place = FILE if place == NAMED and not control else place
        usual = dict.fromkeys(FLAGS, False) | {"special": control and rng.random() < 0.9}
        usual["normalized"] = not usual["special"]
        often = dict.fromkeys(FLAGS, strange) | {"special": strange * 0.3 * control}
        flags = {flag: usual[flag] ^ (rng.random() < often[flag]) for flag in FLAGS}
        made.append(Added(token, place, flags))
    for token in made:  # docs/chat.md names the difference
        token.flags["single_word"] &= not any(one.text != token.text and one.text in token.text for one in made)
    return sorted(made, key=lambda token: (JSON, DECODER, FILE, NAMED).index(token.place))


def tokenizer_json(rng: Random, base: Base, added: list[Added]) -> dict[str, Any]:
    """The base model with the tokens that belong in this file, and a post-processor that writes BOS or not."""
    inside = [token for token in added if token.place == JSON]
    ids = token_ids(base, inside)
    entries = [{"id": ids[token.text], **token.entry} for token in inside]
    whole = {"version": "1.0", "truncation": None, "padding": None, **base.tokenizer}
    if inside and rng.random() < 0.5:
        first = inside[0].text
        writer = {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": first, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {first: {"id": first, "ids": [ids[first]], "tokens": [first]}},
        }
        both = {"type": "Sequence", "processors": [*filter(None, [whole["post_processor"]]), writer]}
        whole["post_processor"] = rng.choice([writer, both])
    if rng.random() < 0.1:
        whole["truncation"] = {"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0}
    return whole | {"added_tokens": sorted(entries, key=lambda entry: entry["id"])}


def token_ids(base: Base, added: list[Added]) -> dict[str, int]:
    """The ids of added tokens: that of the base's entry, else the next one that is free."""
    ids: dict[str, int] = {}
    following = max(base.vocab.values()) + 1
    for token in added:
        ids[token.text] = base.vocab.get(token.text, following)
        following += token.text not in base.vocab
    return ids


def add_side_tokens(
    rng: Random, style: Style, base: Base, added: list[Added], settings: dict[str, Any], files: dict[str, Any]
) -> None:
    """Writes added_tokens_decoder, added_tokens.json, special_tokens_map.json and the named tokens of the settings."""
    ids = token_ids(base, added)
    gap = rng.choice([0, 0, 0, 7])
    outside = {token.text: ids[token.text] + gap for token in added if token.place != JSON}
    decoder = [token for token in added if token.place == DECODER]
    if decoder or rng.random() < 0.4:
        inside = [token for token in added if token.place == JSON] if rng.random() < 0.7 else []
        conflict = rng.random() < 0.2
        listed = {
            str(outside.get(one.text, ids[one.text])): changed(rng, one.entry, conflict) for one in inside + decoder
        }
        settings["added_tokens_decoder"] = listed
    if any(token.place == FILE for token in added):
        files["added_tokens.json"] = {one.text: outside[one.text] for one in added if one.place == FILE}
    named = {"bos_token": private(style.bos), "eos_token": private(style.eos)}
    if rng.random() < 0.3:
        named["pad_token"] = rng.choice([private(style.eos), private("<pad>")])
    if rng.random() < 0.3 and private("<unk>") in base.vocab:
        named["unk_token"] = private("<unk>")
    if rng.random() < 0.1:
        named["think_token"] = private("<think>")
    extra = [token for token in added if token.place == NAMED and token.text not in named.values()]
    control = [token for token in added if public(token.text) != token.text]
    extra += rng.sample(control, min(len(control), rng.choice([0, 0, 1, 3])))
    texts = list(dict.fromkeys(token.text for token in extra))
    form = rng.choice(["settings", "settings", "map", "both", "differing"])
    if form != "map":
        settings |= {key: named_form(rng, text, tagged=True) for key, text in named.items()}
        if texts:
            settings[rng.choice(["additional_special_tokens", "extra_special_tokens"])] = texts
    if form != "settings":
        if form == "differing":
            named["eos_token"] = rng.choice(style.tokens)
        files["special_tokens_map.json"] = {key: named_form(rng, text, tagged=False) for key, text in named.items()}
        if texts and rng.random() < 0.7:
            files["special_tokens_map.json"]["additional_special_tokens"] = texts
    if rng.random() < 0.3:
        settings["add_bos_token"] = rng.random() < 0.6
    if rng.random() < 0.1:
        settings["bos_token"] = None


def changed(rng: Random, entry: dict[str, Any], conflict: bool) -> dict[str, Any]:
    """An entry of added_tokens_decoder, which may contradict tokenizer.json."""
    flag = rng.choice(FLAGS if public(entry["content"]) != entry["content"] else FLAGS[:4])
    return entry | {flag: not entry[flag]} if conflict and rng.random() < 0.5 else entry


def named_form(rng: Random, text: str, *, tagged: bool) -> Any:
    """A named token as text, or as an object with flags, marked as transformers marks it in the settings."""
    if rng.random() < 0.6:
        return text
    flags = {flag: rng.random() < 0.15 for flag in FLAGS[:4]}
    return {"__type": "AddedToken", "content": text, **flags} if tagged else {"content": text, **flags}


def add_templates(rng: Random, style: Style, settings: dict[str, Any], files: dict[str, Any]) -> None:
    """Puts one or more templates in the places where they can be."""
    one, other = random_template(rng, style), random_template(rng, style)
    place = rng.choice(["settings", "settings", "list", "file", "file", "folder", "both", "folder only"])
    if place in ("settings", "both", "folder only"):
        settings["chat_template"] = one
    if place == "list":
        pairs = [("default", one), ("tool_use", other), ("rag", "{{ 'rag' }}")][: rng.randint(1, 3)]
        settings["chat_template"] = [{"name": name, "template": template} for name, template in pairs]
    if place in ("file", "both", "folder"):
        files["chat_template.jinja"] = other if place == "both" else one
    if place == "folder" or (place == "folder only" and rng.random() < 0.5):
        name = rng.choice(["tool_use", "tool_use", "rag", "default"])
        files[f"additional_chat_templates/{name}.jinja"] = other
