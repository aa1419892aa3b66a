"""A converted model is shared with its card and licence, whole or not at all, and what may not be shared is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from helpers.fake_hub import FakeHub
from helpers.hub_uploads import content_of
from helpers.machine import APPLE, GATED, Machine, listing, well

from elm_mlx.convert import convert

CARD = b"---\nlicense: other\nlicense_name: apple-amlr\nlicense_link: LICENSE\n---\nOpenELM\n"
MINE = {"HF_TOKEN": "hf_me", "HF_HUB_DISABLE_XET": "1"}


@pytest.fixture
def pusher(machine: Machine, hub: FakeHub, apple: Path) -> Machine:
    """A machine with a converted OpenELM in `m`, whose original has a card with a licence."""
    hub.add(APPLE, listing(apple) | {"README.md": CARD})
    well(machine.run("convert", APPLE, "--output", machine.home / "m"))
    machine.environment |= MINE
    return machine


@pytest.fixture
def local(machine: Machine, openelm: Path) -> Path:
    """A model that was converted from a directory."""
    machine.environment |= MINE
    return convert(openelm, machine.home / "local").output


def test_a_model_is_pushed_with_its_card_and_runs_by_its_name(pusher: Machine, hub: FakeHub) -> None:
    done = well(pusher.run("push", pusher.home / "m", "me/small"))
    assert done.out == f"{hub.url}/me/small\n"
    assert "The card has no figures of quality" in done.err
    assert " files, " in done.err
    card = content_of(hub, "me/small", "README.md").decode()
    assert "license: other\nlicense_name: apple-amlr\nlicense_link: LICENSE\n---" in card
    assert "base_model: apple/OpenELM-450M" in card
    for name in ("model.safetensors", "config.json", "tokenizer.json", "conversion.json"):
        assert content_of(hub, "me/small", name) == (pusher.home / "m" / name).read_bytes()
    there, here = pusher.generate("me/small"), pusher.generate(str(pusher.home / "m"))
    assert (there.code, there.out) == (0, here.out)


def test_only_the_model_s_files_are_sent_and_the_rest_is_named(pusher: Machine, hub: FakeHub) -> None:
    (pusher.home / "m" / "notes.txt").write_text("secret", encoding="utf-8")
    done = well(pusher.run("push", pusher.home / "m", "me/small"))
    assert "Left out, as they are no part of the model: notes.txt." in done.err
    assert "notes.txt" not in hub._repos["me/small"].commit("main")[1]


def test_a_push_that_was_stopped_sends_the_rest(pusher: Machine, hub: FakeHub) -> None:
    hub.fail("me/small/commit/main", status=500, method="POST", times=100)
    assert pusher.run("push", pusher.home / "m", "me/small").code == 75
    assert "model.safetensors" not in hub._repos["me/small"].commit("main")[1]
    hub.mend()
    hub.reset()
    well(pusher.run("push", pusher.home / "m", "me/small"))
    assert not [request for request in hub.requests if request.method == "PUT"]
    assert "model.safetensors" in hub._repos["me/small"].commit("main")[1]


def test_what_the_sender_of_large_files_raises_is_told(pusher: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("hf_xet: the connection was cut")

    monkeypatch.setattr("huggingface_hub.HfApi.preupload_lfs_files", fail)
    failed = pusher.run("push", pusher.home / "m", "me/small")
    assert (failed.code, "the connection was cut. Try again, or with HF_HUB_DISABLE_XET=1" in failed.err) == (75, True)
    monkeypatch.undo()
    well(pusher.run("push", pusher.home / "m", "me/small"))


def test_a_dry_run_sends_nothing(pusher: Machine, hub: FakeHub) -> None:
    told = json.loads(well(pusher.run("push", pusher.home / "m", "me/small", "--dry-run", "--json")).out)
    assert {"README.md", "model.safetensors", "conversion.json"} <= set(told["files"])
    assert "me/small" not in hub._repos


def test_private_is_asked_for(pusher: Machine, hub: FakeHub) -> None:
    well(pusher.run("push", pusher.home / "m", "me/small", "--private"))
    assert hub.__dict__["visible"] == {"me/small": "private"}


def test_a_gated_original_needs_a_word(machine: Machine, hub: FakeHub, ready: Path) -> None:
    files = listing(ready) | {"README.md": b"---\nlicense: llama3.2\n---\n# Llama\n"}
    hub.add(GATED, files, gated="hf_me")
    machine.environment |= MINE
    well(machine.run("convert", GATED, "--bits", 8, "--group-size", 32, "--output", machine.home / "m"))
    refused = machine.run("push", machine.home / "m", "me/llama")
    assert (refused.code, "keep that licence" in refused.err, "give --yes" in refused.err) == (77, True, True)
    well(machine.run("push", machine.home / "m", "me/llama", "--yes"))
    assert b"license: llama3.2" in content_of(hub, "me/llama", "README.md")


def test_who_may_not_write_is_told_what_to_do(pusher: Machine) -> None:
    refused = pusher.run("push", pusher.home / "m", "you/small")
    assert (refused.code, "Take an owner that is you" in refused.err, "HF_TOKEN" in refused.err) == (77, True, True)
    nobody = pusher.run("push", pusher.home / "m", "me/small", HF_TOKEN="")
    assert (nobody.code, "there is no token" in nobody.err) == (77, True)
    offline = pusher.run("push", pusher.home / "m", "me/small", HF_HUB_OFFLINE="1")
    assert (offline.code, "HF_HUB_OFFLINE forbids the network" in offline.err) == (75, True)


def test_a_licence_that_nobody_names_has_to_be_given(machine: Machine, hub: FakeHub, local: Path) -> None:
    refused = machine.run("push", local, "me/mine")
    assert (refused.code, "Give --license" in refused.err) == (2, True)
    well(machine.run("push", local, "me/mine", "--license", "mit"))
    assert b"license: mit\n" in content_of(hub, "me/mine", "README.md")


def test_a_model_keeps_the_licence_of_its_original(pusher: Machine, hub: FakeHub) -> None:
    refused = pusher.run("push", pusher.home / "m", "me/small", "--license", "mit")
    assert (refused.code, "has the licence other" in refused.err) == (2, True), refused.err
    card = pusher.home / "m" / "README.md"
    card.write_text(card.read_text(encoding="utf-8").replace("---\n", "---\nlicense: mit\n", 1), encoding="utf-8")
    refused = pusher.run("push", pusher.home / "m", "me/small")
    assert (refused.code, "names the licence mit, and it is other" in refused.err) == (2, True), refused.err
    assert not [request for request in hub.requests if request.method == "POST"]


def test_other_weights_are_not_mixed_with_these(machine: Machine, hub: FakeHub, local: Path) -> None:
    hub.add("me/mine", {"pytorch_model.bin": b"else"})
    refused = machine.run("push", local, "me/mine", "--license", "mit")
    assert (refused.code, "holds other weights (pytorch_model.bin)" in refused.err) == (2, True)


@pytest.mark.parametrize(
    "harm, code, why",
    [
        ("record", 2, "has no conversion.json"),
        ("weights", 65, "lacks files of its model"),
        ("card", 65, "is not a model card"),
        ("guest", 2, "a family that mlx-lm computes"),
        ("nonfinite", 2, "NaN or infinite"),
        ("begun", 2, "is not finished"),
        ("gone", 66, "There is no directory"),
        ("link", 2, "leads out of this directory"),
        ("card link", 2, "leads out of this directory"),
        ("folder", 2, "leads out of this directory"),
    ],
)
def test_what_may_not_be_shared_is_refused_by_its_reason(
    machine: Machine, hub: FakeHub, local: Path, harm: str, code: int, why: str
) -> None:
    record = json.loads((local / "conversion.json").read_text(encoding="utf-8"))
    config = json.loads((local / "config.json").read_text(encoding="utf-8"))
    match harm:
        case "record":
            (local / "conversion.json").unlink()
        case "weights":
            (local / "model.safetensors").unlink()
        case "card":
            (local / "README.md").write_text("---\n[" * 99, encoding="utf-8")
        case "guest":
            (local / "config.json").write_text(json.dumps(config | {"model_type": "qwen3"}), encoding="utf-8")
        case "nonfinite":
            record["options"]["allow_nonfinite"] = True
            (local / "conversion.json").write_text(json.dumps(record), encoding="utf-8")
        case "begun":
            local.with_name(".local.journal").write_text("", encoding="utf-8")
        case "gone":
            shutil.rmtree(local)
        case "link" | "card link":
            (machine.home / "secret").write_bytes(CARD)
            name = "LICENSE" if harm == "link" else "README.md"
            (local / name).unlink(missing_ok=True)
            (local / name).symlink_to(machine.home / "secret")
        case "folder":
            (local / "NOTICE").mkdir()
    refused = machine.run("push", local, "me/mine", "--license", "mit")
    assert (refused.code, why in refused.err) == (code, True), refused.err
    assert not [request for request in hub.requests if request.method != "GET"]


def test_a_name_that_is_none_is_refused(machine: Machine, local: Path) -> None:
    for name in ("small", "./me/small", "me/small@main", "a/b/c"):
        assert machine.run("push", local, name).code == 2
