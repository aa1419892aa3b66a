"""A Hugging Face hub on this machine, for tests: the part of its API that downloads speak, and its failures.

    with FakeHub() as hub:
        sha = hub.add("apple/OpenELM-450M", {"config.json": b"{}", "model.safetensors": path})
        hub.cut("model.safetensors", after=100)
        subprocess.run([...], env=hub.environment(tmp_path))
        assert [r.status for r in hub.requests] == [...]

`huggingface_hub` reads `HF_ENDPOINT` when it is imported, so what is tested runs in a process of its own, or in this
one within `living_in`. Files under LFS come, as on the real hub, by a redirect to a second server that wants no token.
Nothing says "xet", so all downloads are plain HTTP. As on the real hub a gate closes the files, not the listing of
them. A token is a user's when it begins with `hf_`; any other is refused. Unlike the real hub, small files are not
redirected.
"""

from __future__ import annotations

import hashlib
import http.server
import importlib
import io
import json
import math
import os
import re
import socketserver
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from email.message import Message
from functools import cached_property
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, cast
from unittest import mock
from urllib.parse import parse_qs, quote, unquote, urlsplit

import yaml
from huggingface_hub import close_session, constants

Headers = Mapping[str, str]
Content = bytes | Path  # a path is read whenever it is asked for: leave the file as it is

NONE: Headers = {}
CHUNK = 1 << 16
POLL_S = 0.005  # how often what waits looks whether the hub has gone
FOREVER = math.inf
FLIPPED = bytes(range(255, -1, -1))  # a table for bytes.translate: no byte stays what it was
LFS = (".safetensors", ".bin", ".model", ".gguf", ".pth", ".pt")
WHEN = "2024-04-24T00:00:00.000Z"


def is_large(name: str) -> bool:
    """What lies under LFS unless `add` is told otherwise."""
    return name.endswith(LFS)


def opened(content: Content) -> io.BufferedReader | io.BytesIO:
    return content.open("rb") if isinstance(content, Path) else io.BytesIO(content)


@dataclass(frozen=True)
class File:
    """One file of a commit, with the names that git and LFS give its content."""

    content: Content
    lfs: bool

    @cached_property
    def size(self) -> int:
        return self.content.stat().st_size if isinstance(self.content, Path) else len(self.content)

    @cached_property
    def sha256(self) -> str:
        with opened(self.content) as source:
            return hashlib.file_digest(source, "sha256").hexdigest()

    @cached_property
    def pointer(self) -> bytes:
        """What git holds in place of a file under LFS."""
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {self.size}\n".encode()

    @cached_property
    def oid(self) -> str:
        """The name of git's blob."""
        content, size = (self.pointer, len(self.pointer)) if self.lfs else (self.content, self.size)
        blob = hashlib.sha1(b"blob %d\0" % size)
        with opened(content) as source:
            while chunk := source.read(CHUNK):
                blob.update(chunk)
        return blob.hexdigest()

    def sibling(self, name: str) -> dict[str, Any]:
        """How a model's info describes it when asked for `blobs`."""
        lfs = {"sha256": self.sha256, "size": self.size, "pointerSize": len(self.pointer)}
        return {"rfilename": name, "size": self.size, "blobId": self.oid} | ({"lfs": lfs} if self.lfs else {})

    def entry(self, name: str) -> dict[str, Any]:
        """How the tree describes it."""
        lfs = {"oid": self.sha256, "size": self.size, "pointerSize": len(self.pointer)}
        return {"type": "file", "path": name, "size": self.size, "oid": self.oid} | ({"lfs": lfs} if self.lfs else {})


