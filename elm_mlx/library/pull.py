"""From a name to a directory that loads: what is on this machine first, and without a word to the network then; else
fetched, and converted where it is not MLX's already.

What runs is kept (store.library) by its commit and variant: conversions as "bf16" or "4bit", and of a repository that
runs as it is published links to its files beside a compact tokenizer.json, which takes most of a start.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from elm_mlx.arguments import Progress
from elm_mlx.config import config_from_dict
from elm_mlx.config.quantization import check_bits
from elm_mlx.device.backend import mx as _mx  # noqa: F401  first, for its sentence where MLX has no backend
from elm_mlx.device.costs import gigabytes, parameter_count, quantized_bytes
from elm_mlx.errors import (
    BadCheckpoint,
    ElmError,
    Gated,
    InvalidRequest,
    MissingTokenizer,
    NotFound,
    TargetExists,
    Unreachable,
)
from elm_mlx.files import MAX_LARGE_BYTES, optional_json, read_json, reading
from elm_mlx.library import copies as library
from elm_mlx.library import hub, hub_cache
from elm_mlx.library import names as registry
from elm_mlx.library.names import Known, Repository
from elm_mlx.store import load
from elm_mlx.store.layout import has_tokenizer, is_whole

Say = Callable[[str], None]
log: Say = logging.getLogger("elm_mlx").info


@dataclass(frozen=True)
class Located:
    """A model's directory, and the repository and commit that it comes from (None for a directory of the user's)."""

    path: Path
    repository: Repository | None = None
    commit: str | None = None


@dataclass(frozen=True)
class Choice:
    """What a name means: a repository, and in which variant; None runs it as it is published if that loads."""

    repository: Repository
    bits: int | None
    alternative: str | None = None  # ungated, where this one may be gated
    original: str | None = None  # what somebody else than its publisher converted

    @property
    def variant(self) -> str:
        return f"{self.bits}bit" if self.bits else "bf16"


def choices(model: Known | Repository, bits: int | None) -> list[Choice]:
    """What a name may mean, the best first: of a known model its ready conversion, where it has the bits asked for or
    none were, and its publisher's repository. Raises InvalidRequest for bits that none can have."""
    check_bits(bits)
    published = as_published(model, bits)
    if isinstance(model, Known) and model.ready and bits in (None, registry.READY_BITS):
        return [Choice(Repository(model.ready), None, original=model.original), published]
    return [published]


def as_published(model: Known | Repository, bits: int | None = None) -> Choice:
    """The publisher's own repository of a known model, or the repository that was named."""
    repository = Repository(model.original) if isinstance(model, Known) else model
    return Choice(repository, bits, registry.ready_of(repository.name))


def locate(model: str | Path, bits: int | None = None) -> Located | None:
    """Where a model lies on this machine, or None; the network is never asked.

    Raises InvalidRequest and NotFound for what names nothing.
    """
    parsed = registry.parse(model)
    if not isinstance(parsed, Path):
        places = (find(choice) for find in (own_copy, cached) for choice in choices(parsed, bits))
        return next((place for place in places if place), None)
    if not parsed.is_dir():
        raise NotFound(f"There is no directory {parsed}. Give a model's directory, or a name.")
    if bits:
        raise InvalidRequest(f"{parsed} is a directory, which has the bits that it has. Convert it with "
                             f"`elm-mlx convert {parsed} --bits {bits}`, or name a model.")  # fmt: skip
    return Located(parsed)


def own_copy(choice: Choice) -> Located | None:
    """Our own copy. Of "main" any commit will do where the hub's cache does not know which one it is; of another
    revision none but its own."""
    repository, commit = choice.repository, hub_cache.commit_of(choice.repository)
    if not (commit or repository.revision == "main"):
        return None
    found = library.find(repository.name, choice.variant, commit)
    published = library.find(repository.name, library.PUBLISHED, commit)
    if not found and published and loads_as_it_is(published, choice):
        found = published
    return Located(found, repository, found.name.partition("-")[2]) if found else None


