"""Finds the directory of a model by its name; fetches the model where it is not on this machine, and converts it where
it does not run as published.

The phases, each with a value of its own: a name (library.names) stands for Candidates, the best first (library.local).
One that is here gives a Located at once. Otherwise one is chosen; the hub gives its Listing, and `look_up_candidate`
refuses what would not fit; fetching gives a Checkpoint; converting it, or linking to it if it runs as published, gives
the Located. What runs is kept (library.copies) by its commit and variant.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import elm_mlx.device.backend  # noqa: F401  first, as its error says what to install where MLX has no backend
from elm_mlx.arguments import Progress
from elm_mlx.config import config_from_dict
from elm_mlx.device.memory import check_memory
from elm_mlx.errors import BadCheckpoint, ElmError, Gated, MissingTokenizer, NotFound, TargetExists, Unreachable
from elm_mlx.files import MAX_LARGE_BYTES, gigabytes, read_json
from elm_mlx.library import copies, hub, names
from elm_mlx.library.download import Say
from elm_mlx.library.hub_cache import complete_snapshot, folder_of, remove_damaged, set_reference
from elm_mlx.library.local import (
    Candidate,
    Checkpoint,
    Located,
    as_published,
    cached_tokenizer,
    candidates,
    complete_checkpoint,
    fetchable_name,
    find_directory,
    find_local,
    in_other_bits,
    is_openelm_tokenizer,
    needs_no_conversion,
    runs_as_published,
    stored_bits,
)
from elm_mlx.library.names import Repository, parse_name
from elm_mlx.store.layout import is_complete
from elm_mlx.store.weight_files import weight_files

log: Say = logging.getLogger("elm_mlx").info


@dataclass(frozen=True)
class Callbacks:
    """A caller's callbacks: `say` is called with a sentence before each step, `fetching` with (bytes there, in all),
    `converting` with (source bytes done, in all)."""

    say: Say = log
    fetching: Progress | None = None
    converting: Progress | None = None


def pull(
    model: str | Path,
    bits: int | None = None,
    *,
    fetching: Progress | None = None,
    converting: Progress | None = None,
    say: Say = log,
    force: bool = False,
) -> Located:
    """Finds a model on this machine; else fetches it, and converts it where it does not run as published.

    `say` is called with a sentence before each step, `fetching` with (bytes there, in all), `converting` with (source
    bytes done, in all). Raises InvalidRequest, NotFound, Gated, Unreachable, DiskFull, MissingTokenizer, BadCheckpoint,
    Unsupported, and NotEnoughMemory before anything large is fetched, unless `force`.
    """
    name = parse_name(model)
    if isinstance(name, Path):
        return find_directory(name, bits)
    possible = candidates(name, bits)
    if found := find_local(possible):
        return keep(found, say)
    callbacks, candidate = Callbacks(say, fetching, converting), choose_candidate(possible)
    try:
        checkpoint = fetch_candidate(candidate, callbacks, for_running=not force)
    except Unreachable as error:
        raise Unreachable(str(error), in_other_bits(name)) from error
    return make_runnable(candidate, checkpoint, callbacks)


def repair(
    model: str | Path,
    bits: int | None = None,
    *,
    checking: Progress | None = None,
    fetching: Progress | None = None,
    converting: Progress | None = None,
    say: Say = log,
) -> Located:
    """Pulls a model and trusts nothing of it that is here: reads again what was fetched, fetches again what is damaged,
    and makes elm-mlx's own copy again. `checking` is called with (bytes read, in all).

    Raises as `pull`, except NotEnoughMemory.
    """
    if hub.is_offline():
        raise Unreachable(f"{model} cannot be mended while the environment forbids the network: what is damaged has to "
                          "be fetched. Unset HF_HUB_OFFLINE and TRANSFORMERS_OFFLINE.")  # fmt: skip
    candidate = choose_candidate(candidates(fetchable_name(model), bits))
    callbacks = Callbacks(say, fetching, converting)
    damaged = remove_damaged(candidate.repository, checking)
    again = f"Damaged in the hub's cache, and fetched again: {', '.join(damaged)}."
    say(again if damaged else "No file of it in the hub's cache is damaged.")
    return make_runnable(
        candidate, fetch_candidate(candidate, callbacks, for_running=False, again=True), callbacks, again=True
    )


def fetch_checkpoint(model: str | Path, fetching: Progress | None = None, say: Say = log) -> Checkpoint:
    """Fetches a model as its publisher has it, for a conversion to read, unless it is on this machine.

    Raises as `pull`, except NotEnoughMemory: a conversion needs little memory.
    """
    candidate = replace(as_published(fetchable_name(model)), ungated=None)
    return fetch_candidate(candidate, Callbacks(say, fetching), for_running=False)


def choose_candidate(possible: Sequence[Candidate]) -> Candidate:
    """Chooses what to fetch: the first candidate that the hub's cache holds already, else the best one."""
    return next((candidate for candidate in possible if is_cached(candidate)), possible[0])


