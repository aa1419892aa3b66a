"""The Hugging Face hub: its cache, read here without importing its code, and the only place that uses the network.

The cache's layout is huggingface_hub's: models--OWNER--NAME/refs/REVISION holds a commit, snapshots/COMMIT the files
as links into blobs.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from elm_mlx.arguments import Progress
from elm_mlx.costs import gigabytes
from elm_mlx.errors import DiskFull, ElmError, Gated, InvalidRequest, NotFound, Unreachable, Unsupported
from elm_mlx.store.download import Report, fetch_blob
from elm_mlx.store.files import disk_errors, reading
from elm_mlx.store.layout import needed_files, weight_files
from elm_mlx.store.registry import Repository

TRUE = ("1", "ON", "YES", "TRUE")  # as huggingface_hub reads its switches
CHUNK, TIMEOUT_S = 1 << 16, 30
SPARE_BYTES = 100 * 2**20
SITE = "https://huggingface.co"


@dataclass(frozen=True)
class Listing:
    """The files of a commit that a model needs, by name with their sizes."""

    repository: Repository
    commit: str
    files: dict[str, int]

    @property
    def nbytes(self) -> int:
        """Bytes of all of them."""
        return sum(self.files.values())


def cache_directory() -> Path:
    """Where huggingface_hub keeps its files."""
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or f"{caches}/huggingface"
    named = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE") or f"{home}/hub"
    return Path(os.path.expandvars(os.path.expanduser(named)))  # noqa: PTH111, as huggingface_hub reads them


def folder_of(repository: str) -> Path:
    """A repository's folder in the cache."""
    return cache_directory() / f"models--{repository.replace('/', '--')}"


def is_offline() -> bool:
    """Whether the environment forbids the network."""
    return any(os.environ.get(name, "").upper() in TRUE for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))


def commit_of(repository: Repository) -> str | None:
    """The commit that a revision is by the cache's word; None where it has none."""
    reference = folder_of(repository.name) / "refs" / repository.revision
    with reading(reference):
        named = (
            reference.read_bytes().decode("ascii", "replace").strip() if reference.is_file() else repository.revision
        )
    return named if re.fullmatch(r"[0-9a-f]{40}", named) else None


def snapshot(repository: Repository) -> Path | None:
    """The cached files of a revision; None where there are none. They may be some of them."""
    commit = commit_of(repository)
    path = folder_of(repository.name) / "snapshots" / (commit or "")
    with reading(path):
        return path if commit and path.is_dir() else None


def look_up(repository: Repository) -> Listing:
    """Asks the hub what a revision is and which of its files a model needs.

    Raises NotFound, Gated, Unreachable, Unsupported.
    """
    with hub_errors(repository):
        from huggingface_hub import HfApi

        info = HfApi().model_info(repository.name, revision=repository.revision, files_metadata=True)
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
    files = needed_files(list(sizes))
    if "config.json" not in files or not weight_files(files):
        raise Unsupported(f"{repository} has no config.json with weights beside it (model.safetensors or "
                          "pytorch_model.bin), so it is no model that elm-mlx reads.")  # fmt: skip
    return Listing(repository, str(info.sha), {name: sizes[name] for name in files})


def revision(repository: Repository) -> str:
    """The commit that a revision is now. Raises as `look_up`."""
    with hub_errors(repository):
        from huggingface_hub import HfApi

        return str(HfApi().model_info(repository.name, revision=repository.revision).sha)


def fetch(listing: Listing, progress: Progress | None = None) -> None:
    """Downloads a listing into the hub's cache, going on where an earlier download stopped.

    `progress` hears (bytes there, in all). Raises as `look_up`, and DiskFull, BadCheckpoint.
    """
    done = 0
    for name, size in listing.files.items():
        base = done

        def report(count: int, base: int = base) -> None:
            if progress:
                progress(min(base + count, listing.nbytes), listing.nbytes)

        download(listing.repository.name, name, listing.commit, report)
        done += size
    if progress:
        progress(listing.nbytes, listing.nbytes)
    point(listing.repository, listing.commit)


