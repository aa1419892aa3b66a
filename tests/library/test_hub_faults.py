"""What goes wrong between a hub and its cache here: busy hubs, bad tokens, full disks, damaged files, two at once."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import mlx.core as mx
import pytest
from helpers import checkpoints
from helpers.command_line import PATIENCE_S, Result, ended
from helpers.fake_hub import FOREVER, FakeHub
from helpers.machine import PROGRAM, Machine, listing, pulled, sent, well

from elm_mlx.errors import BadCheckpoint, DiskFull
from elm_mlx.files import SPARE_BYTES
from elm_mlx.library import download, hub_cache
from elm_mlx.library import hub as store
from elm_mlx.library.names import Repository

MODEL = "some/model"
FIRST, SECOND = (f"model-0000{number}-of-00002.safetensors" for number in (1, 2))
FETCH = """
from elm_mlx.library import download, hub
from elm_mlx.library.names import Repository
download.SILENCE_S = 0
def say(what):
    print(what, flush=True)
hub.fetch_listing(hub.look_up_listing(Repository("some/model")), say=say)
"""
COMPATIBLE = """
import json
from huggingface_hub import hf_hub_download, scan_cache_dir, snapshot_download, try_to_load_from_cache
name = "config.json"
found = [hf_hub_download("some/model", name, local_files_only=True), try_to_load_from_cache("some/model", name)]
found += [snapshot_download("some/model", local_files_only=True) + "/" + name]
cache = scan_cache_dir()
print(json.dumps([found, sorted(file.file_name for repo in cache.repos for revision in repo.revisions
                                for file in revision.files), list(map(str, cache.warnings))]))
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama in two shards that needs no conversion."""
    folder = tmp_path_factory.mktemp("model") / "m"
    return checkpoints.write(folder, checkpoints.CONFIGS["llama-3"], dtype=mx.bfloat16, shards=2)


@pytest.fixture
def hub(model: Path) -> Iterator[FakeHub]:
    with FakeHub() as hub:
        hub.add(MODEL, listing(model))
        yield hub


@pytest.fixture
def machine(tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine whose cache is this process's, too."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    return Machine(tmp_path / "home", hub, b"")


def pull(machine: Machine, **environment: str) -> Result:
    return machine.run("pull", MODEL, **environment)


def fetch(machine: Machine) -> None:
    """What a pull does of the network: the listing, and every file."""
    with machine.here():
        store.fetch_listing(store.look_up_listing(Repository(MODEL)))


def asked(hub: FakeHub, end: str) -> list[tuple[str, int]]:
    """The requests for what ends so, and their answers."""
    return [(request.method, request.status) for request in hub.requests if request.path.endswith(end)]


def blob(name: str) -> Path:
    """Where this process's cache keeps a file's bytes."""
    found = hub_cache.find_snapshot(Repository(MODEL))
    assert found
    folder = found.path
    assert folder
    return (folder / name).resolve()


# A hub that is busy


@pytest.mark.usefixtures("at_once")
def test_the_listing_and_what_is_asked_of_a_file_are_asked_for_again(machine: Machine, hub: FakeHub) -> None:
    hub.fail("revision/main", 503)
    hub.cut("revision/main", after=20)
    hub.names_only = True  # so that each file has to be asked for
    hub.fail("config.json", 429, method="HEAD")
    well(pull(machine))
    assert asked(hub, "revision/main") == [("GET", 503), ("GET", 200), ("GET", 200)]
    assert asked(hub, "config.json")[:2] == [("HEAD", 429), ("HEAD", 200)]


@pytest.mark.usefixtures("at_once")
def test_what_a_revision_is_is_asked_again(machine: Machine, hub: FakeHub, model: Path) -> None:
    hub.fail("revision/main", 500, times=2)
    with machine.here():
        commit = store.look_up_commit(Repository(MODEL))
    assert commit == hub.add(MODEL, listing(model))


@pytest.mark.usefixtures("at_once")
def test_a_hub_that_stays_busy_is_said_in_the_end(machine: Machine, hub: FakeHub) -> None:
    hub.fail("revision/main", 503, times=FOREVER)
    done = pull(machine)
    assert (done.code, done.out) == (75, "")
    assert "503" in done.err
    assert "Try again" in done.err
    assert "network" not in done.err
    assert 2 < len(hub.requests) < 10


@pytest.mark.usefixtures("at_once")
def test_a_hub_that_asks_for_an_hour_is_not_waited_for(machine: Machine, hub: FakeHub) -> None:
    hub.fail("revision/main", 429, times=FOREVER, retry_after=3600)
    done = pull(machine)
    assert done.code == 75
    assert "Try again in 3600 seconds" in done.err
    assert len(hub.requests) == 1


class Clock:
    """A time module whose sleeps take no time and are written down."""

    def __init__(self) -> None:
        self.now, self.sleeps = 0.0, list[float]()

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(download, "time", clock)
    return clock


class Answered(Exception):
    def __init__(self, status: int, **headers: str) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.response = SimpleNamespace(status_code=status, headers=named)


class ConnectError(Exception):
    """By the name that the clients' libraries have for it."""


