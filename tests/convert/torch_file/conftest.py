"""Files made byte by byte, written and read."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import torch_craft as craft
from helpers.torch_craft import Read

from elm_mlx.convert.tensor import LazyTensor
from elm_mlx.convert.torch_file import read_torch_file


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Write the bytes to a file and read it as PyTorch's."""
    path = tmp_path / "toy.bin"

    def write_and_read(data: bytes) -> dict[str, LazyTensor]:
        path.unlink(missing_ok=True)  # a file under a map is not rewritten
        path.write_bytes(data)
        return read_torch_file(path)

    return write_and_read


@pytest.fixture(params=craft.CONTAINERS)
def read_body(request: pytest.FixtureRequest, read: Read) -> Read:
    """Reads a pickle over one storage of six floats, once in each container."""
    wrap = craft.CONTAINERS[request.param]
    return lambda body: read(wrap(body))
