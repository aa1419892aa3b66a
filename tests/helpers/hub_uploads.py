"""The part of the hub's API by which files are given to it, for the stand-in (helpers.fake_hub): its routes are there
once this is imported. A token `hf_NAME` writes what NAME owns; one that begins with `hf_read` writes nothing.

Bytes go by LFS's basic transfer, as huggingface_hub sends them without hf_xet (HF_HUB_DISABLE_XET=1).
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from typing import Any

from helpers.fake_hub import _REPO, _REVISION, ROUTES, Answer, File, Refusal, Repo, _Ask, is_large, told


def stored(ask: _Ask) -> dict[str, bytes]:
    """What was sent to the storage so far, by its sha256."""
    held: dict[str, bytes] = ask.hub.__dict__.setdefault("stored", {})
    return held


def write(ask: _Ask, repo: str) -> None:
    """Lets the owner of a repository pass."""
    if not ask.token:
        raise Refusal(401, "", "Invalid username or password.")
    if ask.token.removeprefix("hf_") != repo.partition("/")[0]:
        raise Refusal(403, "", f"You don't have the rights to write to {repo}")


def validate(ask: _Ask) -> Answer:
    return told({"errors": [], "warnings": []})


def create(ask: _Ask) -> Answer:
    asked = json.loads(ask.content)
    owner = asked.get("organization") or ask.token.removeprefix("hf_")
    repo = f"{owner}/{asked['name']}"
    write(ask, repo)
    if repo in ask.hub._repos:
        said = "You already created this model repo"
        return told({"error": said, "url": f"{ask.hub.url}/{repo}"}, {"X-Error-Message": said}, 409)
    ask.hub._repos[repo] = Repo()
    ask.hub.add(repo, {".gitattributes": b""})
    ask.hub.__dict__.setdefault("visible", {})[repo] = asked.get("visibility", "public")
    return told({"url": f"{ask.hub.url}/{repo}", "name": repo, "id": repo})


def preupload(ask: _Ask, repo: str, revision: str) -> Answer:
    write(ask, repo)
    there = ask.find(repo).commit(revision)[1]
    files = [
        {
            "path": (name := file["path"]),
            "uploadMode": "lfs" if is_large(name) else "regular",
            "shouldIgnore": False,
            "oid": there[name].sha256 if name in there and there[name].lfs else None,
        }
        for file in json.loads(ask.content)["files"]
    ]
    return told({"files": files})


def batch(ask: _Ask, repo: str) -> Answer:
    write(ask, repo)
    objects: list[dict[str, Any]] = json.loads(ask.content)["objects"]
    for one in objects:
        if one["oid"] not in stored(ask):
            one["actions"] = {"upload": {"href": f"{ask.hub.cdn}/stored/{one['oid']}", "header": {}}}
    return told({"transfer": "basic", "objects": objects})


def put(ask: _Ask, sha256: str) -> Answer:
    if hashlib.sha256(ask.content).hexdigest() != sha256:
        raise Refusal(400, "", "The bytes are not those that were announced")
    stored(ask)[sha256] = ask.content
    return told({})


def commit(ask: _Ask, repo: str, revision: str) -> Answer:
    write(ask, repo)
    files: dict[str, bytes] = {}
    for line in ask.content.splitlines():
        kind, value = (part := json.loads(line))["key"], part["value"]
        if kind == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif kind == "lfsFile":
            files[value["path"]] = stored(ask)[value["oid"]]
    before = {name: file.content for name, file in ask.find(repo).commit(revision)[1].items()}
    sha = ask.hub.add(repo, before | files)
    return told({"success": True, "commitOid": sha, "commitUrl": f"{ask.hub.url}/{repo}/commit/{sha}"})


def content_of(ask_hub: Any, repo: str, name: str) -> bytes:
    """The bytes of a file at the head of a repository."""
    file: File = ask_hub._repos[repo].commit("main")[1][name]
    return file.content if isinstance(file.content, bytes) else file.content.read_bytes()


ROUTES.update(
    {
        re.compile("/api/validate-yaml"): validate,
        re.compile("/api/repos/create"): create,
        re.compile(f"/api/models/{_REPO}/preupload/{_REVISION}"): preupload,
        re.compile(f"/{_REPO.replace('[^/]+)', '[^/]+?)')}\\.git/info/lfs/objects/batch"): batch,
        re.compile("/stored/(?P<sha256>[0-9a-f]{64})"): put,
        re.compile(f"/api/models/{_REPO}/commit/{_REVISION}"): commit,
    }
)
