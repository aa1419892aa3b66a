"""What the Hugging Face hub and its client refuse, as errors that say what to do; the switches that forbid asking."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from elm_mlx.errors import ElmError, Gated, InvalidRequest, NotFound, Unreachable
from elm_mlx.library.download import asked_wait_s
from elm_mlx.library.names import Repository, near_repositories

SITE = "https://huggingface.co"
TRUE = ("1", "ON", "YES", "TRUE")  # as huggingface_hub reads its switches


def offline_switch() -> str | None:
    """The environment variable that forbids the network, or None."""
    switches = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    return next((name for name in switches if os.environ.get(name, "").upper() in TRUE), None)


@contextmanager
def hub_errors(repository: Repository) -> Iterator[None]:
    """Turns what the hub's client raises into errors that say what to do."""
    if switch := offline_switch():
        raise Unreachable(f"{repository} is not on this machine, and {switch} forbids the network.",
                          "Unset it, or copy the hub's cache of a machine that has the model.")  # fmt: skip
    from huggingface_hub import errors

    try:
        yield
    except errors.HFValidationError as error:
        raise InvalidRequest(f"{repository} cannot be a repository's name: {first_line(error)}. Check it.") from error
    except errors.HfHubHTTPError as error:
        raise hub_refusal(repository, error) from error
    except UnicodeEncodeError as error:
        raise Gated(f"The token in {token_place()} is not one that the hub gives: it has letters beyond ASCII.",
                    "Check it, or remove it.") from error  # fmt: skip
    except ImportError as error:  # a proxy's settings need a package that is not there
        raise Unreachable(f"{repository} could not be fetched: {first_line(error)}.",
                          "Install that package, or change the settings of the proxy.") from error  # fmt: skip
    except Exception as error:  # the client's HTTP library has its own errors, and which library differs by version
        foreign = isinstance(error, ConnectionError | TimeoutError | ValueError | KeyError)
        if isinstance(error, ElmError) or not (foreign or "http" in type(error).__module__):
            raise
        raise unreachable(repository, error) from error


def hub_refusal(repository: Repository, error: Any) -> ElmError:
    """The error, with what to do, for a request that the hub refused."""
    from huggingface_hub import errors

    status, asked = error.response.status_code, error.response.request.headers
    page, tokens = f"{SITE}/{repository.name}", f"{SITE}/settings/tokens"
    if isinstance(error, errors.GatedRepoError):
        return Gated(f"{repository.name} asks you to accept its licence.",
                     f"Do so at {page}, make a token at {tokens}, and set HF_TOKEN to it.")  # fmt: skip
    if status == 401 and "Authorization" in asked:  # even for what is public; a good token never gets this answer
        return Gated(f"The hub does not accept the token in {token_place()}: it is wrong, or no longer valid.",
                     f"Remove it, as public models need none, or make a new one at {tokens}.")  # fmt: skip
    if isinstance(error, errors.RepositoryNotFoundError):
        return NotFound(f"The hub has no repository {repository.name}, or it is private.", "Check the name, or set "
                        f"HF_TOKEN to a token that may read it.{near_repositories(repository.name)}")  # fmt: skip
    if isinstance(error, errors.RevisionNotFoundError):
        return NotFound(f"{repository.name} has no revision {repository.revision} on the hub.",
                        f"Its branches and tags are at {page}/tree/main.")  # fmt: skip
    if isinstance(error, errors.EntryNotFoundError):
        return NotFound(f"{repository} lacks a file on the hub: {first_line(error)}.", "Try another revision.")
    if status == 403:
        return Gated(f"The hub refuses {repository}: {first_line(error)}.",
                     f"Check at {tokens} what your token may read.")  # fmt: skip
    return unreachable(repository, error)


def token_place() -> str:
    """The environment variable, or the file, in which huggingface_hub found the token."""
    from huggingface_hub.constants import HF_TOKEN_PATH

    named = [name for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN") if os.environ.get(name)]
    return named[0] if named else HF_TOKEN_PATH


def unreachable(repository: Repository, error: Exception) -> Unreachable:
    """The error, with what to do, for a hub that does not answer or answers wrongly."""
    wait, answered = asked_wait_s(error), getattr(error, "response", None) is not None
    asked = "the network and HF_ENDPOINT, and" if os.environ.get("HF_ENDPOINT") else "the network and"
    advice = f"{'Try' if answered else f'Check {asked} try'} again{f' in {wait} seconds' if wait else ''}"
    what = f"{repository} could not be fetched: {first_line(error)}."
    return Unreachable(what, f"{advice}; what was fetched is kept.")


def first_line(error: Exception) -> str:
    """The first line of an error's message, or the name of its class where it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