def is_cached(candidate: Candidate) -> bool:
    """Whether the hub's cache holds all files of a candidate, sound or damaged."""
    try:
        return complete_snapshot(candidate.repository) is not None
    except BadCheckpoint:  # its index is damaged, so it is here
        return True


def fetch_candidate(
    candidate: Candidate, callbacks: Callbacks, *, for_running: bool, again: bool = False
) -> Checkpoint:
    """Fetches what the hub's cache lacks of a candidate, and a tokenizer from elsewhere if the repository has none.
    Where the files there do not show how many they are, the hub is asked `again`."""
    repository = candidate.repository
    with ungated_advice(candidate.ungated):
        here = complete_checkpoint(repository)
        has_all = here and not (again and not weight_files(here.path).show_their_number)
        listing = None if has_all else look_up_candidate(candidate, for_running)
        tokenizer = fetch_tokenizer(callbacks.say) if names.lacks_tokenizer(repository.name) else None
        if listing:
            announce(candidate, listing, callbacks.say)
            hub.fetch_listing(listing, callbacks.fetching, callbacks.say)
    if not (snapshot := complete_snapshot(repository)):
        raise NotFound(f"{folder_of(repository.name)} has weights beside those that the hub lists. Remove that "
                       "folder, and pull again.")  # fmt: skip
    return Checkpoint(repository, snapshot, tokenizer)


def announce(candidate: Candidate, listing: hub.Listing, say: Say) -> None:
    """Says what is about to be fetched, whose conversion it is, and how much of it is still to come."""
    repository = candidate.repository
    if candidate.original:
        say(f"{repository} is a {names.READY_BITS}-bit conversion of {candidate.original} by others than its "
            "publisher; no licence has to be accepted first, and its terms hold all the same.")  # fmt: skip
    left, size = gigabytes(listing.missing_bytes), gigabytes(listing.nbytes)
    say(f"Fetching {repository} at commit {listing.commit[:12]}: {size if left == size else f'{left} of {size}'}.")


def look_up_candidate(candidate: Candidate, for_running: bool) -> hub.Listing:
    """Asks the hub what there is to fetch, and refuses a model that would be of no use: one of a kind that does not
    run, in other bits than asked for, or too large for this machine's disk or, if it is to run, for its memory."""
    listing = hub.look_up_listing(candidate.repository)
    hub.check_room_for(listing)
    blob = listing.files["config.json"]
    raw = read_json(hub.fetch_file(listing.repository.name, "config.json", listing.commit, blob=blob))
    config, stored = config_from_dict(raw), stored_bits(raw, candidate)
    bits = stored or candidate.bits
    weights = config.quantized_bytes(bits) if bits else 2 * config.parameter_count
    if for_running:
        check_memory(candidate.repository, config, weights, 16)
    as_it_is = "tokenizer.json" in listing.files and needs_no_conversion(listing.weights, candidate.bits, stored)
    if for_running and not as_it_is:
        copies.check_writable()
        hub.check_room_for(listing, also=weights, at=copies.root())
    return listing


