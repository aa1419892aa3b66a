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
from elm_mlx.config import GuestConfig, config_or_guest
from elm_mlx.config.foreign import as_plain, is_own_form
from elm_mlx.device.memory import check_memory
from elm_mlx.errors import BadCheckpoint, ElmError, Gated, MissingTokenizer, NotFound, TargetExists, Unreachable
from elm_mlx.files import MAX_LARGE_BYTES, optional_json, read_json, readable_size
from elm_mlx.library import copies, hub, names
from elm_mlx.library.download import Say
from elm_mlx.library.hub_cache import complete_snapshot, folder_of, remove_damaged
from elm_mlx.library.hub_errors import offline_switch
from elm_mlx.library.local import (
    Candidate,
    Checkpoint,
    Located,
    as_published,
    candidates,
    check_stored_bits,
    complete_checkpoint,
    fetchable_name,
    find_directory,
    find_local,
    in_other_bits,
    needs_no_conversion,
    runs_as_published,
    stored_bits,
)
from elm_mlx.library.mirrors import fetch_tokenizer
from elm_mlx.library.names import parse_name
from elm_mlx.shell import command_line
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


@dataclass(frozen=True)
class Use:
    """What a checkpoint is fetched for: to `run` here (with `force` even in too little memory), or only to be read;
    whether a `tokenizer` has to come with it; and whether the hub is asked `again` how many files there are, where
    those that are here do not show it."""

    run: bool
    force: bool = False
    tokenizer: bool = True
    again: bool = False


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
        checkpoint = fetch_candidate(candidate, callbacks, Use(run=True, force=force))
    except Unreachable as error:
        raise Unreachable(error.message, f"{error.advice} {in_other_bits(name)}".strip()) from error
    return make_runnable(candidate, checkpoint, callbacks)


def repair(
    model: str | Path,
    bits: int | None = None,
    *,
    checking: Progress | None = None,
    fetching: Progress | None = None,
    converting: Progress | None = None,
    say: Say = log,
    force: bool = False,
) -> Located:
    """Pulls a model and trusts nothing of it that is here: reads again what was fetched, fetches again what is damaged,
    and makes elm-mlx's own copy again. `checking` is called with (bytes read, in all).

    Raises as `pull`.
    """
    if switch := offline_switch():
        raise Unreachable(f"{model} cannot be repaired while {switch} forbids the network: what is damaged has to be "
                          "fetched again. Unset it.")  # fmt: skip
    candidate = choose_candidate(candidates(fetchable_name(model), bits))
    callbacks, use = Callbacks(say, fetching, converting), Use(run=True, force=force, again=True)
    damaged = remove_damaged(candidate.repository, checking)
    again = f"Damaged in the hub's cache, and fetched again: {', '.join(damaged)}."
    say(again if damaged else "No file of it in the hub's cache is damaged.")
    return make_runnable(candidate, fetch_candidate(candidate, callbacks, use), callbacks, again=True)


def fetch_checkpoint(
    model: str | Path, fetching: Progress | None = None, say: Say = log, *, tokenizer: bool = True
) -> Checkpoint:
    """Fetches a model as its publisher has it, for a conversion or a comparison to read, unless it is on this machine.
    The caller says whether it wants the `tokenizer`, or has one or needs none.

    Raises as `pull`, except NotEnoughMemory: to be read it needs little memory.
    """
    candidate = replace(as_published(fetchable_name(model)), ungated=None)
    return fetch_candidate(candidate, Callbacks(say, fetching), Use(run=False, tokenizer=tokenizer))


def choose_candidate(possible: Sequence[Candidate]) -> Candidate:
    """Chooses what to fetch: the first candidate that the hub's cache holds already, else the best one."""
    return next((candidate for candidate in possible if is_cached(candidate)), possible[0])


def is_cached(candidate: Candidate) -> bool:
    """Whether the hub's cache holds all files of a candidate, sound or damaged."""
    try:
        return complete_snapshot(candidate.repository) is not None
    except BadCheckpoint:  # its index is damaged, so it is here
        return True


