"""What a rank says first when all meet, and whether ranks that say it go together."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Any

from elm_mlx import __version__
from elm_mlx.arguments import shown
from elm_mlx.distributed.channel import Message
from elm_mlx.distributed.hosts import Hosts, capital
from elm_mlx.errors import ElmError
from elm_mlx.files import readable_size

PROTOCOL = 1  # of the messages: a rank with another one speaks another language
MOST_TEXT = 4000  # characters of a value
MOST_MEMORY = 2**63  # bytes: more are none that a machine has


@dataclass(frozen=True)
class Facts:
    """What a rank says of itself: the `model` as it is named there, a `fingerprint` of its files, the bytes that its
    part `needs` and those that are `free` (0: not asked), and its versions of what computes."""

    model: str
    fingerprint: str
    needs: int = 0
    free: int = 0
    versions: Mapping[str, str] = field(default_factory=lambda: versions_here())


@dataclass(frozen=True)
class Hello:
    """The first message of a rank: who it is, its `facts`, the `settings` that must be alike, or why it cannot
    begin."""

    rank: int
    ranks: int
    job: str
    settings: Mapping[str, Any]
    facts: Facts | None = None
    trouble: str = ""


class NoHello(ElmError):
    """What a connection says is no hello of a rank of this run."""


def versions_here() -> dict[str, str]:
    """The versions that must be equal on all ranks, and Python's."""
    return {"elm-mlx": __version__, "mlx": version("mlx"), "Python": platform.python_version()}


def hello_of(facts: Facts | Callable[[], Facts], settings: Mapping[str, Any], hosts: Hosts) -> Hello:
    """What this rank says first."""
    known = Hello(hosts.rank, hosts.ranks, hosts.job, settings)
    try:
        return replace(known, facts=facts if isinstance(facts, Facts) else facts())
    except (ElmError, OSError) as error:
        return replace(known, trouble=str(error)[:MOST_TEXT])


def hello_message(hello: Hello) -> Message:
    """A hello as it is sent."""
    facts = {"facts": vars(hello.facts) | {"versions": dict(hello.facts.versions)}} if hello.facts else {}
    told = {"rank": hello.rank, "ranks": hello.ranks, "job": hello.job, "settings": dict(hello.settings)}
    return {"hello": PROTOCOL, "trouble": hello.trouble, **told, **facts}


def read_hello(message: Message, hosts: Hosts, job: str) -> Hello:
    """Reads a hello, of a stranger perhaps. Raises NoHello."""
    match message:
        case {
            "hello": int(protocol),
            "rank": int(rank),
            "ranks": int(ranks),
            "job": str(word),
            "settings": dict(settings),
        }:
            pass
        case _:
            raise NoHello("That is no hello of a rank.")
    if word != job:
        host, port = hosts.control
        raise NoHello(f"Another run listens at {host}, port {port}: begin with another port.")
    if ranks != hosts.ranks or not 0 < rank < ranks:
        raise NoHello(f"Rank {rank} of {ranks} is none of these {hosts.ranks} ranks.")
    trouble = str(message.get("trouble") or "")[:MOST_TEXT]
    if protocol != PROTOCOL:
        trouble = "It has another version of elm-mlx: install one version on all machines."
    if trouble:
        return Hello(rank, ranks, word, settings, trouble=trouble)
    return Hello(rank, ranks, word, settings, read_facts(message.get("facts")))


def read_facts(value: object) -> Facts:
    """Reads what a rank says of itself. Raises NoHello."""
    match value:
        case {
            "model": str(model),
            "fingerprint": str(fingerprint),
            "needs": int(needs),
            "free": int(free),
            "versions": dict(versions),
        } if 0 <= needs < MOST_MEMORY and 0 <= free < MOST_MEMORY and all(map(is_text, versions.values())):
            return Facts(model, fingerprint, needs, free, versions)
    raise NoHello("That is no hello of a rank.")


def is_text(value: object) -> bool:
    """Whether a value of JSON is a text."""
    return isinstance(value, str)


def judge(hellos: Mapping[int, Hello], hosts: Hosts) -> str | None:
    """Why these ranks do not go together, in a sentence that names one of them; None where they do."""
    leader = hellos[0]
    for rank in sorted(hellos):
        one, name = hellos[rank], capital(hosts.name(rank))
        if one.trouble or not one.facts:
            return f"{name} cannot begin: {one.trouble}"
        if leader.facts and (why := differs(one, one.facts, leader, leader.facts)):
            return f"{name} {why}"
        if one.facts.needs > one.facts.free:
            return (f"{name} has too little memory: its part of the model takes {readable_size(one.facts.needs)}, and "
                    f"{readable_size(one.facts.free)} are free there.")  # fmt: skip
    return None


def differs(one: Hello, facts: Facts, leader: Hello, wanted: Facts) -> str | None:
    """How a rank differs from rank 0 in what must be alike."""
    for name in ("elm-mlx", "mlx"):
        if (here := facts.versions.get(name)) != (there := wanted.versions.get(name)):
            return f"has {name} {named(here)}, and rank 0 has {named(there)}: install one version on all machines."
    for name in {**leader.settings, **one.settings}:
        if (own := one.settings.get(name)) != (other := leader.settings.get(name)):
            return f"was given {named(name)} {shown(own)}, and rank 0 {shown(other)}: give all ranks the same."
    if facts.fingerprint != wanted.fingerprint:
        return (f"has another model than rank 0: its files, of {shown(facts.model)}, differ from those of "
                f"{shown(wanted.model)} on rank 0. Copy one directory to all machines.")  # fmt: skip
    return None


def named(text: str | None) -> str:
    """A version or the name of a setting, for a message."""
    return text if text and text.isprintable() and len(text) <= 80 else shown(text)
