"""Giving a model to the Hugging Face hub: nothing else sends files anywhere. `library.push` judges them first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elm_mlx.arguments import Progress
from elm_mlx.errors import BadCheckpoint, Gated, InvalidRequest, NotFound, Unreachable
from elm_mlx.files import disk_errors
from elm_mlx.library.hub_errors import SITE, first_line, hub_errors, offline_switch, token_place
from elm_mlx.library.names import Repository

File = Path | bytes  # what is sent: a file as it lies on the disk, or bytes


@dataclass(frozen=True)
class Origin:
    """What the hub says of a repository that a model was made from: whether its files are given only to those who have
    accepted its licence, and the licence's name, address and identifier as a model card has them ("" where it says
    nothing)."""

    gated: bool
    license: str
    license_name: str = ""
    license_link: str = ""


@dataclass(frozen=True)
class Pushed:
    """What was sent: the page of the repository, its commit, and the bytes of all files."""

    url: str
    commit: str
    nbytes: int


def origin_of(repository: str, commit: str) -> Origin:
    """Asks the hub about a repository. Raises as `hub.look_up_listing`."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RevisionNotFoundError

    with upload_errors(repository):
        try:
            info = HfApi().model_info(repository, revision=commit)
        except RevisionNotFoundError:
            info = HfApi().model_info(repository)  # a commit that is gone leaves the licence what it is
    card: Any = info.card_data or {}
    told = {name: str(card.get(name) or "") for name in ("license", "license_name", "license_link")}
    return Origin(bool(info.gated), **told)


def names_there(repository: str) -> list[str] | None:
    """The files of a repository on the hub; None where there is no such repository, or none that the token may see."""
    from huggingface_hub import HfApi

    try:
        with upload_errors(repository):
            return [file.rfilename for file in HfApi().model_info(repository).siblings or []]
    except NotFound:
        return None


def send(repository: str, files: Mapping[str, File], private: bool, progress: Progress | None = None) -> Pushed:
    """Makes the repository where there is none, and gives it the files, by name, in one commit: a push that is stopped
    changes nothing that others see, and the next one does not send again what has arrived.

    `progress` is called with (bytes sent, in all). Raises Gated, InvalidRequest, Unreachable.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi()
    with upload_errors(repository), quiet_client():
        made = api.create_repo(repository, private=private or None, exist_ok=True)
        added = [CommitOperationAdd(name, content) for name, content in files.items()]
        sizes, done = [size_of(content) for content in files.values()], 0
        for operation, size in zip(added, sizes, strict=True):
            api.preupload_lfs_files(repository, [operation], free_memory=False)
            done += size
            if progress:
                progress(done, sum(sizes))
        commit = api.create_commit(repository, added, commit_message="Push by elm-mlx")
    return Pushed(str(made), commit.oid, sum(sizes))


def size_of(content: File) -> int:
    """The bytes of a file that is sent."""
    return len(content) if isinstance(content, bytes) else content.stat().st_size


@contextmanager
def quiet_client() -> Iterator[None]:
    """Keeps the hub's client from drawing bars of its own, until the block ends."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    was = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not was:
            enable_progress_bars()


@contextmanager
def upload_errors(repository: str) -> Iterator[None]:
    """Turns what the hub's client raises while something is given to it into errors that say what to do."""
    if switch := offline_switch():
        raise Unreachable(f"{repository} is on the hub, and {switch} forbids the network.", "Unset it.")
    from huggingface_hub import errors

    network = "Check HF_HOME, and the settings of the network, such as SSL_CERT_FILE."
    with disk_errors(f"Giving {repository} its files failed", network, "set HF_HOME"), sending(repository):
        try:
            yield
        except errors.LocalTokenNotFoundError as error:
            raise no_token() from error
        except errors.HfHubHTTPError as error:
            raise refusal(repository, error) from error
        except ValueError as error:  # a card that the hub refuses
            raise BadCheckpoint(f"The hub refuses what was to be sent: {first_line(error)}.") from error


@contextmanager
def sending(repository: str) -> Iterator[None]:
    """The hub's errors in the words of one who sends."""
    try:
        with hub_errors(Repository(repository)):
            yield
    except Unreachable as error:
        what = error.message.replace("could not be fetched", "could not be reached, or did not take what was sent")
        raise Unreachable(what, "Try again; what arrived is not sent again.") from error
    except RuntimeError as error:  # hf_xet, which sends large files, raises nothing else
        raise Unreachable(f"{repository} did not take what was sent: {first_line(error)}.",
                          "Try again, or with HF_HUB_DISABLE_XET=1 by plain HTTP.") from error  # fmt: skip


def no_token() -> Gated:
    """The error where nobody says who pushes."""
    return Gated("The hub wants to know who pushes, and there is no token.",
                 f"Make one that may write at {SITE}/settings/tokens, and set HF_TOKEN to it.")  # fmt: skip


def refusal(repository: str, error: Any) -> Exception:
    """The error, with what to do, for files that the hub does not take; any other as it is."""
    status = error.response.status_code
    if status == 401:
        return no_token() if "Authorization" not in error.response.request.headers else error
    if status == 403:
        owner = repository.partition("/")[0]
        return Gated(f"The hub lets this token write nothing to {repository}: {first_line(error)}.",
                     f"Take an owner that is you, or {owner}'s token with the right to write; the one that was used is "
                     f"in {token_place()}.")  # fmt: skip
    if status == 400:
        return InvalidRequest(f"The hub refuses {repository}: {first_line(error)}.", "Name another repository.")
    return error
