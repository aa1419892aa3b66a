"""A virtual screen (Xvfb) whose mouse, keys and windows a test uses as a person does, and pictures of it."""

from __future__ import annotations

import contextlib
import os
import shutil
import struct
import subprocess
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

REQUIRED = "ELM_MLX_REQUIRE_SCREEN"  # set where a test without a screen is to fail
PATIENCE_S = 120.0  # in which whatever a test waits for comes, on a busy machine too
SIZE = (760, 560)
SHIFTED = dict(zip('!@#$%^&*()_+?:"<>', "1234567890-=/;',.", strict=True))


def missing() -> str | None:
    """What a virtual screen needs and this machine lacks, as a sentence."""
    if not shutil.which("Xvfb"):
        return "needs Xvfb: apt-get install xvfb"
    for module, advice in (("tkinter", "apt-get install python3-tk"), ("Xlib", "pip install python-xlib")):
        try:
            __import__(module)
        except ImportError:
            return f"needs {module}: {advice}"
    return None


@contextmanager
def virtual_screen() -> Iterator[Screen]:
    """A screen, as DISPLAY says while the block runs. Without what it needs the test is skipped, or fails where
    REQUIRED is set."""
    if sentence := missing():
        if os.environ.get(REQUIRED):
            pytest.fail(sentence)
        pytest.skip(sentence)
    reads, writes = os.pipe()
    width, height = SIZE
    command = ["Xvfb", "-displayfd", str(writes), "-screen", "0", f"{width}x{height}x24", "-nolisten", "tcp"]
    server = subprocess.Popen(command, pass_fds=(writes,), stderr=subprocess.DEVNULL)
    os.close(writes)
    try:
        with os.fdopen(reads) as told:
            name = f":{told.readline().strip()}"
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DISPLAY", name)
            screen = Screen(name)
            yield screen
            screen.close()
    finally:
        server.terminate()
        server.wait(PATIENCE_S)


class Screen:
    """The mouse, the keys and the windows of a screen."""

    def __init__(self, name: str) -> None:
        from Xlib.display import Display

        self._display = Display(name)
        self._root = self._display.screen().root

    def click(self, x: int, y: int) -> None:
        """Presses the mouse at a place, and lets it go."""
        from Xlib import X

        self._fake(X.MotionNotify, x=x, y=y)
        self._fake(X.ButtonPress, 1)
        self._fake(X.ButtonRelease, 1)

    def type(self, text: str) -> None:
        """Types a text, a newline as Return."""
        for letter in text:
            needs_shift = letter.isupper() or letter in SHIFTED
            self.press(SHIFTED.get(letter, letter.lower()), shift=needs_shift)

    def press(self, key: str, *, shift: bool = False) -> None:
        """Presses a key by its letter or its name."""
        from Xlib import XK, X

        names = {" ": "space", "\n": "Return", ".": "period", ",": "comma", "'": "apostrophe", "-": "minus",
                 "/": "slash", ";": "semicolon", "=": "equal"}  # fmt: skip
        codes = [self._display.keysym_to_keycode(XK.string_to_keysym(name))
                 for name in (*(("Shift_L",) if shift else ()), names.get(key, key))]  # fmt: skip
        for code in codes:
            self._fake(X.KeyPress, code)
        for code in reversed(codes):
            self._fake(X.KeyRelease, code)

    def window(self, title: str) -> Any | None:
        """The window with a title, or None."""
        waiting = [self._root]
        while waiting:
            one = waiting.pop()
            with contextlib.suppress(Exception):  # it was closed meanwhile
                if one.get_wm_name() == title and one.get_wm_protocols():
                    return one
                waiting += one.query_tree().children
        return None

    def close_window(self, title: str) -> None:
        """Asks a window to close, as the cross in its corner does."""
        from Xlib.protocol.event import ClientMessage

        window = self.window(title)
        assert window, f"there is no window {title!r}"
        protocols, delete = (self._display.intern_atom(name) for name in ("WM_PROTOCOLS", "WM_DELETE_WINDOW"))
        window.send_event(ClientMessage(window=window, client_type=protocols, data=(32, [delete, 0, 0, 0, 0])))
        self._display.sync()

    def place(self, title: str) -> tuple[int, int, int, int]:
        """Where a window lies: left, top, width, height."""
        window = self.window(title)
        assert window, f"there is no window {title!r}"
        shape = window.get_geometry()
        corner = window.translate_coords(self._root, 0, 0)
        return -corner.x, -corner.y, shape.width, shape.height

    def pixels(self, left: int, top: int, width: int, height: int) -> bytes:
        """What is seen there, as bytes of red, green and blue."""
        from Xlib import X

        data = self._root.get_image(left, top, width, height, X.ZPixmap, 0xFFFFFFFF).data
        seen = bytearray(3 * width * height)
        seen[0::3], seen[1::3], seen[2::3] = data[2::4], data[1::4], data[0::4]
        return bytes(seen)

    def save(self, path: Path, title: str) -> None:
        """Writes a picture of a window as a PNG."""
        left, top, width, height = self.place(title)
        path.write_bytes(png(self.pixels(left, top, width, height), width, height))

    def close(self) -> None:
        self._display.close()

    def _fake(self, kind: int, detail: int = 0, **where: int) -> None:
        from Xlib.ext import xtest

        xtest.fake_input(self._display, kind, detail, **where)
        self._display.sync()


def png(pixels: bytes, width: int, height: int) -> bytes:
    """A picture of red, green and blue as a PNG (RFC 2083), each row filtered by the one above it."""
    row = 3 * width
    above, rows = bytes(row), bytearray()
    for start in range(0, len(pixels), row):
        line = pixels[start : start + row]
        rows += b"\2" + bytes((one - other) & 255 for one, other in zip(line, above, strict=True))
        above = line
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(rows), 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def until(condition: Callable[[], Any], what: str, meanwhile: Callable[[], object] = lambda: None) -> Any:
    """Waits until a condition has a true value, which is returned; `meanwhile` is done again and again."""
    given_up = time.monotonic() + PATIENCE_S
    while not (value := condition()):
        assert time.monotonic() < given_up, f"this did not come: {what}"
        meanwhile()
        time.sleep(0.01)
    return value
