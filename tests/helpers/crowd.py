"""Many clients of one server, in one thread: each checks what it is told, and some leave early."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import quantiles
from typing import Any, NamedTuple

PATIENCE_S = 300  # for one answer, on a busy machine
DATA, DONE = b"data: ", b"[DONE]"
BLANK = " "  # before an answer's first word: a completion has it, `Completion.text` does not


class Known(NamedTuple):
    """A request of a completion, and the text that the model alone answers it with."""

    body: dict[str, Any]
    text: str


@dataclass
class Seen:
    """What the clients of a crowd have seen: how many answers were right, how many they left, the seconds to the first
    token of each stream, and sentences about what was wrong."""

    right: int = 0
    left: int = 0
    first_token_s: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        times = self.first_token_s
        middle, late = (f"{1000 * quantiles(times, n=100)[place]:.0f}" for place in (49, 98)) if times[1:] else "??"
        return (f"{self.right} answers right, {self.left} left, {len(self.wrong)} wrong; "
                f"first token after {middle} ms (p50), {late} ms (p99)")  # fmt: skip


async def gather(port: int, known: Sequence[Known], clients: int, until: Callable[[Seen], bool], leaving: float = 0.0
                 ) -> Seen:  # fmt: skip
    """Has so many clients ask for random ones of the known requests, one after the other, until that is enough. This
    share of the requests is left before its end."""
    seen = Seen()

    async def client(number: int) -> None:
        rng = random.Random(number)
        while not until(seen) and len(seen.wrong) < 10:
            await ask(port, rng.choice(known), rng, rng.random() < leaving, seen)

    await asyncio.gather(*map(client, range(clients)))
    return seen


async def ask(port: int, one: Known, rng: random.Random, leaves: bool, seen: Seen) -> None:
    """One request, streamed or not, and a note of how it went."""
    streamed = rng.random() < 0.5
    try:
        async with asyncio.timeout(rng.random() * 0.2 if leaves else PATIENCE_S):
            text = await answered(port, one.body | {"stream": streamed}, seen)
    except TimeoutError:
        if leaves:
            seen.left += 1
        else:
            seen.wrong.append(f"no answer came to {one.body}")
    except (OSError, EOFError, ValueError, KeyError) as error:
        seen.wrong.append(f"{error!r} for {one.body}")
    else:
        if text.removeprefix(BLANK) == one.text:
            seen.right += 1
        else:
            seen.wrong.append(f"{text!r} for {one.body}, which alone is told {one.text!r}")


async def answered(port: int, body: dict[str, Any], seen: Seen) -> str:
    """The text that a server answers with. Raises ValueError for an error."""
    sent = json.dumps(body).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                     b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(sent) + sent)  # fmt: skip
        begun, status = time.perf_counter(), await reader.readline()
        head = await reader.readuntil(b"\r\n\r\n")
        if b" 200 " not in status:
            raise ValueError((status + head + await reader.read()).decode())
        if not body["stream"]:
            text: str = json.loads(await reader.read())["choices"][0]["text"]
            return text
        return await streamed_text(reader, begun, seen)
    finally:
        writer.close()


async def streamed_text(reader: asyncio.StreamReader, begun: float, seen: Seen) -> str:
    """The text of a stream, whose events the server sends each in one piece."""
    parts: list[str] = []
    while line := await reader.readline():
        if not line.startswith(DATA):
            continue
        if line.startswith(DONE, len(DATA)):
            return "".join(parts)
        part = json.loads(line[len(DATA) :])["choices"][0]["text"]
        if part and not parts:
            seen.first_token_s.append(time.perf_counter() - begun)
        parts.append(part)
    raise EOFError("the stream was cut")
