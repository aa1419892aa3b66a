"""The Hugging Face hub: lists what a repository holds and fetches its files into the cache. Nothing else in elm-mlx
but `library.upload` uses the network."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from elm_mlx.arguments import Progress
from elm_mlx.errors import BadCheckpoint, NotFound, Unsupported
from elm_mlx.files import check_room, disk_errors
from elm_mlx.library.download import BytesReport, Say, fetch_blob, is_there, partial_of, retry
from elm_mlx.library.hub_cache import (
    COMMIT,
    cache_directory,
    cache_errors,
    cache_variable,
    folder_of,
    link_blob,
    set_reference,
    within,
)
from elm_mlx.library.hub_errors import hub_errors
from elm_mlx.library.names import Repository
from elm_mlx.store.conversion_record import RECORD
from elm_mlx.store.layout import small_files
from elm_mlx.store.weight_files import MAX_INDEX_BYTES, WeightFiles, choose_weights, others_published, read_index, some

TIMEOUT_S = 10
ETAG = r"[\w-]+"  # an ETag becomes a file's name, so it must not hold a path


@dataclass(frozen=True)
class Blob:
    """A file's content: its ETag, which is its name in the cache, and its size in bytes, None if the hub gives none."""

    etag: str
    size: int | None


@dataclass(frozen=True)
class Listing:
    """The files of a commit that a model needs, by name; `weights` says which of them are its weights."""

    repository: Repository
    commit: str
    files: dict[str, Blob]
    weights: WeightFiles = field(default_factory=WeightFiles)

    @property
    def nbytes(self) -> int:
        """Bytes of all files together."""
        return sum(blob.size or 0 for blob in self.files.values())

    @property
    def missing_bytes(self) -> int:
        """Bytes still to be fetched: those of files that are not here, less what an earlier download left of them."""
        folder, missing = folder_of(self.repository.name), 0
        for name, blob in self.files.items():
            place, file = folder / "blobs" / blob.etag, folder / "snapshots" / self.commit / name
            if not (is_there(place, blob.size) or is_there(file, blob.size)):
                part = partial_of(place)
                missing += max((blob.size or 0) - (part.stat().st_size if part.exists() else 0), 0)
        return missing


def look_up_listing(repository: Repository) -> Listing:
    """Asks the hub which commit a revision is and which of its files a model needs; fetches an index of weights, which
    says that.

    Raises NotFound, Gated, Unreachable, Unsupported, and BadCheckpoint for an index that makes no sense.
    """
    info = ask_hub(repository)
    commit = Repository(repository.name, info.sha)
    siblings = {file.rfilename: file for file in info.siblings or []}

    def blob_of(name: str) -> Blob:
        with hub_errors(repository):
            return listed_blob(siblings[name]) or ask_blob(commit, name)

    weights = choose_weights(siblings, lambda name: fetch_index(commit, name, blob_of(name)))
    if "config.json" not in siblings or not weights.files:
        others = others_published(repository.name, siblings)
        raise Unsupported(f"{repository} has no config.json with weights beside it (safetensors or pytorch_model.bin), "
                          f"so it is no model that elm-mlx reads.{others}")  # fmt: skip
    if absent := [name for name in weights.files if name not in siblings]:
        raise NotFound(f"{repository} lacks files of its own weights: {some(absent)}. Try another revision.")
    origin = [RECORD] if RECORD in siblings else []  # whose model a conversion holds, and how that one is sampled
    blobs = {name: blob_of(name) for name in [*small_files(siblings), *origin, *weights.all_files]}
    return Listing(repository, info.sha, blobs, weights)


def fetch_index(repository: Repository, name: str, blob: Blob) -> list[str]:
    """Fetches an index of weights, of a commit; returns the files that it names. Raises as `fetch_file`, and
    BadCheckpoint."""
    if (blob.size or 0) > MAX_INDEX_BYTES:
        raise BadCheckpoint(f"{name} of {repository.name} is too large to be an index. Try another revision.")
    return read_index(fetch_file(repository, name, blob))


def look_up_commit(repository: Repository) -> str:
    """Asks the hub which commit a revision is now. Raises as `look_up_listing`."""
    commit: str = ask_hub(repository).sha
    return commit


def ask_hub(repository: Repository) -> Any:
    """Asks the hub for a revision's commit (sha) and its files (siblings)."""
    network = "Check HF_HOME, and the settings of the network, such as SSL_CERT_FILE."
    with disk_errors(f"The hub cannot be asked for {repository}", network, "set HF_HOME"), hub_errors(repository):
        from huggingface_hub import HfApi

        info = retry(
            lambda: HfApi().model_info(
                repository.name, revision=repository.revision, timeout=TIMEOUT_S, files_metadata=True
            )
        )
        if not re.fullmatch(COMMIT, str(info.sha)):
            raise ValueError("the hub names no commit")
        return info


