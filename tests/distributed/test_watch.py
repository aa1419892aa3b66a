"""The watch of every rank, in one process: who ends, hangs or fails is named alike on all, once, and in time."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from elm_mlx.distributed import watch as module
from elm_mlx.distributed.channel import Channel
from elm_mlx.distributed.hosts import Hosts
from elm_mlx.distributed.watch import Beat, Patience, Watch, hanging, seconds_in
from elm_mlx.errors import InvalidRequest, RankFailed

LIMIT_S = 10
hasty_for_silence = pytest.mark.parametrize("crew", [Patience(silence=0.5, step=60)], indirect=True)
hasty_for_steps = pytest.mark.parametrize("crew", [Patience(silence=60, step=0.3)], indirect=True)


class Crew:
    """Watches of several ranks that are joined by sockets; `ended` gets (rank, error) where a process would end."""

    def __init__(self, count: int, patience: Patience) -> None:
        self.ended: list[tuple[int, RankFailed]] = []
        names = ("10.0.0.1", "10.0.0.2", "10.0.0.3")[:count]
        pairs = {rank: socket.socketpair() for rank in range(1, count)}
        self.channels = {0: {rank: Channel(pair[0]) for rank, pair in pairs.items()}}
        self.channels |= {rank: {0: Channel(pair[1])} for rank, pair in pairs.items()}
        self.watches = [
            Watch(Hosts(rank, names, ("10.0.0.1", 1), "ring"), self.channels[rank], patience, self.end_of(rank))
            for rank in range(count)
        ]

    def end_of(self, rank: int) -> Callable[[RankFailed], None]:
        return lambda error: self.ended.append((rank, error))

    def sentences(self, count: int) -> set[str]:
        """What so many ranks say, once they do."""
        until = time.monotonic() + LIMIT_S
        while len(self.ended) < count and time.monotonic() < until:
            time.sleep(0.02)
        assert len({rank for rank, _ in self.ended}) == len(self.ended) == count
        assert all(error.is_told for _, error in self.ended)
        return {str(error) for _, error in self.ended}


@pytest.fixture
def crew(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Crew]:
    monkeypatch.setattr(module, "BEAT_S", 0.05)
    monkeypatch.setattr(module, "VERDICT_S", 1.0)
    made = Crew(3, getattr(request, "param", Patience(60, 60)))  # on a busy machine nobody is late by accident
    yield made
    for watch in made.watches:
        watch._is_over = True
        watch._press()
        watch._thread.join(5)
    for channels in made.channels.values():
        for channel in channels.values():
            channel.close()


def test_messages_arrive_in_order_and_signs_of_life_are_none(crew: Crew) -> None:
    for number in range(5):
        crew.channels[0][1].send({"step": number})
    time.sleep(0.2)
    assert [crew.watches[1].inbox.get(timeout=5) for _ in range(5)] == [(0, {"step": n}) for n in range(5)]
    assert crew.watches[1].inbox.empty()
    assert not crew.ended


def test_a_rank_that_ends_is_named_on_all_others(crew: Crew, capfd: pytest.CaptureFixture[str]) -> None:
    crew.channels[2][0].socket.shutdown(socket.SHUT_RDWR)
    sentences = {str(error) for _, error in wait_for(crew, (0, 1))}
    assert sentences == {"Rank 2 (10.0.0.3) has ended, and with it all ranks."}
    assert capfd.readouterr().err.count("Error: Rank 2 (10.0.0.3) has ended") >= 2


def wait_for(crew: Crew, ranks: tuple[int, ...]) -> list[tuple[int, RankFailed]]:
    until = time.monotonic() + LIMIT_S
    while not {*ranks} <= {rank for rank, _ in crew.ended} and time.monotonic() < until:
        time.sleep(0.02)
    return [(rank, error) for rank, error in crew.ended if rank in ranks]


@pytest.mark.parametrize("rank", [0, 2])
def test_a_step_that_fails_is_named_on_all(crew: Crew, rank: int) -> None:
    error = crew.watches[rank].fail("the step \nbroke")
    assert str(error) in crew.sentences(3)
    (sentence,) = crew.sentences(3)
    assert sentence.startswith(f"Rank {rank} (10.0.0.{rank + 1}) failed: the step")
    assert isinstance(crew.watches[1].inbox.get(timeout=5), RankFailed)


def test_a_rank_that_ended_is_the_cause_of_steps_that_fail_with_it(crew: Crew) -> None:
    threads = [threading.Thread(target=crew.watches[rank].fail, args=("a peer was lost",)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    crew.channels[2][0].socket.shutdown(socket.SHUT_RDWR)
    for thread in threads:
        thread.join(LIMIT_S)
    assert {str(error) for _, error in wait_for(crew, (0, 1))} == {
        "Rank 2 (10.0.0.3) has ended, and with it all ranks."
    }


@hasty_for_silence
def test_a_rank_that_says_nothing_is_named(crew: Crew) -> None:
    crew.watches[1]._is_over = True  # as if it were stopped: its connection stays open
    crew.watches[1]._press()
    sentences = {str(error) for _, error in wait_for(crew, (0, 2))}
    assert len(sentences) == 1
    assert sentences.pop().startswith("Rank 1 (10.0.0.2) has given no sign of life for 0.5 seconds")


@hasty_for_silence
def test_a_rank_0_that_says_nothing_is_named_by_each(crew: Crew) -> None:
    crew.watches[0]._is_over = True
    crew.watches[0]._press()
    for _, error in wait_for(crew, (1, 2)):
        assert str(error).startswith("Rank 0 (10.0.0.1) has given no sign of life for 0.5 seconds")


@hasty_for_steps
def test_a_step_that_does_not_end_is_named_by_who_hangs(crew: Crew) -> None:
    for rank in (0, 2):
        crew.watches[rank].begin_step(4)
    crew.watches[1].begin_step(3)
    assert crew.sentences(3) == {
        "Rank 1 (10.0.0.2) did not come to step 4, where others wait, in 0.3 seconds (ELM_MLX_STEP_SECONDS)."
    }


@hasty_for_steps
def test_who_is_idle_is_never_too_late(crew: Crew) -> None:
    for watch in crew.watches:
        watch.begin_step(1)
        watch.end_step()
    time.sleep(0.8)
    assert not crew.ended


def test_what_the_others_say_is_bounded_and_printed_as_plain_text(
    crew: Crew, capfd: pytest.CaptureFixture[str]
) -> None:
    crew.channels[1][0].send({"report": "\x1b[2J" + "x" * 50_000})
    (sentence,) = crew.sentences(3)
    assert len(sentence) < 2100
    assert "\x1b" not in capfd.readouterr().err


def test_a_rank_that_is_no_leader_gives_no_verdict(crew: Crew) -> None:
    crew.channels[1][0].send({"verdict": "I say so."})
    crew.channels[1][0].send({"close": True})
    time.sleep(0.3)
    assert not crew.ended
    assert not crew.watches[0]._is_closing


def test_connections_that_close_at_the_end_are_no_failure(crew: Crew) -> None:
    for watch in crew.watches:
        watch.expect_end()
    for watch in crew.watches:
        watch.close()
    time.sleep(0.2)
    assert not crew.ended


def test_who_hangs_is_told_from_who_waits() -> None:
    def name(rank: int) -> str:
        return f"Rank {rank}"

    assert hanging({0: Beat(3, 59), 1: Beat(2, -1)}, 60, name) is None
    assert (
        hanging({0: Beat(3, 61), 1: Beat(2, -1)}, 60, name)
        == "Rank 1 did not come to step 3, where others wait, in 60 seconds (ELM_MLX_STEP_SECONDS)."
    )
    both = hanging({0: Beat(3, 61), 1: Beat(3, 61)}, 60, name)
    assert (
        both == "Rank 0 and rank 1 did not end step 3 in 60 seconds (ELM_MLX_STEP_SECONDS): what computes there hangs."
    )
    assert "Rank 1 did not end" in str(hanging({0: Beat(3, -1), 1: Beat(3, 61)}, 60, name))


@pytest.mark.parametrize("text", ["0", "-1", "nan", "x", "inf", "1e9"])
def test_seconds_without_a_meaning_are_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_SECONDS", text)
    with pytest.raises(InvalidRequest, match="SOME_SECONDS"):
        seconds_in("SOME_SECONDS", 1.0)
