"""What the tests of names and downloads share: tiny models as they are published, and a hub that has them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import pytest
from helpers import checkpoints
from helpers.fake_hub import FakeHub
from helpers.machine import APPLE, GATED, MIRRORS, READY, Machine, listing

from elm_mlx.convert import convert


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A SentencePiece model of the tiny checkpoints' size."""
    sentencepiece = pytest.importorskip("sentencepiece")
    prefix = tmp_path_factory.mktemp("spm") / "m"
    words = Path(__file__).read_text(encoding="utf-8").splitlines()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(words), model_prefix=str(prefix), model_type="bpe", vocab_size=500, byte_fallback=True,
        character_coverage=1.0, normalization_rule_name="identity", remove_extra_whitespaces=False, minloglevel=2,
    )  # fmt: skip
    return prefix.with_suffix(".model").read_bytes()


@pytest.fixture(scope="session")
def apple(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny OpenELM as Apple publishes it: float32, code, no tokenizer."""
    folder = checkpoints.write(tmp_path_factory.mktemp("apple") / "m", checkpoints.OPENELM, tokenizer=False)
    for name in ("modeling_openelm.py", "configuration_openelm.py", "README.md", "LICENSE"):
        (folder / name).write_text("raise SystemExit('never run')", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama in 4 bits as mlx-community publishes it."""
    folder = tmp_path_factory.mktemp("ready")
    source = checkpoints.write(folder / "s", checkpoints.CONFIGS["llama-3.2"], dtype=mx.bfloat16)
    return convert(source, folder / "m", bits=4, group_size=32).output


@pytest.fixture
def hub(apple: Path, ready: Path, tokenizer: bytes) -> Iterator[FakeHub]:
    with FakeHub() as hub:
        hub.add(APPLE, listing(apple))
        hub.add(READY, listing(ready))
        hub.add(GATED, listing(ready) | {"original/consolidated.00.pth": b"a second copy"}, gated="hf_good")
        hub.add(MIRRORS[0], {"tokenizer.model": b"something else"})
        hub.add(MIRRORS[1], {"tokenizer.model": tokenizer})
        yield hub


@pytest.fixture
def machine(tmp_path: Path, hub: FakeHub, tokenizer: bytes) -> Machine:
    return Machine(tmp_path / "home", hub, tokenizer)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The waits between two tries take no time."""
    monkeypatch.setattr(time, "sleep", lambda _: None)