def listed_blob(file: Any) -> Blob | None:
    """The blob of a file in the hub's listing; None from a hub that lists names alone. An ETag is the sha256 of a large
    file, else the name that git gives a blob (huggingface_hub's hf_hub_url says so)."""
    etag = (file.lfs.sha256 if file.lfs else file.blob_id) or ""
    return Blob(etag, file.size) if re.fullmatch(ETAG, etag) else None


def ask_blob(repository: Repository, name: str) -> Blob:
    """Asks the hub for the blob of one file of a commit, where the listing has names alone."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(repository.name, name, revision=repository.revision)
    known = retry(lambda: get_hf_file_metadata(url))
    if not re.fullmatch(ETAG, known.etag or ""):
        raise ValueError(f"the hub gives {name} no ETag")
    return Blob(known.etag or "", known.size)


def check_room_for(listing: Listing, also: int = 0, at: Path | None = None) -> None:
    """Raises DiskFull where there is too little room for the missing bytes of a listing, and for the `also` bytes that
    a conversion then writes in `at` (None: the cache). Called before the first byte is fetched."""
    advice = f"Free some space, or set {cache_variable()} and ELM_MLX_CACHE to folders on another disk."
    with cache_errors(f"Looking for {listing.repository}"):
        missing = (cache_directory(), listing.missing_bytes)
        check_room(listing.repository, advice, missing, (at or cache_directory(), also))


def fetch_listing(listing: Listing, progress: Progress | None = None, say: Say | None = None) -> None:
    """Fetches the files of a listing into the hub's cache, and continues where an earlier download stopped.

    `progress` is called with (bytes there, in all), `say` with a sentence about what it waits for. Raises as
    `look_up_listing`, and DiskFull, BadCheckpoint.
    """
    done, commit = 0, Repository(listing.repository.name, listing.commit)
    for name, blob in listing.files.items():
        report = within(progress, done, listing.nbytes)
        fetch_file(commit, name, blob, report, say)
        done += blob.size or 0
    if progress:
        progress(listing.nbytes, listing.nbytes)
    set_reference(listing.repository, listing.commit)


def fetch_file(
    repository: Repository,
    name: str,
    blob: Blob | None = None,
    report: BytesReport | None = None,
    say: Say | None = None,
) -> Path:
    """Fetches one file of a repository, whose revision is a commit, into the hub's cache; returns its path. `report` is
    called with the bytes there.

    With the `blob` of a listing the hub is asked for the bytes alone, and a cached file of another size is fetched
    again. Raises as `look_up_listing`, DiskFull, BadCheckpoint.
    """
    folder, commit = folder_of(repository.name), repository.revision
    path = folder / "snapshots" / commit / name
    with cache_errors(f"Fetching {name} of {repository.name}"):
        if is_there(path, blob.size if blob else None):
            return path
        with hub_errors(repository):
            from huggingface_hub import hf_hub_url

            known = blob or ask_blob(repository, name)
            place = folder / "blobs" / known.etag
            if not is_there(place, known.size):
                url = hf_hub_url(repository.name, name, revision=commit)
                with named_errors(name, repository.name):
                    fetch_blob(partial(request_bytes, url), place, known.size, report or (lambda _: None), say)
        link_blob(place, path)
    return path


@contextmanager
def named_errors(name: str, repository: str) -> Iterator[None]:
    """Puts before the error of damaged bytes which file they are of."""
    try:
        yield
    except BadCheckpoint as error:
        raise BadCheckpoint(f"{name} of {repository} is damaged. {error.message}", error.advice) from error


@contextmanager
def request_bytes(url: str, start: int) -> Iterator[tuple[int, Iterator[bytes]]]:
    """Requests a file's bytes from `start` on; gives (the position of the first byte, the bytes as they come). The
    position is 0 from a server that knows no ranges, and for a start beyond the end."""
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    wanted = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    headers = build_hf_headers() | wanted
    with get_session().stream("GET", url, headers=headers, follow_redirects=True, timeout=TIMEOUT_S) as response:
        if response.status_code == 416:
            yield 0, iter(())
            return
        hf_raise_for_status(response)
        # Of no fixed size: what waits for more would be lost where the connection is cut.
        yield (start if response.status_code == 206 else 0), response.iter_bytes()
