"""Many clients at once: no answer is lost, none is another's, memory stays flat, and what dies hurts nobody else."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import crowd, wire
from helpers.served import ENDLESS, Served, serving, until

import elm_mlx
from elm_mlx.demo import demo_directory

CLIENTS = 64
COMPLETIONS = "/v1/completions"
GROWTH = 1.10  # of memory after warm-up, at most
SLOW, SOAK = pytest.mark.slow, pytest.mark.soak


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving("--max-queue", 2 * CLIENTS) as running:
        yield running


@pytest.fixture(scope="module")
def known() -> list[crowd.Known]:
    """Requests of mixed lengths, some greedy and some with a seed, and what the demo alone answers them with."""
    rng, words = random.Random(0), (demo_directory() / "held_out.txt").read_text(encoding="utf-8").split()
    with elm_mlx.load() as lm:
        return [alone(lm, rng, words) for _ in range(24)]


@pytest.fixture(scope="module")
def short() -> list[crowd.Known]:
    """Short requests, and what the demo alone answers them with."""
    rng = random.Random(1)
    with elm_mlx.load() as lm:
        return [alone(lm, rng, ["Once", "upon", "a", "time", "there", "was"] * 2, tokens=4) for _ in range(24)]


def alone(lm: elm_mlx.LanguageModel, rng: random.Random, words: list[str], tokens: int = 60) -> crowd.Known:
    """A request, and its answer when nobody else asks."""
    length = rng.choice([3, 5, 8, 8, 20, 60, 120])
    place = rng.randrange(max(1, len(words) - length))
    asked: dict[str, Any] = {"temperature": rng.choice([0, 0.7, 1.2]), "seed": rng.randrange(1000)}
    prompt, most = " ".join(words[place : place + length]), rng.randint(1, tokens)
    text = lm.generate(prompt, most, reuse=False, **asked).text
    return crowd.Known(asked | {"prompt": prompt, "max_tokens": most}, text)


def run(served: Served, known: list[crowd.Known], enough: Any, leaving: float) -> crowd.Seen:
    """A crowd's requests, none of which may be lost or crossed; afterwards the server is idle."""
    seen = asyncio.run(crowd.gather(served.port, known, CLIENTS, enough, leaving))
    print(f"\n{seen}")
    assert seen.wrong == []
    until(lambda: served.busy == 0, "the end of all requests")
    return seen


MINUTES = [pytest.param(15, id="seconds", marks=SLOW), pytest.param(300, id="minutes", marks=SOAK)]
COUNTS = [pytest.param(300, id="hundreds", marks=SLOW), pytest.param(10_000, id="thousands", marks=SOAK)]


@pytest.mark.parametrize("seconds", MINUTES)
def test_64_clients_that_come_and_leave(served: Served, known: list[crowd.Known], seconds: int) -> None:
    def for_(span: float) -> Any:
        ended = time.monotonic() + span
        return lambda _: time.monotonic() > ended

    run(served, known, for_(seconds / 5), 0.2)
    before = served.resident_bytes()
    seen = run(served, known, for_(seconds), 0.2)
    after = served.resident_bytes()
    print(f"memory: {before / 1e6:.0f} MB after warm-up, {after / 1e6:.0f} MB at the end")
    assert seen.right > seconds
    assert after < GROWTH * before


@pytest.mark.parametrize("count", COUNTS)
def test_many_short_requests(served: Served, short: list[crowd.Known], count: int) -> None:
    run(served, short, lambda seen: seen.right >= count / 5, 0.0)
    before = served.resident_bytes()
    seen = run(served, short, lambda seen: seen.right >= count, 0.0)
    after = served.resident_bytes()
    print(f"memory: {before / 1e6:.0f} MB after warm-up, {after / 1e6:.0f} MB at the end")
    assert count <= seen.right < count + CLIENTS
    assert after < GROWTH * before


@SLOW
def test_a_client_that_is_killed_cancels_its_request(served: Served) -> None:
    body = json.dumps(ENDLESS | {"stream": True})
    program = (
        "import http.client, sys\n"
        f"connection = http.client.HTTPConnection('127.0.0.1', {served.port})\n"
        f"connection.request('POST', '{COMPLETIONS}', {body!r}, {{'Content-Type': 'application/json'}})\n"
        "print(connection.getresponse().readline(), flush=True)\n"
        "sys.stdin.read()\n"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", program], stdin=pipe, stdout=pipe) as client:
        assert client.stdout
        assert client.stdout.readline()
        client.kill()
    until(lambda: served.busy == 0, "the end of a request whose client was killed")


@SLOW
def test_a_server_that_is_killed_leaves_its_clients_an_end_and_its_port(tmp_path: Path) -> None:
    with serving() as served:
        with wire.connect(served.port) as connection:
            body = b'{"prompt": "Once upon a time", "max_tokens": 480, "stream": true}'
            connection.sendall(wire.post(COMPLETIONS, body, port=served.port))
            assert connection.recv(64)
            served.process.kill()
            assert b"[DONE]" not in wire.to_the_end(connection)  # and it ends
        served.process.wait()
        with serving("--port", served.port) as again:
            assert again.port == served.port
            assert again.ask("GET", "/health").status == 200


@SLOW
def test_the_socket_of_a_server_that_was_killed_is_replaced(tmp_path: Path) -> None:
    place = tmp_path / "own" / "elm.sock"
    for _ in range(2):
        with serving("--uds", place) as served:
            assert place.is_socket()
            assert place.parent.stat().st_mode & 0o777 == 0o700
            os.kill(served.process.pid, signal.SIGKILL)
            served.process.wait()
        assert place.is_socket()  # it was left behind
