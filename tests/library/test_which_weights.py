"""What is fetched of a repository, and when all of it is here, follows from what its files say of the weights."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import pytest
from helpers import checkpoints
from helpers.fake_hub import Content, FakeHub
from helpers.machine import Machine, listing, pulled, sent, well
from huggingface_hub import snapshot_download

from elm_mlx.store.weight_files import MAX_INDEX_BYTES

INDEX = "model.safetensors.index.json"


@pytest.fixture
def shards(tmp_path: Path) -> dict[str, Content]:
    """A tiny Llama in two shards and an index."""
    return dict(listing(checkpoints.write(tmp_path / "s", checkpoints.CONFIGS["llama-3"], shards=2)))


@pytest.fixture
def whole(tmp_path: Path) -> dict[str, Content]:
    """The same model in one file."""
    return dict(listing(checkpoints.write(tmp_path / "w", checkpoints.CONFIGS["llama-3"])))


def index(**places: str) -> bytes:
    return json.dumps({"metadata": {}, "weight_map": places}).encode()


def renamed(shards: dict[str, Content], new: str) -> dict[str, Content]:
    """The shards under names made of `new`, as their index says."""
    path = shards[INDEX]
    assert isinstance(path, Path)
    places = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
    names = {old: new.format(number) for number, old in enumerate(sorted(set(places.values())))}
    moved = {names.get(name, name): content for name, content in shards.items()}
    return moved | {INDEX: index(**{name: names[file] for name, file in places.items()})}


def test_a_whole_file_beside_a_stale_index_is_all_that_is_fetched(
    machine: Machine, hub: FakeHub, whole: dict[str, Content]
) -> None:
    hub.add("some/model", whole | {INDEX: index(a="model-00001-of-00009.safetensors"), "pytorch_model.bin": b"no"})
    first = well(machine.generate("some/model"))
    assert {name for name in sent(hub) if "model" in name} == {"model.safetensors"}
    hub.offline()
    assert well(machine.generate("some/model", HF_HUB_OFFLINE="1")).out == first.out


def test_a_snapshot_that_others_fetched_whole_is_all_here_beside_a_stale_index(
    machine: Machine, hub: FakeHub, whole: dict[str, Content]
) -> None:
    sha = hub.add("some/model", whole | {INDEX: index(a="model-00001-of-00009.safetensors")})
    well(machine.generate("some/model"))
    (snapshot,) = machine.home.rglob(f"snapshots/{sha}")
    (snapshot / INDEX).write_bytes(index(a="model-00001-of-00009.safetensors"))
    hub.offline()
    for path in machine.home.rglob("published-*"):
        assert path.is_dir()
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    well(machine.generate("some/model", HF_HUB_OFFLINE="1"))


@pytest.mark.parametrize("name", ["layers-{}.safetensors", "weights/part-{}.safetensors"])
def test_shards_of_any_name_are_fetched_by_what_the_index_says(
    machine: Machine, hub: FakeHub, shards: dict[str, Content], name: str
) -> None:
    extra: dict[str, Content] = {"other.safetensors": b"no", "original/consolidated.00.pth": b"no"}
    hub.add("some/model", renamed(shards, name) | extra)
    first = well(machine.generate("some/model"))
    assert sum(sent(hub)[name.format(number).rpartition("/")[2]] for number in (0, 1)) > 100_000
    assert not sent(hub).keys() & {"other.safetensors", "consolidated.00.pth"}
    path = pulled(machine.run("pull", "some/model"))
    assert (path / name.format(1)).is_file()
    hub.offline()
    assert well(machine.generate("some/model", HF_HUB_OFFLINE="1")).out == first.out
    (path / name.format(1)).resolve().unlink()
    hub.online()
    hub.reset()
    assert well(machine.generate("some/model")).out == first.out
    assert set(sent(hub)) == {name.format(1).rpartition("/")[2]}


@pytest.mark.parametrize("new", [None, "layers-{}.safetensors"])
def test_shards_without_an_index_are_fetched_together(
    machine: Machine, hub: FakeHub, shards: dict[str, Content], new: str | None
) -> None:
    files = renamed(shards, new) if new else shards
    hub.add("some/model", {name: file for name, file in files.items() if name != INDEX} | {"optimizer.pt": b"no"})
    well(machine.generate("some/model"))
    assert "optimizer.pt" not in sent(hub)
    assert len([name for name in sent(hub) if name.endswith(".safetensors")]) == 2


def test_a_lost_shard_that_nothing_names_is_mended_as_the_error_says(
    machine: Machine, hub: FakeHub, shards: dict[str, Content]
) -> None:
    hub.add(
        "some/model", {name: file for name, file in renamed(shards, "layers-{}.safetensors").items() if name != INDEX}
    )
    first = well(machine.generate("some/model"))
    for file in [*machine.home.rglob("layers-1.safetensors")]:
        file.resolve().unlink(missing_ok=True)
        file.unlink()
    done = machine.generate("some/model")
    assert (done.code, "missing model" in done.err, "pull some/model --verify" in done.err) == (65, True, True), (
        done.err
    )
    hub.reset()
    well(machine.run("pull", "some/model", "--verify"))
    assert set(sent(hub)) == {"layers-1.safetensors"}
    assert machine.generate("some/model").out == first.out


def test_a_series_that_is_not_whole_on_the_hub_is_refused_before_it_is_fetched(
    machine: Machine, hub: FakeHub, shards: dict[str, Content]
) -> None:
    hub.add("some/model", {name: file for name, file in shards.items() if name != INDEX and "00001-of" not in name})
    done = machine.generate("some/model")
    assert (done.code, "lacks files of its own weights: model-00001-of-00002.safetensors" in done.err) == (66, True)
    assert "--verify" not in done.err
    assert not sent(hub)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (index(a="../../evil.safetensors"), "names no file in its directory"),
        (b"{", "not valid JSON"),
        (b" " * (MAX_INDEX_BYTES + 1), "too large to be an index"),
    ],
    ids=["outside", "damaged", "huge"],
)
def test_an_index_on_the_hub_without_a_meaning_is_refused(
    machine: Machine, hub: FakeHub, shards: dict[str, Content], content: bytes, complaint: str
) -> None:
    hub.add("some/model", shards | {INDEX: content})
    done = machine.generate("some/model")
    assert (done.code, complaint in done.err) == (65, True), done.err
    assert not [name for name in sent(hub) if name.endswith(".safetensors")]
    assert len(content) < 100 or not sent(hub)


def test_a_damaged_index_is_mended_as_the_error_says(
    machine: Machine, hub: FakeHub, shards: dict[str, Content]
) -> None:
    hub.add("some/model", shards)
    path = pulled(machine.run("pull", "some/model"))
    blob = (path / INDEX).resolve()
    blob.write_bytes(b"[" * blob.stat().st_size)
    done = machine.generate("some/model")
    assert (done.code, "`elm-mlx pull some/model --verify` tells what is damaged" in done.err) == (65, True), done.err
    well(machine.run("pull", "some/model", "--verify"))
    well(machine.generate("some/model"))


def test_a_repository_of_gguf_alone_says_what_to_give(
    machine: Machine, hub: FakeHub, whole: dict[str, Content]
) -> None:
    hub.add("some/model-GGUF", {"config.json": whole["config.json"], "model-Q4.gguf": b"GGUF"})
    done = machine.generate("some/model-GGUF")
    assert done.code == 78
    assert "model-Q4.gguf is a GGUF file, which runs once it is converted, here: elm-mlx convert" in done.err


def test_weights_that_lie_beside_the_hub_s_in_its_cache_are_said(
    machine: Machine, hub: FakeHub, shards: dict[str, Content]
) -> None:
    sha = hub.add("some/model", shards)
    (place,) = [machine.home / "hub" / "models--some--model" / "snapshots" / sha]
    place.mkdir(parents=True)
    (place / "model.safetensors").symlink_to("nowhere")
    done = machine.generate("some/model")
    assert (done.code, "models--some--model has weights beside those that the hub lists. Remove" in done.err) == (
        66,
        True,
    )
    (place / "model.safetensors").unlink()
    well(machine.generate("some/model"))


@pytest.mark.parametrize("others_fetched_it", [False, True])
def test_weights_under_other_names_are_converted_by_their_model_s_name(
    machine: Machine, hub: FakeHub, whole: dict[str, Content], others_fetched_it: bool
) -> None:
    hub.add("some/model", whole)
    expected = well(machine.generate("some/model")).out
    path = whole["model.safetensors"]
    assert isinstance(path, Path)
    arrays = mx.load(str(path))
    assert isinstance(arrays, dict)
    wrapped = path.with_name("wrapped.safetensors")
    mx.save_safetensors(str(wrapped), {f"_orig_mod.{name}": array for name, array in arrays.items()})
    hub.add("some/wrapped", whole | {"model.safetensors": wrapped})
    if others_fetched_it:
        with machine.here():
            snapshot_download("some/wrapped")
    done = well(machine.generate("some/wrapped"))
    assert done.out == expected
    assert "Converting some/wrapped to bf16" in done.err
    hub.offline()
    assert well(machine.generate("some/wrapped", HF_HUB_OFFLINE="1")).out == expected
