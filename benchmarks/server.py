"""What the server costs over the engine, and how it does beside mlx-lm's: ratios of runs that take turns.

    python benchmarks/server.py [--only NAME,...] [--turns 7] [--json FILE]

Each experiment is one function here, and its docstring says what is compared. The model is the demo in float32, in
steps as a GPU gets them (`--cpu-policy compiled`), with the BLAS in one thread; ours and mlx-lm's server read the same
directory. Prompts are new in every turn, so that no server has anything of them in its caches, and both of a pair get
the same ones. Answers are greedy and all have the same length. Clients and servers share the machine, so the clients
are one thread with raw sockets (`server_load.py`). Times are of the clock on the wall; the processor time of the
servers' processes stands beside them in the file. A ratio above 1 means that ours is the better one of the pair.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from samples import JSON_HELP, Samples
from server_load import ACCEPTED_S
from server_processes import Clients, Server, our_server, peer_server, processor_seconds

import elm_mlx

SCHEMA = "elm-mlx server 1"
TOKENS = 128  # of each answer
WORDS = 20  # of each prompt
STARTS = 5
IDLE_S = 10.0
COMPILED = ("--cpu-policy", "compiled")


class Answered(NamedTuple):
    """Answers that were asked for at the same moment: the median of the seconds to their first tokens, tokens a second
    after the first token of one answer, or of all from first to last of several; and processor seconds, if known."""

    first_token: float
    rate: float
    cpu: float


class Pair(NamedTuple):
    """Ours, and what it is compared with."""

    ours: Answered
    other: Answered


@dataclass
class Lab:
    """What all experiments use: the engine in this process, the servers, their clients, and prompts still unused."""

    lm: elm_mlx.LanguageModel
    ours: Server
    peer: Server
    clients: Clients
    prompts: Iterator[str]
    turns: int

    def take(self, count: int) -> list[str]:
        return [next(self.prompts) for _ in range(count)]

    def take_turns(self, ours: Callable[[list[str]], Answered], other: Callable[[list[str]], Answered], count: int
                   ) -> list[Pair]:  # fmt: skip
        """Gives both the same prompts in each turn, the first turn without counting. Which comes first alternates."""
        pairs = []
        for turn in range(1 + self.turns):
            prompts = self.take(count)
            if turn % 2:
                pairs.append(Pair(ours(prompts), other(prompts)))
            else:
                last = other(prompts)
                pairs.append(Pair(ours(prompts), last))
        return pairs[1:]

    def served(self, server: Server, prompts: list[str]) -> Answered:
        """What a server gives to clients that all ask at the same moment."""
        bodies = [{"model": "default_model", "prompt": prompt, "max_tokens": TOKENS, "temperature": 0, "stream": True,
                   "stream_options": {"include_usage": True}} for prompt in prompts]  # fmt: skip
        spent = processor_seconds(server.pid)
        answers = self.clients.ask(server.port, bodies)
        assert all(answer["tokens"] == TOKENS for answer in answers), answers
        first = statistics.median(answer["first_token"] - answer["begun"] for answer in answers)
        if len(answers) == 1:
            rate = (TOKENS - 1) / (answers[0]["ended"] - answers[0]["first_token"])
        else:
            took = max(answer["ended"] for answer in answers) - min(answer["begun"] for answer in answers)
            rate = TOKENS * len(answers) / took
        return Answered(first, rate, processor_seconds(server.pid) - spent)

    def by_ours(self, prompts: list[str]) -> Answered:
        return self.served(self.ours, prompts)

    def by_peer(self, prompts: list[str]) -> Answered:
        return self.served(self.peer, prompts)

    def streamed(self, prompts: list[str]) -> Answered:
        """One answer of `lm.stream` in this process, after as long a rest as servers have before their requests."""
        time.sleep(ACCEPTED_S)
        spent, begun, first = time.process_time(), time.perf_counter(), 0.0
        for piece in self.lm.stream(prompts[0], TOKENS, temperature=0.0):
            first = first or (time.perf_counter() if piece.text else 0.0)
        ended = time.perf_counter()
        return Answered(first - begun, (TOKENS - 1) / (ended - first), time.process_time() - spent)

    def batched(self, prompts: list[str]) -> Answered:
        """The answers of `lm.batch` in this process. They have no first token that could be seen."""
        spent, begun = time.process_time(), time.perf_counter()
        tokens = sum(answer.stats.generated_tokens for answer in self.lm.batch(prompts, TOKENS, temperature=0.0))
        assert tokens == TOKENS * len(prompts)
        return Answered(0.0, tokens / (time.perf_counter() - begun), time.process_time() - spent)


def one_stream(lab: Lab) -> list[Pair]:
    """One answer: streamed by the server, and by `lm.stream` in the benchmark's process."""
    return lab.take_turns(lab.by_ours, lab.streamed, 1)


def eight_streams(lab: Lab) -> list[Pair]:
    """Eight answers: streamed by the server to eight clients, and by `lm.batch` in the benchmark's process."""
    return lab.take_turns(lab.by_ours, lab.batched, 8)


def peer_1(lab: Lab) -> list[Pair]:
    """One client: of our server, and of mlx-lm's."""
    return lab.take_turns(lab.by_ours, lab.by_peer, 1)


def peer_4(lab: Lab) -> list[Pair]:
    """Four clients: of our server, and of mlx-lm's."""
    return lab.take_turns(lab.by_ours, lab.by_peer, 4)


def peer_8(lab: Lab) -> list[Pair]:
    """Eight clients: of our server, and of mlx-lm's."""
    return lab.take_turns(lab.by_ours, lab.by_peer, 8)