def fetch_candidate(candidate: Candidate, callbacks: Callbacks, use: Use) -> Checkpoint:
    """Fetches what the hub's cache lacks of a candidate, and a tokenizer from elsewhere if the repository has none."""
    repository, tokenizer = candidate.repository, None
    with ungated_advice(candidate.ungated):
        here = complete_checkpoint(repository, tokenizer=use.tokenizer)
        has_all = here and not (use.again and not weight_files(here.path).show_their_number)
        listing = None if has_all else look_up_candidate(candidate, use)
        if use.tokenizer and names.lacks_tokenizer(repository.name):
            tokenizer = fetch_tokenizer(callbacks.say, own_tokenizer(candidate, use))
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
    if terms := names.terms_of(repository.name):
        say(f"{repository} is {terms}.")
    left, size = readable_size(listing.missing_bytes), readable_size(listing.nbytes)
    say(f"Fetching {repository} at commit {listing.commit[:12]}: {size if left == size else f'{left} of {size}'}.")


def look_up_candidate(candidate: Candidate, use: Use) -> hub.Listing:
    """Asks the hub what there is to fetch, and refuses a model that would be of no use: one of a kind that does not
    run, in other bits than asked for, without a tokenizer, or too large for this machine's disk or, if it is to run,
    for its memory."""
    listing = hub.look_up_listing(candidate.repository)
    hub.check_room_for(listing)
    from_elsewhere = names.lacks_tokenizer(candidate.repository.name)
    if use.tokenizer and not (from_elsewhere or {"tokenizer.json", "tokenizer.model"} & set(listing.files)):
        why = f"{candidate.repository} has no tokenizer.json and no tokenizer.model."
        raise MissingTokenizer(why, own_tokenizer(candidate, use))
    blob = listing.files["config.json"]
    raw = read_json(hub.fetch_file(names.Repository(listing.repository.name, listing.commit), "config.json", blob))
    own_form = is_own_form(raw)
    config, stored = config_or_guest(as_plain(raw) if own_form or not use.run else raw), stored_bits(raw)
    check_stored_bits(candidate, stored)
    bits = stored or candidate.bits
    usual = listing.nbytes if own_form else 2 * config.parameter_count
    weights = config.quantized_bytes(bits) if bits else usual
    if isinstance(config, GuestConfig):  # whose parameters only the weights tell
        weights = sum(listing.files[name].size or 0 for name in listing.weights.files)
    if use.run and not use.force:
        check_memory(candidate.repository, config, weights, 16)
    as_it_is = "tokenizer.json" in listing.files and needs_no_conversion(listing.weights, candidate.bits, stored)
    as_it_is = as_it_is and not own_form
    if use.run and not as_it_is:
        copies.check_writable()
        hub.check_room_for(listing, also=weights, at=copies.root())
    return listing


def own_tokenizer(candidate: Candidate, use: Use) -> str:
    """Advice for a candidate without a tokenizer: to give one that the user has, by the argument where there is such
    one, else by the command that makes a model of both."""
    if not use.run:
        return "If you have one, give it: {tokenizer=FILE}."
    bits = ("--bits", candidate.bits) if candidate.bits else ()
    command = command_line("elm-mlx", "convert", candidate.repository, *bits, "--tokenizer", "FILE")
    return f"If you have one, give it: `{command}` makes a directory that runs."


@contextmanager
def ungated_advice(alternative: str | None) -> Iterator[None]:
    """Adds to the error of a gated repository the name of an ungated one with the same model, if there is one."""
    try:
        yield
    except Gated as error:
        if alternative:
            raise Gated(error.message, f"{error.advice} Or take {alternative}, which asks for neither.") from error
        raise


def make_runnable(
    candidate: Candidate, checkpoint: Checkpoint, callbacks: Callbacks, *, again: bool = False
) -> Located:
    """Makes a directory that runs from a checkpoint: links to it if it runs as published, else converts it. A directory
    that exists already is taken, unless it is to be made `again`. Raises InvalidRequest for other bits than it has."""
    snapshot = checkpoint.snapshot
    check_stored_bits(candidate, stored_bits(optional_json(snapshot.path / "config.json")))
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
    kept = candidate.bits is None and is_own_form(optional_json(checkpoint.snapshot.path / "config.json"))
    form = ", kept in its own bits" if kept else f" to {candidate.variant}"
    callbacks.say(f"Converting {candidate.repository}{form}.")
    source, progress = checkpoint.snapshot.path, callbacks.converting
    with copies.copy_errors():
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