def cached(choice: Choice) -> Located | None:
    """The hub's cache, where that loads as it is."""
    snapshot = whole(choice.repository)
    if snapshot and loads_as_it_is(snapshot, choice):
        return Located(snapshot, choice.repository, snapshot.name)
    return None


def loads_as_it_is(snapshot: Path, choice: Choice) -> bool:
    """Whether a published directory needs no conversion."""
    stored = stored_bits(optional_json(snapshot / "config.json"), choice)
    with reading(snapshot):
        return runs_as_it_is([file.name for file in snapshot.iterdir() if file.exists()], choice.bits, stored)


def runs_as_it_is(names: Collection[str], bits: int | None, stored: int | None) -> bool:
    """The same by the names of its files, the bits that are asked for and those it has."""
    return "tokenizer.json" in names and any(name.endswith(".safetensors") for name in names) and bits in (None, stored)


def stored_bits(raw: dict[str, Any], choice: Choice) -> int | None:
    """The bits that a config.json says its weights have; None where they are not quantized. Raises InvalidRequest where
    others are asked for."""
    quantization = raw.get("quantization") or raw.get("quantization_config") or {}
    stored = quantization.get("bits") if isinstance(quantization, dict) else None
    if choice.bits and stored and stored != choice.bits:
        raise InvalidRequest(f"{choice.repository} is quantized to {stored} bits already. Leave --bits out, or name "
                             "the original that it was made from.")  # fmt: skip
    return stored


def pull(
    model: str | Path,
    bits: int | None = None,
    *,
    fetching: Progress | None = None,
    converting: Progress | None = None,
    say: Say = log,
    force: bool = False,
) -> Located:
    """Locates a model, and else fetches it, and converts it if it must be; says each step before it begins.

    `fetching` hears (bytes there, in all), `converting` (source bytes done, in all). Raises InvalidRequest, NotFound,
    Gated, Unreachable, DiskFull, MissingTokenizer, BadCheckpoint, Unsupported, and NotEnoughMemory before anything
    large is fetched, unless `force`.
    """
    if found := locate(model, bits):
        return kept(found, say)
    choice = to_fetch(named(model), bits)
    try:
        snapshot, tokenizer = fetched(choice, fetching, say, for_running=not force)
    except Unreachable as error:
        raise Unreachable(f"{error}{in_other_bits(model)}") from error
    return ready(choice, snapshot, tokenizer, converting, say)


def repair(
    model: str | Path,
    bits: int | None = None,
    *,
    checking: Progress | None = None,
    fetching: Progress | None = None,
    converting: Progress | None = None,
    say: Say = log,
) -> Located:
    """Pulls a model, and believes nothing of it that is here: reads what was fetched again, fetches what is damaged
    anew, and makes our own copy of it anew. `checking` hears (bytes read, in all). Raises as `pull`."""
    if hub.is_offline():
        raise Unreachable(f"{model} cannot be mended while the environment forbids the network: what is damaged has to "
                          "be fetched. Unset HF_HUB_OFFLINE and TRANSFORMERS_OFFLINE.")  # fmt: skip
    choice = to_fetch(named(model), bits)
    if damaged := hub_cache.verify(choice.repository, checking):
        say(f"Damaged in the hub's cache, and fetched again: {', '.join(damaged)}.")
    snapshot, tokenizer = fetched(choice, fetching, say, for_running=False)
    return ready(choice, snapshot, tokenizer, converting, say, anew=True)


def to_fetch(model: Known | Repository, bits: int | None) -> Choice:
    """What of a name to take: the first that the hub's cache holds, else the best, from the network."""
    possible = choices(model, bits)
    return next((choice for choice in possible if whole(choice.repository)), possible[0])


def in_other_bits(model: str | Path) -> str:
    """A hint at our copies of a model that nobody asked for."""
    others = dict.fromkeys(copy.variant for copy in library.copies_of(registry.parse(model)))
    bits = [variant.removesuffix("bit") for variant in others if variant.endswith("bit")]
    return f" What is here of it: --bits {' or --bits '.join(bits)}." if bits else ""


