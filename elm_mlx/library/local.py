"""Finds models that are on this machine. Nothing here asks the network.

A name stands for one or more candidates, the best first. A candidate is found as a copy that elm-mlx keeps
(library.copies), or in Hugging Face's cache (library.hub_cache) if its files there run without conversion.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elm_mlx.config.foreign import is_own_form
from elm_mlx.config.quantization import check_bits
from elm_mlx.device.memory import memory_limit, rough_bytes
from elm_mlx.errors import ElmError, InvalidRequest, NotFound
from elm_mlx.files import optional_json, readable_size, reading
from elm_mlx.library import copies, names
from elm_mlx.library.hub_cache import commit_of, complete_snapshot, find_snapshot
from elm_mlx.library.names import Known, Name, Repository, parse_name
from elm_mlx.shell import command_line
from elm_mlx.store.layout import has_tokenizer
from elm_mlx.store.other_names import are_usual, has_one_ffn
from elm_mlx.store.snapshot import Snapshot
from elm_mlx.store.weight_files import WeightFiles, check_directory, weight_files


@dataclass(frozen=True)
class Located:
    """A model's directory, and the repository and commit that it comes from (None for a directory of the user's)."""

    path: Path
    repository: Repository | None = None
    commit: str | None = None


@dataclass(frozen=True)
class Candidate:
    """A repository that a name may stand for, and the bits that are asked for; None means as published where that runs
    without conversion, else bfloat16."""

    repository: Repository
    bits: int | None
    ungated: str | None = None  # a repository with this model for which no licence has to be accepted
    original: str | None = None  # the publisher's repository, where this is somebody else's conversion of it

    @property
    def variant(self) -> str:
        """The name of elm-mlx's own conversion of the repository: bf16, or, for example, 4bit."""
        return f"{self.bits}bit" if self.bits else "bf16"


@dataclass(frozen=True)
class Checkpoint:
    """A repository's published files on this machine, and a tokenizer from elsewhere where the repository has none."""

    repository: Repository
    snapshot: Snapshot
    tokenizer: Path | None


def candidates(name: Known | Repository, bits: int | None) -> list[Candidate]:
    """The repositories that a name may stand for, the best first: for a known model its ready conversion, if that has
    the bits asked for or none are, then its publisher's. Raises InvalidRequest for bits that no model can have."""
    check_bits(bits)
    if isinstance(name, Known) and name.ready and bits in (None, names.READY_BITS):
        return [Candidate(Repository(name.ready), None, original=name.original), as_published(name, bits)]
    return [as_published(name, bits)]


def as_published(name: Known | Repository, bits: int | None = None) -> Candidate:
    """The candidate that is the publisher's repository of a known model, or the repository that was named."""
    repository = Repository(name.original) if isinstance(name, Known) else name
    return Candidate(repository, bits, ungated=names.ready_of(repository.name))


def locate(model: str | Path, bits: int | None = None) -> Located | None:
    """The place of a model on this machine, or None where it is not here.

    Raises InvalidRequest and NotFound for an argument that names no model.
    """
    name = parse_name(model)
    return find_directory(name, bits) if isinstance(name, Path) else find_local(candidates(name, bits))


def find_directory(directory: Path, bits: int | None) -> Located:
    """The place of a model that was named by its directory. Raises NotFound for a directory that does not exist,
    InvalidRequest if `bits` are given: a directory has those that it has; and as `check_directory`."""
    check_directory(directory)
    if bits:
        command = command_line("elm-mlx", "convert", directory, "--bits", bits)
        raise InvalidRequest(f"{directory} is a directory, and runs in the bits that it is stored in. Convert it by "
                             f"`{command}`, or name a model.")  # fmt: skip
    return Located(directory)


def find_local(possible: Sequence[Candidate]) -> Located | None:
    """The place on this machine of the best candidate that is here, elm-mlx's own copies first; None without any."""
    found = (look(candidate) for look in (find_own_copy, find_cached) for candidate in possible)
    return next((located for located in found if located), None)


def find_own_copy(candidate: Candidate) -> Located | None:
    """The copy that elm-mlx keeps of a candidate, or None. Where the hub's cache does not know which commit "main" is,
    a copy of any commit is taken; of any other revision only a copy of its own commit."""
    repository, commit = candidate.repository, commit_of(candidate.repository)
    if not (commit or repository.revision == "main"):
        return None
    found = copies.find_copy(repository.name, candidate.variant, commit)
    published = copies.find_copy(repository.name, copies.PUBLISHED, commit)
    if not found and published and runs_as_published(published, candidate):
        found = published
    return Located(found, repository, found.name.partition("-")[2]) if found else None


def find_cached(candidate: Candidate) -> Located | None:
    """The snapshot of a candidate in the hub's cache if it runs without conversion, or None."""
    snapshot = complete_snapshot(candidate.repository)
    if snapshot and runs_as_published(snapshot.path, candidate):
        return Located(snapshot.path, candidate.repository, snapshot.commit)
    return None


def runs_as_published(directory: Path, candidate: Candidate) -> bool:
    """Whether a directory of published files runs as the candidate without conversion."""
    raw = optional_json(directory / "config.json")
    stored = stored_bits(raw)
    if is_own_form(raw):
        return False
    with reading(directory):
        has_json = (directory / "tokenizer.json").exists()
    weights = weight_files(directory)
    return has_json and needs_no_conversion(weights, candidate.bits, stored) and has_usual_names(directory, weights)


