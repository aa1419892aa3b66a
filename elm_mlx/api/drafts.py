"""Which model proposes for another one: the one that was named, or one that is on this machine and known to suit."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from elm_mlx.api.own_caches import token_bytes
from elm_mlx.api.unable import refuse_draft
from elm_mlx.config import ModelConfig
from elm_mlx.demo import demo_directory
from elm_mlx.device.chips import chip_here
from elm_mlx.device.speculation import most_proposals
from elm_mlx.engine.draft import Draft
from elm_mlx.engine.speculate import Speculation
from elm_mlx.errors import InvalidRequest
from elm_mlx.library.local import locate
from elm_mlx.library.pull import pull
from elm_mlx.shell import command_line
from elm_mlx.store.load import LoadedModel, load_tokenizer, read_config
from elm_mlx.store.text_settings import read_settings
from elm_mlx.text.tokenizer import Tokenizer

AUTO = "auto"
# family -> (the parameters from which on a model gets a draft, the draft's names). The draft has to be several times
# smaller: a step of it is part of every round.
DRAFTS: dict[str, tuple[int, tuple[str, ...]]] = {
    "openelm": (1_000_000_000, ("openelm-270m", "openelm-270m-instruct")),
    "llama": (2_500_000_000, ("llama-3.2-1b", "llama-3.2-1b-instruct")),
}


class Found(NamedTuple):
    """A draft's directory, or None and the sentence that says why there is none."""

    path: Path | None
    notice: str | None = None


class Pair(NamedTuple):
    """A loaded model, and the draft that proposes for it, if one does."""

    target: LoadedModel
    draft: LoadedModel | None


def find_draft(draft: str | Path | None, directory: Path, *, force: bool = False) -> Found:
    """The directory of the `draft` for the model in a directory: a name or a directory, pulled as a model is; or "auto"
    for one that is on this machine. Raises as `pull`, and InvalidRequest for a draft with another vocabulary."""
    if draft is None:
        return Found(None)
    found = find_known(directory) if draft == AUTO else Found(pull(draft, force=force).path)
    if found.path:
        check_draft(directory, found.path)
    return found


def find_known(directory: Path) -> Found:
    """The draft that suits the model in a directory, if it is on this machine; nothing is fetched."""
    if directory.resolve() == demo_directory().resolve():
        return Found(directory / "draft")
    config = read_config(directory)
    least, names = DRAFTS.get(config.family, (0, ()))
    if config.parameter_count < least or not names:
        return Found(None, "No draft is known that is much smaller than this model, so it runs without one.")
    instruct = "instruct" in str(directory).lower()
    for name in sorted(names, key=lambda name: ("instruct" in name) != instruct):
        if located := locate(name):
            return Found(located.path)
    fetch = command_line("elm-mlx", "pull", names[0])
    return Found(None, f"{names[0]} would be this model's draft, but is not on this machine: `{fetch}` brings "
                       "it here. Until then the model runs without a draft.")  # fmt: skip


def check_draft(directory: Path, draft: Path) -> None:
    """Raises InvalidRequest, with what differs, where the model in `draft` cannot propose ids for the one in
    `directory`: both have to give every id to the same text. Reads no weights."""
    (config, own), (other_config, other) = read_vocabulary(directory), read_vocabulary(draft)
    refuse_draft(config, str(directory))
    refuse_draft(other_config, str(draft))
    if why := why_different(own, other):
        raise InvalidRequest(f"{draft} cannot be the draft of {directory}: {why}.", "Name another {draft}, of the same "
                             "family, or leave it out.")  # fmt: skip
    if config.vocab_size != other_config.vocab_size:
        raise InvalidRequest(f"{draft} cannot be the draft of {directory}: it has {other_config.vocab_size} ids, and "
                             f"the model {config.vocab_size}.", "Name another {draft}, or leave it out.")  # fmt: skip


def read_vocabulary(directory: Path) -> tuple[ModelConfig, Tokenizer]:
    """The configuration and the tokenizer of a model's directory."""
    config = read_config(directory)
    return config, load_tokenizer(directory, read_settings(directory), config)


def why_different(own: Tokenizer, other: Tokenizer) -> str | None:
    """How a draft's vocabulary differs from a model's, or None. Added tokens may differ: some that are reserved have
    other names in each release of Llama 3, and a wrong proposal costs time, never an answer."""
    ours, theirs = own.vocabulary, other.vocabulary
    if ours == theirs:
        return None
    if len(ours) != len(theirs):
        return f"its tokenizer has {len(theirs)} tokens, and the model's {len(ours)}"
    token = min((text for text, i in ours.items() if theirs.get(text) != i), key=ours.__getitem__)
    return f"its tokenizer has another token than {token!r:.40} as id {ours[token]}"


def speculation_of(pair: Pair) -> Speculation:
    """What the engine of a loaded model speculates with on this machine."""
    loaded, config = pair.target, pair.target.config
    queries = max(heads // kv for heads, kv in zip(config.num_heads, config.num_kv_heads, strict=True))
    draft = draft_of(pair.draft) if pair.draft else None
    most = most_proposals(chip_here(), queries) if config.abilities.trims else 0
    return Speculation(loaded.runs, config.num_layers, draft, most)


def draft_of(loaded: LoadedModel) -> Draft:
    """A loaded model as the draft of another one."""
    config = loaded.config
    return Draft(loaded.runs, config.num_layers, config.context_length, token_bytes(loaded), loaded.execution)