def ready(
    choice: Choice, snapshot: Path, tokenizer: Path | None, progress: Progress | None, say: Say, *, anew: bool = False
) -> Located:
    """A snapshot as a directory of ours that runs; one that is there already unless it is to be made `anew`."""
    found = Located(snapshot, choice.repository, snapshot.name)
    if loads_as_it_is(snapshot, choice):
        return kept(found, say, anew=anew)
    return replace(found, path=converted(choice, snapshot, tokenizer, progress, say, anew))


def checkpoint(model: str | Path, fetching: Progress | None = None, say: Say = log) -> tuple[Located, Path | None]:
    """A model as it was published, on this machine, for `convert` to read; and where its tokenizer is another's, that.

    A path is taken as it is. Raises as `pull`; the memory is not looked at, since a conversion needs little.
    """
    if isinstance(parsed := registry.parse(model), Path):
        return Located(parsed), None
    choice = replace(as_published(parsed), alternative=None)
    snapshot, tokenizer = fetched(choice, fetching, say, for_running=False)
    return Located(snapshot, choice.repository, snapshot.name), tokenizer


def checkpoint_here(name: str) -> tuple[Located, Path | None]:
    """The same of a name without the network; a tokenizer that is not here is None. Raises NotFound."""
    repository = as_published(named(name)).repository
    if not (snapshot := complete(repository)):
        raise NotFound(f"{repository} is not on this machine, and a dry run fetches nothing: the checkpoint's own "
                       "files tell what would be done. Leave --dry-run out.")  # fmt: skip
    tokenizer = cached_tokenizer() if registry.lacks_tokenizer(repository.name) else None
    return Located(snapshot, repository, snapshot.name), tokenizer


def complete(repository: Repository) -> Path | None:
    """The hub's cached snapshot, if it has all that the repository can give of the model."""
    here = whole(repository)
    return here if here and (registry.lacks_tokenizer(repository.name) or has_tokenizer(here)) else None


def named(model: str | Path) -> Known | Repository:
    """What a name stands for. Raises InvalidRequest for a directory."""
    parsed = registry.parse(model)
    if isinstance(parsed, Path):
        raise InvalidRequest(f"{model} is a directory, so there is nothing to fetch. Name a model.")
    return parsed


def fetched(choice: Choice, fetching: Progress | None, say: Say, *, for_running: bool) -> tuple[Path, Path | None]:
    """(a snapshot with everything that the model needs, the tokenizer that is missing in it and comes from elsewhere),
    from the hub's cache or else the network."""
    repository = choice.repository
    with naming(choice.alternative):
        listing = None if complete(repository) else look_up(choice, for_running)
        tokenizer = openelm_tokenizer(say) if registry.lacks_tokenizer(repository.name) else None
        if listing:
            if choice.original:
                say(f"{repository} is a {registry.READY_BITS}-bit conversion of {choice.original} by others than its "
                    "publisher; no licence has to be accepted first, and its terms hold all the same.")  # fmt: skip
            say(f"Fetching {repository} at commit {listing.commit[:12]}: {to_come(listing)}.")
            hub.fetch(listing, fetching, say)
    if not (snapshot := whole(repository)):
        raise BadCheckpoint(f"{repository} lacks files that its own index of weights names. Try another revision.")
    return snapshot, tokenizer


def to_come(listing: hub.Listing) -> str:
    """How much of a listing is still to be fetched."""
    left, size = gigabytes(listing.missing_bytes), gigabytes(listing.nbytes)
    return size if left == size else f"{left} of {size}"


def kept(found: Located, say: Say, *, anew: bool = False) -> Located:
    """A snapshot of the hub's cache as a directory of ours, which starts sooner; anything else as it is."""
    if not (found.repository and found.commit) or library.root() in found.path.parents:
        return found
    from elm_mlx.convert.tokenizer import compact

    file = found.path / "tokenizer.json"
    try:
        place = library.place(found.repository.name, found.commit, library.PUBLISHED)
        if anew and place.is_dir():
            library.remove(place)
        smaller = compact(read_json(file, MAX_LARGE_BYTES), file)
        return replace(found, path=library.link(place, found.path, {file.name: smaller}))
    except ElmError as error:
        say(f"{error} So the next start will take a little longer.")
        return found


