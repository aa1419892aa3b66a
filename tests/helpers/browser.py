"""Drives a headless Chromium by its DevTools protocol: messages of JSON over two pipes, with a zero byte after each."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

REQUIRED = "ELM_MLX_REQUIRE_BROWSER"  # set where a test without a browser is to fail
PATIENCE = 60.0  # seconds in which whatever a test waits for comes, on a busy machine too
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
OPTIONS = (
    "--headless=new --remote-debugging-pipe --no-first-run --disable-gpu --disable-extensions --hide-scrollbars "
    "--disable-background-networking --disable-component-update --disable-dev-shm-usage --mute-audio --lang=en-US"
)
KEYS = {"Enter": (13, "\r"), "Escape": (27, ""), "Tab": (9, ""), "ArrowUp": (38, ""), "/": (191, "/"), " ": (32, " ")}
MODIFIERS = {"alt": 1, "ctrl": 2, "shift": 8}


def find_chromium() -> str:
    """The path of a Chromium. Without one the test is skipped, or fails where REQUIRED is set."""
    for name in CHROMIUM:
        if path := shutil.which(name):
            return path
    sentence = "needs Chromium: apt-get install chromium"
    if os.environ.get(REQUIRED):
        pytest.fail(sentence)
    pytest.skip(sentence)


def pipes() -> tuple[int, int, tuple[int, int]]:
    """Two pipes: the descriptor from which we read, that to which we write, and Chromium's two, none of them 3 or 4."""
    (commands, ours), (mine, answers) = os.pipe(), os.pipe()
    theirs = fcntl.fcntl(commands, fcntl.F_DUPFD, 10), fcntl.fcntl(answers, fcntl.F_DUPFD, 10)
    os.close(commands)
    os.close(answers)
    return mine, ours, theirs


class Browser:
    """A Chromium with an empty profile; `with` ends it and all of its processes."""

    def __init__(self) -> None:
        path = find_chromium()
        self._profile = tempfile.mkdtemp(prefix="chromium")
        self._reads, self._writes, theirs = pipes()
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        command = [path, *OPTIONS.split(), *sandbox, f"--user-data-dir={self._profile}", "about:blank"]
        # Chromium reads messages from descriptor 3 and writes them to 4.
        shell = f'exec "$@" 3<&{theirs[0]} 4>&{theirs[1]}'
        self._process = subprocess.Popen(
            ["bash", "-c", shell, "bash", *command],
            pass_fds=theirs,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        for descriptor in theirs:
            os.close(descriptor)
        self._rest, self._number = b"", 0
        self.pages: dict[str, Page] = {}

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._writes)
        with contextlib.suppress(ProcessLookupError):  # it may have ended by itself
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._reads)
        shutil.rmtree(self._profile, ignore_errors=True)

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """The result of a command of the protocol. Events that come before it go to their pages."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params} | ({"sessionId": session} if session else {})
        os.write(self._writes, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + PATIENCE
        while True:
            answer = self.receive(deadline - time.monotonic())
            assert answer is not None, f"Chromium does not answer {method}"
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer)
                return answer["result"]

    def receive(self, seconds: float) -> dict[str, Any] | None:
        """The next message, None after so many seconds without one. Events are noted."""
        deadline = time.monotonic() + seconds
        while b"\0" not in self._rest:
            if not select.select([self._reads], [], [], max(deadline - time.monotonic(), 0))[0]:
                return None
            part = os.read(self._reads, 1 << 20)
            assert part, "Chromium has ended"
            self._rest += part
        text, _, self._rest = self._rest.partition(b"\0")
        message = json.loads(text)
        if page := self.pages.get(message.get("sessionId", "")):
            page.note(message)
        return message

    def page(self) -> Page:
        """A tab of its own, which shares no storage with the others."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self.pages[session] = Page(self, session)
        for room in ("Page", "Runtime", "Network", "Log", "Accessibility"):
            page.call(f"{room}.enable")
        return page


class Page:
    """A tab: what a person does and sees there. `problems` has every error, exception and refusal that the browser
    told of; `requests` every address that it asked for."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser, self._session = browser, session
        self.problems: list[str] = []
        self.requests: list[str] = []

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of a command of the protocol, in this tab."""
        return self._browser.call(method, self._session, **params)

    def note(self, message: dict[str, Any]) -> None:
        """Keeps what an event tells."""
        params = message.get("params", {})
        if message.get("method") == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        if message.get("method") == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.problems.append(params["entry"]["text"])
        if message.get("method") == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.problems.append(details.get("exception", {}).get("description", details["text"]))

    def open(self, url: str) -> None:
        """Goes to an address and waits until its document is loaded."""
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def js(self, expression: str) -> Any:
        """The value of an expression; a promise is awaited."""
        done = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in done, (expression, done["exceptionDetails"])
        return done["result"].get("value")

    def wait(self, expression: str) -> Any:
        """Waits until an expression is true, and returns its value."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            done = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
            value = done["result"].get("value")
            if "exceptionDetails" not in done and value not in (None, False, 0, ""):
                return value
            self._browser.receive(0.02)
        raise AssertionError(f"never true: {expression}; {self.problems}; {self.js('document.body.innerText')[-800:]}")

    def text(self, selector: str) -> str:
        """The text that is seen of an element."""
        return self.js(f"document.querySelector({json.dumps(selector)}).innerText")

    def click(self, selector: str) -> None:
        """Presses the mouse in the middle of an element."""
        box = self.js(
            f"(() => {{ const node = document.querySelector({json.dumps(selector)}); node.scrollIntoView();"
            "const box = node.getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2] })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    def write(self, text: str) -> None:
        """Puts text where the focus is."""
        self.call("Input.insertText", text=text)

    def press(self, key: str, *modifiers: str) -> None:
        """Presses one of KEYS."""
        code, text = KEYS[key]
        name = {"/": "Slash", " ": "Space"}.get(key, key)
        event = {"key": key, "code": name, "windowsVirtualKeyCode": code}
        event["modifiers"] = sum(MODIFIERS[one] for one in modifiers)
        typed = {"text": text} if text else {}
        self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", **event, **typed)
        self.call("Input.dispatchKeyEvent", type="keyUp", **event)

    def resize(self, width: int, height: int, *, phone: bool = False) -> None:
        """Gives the tab the size of a screen; a phone's is touched."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        self.call("Emulation.setTouchEmulationEnabled", enabled=phone)

    def prefer(self, scheme: str) -> None:
        """Has the system prefer "light" or "dark"."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def accessible(self) -> list[tuple[str, str]]:
        """(role, name) of everything in the accessibility tree that is not ignored."""
        nodes = self.call("Accessibility.getFullAXTree")["nodes"]
        return [
            (node["role"]["value"], node.get("name", {}).get("value", ""))
            for node in nodes
            if not node["ignored"] and "role" in node
        ]

    def save_screenshot(self, path: Path) -> None:
        """Writes what is seen as a PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))