def has_usual_names(directory: Path, weights: WeightFiles) -> bool:
    """Whether tensors have names that load, by those of the first file."""
    from elm_mlx.store.weights import read_header  # here, as a list of models needs no MLX

    try:
        names = list(read_header(directory / weights.files[0]))
        return are_usual(names) and not (len(weights.files) == 1 and has_one_ffn(names))
    except ElmError:  # a damaged file: who loads it says what is wrong
        return True


def needs_no_conversion(weights: WeightFiles, bits: int | None, stored: int | None) -> bool:
    """Whether weights in `stored` bits run as they are where `bits` are asked for, beside a tokenizer.json."""
    return weights.are_safetensors and bits in (None, stored)


def stored_bits(raw: dict[str, Any]) -> int | None:
    """The bits of the weights according to a config.json's object; None where they are not quantized."""
    quantization = raw.get("quantization") or raw.get("quantization_config") or {}
    return quantization.get("bits") if isinstance(quantization, dict) else None


def check_stored_bits(candidate: Candidate, stored: int | None) -> None:
    """Raises InvalidRequest for weights in `stored` bits where the candidate asks for others."""
    if candidate.bits and stored and stored != candidate.bits:
        raise InvalidRequest(
            f"{candidate.repository} is quantized to {stored} bits already.",
            "Leave {bits} out, or name the original that it was made from.",
        )


def find_in_any_bits(model: str | Path, bits: int | None) -> Path:
    """The directory of a model on this machine, in any bits that it is here in.

    Raises NotFound, with the memory that a known model would take in `bits`.
    """
    name = parse_name(model)
    if found := locate(model) or next(iter(copies.copies_of(name)), None):
        return found.path
    takes, advice = "", f"Fetch it by `{command_line('elm-mlx', 'pull', model)}`."
    if isinstance(name, Known):
        stored = bits or (names.READY_BITS if name.ready else None)
        size, room = rough_bytes(name.parameters, stored), memory_limit()
        takes = (f" In {stored or 16} bits it takes about {readable_size(size)} and its cache, and this machine has "
                 f"{readable_size(room)} for a model.")  # fmt: skip
        if size > room:
            plan = command_line("elm-mlx", "info", model, *(("--bits", bits) if bits else ()), "--hosts", "2x256")
            fewer = "" if bits or name.ready else "{bits=4} takes less. "
            advice = f"{fewer}`{plan}` says whether two machines of 256 GB hold it together."
    raise NotFound(f"{model} is not on this machine yet.{takes}", advice)


def in_other_bits(name: Name) -> str:
    """A sentence of advice with the bits in which elm-mlx keeps a model; empty where it keeps none."""
    variants = dict.fromkeys(copy.variant for copy in copies.copies_of(name))
    bits = [f"{{bits={variant.removesuffix('bit')}}}" for variant in variants if variant.endswith("bit")]
    return f"What is here of it: {' or '.join(bits)}." if bits else ""


def cached_checkpoint(model: str, *, tokenizer: bool = True) -> Checkpoint:
    """The published checkpoint of a name, from this machine alone, for a reader who wants its `tokenizer` or has one;
    where that is from elsewhere and not here, it is None.

    Raises NotFound where the checkpoint is not here, InvalidRequest for a directory.
    """
    repository = as_published(fetchable_name(model)).repository
    if not (snapshot := complete_checkpoint(repository, tokenizer=tokenizer)):
        raise NotFound(f"{repository} is not on this machine. A dry run fetches nothing, and reads the checkpoint to "
                       "say what would be done.", "Leave {dry_run} out.")  # fmt: skip
    elsewhere = tokenizer and names.lacks_tokenizer(repository.name)
    return Checkpoint(repository, snapshot, cached_tokenizer() if elsewhere else None)


def complete_checkpoint(repository: Repository, *, tokenizer: bool = True) -> Snapshot | None:
    """The cached snapshot of a repository if no file of its model is missing, nor its tokenizer where a `tokenizer` is
    wanted and the repository has one; else None."""
    snapshot, wanted = complete_snapshot(repository), tokenizer and not names.lacks_tokenizer(repository.name)
    return snapshot if snapshot and (not wanted or has_tokenizer(snapshot.path)) else None


def fetchable_name(model: str | Path) -> Known | Repository:
    """Parses the name of a model that can be fetched. Raises InvalidRequest for a directory, and as `check_directory`
    for one that there is not."""
    name = parse_name(model)
    if isinstance(name, Path):
        check_directory(name)
        raise InvalidRequest(f"{model} is a directory, so there is nothing to fetch. Give a name that `elm-mlx list` "
                             "shows, or OWNER/NAME of a repository.")  # fmt: skip
    return name


def cached_tokenizer() -> Path | None:
    """OpenELM's tokenizer from a mirror in the hub's cache, or None where no mirror with the right file is cached."""
    snapshots = filter(None, (find_snapshot(Repository(mirror)) for mirror in names.TOKENIZER_MIRRORS))
    files = (snapshot.path / names.TOKENIZER_FILE for snapshot in snapshots)
    return next(filter(is_openelm_tokenizer, files), None)


def is_openelm_tokenizer(path: Path) -> bool:
    """Whether a file is OpenELM's tokenizer, by its hash."""
    if not path.is_file():
        return False
    with reading(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == names.TOKENIZER_SHA256
