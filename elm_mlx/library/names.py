"""The names that people type, as data: what each stands for, and where OpenELM's tokenizer comes from."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from elm_mlx.errors import InvalidRequest, NotFound
from elm_mlx.files import can_name_a_file
from elm_mlx.store.weight_files import is_file_name


@dataclass(frozen=True)
class Repository:
    """A repository on the hub: owner/name, and a branch, a tag or a commit as its revision."""

    name: str
    revision: str = "main"

    def __str__(self) -> str:
        return self.name if self.revision == "main" else f"{self.name}@{self.revision}"


@dataclass(frozen=True)
class Known:
    """A model with a short name: its publisher's repository (`original`) and, where there is one, a `ready` conversion
    to 4-bit MLX by others, for which no licence has to be accepted first. `terms` say what its licence keeps others
    from, where that is unusual."""

    name: str
    original: str
    parameters: int
    ready: str | None = None
    gated: bool = False
    terms: str | None = None


READY_BITS = 4  # affine, in groups of 64
# Repositories and parameters, as published; a tied head is counted once.
OPENELM = {
    "270m": ("OpenELM-270M", 271_527_168),
    "450m": ("OpenELM-450M", 457_179_136),
    "1.1b": ("OpenELM-1_1B", 1_079_891_456),
    "3b": ("OpenELM-3B", 3_036_647_424),
}
LLAMA = {
    "llama-3-8b": ("Meta-Llama-3-8B", 8_030_261_248, "Meta-Llama-3-8B-Instruct-4bit"),
    "llama-3-70b": ("Meta-Llama-3-70B", 70_553_706_496, None),
    "llama-3.1-8b": ("Llama-3.1-8B", 8_030_261_248, "Meta-Llama-3.1-8B-Instruct-4bit"),
    "llama-3.1-70b": ("Llama-3.1-70B", 70_553_706_496, "Meta-Llama-3.1-70B-Instruct-4bit"),
    "llama-3.1-405b": ("Llama-3.1-405B", 405_853_388_800, None),
    "llama-3.2-1b": ("Llama-3.2-1B", 1_235_814_400, "Llama-3.2-1B-Instruct-4bit"),
    "llama-3.2-3b": ("Llama-3.2-3B", 3_212_749_824, "Llama-3.2-3B-Instruct-4bit"),
    "llama-3.3-70b": ("Llama-3.3-70B", 70_553_706_496, "Llama-3.3-70B-Instruct-4bit"),
}
MOBILELLM = {
    "mobilellm-125m": ("MobileLLM-125M", 124_635_456),
    "mobilellm-125m-ls": ("MobileLLM-125M-layer-share", 124_635_456),
    "mobilellm-350m": ("MobileLLM-350M", 345_355_200),
    "mobilellm-350m-ls": ("MobileLLM-350M-layer-share", 345_355_200),
    "mobilellm-600m": ("MobileLLM-600M", 603_188_352),
    "mobilellm-1b": ("MobileLLM-1B", 1_005_461_760),
    "mobilellm-1.5b": ("MobileLLM-1.5B", 1_511_188_800),
}
NO_COMMERCE = "not for commercial use (FAIR Noncommercial Research License, in its first releases CC-BY-NC-4.0)"
OTHERS = {  # the one feed-forward of MobiLlama's layers is counted once
    "mobillama-0.5b": ("MBZUAI/MobiLlama-05B", 373_385_216),
    "mobillama-0.5b-instruct": ("MBZUAI/MobiLlama-05B-Chat", 373_385_216),
    "mobillama-0.8b": ("MBZUAI/MobiLlama-08B", 567_001_600),
    "bitnet-2b-instruct": ("microsoft/bitnet-b1.58-2B-4T", 2_412_820_480),
}
WITHOUT_A_BASE = {"llama-3.3-70b"}

# Apple publishes no tokenizer with OpenELM. It is Llama 2's; each of these mirrors holds a copy of that file.
TOKENIZER_FILE = "tokenizer.model"
TOKENIZER_SHA256 = "9e556afd44213b6bd1be2b850ebbbd98f5481437a8021afaf58ee7fb1818d347"
TOKENIZER_MIRRORS = (
    "mlx-community/OpenELM-270M",
    "hf-internal-testing/llama-tokenizer",
    "dinhanhx/llama-tokenizer-hf",
    "UIC-R2-lab/llama2-tokenizer",
    "instabase/llama2_tokenizer",
)

MOST_SHOWN = 100  # characters of a name in a message; no name that means anything has more

Name = Path | Repository | Known


def known_models() -> dict[str, Known]:
    """Every model with a short name, by that name, in the order of families and sizes."""
    models = []
    for size, (original, parameters) in OPENELM.items():
        models.append(Known(f"openelm-{size}", f"apple/{original}", parameters))
        models.append(Known(f"openelm-{size}-instruct", f"apple/{original}-Instruct", parameters))
    for name, (original, parameters, ready) in LLAMA.items():
        if name not in WITHOUT_A_BASE:
            models.append(Known(name, f"meta-llama/{original}", parameters, gated=True))
        conversion = f"mlx-community/{ready}" if ready else None
        models.append(Known(f"{name}-instruct", f"meta-llama/{original}-Instruct", parameters, conversion, gated=True))
    for name, (original, parameters) in MOBILELLM.items():
        models.append(Known(name, f"facebook/{original}", parameters, gated=True, terms=NO_COMMERCE))
    models += [Known(name, original, parameters) for name, (original, parameters) in OTHERS.items()]
    return {model.name: model for model in models}


def ready_of(repository: str) -> str | None:
    """The ready conversion of a publisher's repository, if one is known."""
    originals = {model.original.lower(): model.ready for model in known_models().values()}
    return originals.get(repository.lower())


