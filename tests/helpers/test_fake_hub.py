"""The fake hub is a hub to the real huggingface_hub, which runs in this process, and in one of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from helpers.fake_hub import FakeHub, living_in
from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download

MODEL = "apple/OpenELM-450M"
FILES = {"config.json": b'{"a": 1}', "model.safetensors": bytes(range(256)) * 40, "notes/a.txt": b"not asked for"}
WANTED = {name: content for name, content in FILES.items() if name != "notes/a.txt"}


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FakeHub]:
    """A hub with one model, which is this process's while a test runs."""
    with FakeHub() as hub, living_in(hub.environment(tmp_path / "home")):
        hub.add(MODEL, FILES)
        yield hub


def snapshot() -> dict[str, bytes]:
    """The files that huggingface_hub brings of what is wanted."""
    folder = Path(snapshot_download(MODEL, allow_patterns=["*.json", "*.safetensors"]))
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def raised(call: Callable[..., Any], *arguments: object, **options: object) -> str:
    """The name of what a call raises, if it does."""
    try:
        call(*arguments, **options)
    except Exception as error:
        return type(error).__name__
    return "nothing"


def got(url: str, **headers: str) -> tuple[int, bytes]:
    """What a client with no retries of its own sees; it follows redirects."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def resolve(hub: FakeHub, name: str) -> str:
    return f"{hub.url}/{MODEL}/resolve/main/{name}"


def test_info_by_branch_and_by_sha(hub: FakeHub, tmp_path: Path) -> None:
    old = hub.add(MODEL, FILES)
    (tmp_path / "weights").write_bytes(bytes(1000))
    new = hub.add(MODEL, {"config.json": b"{}", "model.safetensors": tmp_path / "weights"})
    newer = (new, {"config.json": (2, False), "model.safetensors": (1000, True)})
    older = (old, {name: (len(content), name == "model.safetensors") for name, content in FILES.items()})
    for revision, expected in ((None, newer), ("main", newer), (old, older)):
        info = HfApi().model_info(MODEL, revision=revision, files_metadata=True)
        files = {file.rfilename: (file.size, bool(file.lfs)) for file in info.siblings or []}
        assert (info.sha, files) == expected
    assert hub.add(MODEL, FILES) == old != new


def test_a_snapshot_asks_for_what_it_wants_and_then_only_for_news(hub: FakeHub, tmp_path: Path) -> None:
    assert snapshot() == WANTED
    assert not [request for request in hub.requests if request.path.endswith("a.txt")]
    sent = [request.sent for request in hub.requests if request.path.startswith("/cdn/")]
    assert sent == [len(FILES["model.safetensors"])]

    hub.reset()
    assert snapshot() == WANTED
    assert [request.path for request in hub.requests] == [f"/api/models/{MODEL}/revision/main"]

    hub.reset()
    with living_in(hub.environment(tmp_path / "home") | {"HF_HUB_OFFLINE": "1"}):
        assert snapshot() == WANTED
    assert hub.requests == []


def test_a_process_of_its_own_knows_this_hub_by_its_environment(hub: FakeHub, tmp_path: Path) -> None:
    script = f"""