@dataclass
class Repo:
    """A model's commits by their sha, its branches, and the token that opens its gate, if it has one."""

    commits: dict[str, dict[str, File]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    token: str = ""

    def commit(self, revision: str) -> tuple[str, dict[str, File]]:
        sha = self.branches.get(revision, revision)
        if sha not in self.commits:
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return sha, self.commits[sha]


@dataclass
class Request:
    """What was asked, what was answered, and how many bytes of the body have been sent so far."""

    method: str
    path: str
    status: int
    sent: int = 0


@dataclass
class Fault:
    kind: str
    path: str
    value: Any
    times: float

    def strikes(self, kind: str, path: str) -> bool:
        return self.times > 0 and self.kind == kind and f"/{path}".endswith("/" + self.path.lstrip("/"))


@dataclass
class Hold:
    """A place in a body where its sender waits."""

    place: int
    reached: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)

    def pass_by(self, sent: int, is_open: Callable[[], object]) -> int:
        """Waits at the place until released or closed; how many bytes may go before the next call."""
        if sent == self.place:
            self.reached.set()
            while is_open() and not self.released.wait(POLL_S):
                pass
        return self.place - sent if sent < self.place else CHUNK


@dataclass
class Answer:
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    content: Content = b""
    start: int = 0
    length: int = 0


class Refusal(Exception):
    """An answer that huggingface_hub makes an exception of, by its code."""

    def __init__(self, status: int, code: str, message: str, headers: Headers = NONE) -> None:
        super().__init__(message)
        named = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self.answer = told({"error": message}, named | dict(headers), status)


def told(data: Any, headers: Headers = NONE, status: int = 200) -> Answer:
    """An answer in JSON."""
    body = json.dumps(data).encode()
    return Answer(status, {"Content-Type": "application/json; charset=utf-8", **headers}, body, 0, len(body))


def served(file: File, span: str, headers: Headers) -> Answer:
    """A file's bytes, or those that a Range header asks for."""
    common = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes", **headers}
    if not (asked := re.fullmatch(r"bytes=(\d*)-(\d*)", span)):
        return Answer(200, common, file.content, 0, file.size)
    first, last = asked.groups()
    start = int(first) if first else max(file.size - int(last), 0)
    stop = min(int(last) + 1, file.size) if first and last else file.size
    if start >= stop:
        raise Refusal(416, "", "Range Not Satisfiable", {"Content-Range": f"bytes */{file.size}"})
    common["Content-Range"] = f"bytes {start}-{stop - 1}/{file.size}"
    return Answer(206, common, file.content, start, stop - start)


def front_matter(file: File) -> dict[str, Any]:
    """The data at the head of a model card."""
    with opened(file.content) as source:
        head = re.match(rb"---\n(.*?)---\n", source.read(), re.DOTALL)
    return yaml.safe_load(head[1]) or {} if head else {}


def tree(files: Mapping[str, File], folder: str, recursive: bool) -> list[dict[str, Any]]:
    """The files and folders under one, sorted by path."""
    parents = {str(parent) for name in files for parent in PurePosixPath(name).parents} - {"."}
    folders = [{"type": "directory", "path": path, "size": 0, "oid": "0" * 40} for path in parents]
    entries = [*folders, *(file.entry(name) for name, file in files.items())]
    below = [entry for entry in entries if not folder or entry["path"].startswith(folder + "/")]
    here = [entry for entry in below if recursive or str(PurePosixPath(entry["path"]).parent) == (folder or ".")]
    return sorted(here, key=lambda entry: entry["path"])


