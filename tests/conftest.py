"""What every test stands on: the device, and tiny converted models made once a session."""

from __future__ import annotations

import gc
import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import pytest
from helpers import checkpoints, compiler
from hypothesis import HealthCheck, settings

import elm_mlx

# What a developer has set for own use must decide no test.
# PYTHONDONTWRITEBYTECODE: every program that the tests start would compile the whole package anew.
FOREIGN = re.compile(
    r"ELM_MLX_(?!REQUIRE_|WRITE_)|_ELM_MLX_|HF_|HUGGING|TRANSFORMERS_"
    r"|(NO_COLOR|FORCE_COLOR|COLUMNS|LINES|PYTHONDONTWRITEBYTECODE)$"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", choices=["cpu", "gpu"], default="cpu", help="MLX device to test on")


def pytest_configure(config: pytest.Config) -> None:
    for name in [name for name in os.environ if FOREIGN.match(name)]:
        del os.environ[name]
    sys.dont_write_bytecode = False  # read from that variable before: each process would rewrite each assert anew
    settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])  # busy machines
    settings.load_profile("untimed")
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # in a shell's background; what the tests start inherits it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ["ELM_MLX_BLAS"] = "reference"  # what the tests start computes as they do
    mx.set_default_device(mx.gpu if config.getoption("--device") == "gpu" else mx.cpu)
    gc.disable()  # until all tests are collected: half of the time goes into looking through what stays


def pytest_collection_finish() -> None:
    """Modules and tests stay to the end, so the collector of garbage need not look through them again."""
    gc.freeze()
    gc.enable()
    gc.set_threshold(10_000, 10, 10)  # a module's syntax tree alone is many more objects than the usual 700


@pytest.fixture(scope="session", autouse=True)
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What MLX compiles goes into a folder of the process's own: the shared one may hold what is torn or another's."""
    folder, base = tmp_path_factory.mktemp("kernels"), tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "compiled"
    compiler.install(folder, shared)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))
        patch.setenv("PATH", str(folder), prepend=os.pathsep)
        yield
    for place in (folder, shared):  # the compiler of a child that was killed may still write there
        shutil.rmtree(place, ignore_errors=True)


@pytest.fixture(scope="session", params=list(checkpoints.CONFIGS))
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float32 Hugging Face checkpoint with a tokenizer, one for each tiny configuration."""
    folder = tmp_path_factory.mktemp("sources") / request.param
    return checkpoints.write(folder, checkpoints.CONFIGS[request.param])


@pytest.fixture(scope="session")
def openelm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny OpenELM checkpoint alone, where one family is enough. Tests copy it before they change it."""
    return checkpoints.write(tmp_path_factory.mktemp("openelm") / "openelm", checkpoints.CONFIGS["openelm"])


@pytest.fixture(scope="session")
def lm(source: Path) -> elm_mlx.LanguageModel:
    """The loaded model of `source`, in float32."""
    return elm_mlx.load(source)


@pytest.fixture
def pipe() -> Iterator[Path]:
    """A pipe with an empty object in it, by a name in the file system."""
    end, other = os.pipe()
    os.write(other, b"{}")
    os.close(other)
    yield Path(f"/dev/fd/{end}")
    os.close(end)