import json, pathlib
from huggingface_hub import snapshot_download
folder = pathlib.Path(snapshot_download("{MODEL}", allow_patterns=["*.json", "*.safetensors"]))
print(json.dumps([str(folder), [file.name for file in folder.iterdir()]]))
"""
    environment = hub.environment(tmp_path / "its own")
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    folder, names = json.loads(done.stdout)
    assert Path(folder).is_relative_to(tmp_path / "its own")
    assert set(names) == set(WANTED)
    assert any(request.path.startswith("/cdn/") for request in hub.requests)


def test_this_process_lives_in_another_environment_for_a_while(tmp_path: Path) -> None:
    before = constants.ENDPOINT, constants.HF_HUB_CACHE, constants.HF_TOKEN_PATH
    with FakeHub() as hub:
        with living_in(hub.environment(tmp_path)):
            assert hub.url == constants.ENDPOINT
            assert {Path(constants.HF_HUB_CACHE).parent, Path(constants.HF_TOKEN_PATH).parent} == {tmp_path}
        assert before == (constants.ENDPOINT, constants.HF_HUB_CACHE, constants.HF_TOKEN_PATH)


def test_the_tree_comes_in_pages(hub: FakeHub) -> None:
    def paths(folder: str | None, recursive: bool) -> list[str]:
        return [entry.path for entry in HfApi().list_repo_tree(MODEL, folder, recursive=recursive)]

    hub.page = 1
    assert paths(None, True) == ["config.json", "model.safetensors", "notes", "notes/a.txt"]
    assert paths(None, False) == ["config.json", "model.safetensors", "notes"]
    assert paths("notes", False) == ["notes/a.txt"]
    assert len(hub.requests) == 4 + 3 + 1


def test_a_cut_download_goes_on_where_it_was(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """huggingface_hub writes ten mebibytes at a time: what was cut before the first ten is asked for again."""
    monkeypatch.setattr(time, "sleep", lambda _: None)
    size, kept = 12 << 20, 10 << 20
    content = b"0123456789ab" * (1 << 20)
    hub.add("big/model", {"model.safetensors": content})
    hub.cut("model.safetensors", after=11 << 20)
    assert Path(hf_hub_download("big/model", "model.safetensors")).read_bytes() == content
    bodies = [(request.status, request.sent) for request in hub.requests if request.method == "GET"]
    assert bodies == [(200, 11 << 20), (206, size - kept)]


def test_a_gate_closes_the_files(hub: FakeHub) -> None:
    hub.add("meta/gated", FILES, gated="hf_good")
    assert HfApi().model_info("meta/gated").gated == "manual"
    assert HfApi().whoami(token="hf_good")["name"] == "good"
    closed, refused, opened = "GatedRepoError", "HfHubHTTPError", "nothing"
    for token, answer in ((False, closed), ("hf_other", closed), ("nonsense", refused), ("hf_good", opened)):
        assert raised(hf_hub_download, "meta/gated", "model.safetensors", token=token) == answer
        assert raised(snapshot_download, "meta/gated", token=token) == answer
    assert raised(HfApi().auth_check, "meta/gated", token="hf_other") == "GatedRepoError"
    statuses = {request.status for request in hub.requests if "/resolve/" in request.path}
    assert statuses == {401, 403, 302, 200}


def test_what_is_not_there(hub: FakeHub) -> None:
    assert raised(HfApi().model_info, "nobody/nothing") == "RepositoryNotFoundError"
    assert raised(HfApi().model_info, "nobody/nothing", token="hf_good") == "RepositoryNotFoundError"
    assert raised(snapshot_download, "nobody/nothing") == "RepositoryNotFoundError"
    assert raised(snapshot_download, MODEL, revision="nowhere") == "RevisionNotFoundError"
    assert raised(hf_hub_download, MODEL, "nothing.bin") == "RemoteEntryNotFoundError"
    assert HfApi().file_exists(MODEL, "config.json")


def test_a_busy_hub_is_asked_again(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """huggingface_hub waits a second longer than `Retry-After` before it asks for the tree once more."""
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    hub.fail(f"tree/{hub.add(MODEL, FILES)}", 503, retry_after=0)
    hub.fail("config.json", 500, method="HEAD")
    assert snapshot() == WANTED
    assert [request.status for request in hub.requests if "/tree/" in request.path] == [503, 200]
    heads = [r.status for r in hub.requests if r.method == "HEAD" and r.path.endswith("config.json")]
    assert heads == [500, 200]
    assert 1 in waits


def test_faults_end(hub: FakeHub) -> None:
    url, content = resolve(hub, "model.safetensors"), FILES["model.safetensors"]
    hub.fail("model.safetensors", 429, times=2)
    assert [got(url)[0] for _ in range(3)] == [429, 429, 200]
    hub.corrupt("model.safetensors", times=1)
    wrong = got(url)[1]
    assert len(wrong) == len(content)
    assert not [a for a, b in zip(wrong, content, strict=True) if a == b]
    hub.fail("model.safetensors", times=100)
    hub.mend()
    assert got(url) == (200, content)


def test_slow_is_slow(hub: FakeHub) -> None:
    content = FILES["config.json"]
    hub.slow("config.json", bytes_per_s=len(content) / 0.1)
    begun = time.monotonic()
    assert got(resolve(hub, "config.json")) == (200, content)
    assert time.monotonic() - begun >= 0.1


def test_a_body_is_held_until_mended(hub: FakeHub) -> None:
    content = FILES["model.safetensors"]
    held = hub.hold("model.safetensors", after=100)
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(got, resolve(hub, "model.safetensors"))
        assert held.wait(10)
        assert [request.sent for request in hub.requests if request.path.startswith("/cdn/")] == [100]
        assert not answer.done()
        hub.mend()
        assert answer.result(10) == (200, content)


def test_a_bad_token_is_refused_even_for_what_is_public(hub: FakeHub) -> None:
    for token, answer in (("stale", "HfHubHTTPError"), ("hf_any", "nothing")):
        assert raised(HfApi().model_info, MODEL, token=token) == answer
        assert raised(hf_hub_download, MODEL, "config.json", token=token) == answer


def test_names_alone(hub: FakeHub) -> None:
    hub.names_only = True
    files = HfApi().model_info(MODEL, files_metadata=True).siblings or []
    told = {file.rfilename: [file.size, file.blob_id, file.lfs] for file in files}
    assert told == dict.fromkeys(FILES, [None] * 3)


def test_ranges(hub: FakeHub) -> None:
    content, size = FILES["config.json"], len(FILES["config.json"])
    url = resolve(hub, "config.json")
    for span, part in (("2-", content[2:]), ("1-3", content[1:4]), ("-3", content[-3:]), ("0-99", content)):
        assert got(url, Range=f"bytes={span}") == (206, part)
    assert got(url, Range=f"bytes={size}-")[0] == 416


def test_the_cdn_wants_no_token(hub: FakeHub) -> None:
    with urllib.request.urlopen(resolve(hub, "model.safetensors")) as response:
        away = response.url
    assert away.startswith(f"{hub.cdn}/cdn/{MODEL}/")
    assert got(away, Authorization="Bearer hf_good")[0] == 400


def test_offline_and_back(hub: FakeHub) -> None:
    url = resolve(hub, "config.json")
    hub.offline()
    with pytest.raises(urllib.error.URLError, match="refused"):
        got(url)
    hub.online()
    assert got(url) == (200, FILES["config.json"])


def test_the_environment_knows_no_other_hub(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HUGGING_FACE_HUB_TOKEN", "https_proxy", "TRANSFORMERS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    environment = hub.environment(tmp_path)
    assert {name for name in environment if name.startswith("H") and "F_" in name} == {
        "HF_ENDPOINT",
        "HF_HOME",
        "HF_HUB_DISABLE_TELEMETRY",
    }
    assert not {"https_proxy", "TRANSFORMERS_OFFLINE"} & set(environment)
    assert "PATH" in environment
