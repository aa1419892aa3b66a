"""Two engines that take the same steps: one decides, and the other has another model and less memory a position."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from helpers import checkpoints
from helpers.engines import check_answers
from helpers.twins import Twins
from helpers.varied import drive, varied

import elm_mlx
from elm_mlx.distributed.following import OutOfStep
from elm_mlx.distributed.wire import difference, state_of
from elm_mlx.engine.request import Request
from elm_mlx.engine.sequence import Sequence
from elm_mlx.errors import InvalidRequest

Model = elm_mlx.LanguageModel


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The model that answers."""
    return load_layers(tmp_path_factory, 2)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The model of the rank that follows: one layer, so its positions take half as many bytes, and other logits."""
    return load_layers(tmp_path_factory, 1)


def load_layers(factory: pytest.TempPathFactory, layers: int) -> Model:
    raw = checkpoints.LLAMA | {"num_hidden_layers": layers}
    return elm_mlx.load(checkpoints.write(factory.mktemp("model") / "model", raw))


def check_twins(one: Model, other: Model, seed: int, count: int) -> None:
    """Asserts that answers are those of each request alone, and that the twins are alike after every step."""
    rng = random.Random(seed)
    positions = rng.choice([150, 300, 600, 5000])
    twins = Twins(
        one, other, positions, rows=rng.choice([1, 2, 4, 8]), chunk=rng.choice([16, 64, 256]),
        grow_by=rng.choice([0, 8]), reuse=rng.random() < 0.8, submit=rng.choice(["early", "late"]),
    )  # fmt: skip

    def step() -> None:
        twins.step()
        assert difference(state_of(twins.leader), state_of(twins.follower)) is None

    sequences = drive(twins.leader, rng, [varied(rng, number) for number in range(count)], step)
    assert not twins.line.draws
    assert not twins.follower.active
    check_answers(one, [each for each in sequences if not each.error])
    twins.leader.close()
    twins.follower.close()
    for engine in (twins.leader, twins.follower):
        assert engine.limits.budget.reserved == engine.limits.budget.idle == 0


def test_a_follower_takes_the_same_steps(one: Model, other: Model) -> None:
    check_twins(one, other, 3, 10)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_followers_take_the_same_steps_with_many_requests(one: Model, other: Model, seed: int) -> None:
    check_twins(one, other, seed, 40)


def begun(one: Model, other: Model) -> Twins:
    """Twins amid an answer, with a prefix that is kept."""
    twins = Twins(one, other, 2000)
    for count in (1, 30):
        sequence = twins.leader.submit(Request(tuple(checkpoints.prompt(40, seed=count)), count))
        for _ in range(5):
            twins.step()
    assert not sequence.finish
    return twins


FORGERIES: dict[str, Callable[[Twins], object]] = {
    "the caches reserved": lambda twins: twins.follower.limits.budget.reserve(1),
    "the caches kept": lambda twins: twins.follower.prefixes.clear(),
    "the ids of their answers": lambda twins: twins.follower.running[0].ids.pop(),
    "the last of these ids": lambda twins: twins.follower.running[0].ids.__setitem__(-1, 5),
    "the requests that run": lambda twins: twins.follower.running.clear(),
    "the positions in their caches": lambda twins: trimmed(twins.follower.running[0]),
    "the requests that wait": lambda twins: twins.follower.waiting.append(twins.follower.running[0]),
}


def trimmed(one: Sequence) -> None:
    assert one.cache
    one.cache[0].trim(1)


@pytest.mark.parametrize("what", FORGERIES)
def test_a_follower_whose_state_differs_says_in_what(one: Model, other: Model, what: str) -> None:
    twins = begun(one, other)
    FORGERIES[what](twins)
    with pytest.raises(OutOfStep, match=f"out of step with rank 0: {what}: "):
        twins.step()


def test_a_step_that_is_lost_is_noticed(one: Model, other: Model) -> None:
    twins = begun(one, other)
    twins.leader.step()
    twins.line.messages.clear()
    with pytest.raises(OutOfStep, match="takes step 12, and it is step 11 here"):
        twins.step()


@pytest.mark.parametrize(
    "message", ['{"steps": 1}', "{}", '{"close": false}', '{"ended": 5}', '{"request": []}', '{"disown": "1"}']
)
def test_what_rank_0_never_says_is_refused(one: Model, other: Model, message: str) -> None:
    twins = Twins(one, other, 2000)
    twins.line.messages.append(message)
    with pytest.raises(OutOfStep, match="not understood"):
        twins.catch_up()


def test_what_several_machines_cannot_do_is_refused_before_it_begins(one: Model, other: Model) -> None:
    twins, prompt = Twins(one, other, 2000), (1, 2, 3)
    for request in (Request(prompt, lookup=True), Request(prompt, adapter=1), Request(prompt, hold=True)):
        with pytest.raises(InvalidRequest, match="on several machines takes no"):
            twins.leader.submit(request)
    assert not twins.line.messages


def test_logits_that_are_no_numbers_end_one_answer_and_not_the_run(one: Model, other: Model) -> None:
    twins = Twins(one, other, 2000)
    sequences = [twins.leader.submit(Request((1, 2, number), 10)) for number in (3, 4)]
    twins.step()
    twins.leader.crew.spoils = True  # type: ignore[attr-defined]
    while not all(sequence.finish for sequence in sequences):
        twins.step()
    assert {sequence.finish for sequence in sequences} == {"error", "length"}
