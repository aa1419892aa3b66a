"""A job: lines answered together and written as they end, the same set of lines however often it was killed."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from elm_mlx.api import Completion, Stats
from elm_mlx.errors import Cancelled, DiskFull, EngineStopped, Forked, InvalidRequest, NotFinite, QueueFull
from elm_mlx.jobs import answering
from elm_mlx.jobs.answering import Job, Way
from elm_mlx.jobs.origin import Origin
from elm_mlx.jobs.results import Results
from elm_mlx.jobs.source import open_source


class Parrot:
    """Stands in for a model: it says the prompt and the seed, and takes as long as `delay` says, in turns of the
    loop."""

    has_chat_template = True

    def __init__(self, delay: Callable[[], int] = lambda: 0) -> None:
        self.delay, self.asked, self.now, self.most = delay, list[str](), 0, 0

    def chat_prompt(self, messages: Any) -> list[int]:
        return [len(message["content"]) for message in messages]

    async def complete(self, prompt: Any, options: dict[str, Any]) -> Completion:
        self.asked.append(prompt)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            for _ in range(self.delay()):
                await asyncio.sleep(0)
        finally:
            self.now -= 1
        if prompt == "too long":
            raise InvalidRequest("The prompt is too long.", "Give less {max_tokens}.")
        if prompt == "nan":
            raise NotFinite("NaN.")
        return Completion(f"{prompt} {options}", [1, 2], "length", Stats(1, 2, 0.1, None, None, 0))


@pytest.fixture(autouse=True)
def parrots_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    async def complete(lm: Any, prompt: Any, options: dict[str, Any]) -> Completion:
        return await lm.complete(prompt, options)  # type: ignore[no-any-return]

    monkeypatch.setattr(answering, "complete", complete)


LINES = [
    {"id": "a", "prompt": "Hi"},
    {"prompt": [5, 6], "seed": 3},
    {"id": "long", "prompt": "too long"},
    {"custom_id": "c", "body": {"messages": [{"role": "user", "content": "Blue?"}], "max_tokens": 5}},
    {"custom_id": "d", "body": {"prompt": "Red", "n": 2}},
    {"id": "e", "prompt": "nan"},
]


def write(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + "nonsense\n", encoding="utf-8")
    return path


def run(requests: Path, out: Path, lm: Any = None, *, concurrency: int = 3, retry: bool = False, seed: int = 0) -> Job:
    """Runs a job as the command does."""
    with open_source(str(requests)) as source, Results(str(out)) as results:
        index = source.index()
        results.begin(retry)
        way = Way(Origin("parrot", seed), {"max_tokens": 9})
        job = Job(lm or Parrot(), way, source, index.lines.keys() - results.failed.keys(), results)
        asyncio.run(job.run(concurrency, lambda *_: None))
    return job


@pytest.fixture
def requests(tmp_path: Path) -> Path:
    return write(tmp_path / "in.jsonl", LINES)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


@pytest.fixture
def undisturbed(requests: Path, tmp_path: Path) -> bytes:
    run(requests, tmp_path / "undisturbed.jsonl")
    return (tmp_path / "undisturbed.jsonl").read_bytes()


def as_set(data: bytes) -> list[bytes]:
    """The lines in an order of their own, each as often as it is there."""
    return sorted(data.splitlines())


def test_every_line_has_its_answer_or_its_error(requests: Path, out: Path) -> None:
    job = run(requests, out)
    by_id = {line.get("custom_id", line["id"]): line for line in map(json.loads, out.read_text().splitlines())}
    seed = Origin("parrot", 0).seed_of
    assert by_id["a"]["text"] == f"[2] {{'max_tokens': 9, 'seed': {seed('a')}}}"  # by the chat template
    assert by_id[2]["text"] == "[5, 6] {'max_tokens': 9, 'seed': 3}"  # its own seed
    said = by_id["c"]["response"]["body"]["choices"][0]["message"]["content"]
    assert said == f"[5] {{'max_tokens': 5, 'seed': {seed('c')}}}"
    assert by_id["d"]["error"]["message"].startswith("body.n is 2")
    assert by_id[7]["error"] == "Line 7 is not valid JSON: Expecting value at character 1."
    assert [by_id[name]["error"] for name in ("long", "e")] == [None, None]  # the template makes them ids
    assert (job.tally.lines, job.tally.errors, job.tally.tokens) == (7, 2, 10)


def test_without_a_template_or_as_is_prompts_are_given_as_they_are(requests: Path, out: Path) -> None:
    lm = Parrot()
    lm.has_chat_template = False
    job = run(requests, out, lm)
    assert lm.asked == ["Hi", [5, 6], "too long", [5], "nan"]
    assert job.tally.errors == 4
    assert '"The prompt is too long. Give less max_tokens."' in out.read_text()


@pytest.mark.parametrize("concurrency", [1, 2, 3, 50])
def test_so_many_lines_are_answered_together_and_no_more_are_taken(tmp_path: Path, out: Path, concurrency: int) -> None:
    lm = Parrot(lambda: 3)
    run(write(tmp_path / "in", [{"id": n, "prompt": "x"} for n in range(100, 120)]), out, lm, concurrency=concurrency)
    assert lm.most == min(concurrency, 20)


def test_an_answer_is_written_when_it_ends_not_when_its_turn_comes(tmp_path: Path, out: Path) -> None:
    delays = iter([50, 0, 0, 0])
    run(write(tmp_path / "in", [{"id": name, "prompt": "x"} for name in "abcd"]), out, Parrot(lambda: next(delays)))
    assert [json.loads(line)["id"] for line in out.read_text().splitlines()][-1] == "a"


def test_order_and_concurrency_change_no_line(out: Path, tmp_path: Path) -> None:
    dice, found = random.Random(5), set()
    lines = [line | {"id": n} if "prompt" in line else line for n, line in enumerate(LINES, 100)]
    for turn in range(20):
        dice.shuffle(lines)
        out = tmp_path / f"{turn}.jsonl"
        run(write(tmp_path / "in", lines), out, Parrot(lambda: dice.randrange(5)), concurrency=dice.randrange(1, 9))
        found.add(tuple(as_set(out.read_bytes())))
    assert len(found) == 1
    assert len(found.pop()) == len(LINES) + 1


def test_another_seed_changes_the_answers_of_lines_without_one(requests: Path, out: Path, undisturbed: bytes) -> None:
    run(requests, out, seed=1)
    same = set(as_set(undisturbed)) & set(as_set(out.read_bytes()))
    assert {json.loads(line)["id"] for line in same} == {2, 7}


def test_cut_at_any_byte_and_run_again_it_is_the_same_set(requests: Path, out: Path, undisturbed: bytes) -> None:
    dice = random.Random(7)
    for cut in dice.sample(range(len(undisturbed) + 1), 200):
        out.write_bytes(undisturbed[:cut])
        lm = Parrot(lambda: dice.randrange(4))
        run(requests, out, lm)
        assert as_set(out.read_bytes()) == as_set(undisturbed)
        assert out.read_bytes().startswith(undisturbed[:cut].rpartition(b"\n")[0])


def test_a_finished_job_asks_nothing_again_but_its_errors_if_told(
    requests: Path, out: Path, undisturbed: bytes
) -> None:
    out.write_bytes(undisturbed)
    again = Parrot()
    run(requests, out, again)
    assert (again.asked, out.read_bytes()) == ([], undisturbed)
    job = run(requests, out, again, retry=True)
    assert (job.tally.lines, job.tally.errors) == (2, 2)
    assert as_set(out.read_bytes()) == as_set(undisturbed)


def test_new_lines_at_the_end_are_all_that_is_asked(requests: Path, out: Path, undisturbed: bytes) -> None:
    out.write_bytes(undisturbed)
    with requests.open("a", encoding="utf-8") as file:
        file.write('{"id": "new", "prompt": [1]}')
    job = run(requests, out)
    assert (job.tally.lines, out.read_bytes().startswith(undisturbed)) == (1, True)


def test_an_error_of_the_output_ends_the_job_and_all_requests(
    requests: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise DiskFull("Full.")

    monkeypatch.setattr(Results, "add", refuse)
    lm = Parrot(lambda: 2)
    with pytest.raises(DiskFull):
        run(requests, out, lm)
    assert (lm.now, len(lm.asked)) == (0, 3)


@pytest.mark.parametrize("kind", [EngineStopped, QueueFull, Forked, Cancelled])
def test_what_no_line_is_to_blame_for_ends_the_job_and_is_no_line(requests: Path, out: Path, kind: Any) -> None:
    class Stopped(Parrot):
        async def complete(self, prompt: Any, options: dict[str, Any]) -> Completion:
            if len(self.asked) == 2:
                raise kind("Stopped.")
            return await super().complete(prompt, options)

    with pytest.raises(kind):
        run(requests, out, Stopped(), concurrency=1)
    assert len(out.read_text().splitlines()) == 2
    assert run(requests, out).tally.lines == 5


def test_a_mistake_in_the_program_is_no_error_of_a_line(requests: Path, out: Path) -> None:
    class Broken(Parrot):
        async def complete(self, prompt: Any, options: dict[str, Any]) -> Completion:
            raise KeyError("a bug")

    with pytest.raises(KeyError):
        run(requests, out, Broken())