@contextmanager
def naming(alternative: str | None) -> Iterator[None]:
    """Adds an ungated repository to a gate's refusal."""
    try:
        yield
    except Gated as error:
        if alternative:
            raise Gated(f"{error} Or take {alternative}, which asks for neither.") from error
        raise


def whole(repository: Repository) -> Path | None:
    """The hub's cached snapshot, if nothing of the model is missing in it."""
    snapshot = hub_cache.snapshot(repository)
    return snapshot if snapshot and is_whole(snapshot) else None


def look_up(choice: Choice, for_running: bool) -> hub.Listing:
    """What there is to fetch, once it is known to be of use: of a kind that runs, in bits that it has, within this
    machine's disk and, if it is to run, its memory."""
    listing = hub.look_up(choice.repository)
    hub.check_space(listing)
    blob = listing.files["config.json"]
    raw = read_json(hub.download(listing.repository.name, "config.json", listing.commit, blob=blob))
    config, bits = config_from_dict(raw), stored_bits(raw, choice) or choice.bits
    weights = quantized_bytes(config, bits) if bits else 2 * parameter_count(config)
    if for_running:
        load.check_memory(choice.repository, config, weights, 16)
    if for_running and not runs_as_it_is(listing.files, choice.bits, stored_bits(raw, choice)):
        library.check_writable()
        hub.check_space(listing, also=weights, at=library.root())
    return listing


def converted(
    choice: Choice, snapshot: Path, tokenizer: Path | None, progress: Progress | None, say: Say, anew: bool
) -> Path:
    """Our own conversion of a snapshot, made now unless another process was first."""
    from elm_mlx.convert import convert
    from elm_mlx.convert.output.target import wait

    library.check_writable()
    target = library.place(choice.repository.name, snapshot.name, choice.variant)
    if target.is_dir() and not is_whole(target):
        library.remove(target)
    say(f"Converting {choice.repository} to {choice.variant}.")
    try:
        return convert(snapshot, target, bits=choice.bits, tokenizer=tokenizer, force=anew, progress=progress).output
    except TargetExists:
        wait(target)  # another process was first
        if not target.is_dir() or not is_whole(target):
            raise
        return target


def openelm_tokenizer(say: Say) -> Path:
    """The tokenizer that Apple's repositories lack, from any mirror whose file is the one the registry names."""
    if file := cached_tokenizer():
        return file
    for mirror in registry.TOKENIZER_MIRRORS:
        hub_cache.verify(Repository(mirror))  # a damaged one is fetched again
    refusal: ElmError | None = None
    for mirror in registry.TOKENIZER_MIRRORS:
        try:
            commit = hub.revision(Repository(mirror))
            file = hub.download(mirror, registry.TOKENIZER_FILE, commit)
        except Unreachable as error:  # the others lie on the same hub
            raise Unreachable(f"OpenELM's tokenizer, which Apple does not publish: {error}") from error
        except ElmError as error:
            refusal = error
            continue
        if is_the_tokenizer(file):
            say(f"OpenELM's tokenizer comes from {mirror}.")
            hub_cache.point(Repository(mirror), commit)
            return file
        say(f"{mirror} has a {registry.TOKENIZER_FILE} that is not Llama 2's; trying the next.")
    why = f" ({refusal})" if refusal else ""
    raise MissingTokenizer(f"OpenELM's tokenizer, Llama 2's {registry.TOKENIZER_FILE}, is on none of its mirrors{why}. "
                           "Give one with `elm-mlx convert ... --tokenizer FILE`.")  # fmt: skip


def cached_tokenizer() -> Path | None:
    """The same where a mirror's is in the hub's cache."""
    snapshots = filter(None, (hub_cache.snapshot(Repository(mirror)) for mirror in registry.TOKENIZER_MIRRORS))
    files = (snapshot / registry.TOKENIZER_FILE for snapshot in snapshots)
    return next(filter(is_the_tokenizer, files), None)


def is_the_tokenizer(path: Path) -> bool:
    """Whether a file is the registry's, by its hash."""
    if not path.is_file():
        return False
    with reading(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == registry.TOKENIZER_SHA256
