"""Runs the tests of models and reports their samples, ready for JSON; with mlx-lm both programs take turns.

Our runs are jobs of the device thread, one a run: there the models are, and nothing else of the process computes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import mlx.core as mx

import elm_mlx
from elm_mlx import LanguageModel, Options
from elm_mlx.api.drafts import find_draft
from elm_mlx.arguments import Progress
from elm_mlx.bench.bandwidth import measure_bandwidth
from elm_mlx.bench.batch import answer
from elm_mlx.bench.cases import FIRST, FIRST_PROMPT, Case, Together, check_context
from elm_mlx.bench.clock import sample
from elm_mlx.bench.facts import bytes_per_token, machine_facts, model_facts, software_facts
from elm_mlx.bench.ours import Ours
from elm_mlx.bench.over_ranks import OverRanks
from elm_mlx.bench.peer import Peer
from elm_mlx.bench.report import PEER, Both, Round, case_report, together_report
from elm_mlx.device.thread import on_device
from elm_mlx.distributed.joining import join_model
from elm_mlx.distributed.part import Kind
from elm_mlx.engine.limits import ROWS
from elm_mlx.errors import ElmError, InvalidRequest
from elm_mlx.store.load import read_config

SCHEMA = "elm-mlx bench 3"
JUDGED = 32  # greedy tokens that both programs are asked for
BOUND = 0.01  # how far mlx-lm's logit of our token may be below its best, over its largest: docs/numerics.md
ADAPTER = "adapter"  # how a model calls it
PAUSE_S = 0.25  # between two programs: the threads of Intel's OpenMP keep spinning for 0.2 s
T = TypeVar("T")


@dataclass(frozen=True)
class Series:
    """What to measure of every model, and how often. `cpu_policy` is one of `elm_mlx.load`; None is "auto", and beside
    mlx-lm "compiled", so that both compute as stored. `submit` says when our steps are submitted, as `Execution` has
    it. `options` are those of a call that count here: how ids are chosen, greedily without them, how keys and values
    are held, and a lookup. `draft` is that of every model, as `elm_mlx.load` takes it, and `adapter` the
    directory of the adapter that all of them answer with. With `parallel` several ranks hold the one model in that way,
    and this process is rank 0."""

    tests: Sequence[Case | Together]
    repetitions: int = 5
    cpu_policy: str | None = None
    submit: str = "auto"
    compare: bool = False
    force: bool = False
    options: Options = field(default_factory=Options)
    draft: str | Path | None = None
    adapter: Path | None = None
    parallel: Kind | None = None

    @property
    def asked(self) -> Options:
        """The options of a call to a model, which has loaded the adapter, if there is one."""
        return {**self.options, "adapter": ADAPTER} if self.adapter else self.options


def bench(
    models: Iterable[tuple[str, Path]], series: Series, progress: Progress | None = None
) -> Iterator[dict[str, Any]]:
    """Measures every (name, directory) and reports the machine's facts, and of each model every sample of every test.

    The report is yielded after each test, with what was measured so far. `progress` is called with (runs done, runs in
    all) of each model. Raises PromptTooLong for a test that a model's context has no room for, ElmError where mlx-lm
    fails or disagrees, InvalidRequest where a model has no such draft, and what `elm_mlx.load` raises.
    """
    report: dict[str, Any] = {
        "schema": SCHEMA,
        "machine": machine_facts() | {"read": on_device(lambda _: measure_bandwidth())},
        "software": software_facts(),
        "repetitions": series.repetitions,
        "models": [],
    }
    read = report["machine"]["read"]["bytes_per_s"]
    for done, (name, directory) in enumerate(models):
        for model in measure_model(name, directory, series, read, progress or (lambda *_: None)):
            report["models"][done:] = [model]
            yield report


def measure_model(
    name: str, directory: Path, series: Series, read: float, progress: Progress
) -> Iterator[dict[str, Any]]:
    """Measures one model; gives its facts and tests after each test. `read` is the machine's bandwidth in bytes/s."""
    check_context(series.tests, read_config(directory))
    policy = series.cpu_policy or ("compiled" if series.compare else "auto")
    check_draft(directory, series.draft)
    lm, load_s = load_and_time(directory, policy, series)
    facts = model_facts(name, lm) | {"cpu_policy": policy, "submit": series.submit, "notice": lm.notice,
                                     "load_s": load_s}  # fmt: skip
    facts |= {"options": asked} if (asked := asked_of(lm, series)) else {}
    ours = (OverRanks if series.parallel else Ours)(lm, series.submit, series.asked)
    done = 0
    alone: list[dict[str, Any]] = []
    batched: list[dict[str, Any]] = []
    with lm, Peer(directory) if series.compare else nullcontext() as peer:
        said = None
        if peer and isinstance(ours, Ours):
            said = peer.facts | check_agreement(ours, peer, facts, lm.config.vocab_size)
        for test in series.tests:
            rounds: list[Any] = []
            for _ in range(1 + series.repetitions):
                rounds.append(run_round(ours, peer, test))
                progress(done := done + 1, len(series.tests) * (1 + series.repetitions))
            del rounds[0]  # it warmed up
            if isinstance(test, Together):
                batched.append(together_report(test, rounds))
            else:
                alone.append(case_report(test, rounds, bytes_of_a_token(lm, ours, test), read))
            yield facts | {PEER: said, "tests": alone, "batches": batched}


