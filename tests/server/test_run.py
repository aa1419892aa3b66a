"""A server from its start to its end: what it says when it answers, how it stops, and what its log holds."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import pytest
from helpers.command_line import run
from helpers.live_house import eventually
from helpers.live_server import LIMITS, LiveServer, live_server, server_process

from elm_mlx.errors import EngineStopped
from elm_mlx.server import house
from elm_mlx.server.house import House
from elm_mlx.server.listen import listening
from elm_mlx.server.run import Service
from elm_mlx.server.settings import Settings

STORY = {"prompt": "Once upon a time", "temperature": 1, "seed": 1, "logit_bias": {"2": -100}}  # the demo never ends it
ENDLESS = {"max_tokens": 10**6, "window": 64}  # with a story: it ends where it is ended
SECRET = "xyzzy-prompt"


class Client(threading.Thread):
    """A client that reads a stream to its end."""

    def __init__(self, url: str, **body: Any) -> None:
        super().__init__()
        self.url, self.body, self.text, self.error = url, STORY | {"stream": True} | body, "", ""
        self.has_begun = threading.Event()
        self.start()

    def run(self) -> None:
        try:
            with httpx.stream("POST", f"{self.url}/v1/completions", json=self.body, timeout=60) as response:
                for part in response.iter_text():
                    self.text += part
                    if '"text"' in self.text:
                        self.has_begun.set()
        except httpx.HTTPError as error:
            self.error = repr(error)
        self.has_begun.set()


# The end


def test_a_request_that_runs_ends_before_the_server_does_and_no_new_one_is_taken() -> None:
    with live_server() as server:
        client = Client(server.url, max_tokens=60)
        assert client.has_begun.wait(30)
        idle = socket.create_connection(("127.0.0.1", server.port))
        server.loop.call_soon_threadsafe(server.service.stop)
        assert idle.recv(1) == b""  # a connection that waits for a request is closed
        idle.close()
        client.join(30)
    assert (client.error, client.text.rstrip()[-12:]) == ("", "data: [DONE]")
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server.url}/health")


def test_a_request_that_does_not_end_in_time_is_told_so_and_one_that_waits_too() -> None:
    with live_server(limits=replace(LIMITS, drain_s=0.05)) as server:
        running = Client(server.url, n=8, **ENDLESS)
        assert running.has_begun.wait(30)
        waiting = Client(server.url, **ENDLESS)
        figure = 'num_requests_waiting{model_name="demo"} 1'
        assert eventually(lambda: figure in httpx.get(f"{server.url}/metrics").text)
        server.loop.call_soon_threadsafe(server.service.stop)
        running.join(30)
        waiting.join(30)
    assert (running.error, waiting.error) == ("", "")
    assert '"finish_reason":"length"' not in running.text
    assert running.text.rpartition("data: {")[2].startswith('"error":{"message"')
    assert '"error":{"message"' in waiting.text


def test_a_model_that_cannot_go_on_ends_the_server_with_its_reason() -> None:
    with pytest.raises(EngineStopped, match="the chip is on fire"):
        serve_until_death()


def serve_until_death() -> None:
    with live_server() as server:
        server.loop.call_soon_threadsafe(server.service.house.die, "the chip is on fire")
        assert eventually(lambda: not is_there(server))


def is_there(server: LiveServer) -> bool:
    try:
        return httpx.get(f"{server.url}/health").status_code == 200
    except httpx.HTTPError:
        return False


def test_a_model_that_cannot_even_be_closed_does_not_keep_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    ends: list[int] = []

    class Stuck(House):
        async def open(self) -> None:
            self.die("the device hangs")

        async def close(self) -> None:
            while not ends:
                await asyncio.sleep(0.01)

    monkeypatch.setattr(house, "House", Stuck)
    monkeypatch.setattr("elm_mlx.server.run.LAST_S", 0.1)
    asked = Settings(port=0, limits=replace(LIMITS, drain_s=0))
    with pytest.raises(EngineStopped, match="the device hangs"), listening(asked) as sockets:
        asyncio.run(Service(asked, lambda ready: None, ends.append).run(sockets))
    assert ends == [80]


# The process


def test_a_process_says_when_it_answers_and_ends_with_the_code_of_its_signal(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sesame\n")
    with server_process("--api-key-file", tmp_path / "key", "--log-format", "json", "--alias", "gpt=demo") as server:
        assert list(server.ready) == ["url", "port", "pid", "models"]
        assert server.ready["pid"] == server.process.pid
        assert server.ready["models"] == ["demo"]
        body = STORY | {"prompt": SECRET, "max_tokens": 3, "model": "gpt"}
        path = f"{server.url}/v1/completions?secret=query"
        assert httpx.post(path, json=body).status_code == 401
        answer = httpx.post(path, json=body, headers={"authorization": "Bearer sesame"})
        assert answer.status_code == 200
        code, errors = server.end(signal.SIGTERM)
        assert server.process.stdout
        assert server.process.stdout.closed or not server.process.stdout.read()
    assert code == 143
    lines = [json.loads(line) for line in errors.splitlines()]
    asked = [line for line in lines if "path" in line]
    assert [(line["method"], line["path"], line["status"]) for line in asked] == [
        ("POST", "/v1/completions", 401),
        ("POST", "/v1/completions", 200),
    ]
    assert asked[1]["completion_tokens"] == 3
    assert asked[1]["request_id"] == answer.headers["x-request-id"]
    assert not any(secret in errors for secret in (SECRET, "sesame", "query"))


def test_a_process_answers_on_a_socket_file_and_takes_it_away() -> None:
    with TemporaryDirectory(dir="/tmp") as folder:
        path = Path(folder) / "elm.socket"
        with server_process("--uds", path) as server:
            assert server.ready["url"] == f"unix:{path}"
            assert server.ready["port"] is None
            with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://localhost") as client:
                assert client.get("/health").json()["status"] == "ok"
            code, errors = server.end(signal.SIGINT)
            assert (code, "Traceback" in errors) == (130, False)
            assert not path.exists()


@pytest.mark.slow
def test_a_second_signal_ends_a_process_at_once() -> None:
    with server_process() as server:
        client = Client(server.url, n=8, **ENDLESS)
        assert client.has_begun.wait(30)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert server.process.poll() is None
        code, errors = server.end(signal.SIGTERM)
        assert (code, "Traceback" in errors) == (143, False)
        client.join(30)
        assert client.error, "an answer that may end in time is told its end"


@pytest.mark.slow
def test_a_server_that_is_killed_leaves_nothing_that_stops_the_next_one() -> None:
    with TemporaryDirectory(dir="/tmp") as folder:
        path = Path(folder) / "elm.socket"
        with server_process("--uds", path) as server:
            server.process.kill()
            server.process.wait()
            assert path.exists()
        with server_process("--uds", path) as server:
            assert server.end(signal.SIGTERM)[0] == 143


# What is refused before anything is loaded


def test_a_second_start_on_a_port_says_who_has_it() -> None:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        one.listen()
        done = run("serve", "--port", one.getsockname()[1])
        assert done.code == 86
        assert "is in use by" in done.err
        assert "--port 0" in done.err


def test_the_whole_network_is_no_default() -> None:
    done = run("serve", "--host", "0.0.0.0", "--port", 0)
    assert (done.code, done.out) == (2, "")
    assert "--api-key-file" in done.err


@pytest.mark.parametrize("text", ["", "\n", "two words", "sésame", "two\nlines", "nul\0"])
def test_a_key_is_one_word(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "key"
    path.write_text(text)
    done = run("serve", "--api-key-file", path, "--port", 0)
    assert (done.code, "holds no key" in done.err) == (2, True)
    assert not text.strip() or text not in done.err
    if "\0" not in text:
        monkeypatch.setenv("ELM_MLX_API_KEY", text)
        assert run("serve", "--port", 0).code == 2


def test_a_key_file_that_is_not_there_is_not_a_server_without_a_key(tmp_path: Path) -> None:
    done = run("serve", "--api-key-file", tmp_path / "none", "--port", 0)
    assert done.code == 66
    assert "that holds the key: --api-key-file" in done.err


@pytest.mark.parametrize(
    ("line", "complaint"),
    [("--keep-alive soon", "is not a time"), ("--keep-alive -2", "is not a time"), ("--alias gpt", "NAME=MODEL"),
     ("--port 65536", "not in the range"), ("--context 0", "not in the range"), ("--model ./nowhere", "nowhere"),
     ("--api-key sesame", "No such option"), ("--allow-origin localhost:3000", "is not an origin"),
     ("--uds x/y --port 0", "Leave --port out")],
)  # fmt: skip
def test_a_mistake_is_refused_in_words(line: str, complaint: str) -> None:
    done = run("serve", *line.split())
    assert done.code != 0
    assert complaint in done.err


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("5m", 300), ("1.5h", 5400), ("0", 0), ("-1", -1), ("2s", 2)]
)
def test_a_time_is_written_as_people_write_it(text: str, seconds: float) -> None:
    from elm_mlx.cli.serve import Duration

    assert Duration().convert(text, None, None) == seconds