def terms_of(repository: str) -> str | None:
    """What the licence of a publisher's repository keeps others from, where that is known and unusual."""
    terms = {model.original.lower(): model.terms for model in known_models().values()}
    return terms.get(repository.lower())


def lacks_tokenizer(repository: str) -> bool:
    """Whether a repository is one of Apple's OpenELM ones, which hold no tokenizer."""
    return repository.lower().startswith("apple/openelm")


def parse_name(model: str | Path) -> Name:
    """What a model argument names: a directory, a repository, or a known model.

    A Path, a text that looks like a path and the name of an existing directory mean a directory; so does, to be
    refused as one, a file. Raises InvalidRequest for a text that can be none of the three, NotFound with the nearest
    names for an unknown short name, and for a path that can be none, ElmError for a path that may not be looked at.
    """
    text = str(model)
    if not text:
        raise InvalidRequest("The model's name is empty. Give one that `elm-mlx list` shows.")
    directory = Path(os.path.expanduser(text))  # noqa: PTH111, which raises for an unknown user
    can_exist = can_name_a_file(directory)
    is_there = can_exist and (directory.is_dir() or is_file_name(text))
    if isinstance(model, Path) or text.startswith((".", "/", "~")) or is_there:
        if not can_exist:
            raise NotFound(f"There is no directory {shortened(text)}: no path is so long or holds a NUL. Give another.")
        return directory
    if found := known_models().get(text.lower()):
        return found
    if re.fullmatch(r"[\w.-]+/[\w.-]+(@\w[\w./-]*)?", text, re.ASCII) and ".." not in text:
        name, _, revision = text.partition("@")
        return Repository(name, revision or "main")
    if re.fullmatch(r"[\w.-]+", text, re.ASCII):
        raise unknown_name(text)
    raise InvalidRequest(f"{shortened(text)!r} is not a model: give a name that `elm-mlx list` shows, "
                         "owner/name[@revision] of a repository, or a directory.")  # fmt: skip


def shortened(text: str) -> str:
    """The text as a message shows it: of a long one the beginning."""
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."


def unknown_name(name: str) -> NotFound:
    """The error for an unknown short name, with the nearest known ones."""
    names = list(known_models())
    near = [known for known in names if known.startswith(name.lower())][:3]
    hint = did_you_mean(near or get_close_matches(name.lower(), names, n=3, cutoff=0.5))
    return NotFound(f"There is no model {shortened(name)!r} and no directory of that name.{hint} "
                    "`elm-mlx list` shows the names.")  # fmt: skip


def near_repositories(repository: str) -> str:
    """A question whether a similar known repository was meant; empty where none is similar, and for a known one."""
    known = {name.lower(): name for model in known_models().values() for name in (model.original, model.ready) if name}
    near = [] if repository.lower() in known else get_close_matches(repository.lower(), known, n=2, cutoff=0.9)
    return did_you_mean([known[name] for name in near])


def did_you_mean(near: list[str]) -> str:
    """A question whether one of these names was meant; empty for no names."""
    return f" Did you mean {' or '.join(near)}?" if near else ""