def download(repository: str, name: str, commit: str, report: Report | None = None) -> Path:
    """One file of a commit into the hub's cache; where it lies. `report` hears how many of its bytes are there.

    Raises as `look_up`, DiskFull, BadCheckpoint.
    """
    advice = "Check its permissions, or set HF_HOME."
    with disk_errors(f"Fetching {name} of {repository}", advice), hub_errors(Repository(repository, commit)):
        from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

        url = hf_hub_url(repository, name, revision=commit)
        known = get_hf_file_metadata(url)
        blob = folder_of(repository) / "blobs" / (known.etag or "")
        if known.etag and not blob.exists():
            fetch_blob(partial(bytes_of, url), blob, known.size, report or (lambda _: None))
        return Path(hf_hub_download(repository, name, revision=commit))  # links the blob


@contextmanager
def bytes_of(url: str, start: int) -> Iterator[tuple[int, Iterator[bytes]]]:
    """(where they begin, the bytes of a file from there): 0 from a server that knows no ranges, or for a start beyond
    the end."""
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    wanted = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    headers = build_hf_headers() | wanted
    with get_session().stream("GET", url, headers=headers, follow_redirects=True, timeout=TIMEOUT_S) as response:
        if response.status_code == 416:
            yield 0, iter(())
            return
        hf_raise_for_status(response)
        yield (start if response.status_code == 206 else 0), response.iter_bytes(CHUNK)


def point(repository: Repository, commit: str) -> None:
    """Says in the cache which commit a revision is, as huggingface_hub does; only once the snapshot is whole."""
    if repository.revision != commit:
        reference = folder_of(repository.name) / "refs" / repository.revision
        with disk_errors(f"{reference} cannot be written", "Check its permissions, or set HF_HOME."):
            reference.parent.mkdir(parents=True, exist_ok=True)
            fresh = reference.with_name(f".{reference.name}.{os.getpid()}")
            fresh.write_text(commit, encoding="utf-8")
            fresh.replace(reference)


def check_space(listing: Listing) -> None:
    """Raises DiskFull, before the first byte, where the cache's disk has no room for what is not there yet."""
    cache = cache_directory()
    have = snapshot(Repository(listing.repository.name, listing.commit))
    missing = {name: size for name, size in listing.files.items() if not (have and (have / name).exists())}
    with disk_errors(f"{cache} cannot be made", "Check its permissions, or set HF_HOME."):
        cache.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(cache).free
    needed = sum(missing.values()) + SPARE_BYTES
    if missing and needed > free:
        raise DiskFull(f"{listing.repository} needs {gigabytes(needed)} and {cache} has {gigabytes(free)} free. Free "
                       "some space, or set HF_HOME to another disk.")  # fmt: skip


@contextmanager
def hub_errors(repository: Repository) -> Iterator[None]:
    """Turns what the hub's client raises into errors that say what to do."""
    if is_offline():
        raise Unreachable(f"{repository} is not on this machine, and HF_HUB_OFFLINE forbids the network. Unset it, or "
                          "pull the model on a machine with a network.")  # fmt: skip
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise Gated(gated(repository)) from error
    except errors.RepositoryNotFoundError as error:
        raise NotFound(f"The hub has no repository {repository.name}, or it is private: check the name, or set "
                       "HF_TOKEN to a token that may read it.") from error  # fmt: skip
    except errors.HFValidationError as error:
        raise InvalidRequest(f"{repository} is no name that a repository can have: {first_line(error)}.") from error
    except errors.LocalEntryNotFoundError as error:
        raise unreachable(repository, error) from error
    except (errors.RevisionNotFoundError, errors.EntryNotFoundError) as error:
        raise NotFound(f"{repository} is not on the hub: {first_line(error)}") from error
    except (errors.HfHubHTTPError, ConnectionError, TimeoutError, ValueError, KeyError) as error:
        if isinstance(error, ElmError):
            raise
        raise unreachable(repository, error) from error
    except Exception as error:  # the client's HTTP library has its own errors, and which library differs by version
        if isinstance(error, ElmError | OSError) or "http" not in type(error).__module__:
            raise
        raise unreachable(repository, error) from error


def unreachable(repository: Repository, error: Exception) -> Unreachable:
    return Unreachable(f"{repository} could not be fetched: {first_line(error)}. Check the network and try again; what "
                       "was fetched is kept.")  # fmt: skip


def gated(repository: Repository) -> str:
    return (f"{repository.name} asks you to accept its licence: do so at {SITE}/{repository.name}, make a token at "
            f"{SITE}/settings/tokens, and set HF_TOKEN to it.")  # fmt: skip


def first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
