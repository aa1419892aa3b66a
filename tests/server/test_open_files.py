"""A server may have its connections open where the shell's limit of open files is low."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

ASK = """
import resource, sys
from elm_mlx.server.open_files import allow_connections
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[2])))
allow_connections(256)
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


@pytest.mark.skipif(resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 1000, reason="the limit cannot be set so high")
@pytest.mark.parametrize(("soft", "hard", "then"), [(256, 1000, 384), (200, 300, 300), (900, 1000, 900)])
def test_the_limit_is_raised_as_far_as_the_machine_lets_it(soft: int, hard: int, then: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ASK, str(soft), str(hard)], capture_output=True, text=True, check=True, timeout=60
    )
    assert int(done.stdout) == then
