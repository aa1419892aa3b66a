"""OpenELM's tokenizer, which Apple's repositories lack: it is Llama 2's, fetched from a mirror whose file has the right
hash."""

from __future__ import annotations

from pathlib import Path

from elm_mlx.errors import BadCheckpoint, Gated, MissingTokenizer, NotFound, Unreachable
from elm_mlx.library import hub, names
from elm_mlx.library.download import Say
from elm_mlx.library.hub_cache import remove_damaged, set_reference
from elm_mlx.library.local import cached_tokenizer, is_openelm_tokenizer
from elm_mlx.library.names import Repository


def fetch_tokenizer(say: Say, advice: str) -> Path:
    """Fetches OpenELM's tokenizer, unless it is on this machine. `say` is called with a sentence for each mirror.

    Raises MissingTokenizer where no mirror has it, Unreachable where the hub does not answer: each with what every
    mirror refused, and with `advice`, what can be done without a mirror. And DiskFull.
    """
    if file := cached_tokenizer():
        return file
    refusals: list[str] = []
    for mirror in names.TOKENIZER_MIRRORS:
        try:
            return fetch_from(Repository(mirror), say)
        except Unreachable as error:  # the other mirrors are on the same hub
            told = " ".join([*refusals, error.message])
            what = f"OpenELM's tokenizer, which Apple does not publish, could not be fetched. {told}"
            raise Unreachable(what, f"{error.advice} {advice}") from error
        except (BadCheckpoint, Gated, NotFound) as error:
            say(f"Not taken: {error.message}")
            refusals.append(error.message)
    told = " ".join(dict.fromkeys(refusals))
    raise MissingTokenizer("OpenELM's tokenizer, which Apple does not publish (it is Llama 2's tokenizer.model), is on "
                           f"none of its mirrors. {told}", advice)  # fmt: skip


def fetch_from(mirror: Repository, say: Say) -> Path:
    """Fetches the tokenizer from one mirror. Raises BadCheckpoint for another tokenizer, and as `hub.fetch_file`."""
    remove_damaged(mirror)  # else a damaged file would be found in the cache again
    commit = hub.look_up_commit(mirror)
    file = hub.fetch_file(Repository(mirror.name, commit), names.TOKENIZER_FILE)
    if not is_openelm_tokenizer(file):
        raise BadCheckpoint(f"{mirror} has a {names.TOKENIZER_FILE} that is not Llama 2's.")
    say(f"OpenELM's tokenizer comes from {mirror}.")
    set_reference(mirror, commit)
    return file