class FakeHub:
    """The hub and what a test does to it.

    A fault takes hold of as many requests as its `times`, of those whose path ends with the one given: a file's name
    is enough. What ails a body leaves redirects and errors alone.
    """

    def __init__(self, page: int = 1000) -> None:
        self.page = page  # entries in one page of a tree
        self.names_only = False  # in a model's info, as from hubs that know no `blobs`
        self._repos: dict[str, Repo] = {}
        self._requests: list[Request] = []
        self._faults: list[Fault] = []
        self._servers: list[_Server] = []
        self._ports = [0, 0]  # the hub's and its CDN's; the system chooses them at first
        self._lock = threading.Lock()

    # Coming and going

    def __enter__(self) -> FakeHub:
        self.online()
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, trace: TracebackType | None) -> None:
        self.offline()

    def online(self) -> None:
        """Listen, after `offline` at the same address as before."""
        self._servers = [_Server(self, port) for port in self._ports]
        self._ports = [server.server_address[1] for server in self._servers]
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(POLL_S,), daemon=True).start()

    def offline(self) -> None:
        """Refuse all connections, and drop those whose bodies are still on their way."""
        servers, self._servers = self._servers, []
        for server in servers:
            server.shutdown()
            server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._ports[0]}"

    @property
    def cdn(self) -> str:
        """Another origin than the hub's, so that huggingface_hub stops there and keeps the token to itself."""
        return f"http://127.0.0.1:{self._ports[1]}"

    def environment(self, home: Path) -> dict[str, str]:
        """This process's environment for a child that knows no other hub, no token and no proxy."""
        foreign = re.compile(r"HF_|HUGGING|TRANSFORMERS_|.*_PROXY$", re.IGNORECASE)
        kept = {name: value for name, value in os.environ.items() if not foreign.match(name)}
        return kept | {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"}

    # What it holds

    def add(
        self,
        repo: str,
        files: Mapping[str, Content],
        *,
        gated: str | bool = False,
        lfs: Callable[[str], bool] = is_large,
        branch: str = "main",
    ) -> str:
        """Put a commit at the head of a branch and return its sha, which follows from the contents alone."""
        commit = {name: File(content, lfs(name)) for name, content in files.items()}
        listing = "".join(f"{file.oid} {name}\n" for name, file in sorted(commit.items()))
        sha = hashlib.sha1(listing.encode()).hexdigest()
        with self._lock:
            held = self._repos.setdefault(repo, Repo())
            held.commits[sha] = commit
            held.branches[branch] = sha
        if gated:
            self.gate(repo, "hf_good" if gated is True else gated)
        return sha

    def gate(self, repo: str, token: str = "hf_good") -> None:
        """Give a repo's files only to those who show this token."""
        self._repos[repo].token = token

    # What goes wrong

    def cut(self, path: str, after: int, times: float = 1) -> None:
        """Close the connection after so many bytes of the body."""
        self._fault("cut", path, after, times)

    def fail(
        self, path: str, status: int = 503, times: float = 1, retry_after: int | None = None, method: str = "GET"
    ) -> None:
        """Answer with an error. huggingface_hub asks for a file's metadata with HEAD, for all else with GET."""
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        self._fault(method, path, (status, headers), times)

    def slow(self, path: str, bytes_per_s: float, times: float = FOREVER) -> None:
        """Send bodies no faster than this."""
        self._fault("slow", path, bytes_per_s, times)

    def corrupt(self, path: str, times: float = FOREVER) -> None:
        """Send wrong bytes, as many as the right ones."""
        self._fault("corrupt", path, True, times)

    def hold(self, path: str, after: int, times: float = 1) -> threading.Event:
        """Stop after so many bytes of the body and go on when `mend` is called; the event says that they are sent."""
        held = Hold(after)
        self._fault("hold", path, held, times)
        return held.reached

    def mend(self) -> None:
        """Take all faults back."""
        with self._lock:
            for fault in self._faults:
                if isinstance(fault.value, Hold):
                    fault.value.released.set()
            self._faults.clear()

    def _fault(self, kind: str, path: str, value: Any, times: float) -> None:
        with self._lock:
            self._faults.append(Fault(kind, path, value, times))

    def _struck(self, kind: str, path: str) -> Any:
        """The value of the first fault that strikes, which has then struck once more; or None."""
        with self._lock:
            for fault in self._faults:
                if fault.strikes(kind, path):
                    fault.times -= 1
                    return fault.value
        return None

    # What it was asked

    @property
    def requests(self) -> list[Request]:
        """All requests since the last `reset`, in their order, as they stand now."""
        with self._lock:
            return [replace(request) for request in self._requests]

    def reset(self) -> None:
        """Forget the requests, not the faults."""
        with self._lock:
            self._requests.clear()

    # What it answers

    def answer(self, method: str, url: str, headers: Message[str, str], content: bytes = b"") -> Answer:
        """The answer to a request, before any fault of its body."""
        target = urlsplit(url)
        ask = _Ask(self, target.path, parse_qs(target.query), headers, content)
        try:
            if failure := self._struck(method, unquote(target.path)):
                raise Refusal(failure[0], "", "The fake hub fails as told", failure[1])
            for route, reply in ROUTES.items():
                if match := route.fullmatch(target.path):
                    return reply(ask, **{name: unquote(part or "") for name, part in match.groupdict().items()})
            raise Refusal(404, "", f"The fake hub has no {target.path}")
        except Refusal as refusal:
            return refusal.answer

    def body(self, answer: Answer, request: Request, write: Callable[[bytes], object]) -> None:
        """Send the body with its faults. Bytes count before they leave: what a client has is never uncounted."""
        faults = ("cut", "slow", "corrupt", "hold") if answer.status < 300 else ()
        cut, rate, wrong, hold = [self._struck(kind, request.path) for kind in faults] or [None] * 4
        hold = hold or Hold(-1)
        left = answer.length if cut is None else min(cut, answer.length)
        step = CHUNK if rate is None else max(1, min(CHUNK, int(rate / 20)))
        with opened(answer.content) as source:
            source.seek(answer.start)
            while left and self._servers:
                room = hold.pass_by(request.sent, lambda: self._servers)
                if not (chunk := source.read(min(left, step, room))):
                    break
                time.sleep(len(chunk) / rate if rate else 0)
                request.sent += len(chunk)
                left -= len(chunk)
                write(chunk.translate(FLIPPED) if wrong else chunk)

    def note(self, request: Request) -> None:
        with self._lock:
            self._requests.append(request)


@contextmanager
def living_in(environment: Mapping[str, str]) -> Iterator[None]:
    """Gives this process another environment until the block ends, for huggingface_hub, too."""
    try:
        with mock.patch.dict(os.environ, environment, clear=True):
            _begin_anew()
            yield
    finally:
        _begin_anew()


def _begin_anew() -> None:
    """Has huggingface_hub read the environment, as it does when it is imported, and connect anew."""
    importlib.reload(constants)
    close_session()


@dataclass
class _Ask:
    """One request to the hub; its methods are the routes."""

    hub: FakeHub
    path: str
    query: dict[str, list[str]]
    headers: Message[str, str]
    content: bytes = b""  # what was sent with it

    @property
    def token(self) -> str:
        shown = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if shown and not shown.startswith("hf_"):
            raise Refusal(401, "", "Invalid credentials in Authorization header")
        return shown

    def flag(self, name: str) -> bool:
        return self.query.get(name, [""])[0].lower() in ("true", "1")

    def find(self, repo: str) -> Repo:
        shown = self.token  # a bad one is refused even where none is needed
        if held := self.hub._repos.get(repo):
            return held
        if shown:
            raise Refusal(404, "RepoNotFound", "Repository not found")
        raise Refusal(401, "RepoNotFound", "Invalid username or password.")

    def enter(self, repo: str) -> Repo:
        """A repo through its gate."""
        held = self.find(repo)
        if held.token in ("", self.token):
            return held
        reason = f"Access to model {repo} is restricted"
        if self.token:
            visit = f"Visit https://huggingface.co/{repo} to ask for access."
            raise Refusal(403, "GatedRepo", f"{reason} and you are not in the authorized list. {visit}")
        must = "You must have access to it and be authenticated to access it."
        raise Refusal(401, "GatedRepo", f"{reason}. {must} Please log in.")

    def whoami(self) -> Answer:
        if not self.token:
            raise Refusal(401, "", "Invalid username or password.")
        return told({"type": "user", "name": self.token.removeprefix("hf_"), "orgs": []})

    def auth_check(self, repo: str) -> Answer:
        self.enter(repo)
        return told({})

    def info(self, repo: str, revision: str) -> Answer:
        held = self.find(repo)
        sha, files = held.commit(revision or "main")
        full = self.flag("blobs") and not self.hub.names_only
        siblings = [file.sibling(name) if full else {"rfilename": name} for name, file in files.items()]
        data = {"_id": sha[:24], "id": repo, "modelId": repo, "author": repo.split("/")[0], "sha": sha}
        dates = {"lastModified": WHEN, "createdAt": WHEN}
        counts = {"downloads": 0, "likes": 0, "usedStorage": sum(file.size for file in files.values())}
        state = {"private": False, "disabled": False, "gated": "manual" if held.token else False}
        card = front_matter(files["README.md"]) if "README.md" in files else {}
        return told({**data, **dates, **counts, **state, "cardData": card, "tags": [], "siblings": siblings})

    def tree(self, repo: str, revision: str, folder: str) -> Answer:
        """A page of the tree, with a link to the next one if there is more."""
        sha, files = self.find(repo).commit(revision)
        entries = tree(files, folder, self.flag("recursive"))
        if folder and not entries:
            raise Refusal(404, "EntryNotFound", f"{folder} does not exist on {revision}", {"X-Repo-Commit": sha})
        first = int(self.query.get("cursor", ["0"])[0])
        after = first + self.hub.page
        recursive = str(self.flag("recursive")).lower()
        link = f'<{self.hub.url}{self.path}?recursive={recursive}&cursor={after}>; rel="next"'
        return told(entries[first:after], {"Link": link} if after < len(entries) else {})

    def resolve(self, repo: str, revision: str, name: str) -> Answer:
        """A small file, or where to get a large one."""
        sha, files = self.enter(repo).commit(revision)
        if name not in files:
            raise Refusal(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": sha})
        file = files[name]
        headers = {"X-Repo-Commit": sha, "Accept-Ranges": "bytes", "ETag": f'"{file.oid}"'}
        if not file.lfs:
            return served(file, self.headers.get("Range", ""), headers)
        linked = {"X-Linked-Size": str(file.size), "X-Linked-Etag": f'"{file.sha256}"'}
        away = f"{self.hub.cdn}/cdn/{repo}/{sha}/{quote(name)}"
        return Answer(302, headers | linked | {"Location": away})

    def download(self, repo: str, sha: str, name: str) -> Answer:
        """A large file. Its address is the permit, as storage services have it: a token beside it is an error."""
        if "Authorization" in self.headers:
            raise Refusal(400, "", "Only one auth mechanism allowed")
        file = self.find(repo).commit(sha)[1][name]
        return served(file, self.headers.get("Range", ""), {"ETag": f'"{file.oid}"'})


_REPO = "(?P<repo>[^/]+/[^/]+)"
_REVISION = "(?P<revision>[^/]+)"
ROUTES: dict[re.Pattern[str], Callable[..., Answer]] = {
    re.compile("/api/whoami-v2"): _Ask.whoami,
    re.compile(f"/api/models/{_REPO}/auth-check"): _Ask.auth_check,
    re.compile(f"/api/models/{_REPO}(?:/revision/{_REVISION})?"): _Ask.info,
    re.compile(f"/api/models/{_REPO}/tree/{_REVISION}(?:/(?P<folder>.+))?"): _Ask.tree,
    re.compile(f"/cdn/{_REPO}/(?P<sha>[0-9a-f]+)/(?P<name>.+)"): _Ask.download,
    re.compile(f"/{_REPO}/resolve/{_REVISION}/(?P<name>.+)"): _Ask.resolve,
}


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        hub = cast(_Server, self.server).hub
        sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        answer = hub.answer(self.command, self.path, self.headers, sent)
        request = Request(self.command, unquote(urlsplit(self.path).path), answer.status)
        hub.note(request)
        try:
            self._head(answer)
            if self.command != "HEAD":
                hub.body(answer, request, self.wfile.write)
        except ConnectionError:  # the client has gone
            self.close_connection = True

    do_HEAD = do_POST = do_PUT = do_GET

    def _head(self, answer: Answer) -> None:
        """One request a connection, so that no idle one outlives `offline`."""
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(answer.length))
        self.send_header("Connection", "close")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on stderr: the requests are in `FakeHub.requests`."""


class _Server(http.server.ThreadingHTTPServer):
    request_queue_size = 64
    server_bind = socketserver.TCPServer.server_bind  # HTTPServer's own asks the DNS for this machine's name

    def __init__(self, hub: FakeHub, port: int) -> None:
        self.hub = hub
        super().__init__(("127.0.0.1", port), _Handler)