@contextmanager
def ungated_advice(alternative: str | None) -> Iterator[None]:
    """Adds to the error of a gated repository the name of an ungated one with the same model, if there is one."""
    try:
        yield
    except Gated as error:
        if alternative:
            raise Gated(f"{error} Or take {alternative}, which asks for neither.") from error
        raise


def make_runnable(
    candidate: Candidate, checkpoint: Checkpoint, callbacks: Callbacks, *, again: bool = False
) -> Located:
    """Makes a directory that runs from a checkpoint: links to it if it runs as published, else converts it. A directory
    that exists already is taken, unless it is to be made `again`."""
    snapshot = checkpoint.snapshot
    found = Located(snapshot.path, candidate.repository, snapshot.commit)
    if runs_as_published(snapshot.path, candidate):
        return keep(found, callbacks.say, again=again)
    return replace(found, path=convert_checkpoint(candidate, checkpoint, callbacks, again=again))


def keep(found: Located, say: Say, *, again: bool = False) -> Located:
    """For a snapshot of the hub's cache, makes a directory in elm-mlx's own (library.copies): links to the snapshot's
    files, and a compact tokenizer.json, since reading the published one takes most of a start. Returns anything else,
    and a snapshot that cannot be kept, as it is."""
    if not (found.repository and found.commit) or copies.root() in found.path.parents:
        return found
    from elm_mlx.convert.tokenizer.compact import compact

    file = found.path / "tokenizer.json"
    try:
        place = copies.place(found.repository.name, found.commit, copies.PUBLISHED)
        if again and place.is_dir():
            copies.remove_copy(place)
        smaller = compact(read_json(file, MAX_LARGE_BYTES), file)
        return replace(found, path=copies.link_directory(place, found.path, {file.name: smaller}))
    except ElmError as error:
        say(f"{error} So the next start will take a little longer.")
        return found


def convert_checkpoint(candidate: Candidate, checkpoint: Checkpoint, callbacks: Callbacks, *, again: bool) -> Path:
    """Converts a checkpoint to a directory that elm-mlx keeps, or waits for another process that is doing so."""
    from elm_mlx.convert import convert, wait_for_other_run

    copies.check_writable()
    target = copies.place(candidate.repository.name, checkpoint.snapshot.commit, candidate.variant)
    if target.is_dir() and not is_complete(target):
        copies.remove_copy(target)
    callbacks.say(f"Converting {candidate.repository} to {candidate.variant}.")
    source, progress = checkpoint.snapshot.path, callbacks.converting
    try:
        done = convert(
            source, target, force=again, progress=progress, bits=candidate.bits, tokenizer=checkpoint.tokenizer
        )
        return done.output
    except TargetExists:
        wait_for_other_run(target)
        if not target.is_dir() or not is_complete(target):
            raise
        return target


def fetch_tokenizer(say: Say) -> Path:
    """Fetches OpenELM's tokenizer, which Apple's repositories lack, from a mirror whose file has the right hash."""
    if file := cached_tokenizer():
        return file
    for mirror in names.TOKENIZER_MIRRORS:
        remove_damaged(Repository(mirror))  # else a damaged file would be found in the cache again
    refusal: ElmError | None = None
    for mirror in names.TOKENIZER_MIRRORS:
        try:
            commit = hub.look_up_commit(Repository(mirror))
            file = hub.fetch_file(mirror, names.TOKENIZER_FILE, commit)
        except Unreachable as error:  # the other mirrors are on the same hub
            raise Unreachable(f"OpenELM's tokenizer, which Apple does not publish: {error}") from error
        except ElmError as error:
            refusal = error
            continue
        if is_openelm_tokenizer(file):
            say(f"OpenELM's tokenizer comes from {mirror}.")
            set_reference(Repository(mirror), commit)
            return file
        say(f"{mirror} has a {names.TOKENIZER_FILE} that is not Llama 2's; trying the next.")
    why = f" ({refusal})" if refusal else ""
    raise MissingTokenizer(f"OpenELM's tokenizer, Llama 2's {names.TOKENIZER_FILE}, is on none of its mirrors{why}. "
                           "Give one with `elm-mlx convert ... --tokenizer FILE`.")  # fmt: skip