def start(_: Lab) -> list[float]:
    """Seconds from the start of `elm-mlx serve` with the demo until it prints that it is ready."""
    took = []
    for _turn in range(1 + STARTS):
        begun = time.perf_counter()
        with our_server():
            took.append(time.perf_counter() - begun)
    return took[1:]


def idle(lab: Lab) -> list[float]:
    """The share of a core that the server takes while nobody asks for anything."""
    shares = []
    for _turn in range(3):
        spent, begun = processor_seconds(lab.ours.pid), time.perf_counter()
        time.sleep(IDLE_S)
        shares.append((processor_seconds(lab.ours.pid) - spent) / (time.perf_counter() - begun))
    return shares


def rates(pairs: list[Pair]) -> list[float]:
    return [pair.ours.rate / pair.other.rate for pair in pairs]


def sooner(pairs: list[Pair]) -> list[float]:
    return [pair.other.first_token / pair.ours.first_token for pair in pairs]


def delays(pairs: list[Pair]) -> list[float]:
    return [1000 * (pair.ours.first_token - pair.other.first_token) for pair in pairs]


def cpu_per_answer(pairs: list[Pair]) -> list[float]:
    """One figure, since the steps of the system's clock are as large as an answer is short."""
    return [sum(pair.other.cpu for pair in pairs) / max(0.01, sum(pair.ours.cpu for pair in pairs))]


def itself(samples: list[float]) -> list[float]:
    return samples


# Of each experiment the figures, and the bars that a figure's median must reach: at least, or where below, at most.
Figure = tuple[str, Callable[[Any], list[float]], str, float | None]
PEER_FIGURES: list[Figure] = [("first token, times mlx-lm's", sooner, ">=", 1.0),
                              ("tokens/s, times mlx-lm's", rates, ">=", 1.0),
                              ("processor time, times mlx-lm's", cpu_per_answer, "", None)]  # fmt: skip
EXPERIMENTS: dict[str, tuple[Callable[[Lab], Any], list[Figure]]] = {
    "one-stream": (one_stream, [("first token, ms after the engine's", delays, "<=", 1.0),
                                ("tokens/s, times the engine's", rates, ">=", 0.97),
                                ("processor time, times the engine's", cpu_per_answer, "", None)]),
    "eight-streams": (eight_streams, [("tokens/s, times the engine's", rates, ">=", 0.95),
                                      ("processor time, times the engine's", cpu_per_answer, "", None)]),
    "peer-1": (peer_1, PEER_FIGURES), "peer-4": (peer_4, PEER_FIGURES), "peer-8": (peer_8, PEER_FIGURES),
    "start": (start, [("start to ready, s", itself, "<=", 0.8)]),
    "idle": (idle, [("idle, share of a core", itself, "<=", 0.005)]),
}  # fmt: skip


def prompts_for(lm: elm_mlx.LanguageModel) -> Iterator[str]:
    """Beginnings whose greedy answers are all as long as asked for; no two begin alike."""
    from elm_mlx.demo import demo_directory

    lines = [line.split() for line in (demo_directory() / "held_out.txt").read_text(encoding="utf-8").splitlines()]
    for place in range(0, 60, 4):
        begun = [" ".join(words[place : place + WORDS]) for words in lines if len(words) >= place + WORDS]
        done = [*lm.batch(begun, TOKENS, temperature=0.0, reuse=False)]  # nothing is computed while others are timed
        for prompt, completion in zip(begun, done, strict=True):
            if completion.finish_reason == "length":
                yield prompt


def report(name: str, samples: Any) -> dict[str, Any]:
    """One experiment's figures, printed, and every sample."""
    what, figures = EXPERIMENTS[name]
    found = []
    for label, values_of, side, bar in figures:
        values = values_of(samples)
        middle = statistics.median(values)
        found.append({"figure": label, "median": middle, "min": min(values), "max": max(values), "values": values,
                      "bar": bar and f"{side} {bar}"})  # fmt: skip
        bound = f", bar {side} {bar}" if side else ""
        print(f"{name:<14} {label:<36} {middle:8.3f} ({min(values):.3f} to {max(values):.3f}){bound}", flush=True)
    raw = [sample if isinstance(sample, float) else [part._asdict() for part in sample] for sample in samples]
    doc = " ".join((what.__doc__ or "").split())
    return {"experiment": name, "what": doc, "figures": found, "samples": raw}


def converted(folder: Path) -> Path:
    """The demo in float32."""
    from elm_mlx.convert import convert
    from elm_mlx.demo import demo_directory

    return convert(demo_directory(), folder / "demo-float32", dtype="float32").output


def one_thread() -> None:
    """Limits the BLAS to one thread, here and in the processes that are started."""
    from elm_mlx.device.blas import blas_threads

    blas_threads()[1](1)
    os.environ.update(MKL_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--only", default=",".join(EXPERIMENTS), help="experiments, by name")
    options.add_argument("--turns", type=int, default=7, help="pairs of runs, after one that warms up")
    options.add_argument("--json", type=Path, help=JSON_HELP)
    given = options.parse_args()
    elm_mlx.use_fast_blas()
    samples = Samples(SCHEMA, given.json, "experiment")
    with ExitStack() as stack:
        directory = converted(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        lm = stack.enter_context(elm_mlx.load(directory, cpu_policy="compiled"))
        one_thread()
        ours = stack.enter_context(our_server("--model", directory, *COMPILED))
        peer, clients = stack.enter_context(peer_server(directory)), stack.enter_context(Clients())
        lab = Lab(lm, ours, peer, clients, prompts_for(lm), given.turns)
        for name in given.only.split(","):
            samples.add(report(name, EXPERIMENTS[name][0](lab)))


if __name__ == "__main__":
    main()
