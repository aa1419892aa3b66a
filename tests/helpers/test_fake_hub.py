"""The fake hub is a hub to the real huggingface_hub, which runs in processes of its own and prints JSON."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from helpers.fake_hub import FakeHub

MODEL = "apple/OpenELM-450M"
FILES = {"config.json": b'{"a": 1}', "model.safetensors": bytes(range(256)) * 40, "notes/a.txt": b"not asked for"}
PRELUDE = """
import json, os, pathlib
from huggingface_hub import HfApi, hf_hub_download, snapshot_download

def show(what):
    print(json.dumps(what))

def caught(call, *arguments, **options):
    try:
        return call(*arguments, **options) and "nothing"
    except Exception as e:
        return type(e).__name__
"""
SNAPSHOT = """
folder = pathlib.Path(snapshot_download("apple/OpenELM-450M", allow_patterns=["*.json", "*.safetensors"]))
show({str(f.relative_to(folder)): f.read_bytes().hex() for f in folder.rglob("*") if f.is_file()})
"""


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as hub:
        hub.add(MODEL, FILES)
        yield hub


def told(hub: FakeHub, home: Path, script: str, **variables: str) -> Any:
    """What a script prints with the fake as its hub and `home` as its cache."""
    command = [sys.executable, "-c", PRELUDE + script]
    environment = hub.environment(home) | variables
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


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
    script = f"""
infos = [HfApi().model_info("{MODEL}", revision=r, files_metadata=True) for r in (None, "main", "{old}")]
show([[i.sha, {{s.rfilename: [s.size, bool(s.lfs)] for s in i.siblings}}] for i in infos])
"""
    newer = [new, {"config.json": [2, False], "model.safetensors": [1000, True]}]
    older = [old, {name: [len(content), name == "model.safetensors"] for name, content in FILES.items()}]
    assert told(hub, tmp_path, script) == [newer, newer, older]
    assert hub.add(MODEL, FILES) == old != new


def test_a_snapshot_asks_for_what_it_wants_and_then_only_for_news(hub: FakeHub, tmp_path: Path) -> None:
    wanted = {name: content.hex() for name, content in FILES.items() if name != "notes/a.txt"}
    assert told(hub, tmp_path, SNAPSHOT) == wanted
    assert not [request for request in hub.requests if request.path.endswith("a.txt")]
    sent = [request.sent for request in hub.requests if request.path.startswith("/cdn/")]
    assert sent == [len(FILES["model.safetensors"])]

    hub.reset()
    assert told(hub, tmp_path, SNAPSHOT) == wanted
    assert [request.path for request in hub.requests] == [f"/api/models/{MODEL}/revision/main"]

    hub.reset()
    assert told(hub, tmp_path, SNAPSHOT, HF_HUB_OFFLINE="1") == wanted
    assert hub.requests == []


def test_the_tree_comes_in_pages(tmp_path: Path) -> None:
    script = f"""
api = HfApi()
show([[f.path for f in api.list_repo_tree("{MODEL}", path, recursive=r)]
      for path, r in ((None, True), (None, False), ("notes", False))])
"""
    with FakeHub(page=1) as hub:
        hub.add(MODEL, FILES)
        whole, top, inside = told(hub, tmp_path, script)
        assert len(hub.requests) == 4 + 3 + 1
    assert whole == ["config.json", "model.safetensors", "notes", "notes/a.txt"]
    assert top == ["config.json", "model.safetensors", "notes"]
    assert inside == ["notes/a.txt"]


def test_a_cut_download_goes_on_where_it_was(hub: FakeHub, tmp_path: Path) -> None:
    """huggingface_hub writes ten mebibytes at a time: what was cut before the first ten is asked for again."""
    size, kept = 12 << 20, 10 << 20
    hub.add("big/model", {"model.safetensors": b"0123456789ab" * (1 << 20)})
    hub.cut("model.safetensors", after=11 << 20)
    script = """
path = pathlib.Path(hf_hub_download("big/model", "model.safetensors"))
show(path.read_bytes() == b"0123456789ab" * (1 << 20))
"""
    assert told(hub, tmp_path, script) is True
    bodies = [(request.status, request.sent) for request in hub.requests if request.method == "GET"]
    assert bodies == [(200, 11 << 20), (206, size - kept)]


def test_a_gate_closes_the_files(hub: FakeHub, tmp_path: Path) -> None:
    hub.add("meta/gated", FILES, gated="hf_good")
    script = """
api = HfApi()
show([api.model_info("meta/gated").gated, api.whoami(token="hf_good")["name"]] + [
    caught(call, "meta/gated", *name, token=token)
    for token in (False, "hf_other", "nonsense", "hf_good")
    for call, *name in ((hf_hub_download, "model.safetensors"), (snapshot_download,))
] + [caught(api.auth_check, "meta/gated", token="hf_other")])
"""
    closed, opened, refused = ["GatedRepoError"] * 2, ["nothing"] * 2, ["HfHubHTTPError"] * 2
    answers = ["manual", "good", *closed, *closed, *refused, *opened, "GatedRepoError"]
    assert told(hub, tmp_path, script) == answers
    statuses = {request.status for request in hub.requests if "/resolve/" in request.path}
    assert statuses == {401, 403, 302, 200}


def test_what_is_not_there(hub: FakeHub, tmp_path: Path) -> None:
    script = f"""
show([
    caught(HfApi().model_info, "nobody/nothing"),
    caught(HfApi().model_info, "nobody/nothing", token="hf_good"),
    caught(snapshot_download, "nobody/nothing"),
    caught(snapshot_download, "{MODEL}", revision="nowhere"),
    caught(hf_hub_download, "{MODEL}", "nothing.bin"),
    caught(HfApi().file_exists, "{MODEL}", "config.json"),
])
"""
    missing = ["RepositoryNotFoundError"] * 3 + ["RevisionNotFoundError", "RemoteEntryNotFoundError", "nothing"]
    assert told(hub, tmp_path, script) == missing


def test_a_busy_hub_is_asked_again(hub: FakeHub, tmp_path: Path) -> None:
    """huggingface_hub waits a second longer than `Retry-After` before it asks for the tree once more."""
    hub.fail(f"tree/{hub.add(MODEL, FILES)}", 503, retry_after=0)
    hub.fail("config.json", 500, method="HEAD")
    assert len(told(hub, tmp_path, SNAPSHOT)) == 2
    assert [request.status for request in hub.requests if "/tree/" in request.path] == [503, 200]
    heads = [r.status for r in hub.requests if r.method == "HEAD" and r.path.endswith("config.json")]
    assert heads == [500, 200]


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
    hub.slow("config.json", bytes_per_s=len(content) / 0.2)
    begun = time.monotonic()
    assert got(resolve(hub, "config.json")) == (200, content)
    assert time.monotonic() - begun >= 0.2


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


def test_a_bad_token_is_refused_even_for_what_is_public(hub: FakeHub, tmp_path: Path) -> None:
    script = f"""
show([caught(call, "{MODEL}", *name, token=token) for token in ("stale", "hf_any")
      for call, *name in ((HfApi().model_info,), (hf_hub_download, "config.json"))])
"""
    assert told(hub, tmp_path, script) == ["HfHubHTTPError"] * 2 + ["nothing"] * 2


def test_names_alone(hub: FakeHub, tmp_path: Path) -> None:
    hub.names_only = True
    script = f"""
files = HfApi().model_info("{MODEL}", files_metadata=True).siblings
show({{file.rfilename: [file.size, file.blob_id, file.lfs] for file in files}})
"""
    assert told(hub, tmp_path, script) == dict.fromkeys(FILES, [None] * 3)


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
