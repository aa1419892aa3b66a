"""Ranks meet in threads of one process: they go on together or none does, and strangers disturb nobody."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

import pytest
from helpers.rank_runs import free_ports

from elm_mlx.distributed import hello as module
from elm_mlx.distributed import meeting, reception
from elm_mlx.distributed.channel import Channel
from elm_mlx.distributed.hello import Facts, Hello, NoHello, judge, read_hello
from elm_mlx.distributed.hosts import Hosts
from elm_mlx.distributed.meeting import meet_as_leader, meet_leader
from elm_mlx.errors import AddressInUse, RankFailed

VERSIONS = {"elm-mlx": "1.0", "mlx": "2.0", "Python": "3"}
FACTS = Facts("model", "abc", 10, 20, VERSIONS)
SETTINGS = {"parallel": "tensor", "context": 512}


def hosts(count: int, job: str = "") -> list[Hosts]:
    """Where so many ranks of this machine are."""
    control = ("127.0.0.1", free_ports(1))
    return [Hosts(rank, ("127.0.0.1",) * count, control, "ring", job) for rank in range(count)]


def hello(where: Hosts, facts: Facts | None = FACTS, trouble: str = "") -> Hello:
    return Hello(where.rank, where.ranks, where.job, SETTINGS, facts, trouble)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as made:
        yield made


def meet(pool: ThreadPoolExecutor, hellos: dict[Hosts, Hello], seconds: float = 20) -> list[Future]:
    """Lets ranks meet, for so many seconds at most."""
    until = time.monotonic() + seconds
    return [
        pool.submit(meet_as_leader if where.rank == 0 else meet_leader, where, own, until)
        for where, own in hellos.items()
    ]


def sentences(met: list[Future]) -> set[str]:
    """What all ranks raise."""
    found = set()
    for one in met:
        with pytest.raises(RankFailed) as error:
            one.result()
        found.add(str(error.value))
    return found


def test_ranks_that_go_together_meet(pool: ThreadPoolExecutor) -> None:
    met = [one.result() for one in meet(pool, {one: hello(one) for one in hosts(3, "word")})]
    assert [sorted(one) for one in met] == [[1, 2], [0], [0]]
    met[0][2].send({"a": 1})
    assert met[2][0].receive(time.monotonic() + 5) == {"a": 1}
    for channels in met:
        for channel in channels.values():
            channel.close()


OTHERS: dict[str, tuple[Callable[[Hello], Hello], str]] = {
    "elm-mlx": (lambda one: replace(one, facts=replace(FACTS, versions={**VERSIONS, "elm-mlx": "0.9"})), "elm-mlx 0.9"),
    "mlx": (lambda one: replace(one, facts=replace(FACTS, versions={**VERSIONS, "mlx": "1.9"})), "mlx 1.9"),
    "model": (lambda one: replace(one, facts=replace(FACTS, fingerprint="xyz")), "another model"),
    "memory": (lambda one: replace(one, facts=replace(FACTS, needs=21)), "too little memory"),
    "settings": (lambda one: replace(one, settings={**SETTINGS, "parallel": "pipeline"}), "parallel 'pipeline'"),
    "trouble": (lambda one: replace(one, facts=None, trouble="There is no model."), "There is no model."),
}


@pytest.mark.parametrize("name", OTHERS)
def test_one_that_does_not_go_with_the_others_is_named_on_all(pool: ThreadPoolExecutor, name: str) -> None:
    change, words = OTHERS[name]
    hellos = {one: hello(one) for one in hosts(3)}
    where = [*hellos][2]
    hellos[where] = change(hellos[where])
    (sentence,) = sentences(meet(pool, hellos))
    assert sentence.startswith("Rank 2 (127.0.0.1) ")
    assert words in sentence
    assert sentence.count("\n") == 0


def test_another_python_is_no_difference() -> None:
    where = hosts(2)
    other = hello(where[1], replace(FACTS, versions={**VERSIONS, "Python": "3.14"}))
    assert judge({0: hello(where[0]), 1: other}, where[0]) is None


def test_a_rank_whose_messages_have_another_form_is_named() -> None:
    where = hosts(3, "word")
    other = read_hello({**HELLO, "hello": 99, "facts": "of another form"}, where[0], "word")
    sentence = str(judge({0: hello(where[0]), 2: other}, where[0]))
    assert sentence.startswith("Rank 2 (127.0.0.1) cannot begin: It has another version of elm-mlx")


def test_a_rank_that_finds_another_run_is_told_where() -> None:
    where = hosts(3, "another")[0]
    with pytest.raises(NoHello, match=f"Another run listens at 127.0.0.1, port {where.control[1]}"):
        read_hello(HELLO, where, "another")


@pytest.mark.parametrize("needs", [-1, 2**63, 10**400])
def test_bytes_that_no_machine_has_are_no_hello(needs: int) -> None:
    facts = vars(FACTS) | {"needs": needs}
    with pytest.raises(NoHello):
        read_hello({**HELLO, "facts": facts}, hosts(3, "word")[0], "word")


@pytest.mark.parametrize("text", ["\x1b[2J", "x" * 9999])
def test_what_a_stranger_says_makes_no_long_or_wild_sentence(text: str) -> None:
    leader, other = hosts(2)
    odd = replace(hello(other), settings=SETTINGS | {text: 1})
    versions = hello(other, replace(FACTS, versions=VERSIONS | {"mlx": text}))
    for one in (odd, versions):
        sentence = str(judge({0: hello(leader), 1: one}, leader))
        assert sentence.startswith("Rank 1 (127.0.0.1) ")
        assert sentence.isprintable()
        assert len(sentence) < 300


def test_a_rank_that_does_not_come_is_named_in_time(pool: ThreadPoolExecutor) -> None:
    where = hosts(3)
    (sentence,) = sentences(meet(pool, {one: hello(one) for one in where[:2]}, 0.5))
    assert sentence.startswith("Rank 2 (127.0.0.1) did not come")


def test_rank_0_that_does_not_come_is_named_in_time(pool: ThreadPoolExecutor) -> None:
    (sentence,) = sentences(meet(pool, {one: hello(one) for one in hosts(3)[1:]}, 0.5))
    assert sentence.startswith("Rank 0 (127.0.0.1) did not come")


def test_the_place_of_rank_0_that_is_taken_is_refused() -> None:
    (where, _) = hosts(2)
    with socket.create_server(where.control), pytest.raises(AddressInUse, match=str(where.control[1])):
        meet_as_leader(where, hello(where), time.monotonic() + 5)


def packed(message: object) -> bytes:
    data = json.dumps(message).encode()
    return struct.pack(">I", len(data)) + data


HELLO = {
    "hello": module.PROTOCOL, "rank": 2, "ranks": 3, "job": "word", "settings": SETTINGS,
    "facts": {"model": "m", "fingerprint": "abc", "needs": 1, "free": 2, "versions": VERSIONS},
}  # fmt: skip
STRANGERS = {
    "http": b"GET / HTTP/1.1\r\n\r\n",
    "a line of a gigabyte": struct.pack(">I", 2**30) + b"x" * 100_000,
    "nothing": b"",
    "half a message": packed(HELLO)[:-5],
    "no JSON": struct.pack(">I", 4) + b"\xff\xfe\x00\x01",
    "deep JSON": struct.pack(">I", 60_000) + b"[" * 60_000,
    "a list": packed([1]),
    "no word": packed({**HELLO, "job": ""}),
    "rank 0": packed({**HELLO, "rank": 0}),
    "rank 3": packed({**HELLO, "rank": 3}),
    "rank -1": packed({**HELLO, "rank": -1}),
    "another number of ranks": packed({**HELLO, "ranks": 4}),
    "a rank as a text": packed({**HELLO, "rank": "2"}),
    "no facts": packed({**HELLO, "facts": None}),
    "facts of other types": packed({**HELLO, "facts": {**HELLO["facts"], "needs": "much"}}),
    "versions of other types": packed({**HELLO, "facts": {**HELLO["facts"], "versions": {"mlx": 1}}}),
    "a rank that is there": packed({**HELLO, "rank": 1}),
}


def test_strangers_are_sent_away_and_disturb_nobody(pool: ThreadPoolExecutor) -> None:
    where = hosts(3, "word")
    met = meet(pool, {one: hello(one) for one in where[:2]})
    time.sleep(0.3)
    strangers = {name: connected(where[0]) for name in STRANGERS}
    for name, stranger in strangers.items():
        stranger.sendall(STRANGERS[name])
    time.sleep(0.3)
    crowd = [connected(where[0]) for _ in range(reception.MOST_STRANGERS)]
    for one in crowd:
        one.close()
    time.sleep(0.2)
    met += meet(pool, {where[2]: hello(where[2])})
    channels = [channel for one in met for channel in one.result().values()]
    for name, stranger in strangers.items():
        stranger.settimeout(10)
        assert is_sent_away(stranger), name
    for channel in channels:
        channel.close()


def connected(where: Hosts) -> socket.socket:
    return socket.create_connection(where.control, timeout=5)


def is_sent_away(stranger: socket.socket) -> bool:
    """Whether a connection is closed by the other end, which may say why."""
    try:
        while stranger.recv(4096):
            pass
    except ConnectionError:
        pass
    stranger.close()
    return True


def test_a_rank_may_come_again_as_long_as_others_are_awaited(pool: ThreadPoolExecutor) -> None:
    where = hosts(3)
    met = meet(pool, {where[0]: hello(where[0])})
    time.sleep(0.2)
    first = meeting.reach(where[1], hello(where[1]))
    assert first
    time.sleep(0.2)
    first.close()
    time.sleep(0.2)
    met += meet(pool, {one: hello(one) for one in where[1:]})
    for one in met:
        for channel in one.result().values():
            channel.close()


def test_what_is_no_rank_0_is_told_from_one(pool: ThreadPoolExecutor) -> None:
    _, where = hosts(2)

    def answer() -> None:
        with suppress(OSError):
            while True:
                door.accept()[0].sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with socket.create_server(where.control) as door:
        threading.Thread(target=answer, daemon=True).start()
        (sentence,) = sentences(meet(pool, {where: hello(where)}, 0.5))
    assert "no rank 0 answered" in sentence


def test_a_message_beyond_its_bound_is_not_read() -> None:
    one, other = socket.socketpair()
    Channel(one).send({"text": "x" * 100_000})
    channel = Channel(other)
    with pytest.raises(Exception, match="no message"):
        channel.receive(time.monotonic() + 5)