def check_draft(directory: Path, draft: str | Path | None) -> None:
    """Raises InvalidRequest where a model has no such draft: without one nothing of it would be measured."""
    if draft and not find_draft(draft, directory).path:
        raise InvalidRequest(f"No draft that suits {directory} is on this machine.", "Name one as {draft}, or leave it "
                             "out.")  # fmt: skip


def asked_of(lm: LanguageModel, series: Series) -> dict[str, Any]:
    """The options by their names, with the directories of draft and adapter, and the ranks, if there are some."""
    places = {"draft": lm.draft, "adapter": series.adapter}
    held = {"parallel": f"{series.parallel} over {mx.distributed.init().size()} ranks"} if series.parallel else {}
    return {**series.options, **{name: place.name for name, place in places.items() if place}, **held}


def bytes_of_a_token(lm: LanguageModel, ours: Ours | OverRanks, case: Case) -> int | None:
    """What `bytes_per_token` says; None where ids are proposed, since a pass gives more than one token then, and where
    several ranks read."""
    is_else = lm.draft or ours.asked.lookup or isinstance(ours, OverRanks)
    return None if is_else else bytes_per_token(lm, case, ours.asked.cache)


def load_and_time(directory: Path, policy: str, series: Series) -> tuple[LanguageModel, float]:
    """Loads a model twice; gives it and the seconds of the second time, when its files are in memory already. What
    several ranks hold is loaded once, when they have met."""
    if series.parallel:
        return load_over_ranks(directory, policy, series)
    elm_mlx.load(directory, cpu_policy=policy, force=series.force, draft=series.draft).close()
    begun = time.perf_counter()
    lm = elm_mlx.load(directory, cpu_policy=policy, force=series.force, draft=series.draft)
    load_s = time.perf_counter() - begun
    if series.adapter:
        lm.load_adapter(ADAPTER, series.adapter, force=series.force)
    return lm, load_s


def load_over_ranks(directory: Path, policy: str, series: Series) -> tuple[LanguageModel, float]:
    """Meets the other ranks, and loads this one's part of a model; gives it and the seconds of loading."""
    kind, settings = series.parallel, {"cpu_policy": policy}
    assert kind
    ranks = join_model(kind, lambda: directory, series.force, settings)
    rows = max(ROWS, *(test.rows for test in series.tests if isinstance(test, Together)), 1)
    begun = time.perf_counter()
    lm = elm_mlx.load(directory, cpu_policy=policy, force=series.force, rows=rows, ranks=ranks)
    return lm, time.perf_counter() - begun


def run_round(ours: Ours | OverRanks, peer: Peer | None, test: Case | Together) -> Round | Both:
    """Runs a test in elm-mlx and, where there is a peer, in mlx-lm, with pauses so that neither disturbs the other."""
    if isinstance(test, Together):
        load = test.load(ours.config.vocab_size)
        return in_turn(lambda: answer(ours.session(load.rows), load), peer, lambda peer: peer.run(load))
    ids = test.token_ids(ours.config.vocab_size)
    return in_turn(lambda: sample(ours, test, ids), peer, lambda peer: peer.sample(test, ids))


def in_turn(own: Callable[[], T], peer: Peer | None, other: Callable[[Peer], T]) -> tuple[T, T | None]:
    """Our result, and the peer's where there is one."""
    if not peer:
        return on_device(lambda _: own()), None
    time.sleep(PAUSE_S)
    first = on_device(lambda _: own())
    time.sleep(PAUSE_S)
    return first, other(peer)


def check_agreement(ours: Ours, peer: Peer, facts: dict[str, Any], vocab_size: int) -> dict[str, Any]:
    """Asks mlx-lm about our greedy tokens. Raises ElmError where it disagrees: in float32 by another token, in other
    types by a logit of one of our tokens that is further below its best than BOUND; InvalidRequest where a `cpu_policy`
    has us compute in another type than mlx-lm."""
    if facts["cpu_policy"] == "auto" and facts["computed_in"] != peer.facts["computed_in"]:
        raise InvalidRequest(
            f"elm-mlx would compute {facts['name']} in {facts['computed_in']}, which is fastest here, and mlx-lm in "
            f"{peer.facts['computed_in']}: different work.",
            "Leave {cpu_policy} out, or {compare}.",
        )
    prompt = Case(FIRST, FIRST_PROMPT).token_ids(vocab_size)
    tokens = on_device(lambda _: list(ours.decode(prompt, JUDGED)))
    greedy, below = peer.judge(prompt, tokens)
    same = sum(own == other for own, other in zip(tokens, greedy, strict=True))
    is_exact = facts["computed_in"] == peer.facts["computed_in"] == "float32"
    if not below <= BOUND or (is_exact and same < JUDGED):
        raise ElmError(f"mlx-lm says {same} of {JUDGED} greedy tokens of {facts['name']} as elm-mlx does, and one of "
                       f"ours is {below:.2g} of its largest logit below its best. They do not compute the same, so "
                       "nothing was measured. Compare the files with what they were converted from.")  # fmt: skip
    return {"judged_tokens": JUDGED, "same_tokens": same, "below_best": below}