def failing(*errors: Exception) -> Callable[[], str]:
    """A call that raises these one after the other, the last for ever."""
    left = list(errors)

    def call() -> str:
        raise left.pop(0) if len(left) > 1 else left[0]

    return call


def test_the_waits_double_and_end_within_the_patience(clock: Clock) -> None:
    with pytest.raises(Answered):
        download.retry(failing(Answered(503)))
    assert clock.sleeps == [1, 2, 4, 8]


def test_a_silent_hub_is_given_up_soon(clock: Clock) -> None:
    def silent() -> None:
        clock.now += store.TIMEOUT_S
        raise TimeoutError

    with pytest.raises(TimeoutError):
        download.retry(silent)
    assert clock.now < 40


def test_the_hubs_own_word_on_waiting_is_kept(clock: Clock) -> None:
    limited = Answered(429, RateLimit='"api";r=0;t=9')
    with pytest.raises(Answered):
        download.retry(failing(Answered(503, Retry_After="7"), limited, Answered(429, Retry_After="0")))
    assert clock.sleeps == [7, 9, 4, 8]


def test_new_bytes_renew_the_patience(clock: Clock) -> None:
    there = iter([0, *range(1, 100)])

    def slow() -> None:
        clock.now += 20
        raise ConnectionError if clock.now < 400 else Answered(404)

    with pytest.raises(Answered):
        download.retry(slow, lambda: next(there))
    assert set(clock.sleeps) == {0.5}


@pytest.mark.parametrize("error", [Answered(404), Answered(401), ValueError(), OSError(28, "full"), ConnectError()])
def test_what_another_try_cannot_change_is_not_tried(clock: Clock, error: Exception) -> None:
    with pytest.raises(type(error)):
        download.retry(failing(error))
    assert not clock.sleeps


def test_a_network_that_was_there_is_waited_for(clock: Clock) -> None:
    with pytest.raises(ConnectError):
        download.retry(failing(ConnectError()), lambda: 10)
    assert len(clock.sleeps) == 4


# A token


def test_a_token_that_is_not_valid_is_named(machine: Machine, hub: FakeHub) -> None:
    done = pull(machine, HF_TOKEN="stale")
    assert (done.code, done.out) == (77, "")
    assert "the token in HF_TOKEN" in done.err
    assert "network" not in done.err
    assert len(hub.requests) == 1
    machine.home.mkdir(exist_ok=True)
    (machine.home / "token").write_text("stale", encoding="utf-8")
    stored = pull(machine)
    assert stored.code == 77
    assert str(machine.home / "token") in stored.err
    well(pull(machine, HF_TOKEN="hf_good"))


def test_a_refusal_of_a_good_token_is_told_in_the_hubs_words(machine: Machine, hub: FakeHub) -> None:
    hub.fail("revision/main", 403)
    done = pull(machine, HF_TOKEN="hf_good")
    assert done.code == 77
    assert "The fake hub fails as told" in done.err


# Disks


def test_a_full_disk_keeps_what_came(machine: Machine, hub: FakeHub, model: Path) -> None:
    room, size = 200_000, (model / FIRST).stat().st_size
    limit = "import resource, sys\nsys.dont_write_bytecode = True  # which the limit would cut short, for good\n"
    limit += f"resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, resource.RLIM_INFINITY))\n"
    done = machine.process("pull", MODEL, program=limit + PROGRAM)
    assert (done.code, done.out) == (74, "")
    assert "disk is full" in done.err
    assert "HF_HOME" in done.err
    assert "--output" not in done.err
    hub.reset()
    well(pull(machine))
    assert sent(hub)[FIRST] == size - room


def test_room_is_asked_for_what_is_not_here_yet(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    there, half, absent = (store.Blob(letter * 64, size) for letter, size in (("a", 10**9), ("b", 10**9), ("c", 7)))
    found = store.Listing(Repository(MODEL), "0" * 40, {"1": there, "2": half, "3": absent})
    blobs = hub_cache.folder_of(MODEL) / "blobs"
    blobs.mkdir(parents=True)
    for path, size in ((blobs / there.etag, there.size), (download.partial_of(blobs / half.etag), 999_999_990)):
        with path.open("wb") as file:
            file.truncate(size)
    assert found.nbytes == 2 * 10**9 + 7
    assert found.missing_bytes == 10 + 7
    enough = SPARE_BYTES + 17
    for free in (enough, enough - 1):
        monkeypatch.setattr("shutil.disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        if free == enough:
            store.check_room_for(found)
    with pytest.raises(DiskFull, match=f"{MODEL} needs 17 bytes of disk, and 64 MB have .* 1 byte too little"):
        store.check_room_for(found)


def test_what_a_conversion_writes_needs_room_on_its_own_disk(
    tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = store.Listing(Repository(MODEL), "0" * 40, {"1": store.Blob("a" * 64, 50)})
    same, other = tmp_path / "not" / "there", Path("/dev")
    assert other.stat().st_dev != tmp_path.stat().st_dev
    free = {tmp_path: SPARE_BYTES + 99, other: SPARE_BYTES + 50}
    monkeypatch.setattr("shutil.disk_usage", lambda place: SimpleNamespace(free=free[place]))
    store.check_room_for(found, 49, same)
    store.check_room_for(found, 50, other)
    with pytest.raises(DiskFull, match=str(tmp_path)):
        store.check_room_for(found, 50, same)
    with pytest.raises(DiskFull, match="/dev"):
        store.check_room_for(found, 51, other)


# Damaged files


def test_damaged_blobs_are_found_and_these_alone_are_fetched_again(machine: Machine, hub: FakeHub, model: Path) -> None:
    well(pull(machine))
    assert hub_cache.remove_damaged(Repository(MODEL)) == []
    shard, small, gone = blob(FIRST), blob("tokenizer_config.json"), blob("tokenizer.json")
    shard.write_bytes(shard.read_bytes()[:-1] + b"!")  # as long as it was
    small.write_bytes(small.read_bytes()[:-1])
    gone.unlink()
    in_all = sum(blob(file.name).stat().st_size for file in model.iterdir() if file.name != "tokenizer.json")
    steps: list[tuple[int, int]] = []
    damaged = hub_cache.remove_damaged(Repository(MODEL), lambda done, total: steps.append((done, total)))
    assert damaged == [FIRST, "tokenizer.json", "tokenizer_config.json"]
    assert steps == sorted(steps)
    assert steps[-1] == (in_all, in_all)
    hub.reset()
    fetch(machine)
    assert set(sent(hub)) == set(damaged)
    assert all(blob(file.name).read_bytes() == file.read_bytes() for file in model.iterdir())


def test_with_a_listing_a_file_of_another_size_is_fetched_again(machine: Machine, hub: FakeHub, model: Path) -> None:
    well(pull(machine))
    blob(SECOND).write_bytes(b"cut short")
    hub.reset()
    fetch(machine)
    assert sent(hub) == {SECOND: (model / SECOND).stat().st_size}
    assert blob(SECOND).read_bytes() == (model / SECOND).read_bytes()


def test_nothing_to_verify_is_no_damage(machine: Machine) -> None:
    assert hub_cache.remove_damaged(Repository("nobody/nothing")) == []


def serving(content: bytes, step: int) -> download.Request:
    """A server that ends each answer after `step` bytes and says nothing of it."""

    @contextmanager
    def request(start: int) -> Iterator[tuple[int, Iterator[bytes]]]:
        yield start, (content[place : place + 1] for place in range(start, min(start + step, len(content))))

    return request


def test_an_answer_that_ends_early_is_gone_on_with(tmp_path: Path, clock: Clock) -> None:
    content = bytes(range(10))
    place, heard = tmp_path / hashlib.sha256(content).hexdigest(), list[int]()
    download.fetch_blob(serving(content, 4), place, len(content), heard.append)
    assert place.read_bytes() == content
    assert heard == list(range(1, 11))
    assert clock.sleeps == [0.5, 0.5]


def test_no_more_is_taken_than_was_announced(tmp_path: Path) -> None:
    place, heard = tmp_path / ("a" * 64), list[int]()
    with pytest.raises(BadCheckpoint, match="are not those"):
        download.fetch_blob(serving(bytes(1000), 1000), place, 7, heard.append)
    assert heard[-1] == 7
    assert not place.exists()


@pytest.mark.parametrize("etag", ["../../../.profile", "a/b", "..", "", None])
def test_an_etag_that_is_no_file_name_is_none(etag: str | None) -> None:
    assert store.listed_blob(SimpleNamespace(lfs=None, blob_id=etag, size=1)) is None


# The cache


def test_a_fetch_asks_for_the_listing_once_and_for_each_file_once(machine: Machine, hub: FakeHub, model: Path) -> None:
    fetch(machine)
    assert [request.path for request in hub.requests if request.method != "GET"] == []
    files = [request.path.rpartition("/")[2] for request in hub.requests if "/resolve/" in request.path]
    assert sorted(files) == sorted(file.name for file in model.iterdir())
    assert len(asked(hub, "revision/main")) == 1


def test_a_hub_that_lists_names_alone_is_asked_about_each_file(machine: Machine, hub: FakeHub, model: Path) -> None:
    hub.names_only = True
    fetch(machine)
    assert all(
        asked(hub, f"resolve/{hub.add(MODEL, listing(model))}/{f.name}")[0][0] == "HEAD" for f in model.iterdir()
    )
    assert hub_cache.remove_damaged(Repository(MODEL)) == []
    assert blob(FIRST).read_bytes() == (model / FIRST).read_bytes()


def test_huggingface_hub_finds_what_is_fetched(machine: Machine, hub: FakeHub, model: Path) -> None:
    fetch(machine)
    hub.reset()
    found, files, warnings = json.loads(well(machine.process(program=COMPATIBLE, HF_HUB_OFFLINE="1")).out)
    assert [Path(path).read_bytes() for path in found] == [(model / "config.json").read_bytes()] * 3
    assert files == sorted(file.name for file in model.iterdir())
    assert not warnings
    found = hub_cache.find_snapshot(Repository(MODEL))
    assert found
    folder = found.path
    assert folder
    assert all(file.readlink().parent == Path("../../blobs") for file in folder.iterdir())


def test_a_disk_without_links_holds_the_files_themselves(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "symlink", refuse)
    folder = pulled(pull(machine))
    assert not [file for file in folder.iterdir() if file.is_symlink()]
    assert not [*(folder / "../../blobs").iterdir()]
    assert pulled(pull(machine, NO_SOCKETS="1")) == folder
    assert hub_cache.remove_damaged(Repository(MODEL)) == []


# Two at once, and none to the end


def test_two_pulls_at_once_send_the_weights_once(machine: Machine, hub: FakeHub, model: Path) -> None:
    held = hub.hold(FIRST, after=1000)
    first = machine.start(program=FETCH)
    assert held.wait(PATIENCE_S)
    second = machine.start(program=FETCH)
    assert second.stdout
    assert second.stdout.readline() == b"Another elm-mlx is fetching the same file; waiting for it.\n"
    hub.mend()
    for process in (first, second):
        well(ended(process))
    assert {name: sent(hub)[name] for name in (FIRST, SECOND)} == {
        name: (model / name).stat().st_size for name in (FIRST, SECOND)
    }
    assert not [*machine.home.rglob("*.partial")]


def test_an_interrupted_pull_leaves_nothing_that_looks_whole(machine: Machine, hub: FakeHub, model: Path) -> None:
    held = hub.hold(FIRST, after=1000)
    process = machine.start("pull", MODEL)
    assert held.wait(PATIENCE_S)
    process.send_signal(signal.SIGINT)
    assert ended(process)[:2] == (130, "")
    hub.mend()
    assert pull(machine, HF_HUB_OFFLINE="1").code == 75
    well(pull(machine))
    assert blob(FIRST).read_bytes() == (model / FIRST).read_bytes()
