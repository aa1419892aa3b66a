"""A fast BLAS is found, loaded before MLX and known again: each test in a process, which loads one for good."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import elm_mlx

pytestmark = pytest.mark.skipif("config.getoption('--device') == 'gpu'", reason="policy of the CPU backend")

FAKE_MKL = """
import ctypes.util, shutil, sys
from pathlib import Path
sys.prefix = sys.base_prefix = sys.argv[1]  # where pip would have put MKL
folder = Path(sys.prefix, "lib")
folder.mkdir()
real = next(line.split()[-1] for line in open("/proc/self/maps") if "/libm.so" in line or "/libm-" in line)
shutil.copyfile(real, folder / "libmkl_rt.so.3")
"""


def printed(script: str, *arguments: object) -> str:
    """What a script prints about BLAS; Linux alone has one to choose."""
    if not sys.platform.startswith("linux"):
        pytest.skip("Linux alone")
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_fast_blas_is_loaded_before_mlx_and_named(tmp_path: Path) -> None:
    script = FAKE_MKL + "import elm_mlx; from elm_mlx.device import blas\n"
    script += "print(blas.fast_blas(), elm_mlx.use_fast_blas(), end=' ')"
    script += "; import mlx.core; print(elm_mlx.use_fast_blas(), blas.fast_blas())"
    assert printed(script, tmp_path) == "None libmkl_rt.so.3 libmkl_rt.so.3 libmkl_rt.so.3"


def test_a_blas_behind_a_link_is_known_and_one_in_a_wheel_is_none(tmp_path: Path) -> None:
    """Debian's libopenblas.so.0 leads to a file of another name, which is what the system tells."""
    script = FAKE_MKL + "import ctypes, elm_mlx; from elm_mlx.device import blas\n"
    script += "wheels = (folder / 'libmkl_rt.so.3').rename(folder / 'libopenblasp-r0-0123abcd.3.27.so')\n"
    script += "ctypes.CDLL(str(wheels)); print(blas.fast_blas(), end=' ')\n"
    script += "own, link = folder / 'libopenblasp-r0.3.21.so', folder / blas.OPENBLAS\n"
    script += "shutil.copyfile(wheels, own); link.symlink_to(own); blas.OPENBLAS = str(link)\n"
    script += "print(elm_mlx.use_fast_blas(), blas.fast_blas(), end=' '); blas._loaded.clear(); print(blas.fast_blas())"
    assert printed(script, tmp_path) == "None libopenblas.so.0 libopenblas.so.0 libopenblasp-r0.3.21.so"


def test_a_file_with_a_name_that_is_no_text_hides_no_blas(tmp_path: Path) -> None:
    script = FAKE_MKL + "import ctypes; from elm_mlx.device import blas\n"
    script += "ctypes.CDLL(str(shutil.copyfile(folder / 'libmkl_rt.so.3', folder / '\\udcff')))\n"
    script += "print(blas.fast_blas(), end=' '); ctypes.CDLL(str(folder / 'libmkl_rt.so.3')); print(blas.fast_blas())"
    assert printed(script, tmp_path) == "None libmkl_rt.so.3"


def test_mkl_is_left_out_where_the_working_directory_is_gone(tmp_path: Path) -> None:
    """It would end the process."""
    script = (
        FAKE_MKL
        + "import os; from elm_mlx.device import blas; gone = Path(sys.argv[1], 'gone'); gone.mkdir(); os.chdir(gone)"
    )
    script += (
        "\nfor _ in range(2): print([path.name for path in blas.fast_blas_files()], end=' '); shutil.rmtree(gone, True)"
    )
    assert printed(script, tmp_path) == "['libmkl_rt.so.3', 'libopenblas.so.0'] ['libopenblas.so.0']"


def test_after_mlx_it_is_too_late_for_another_blas() -> None:
    script = "import mlx.core, elm_mlx\ntry: elm_mlx.use_fast_blas()\nexcept elm_mlx.ElmError as e: print(e)"
    assert printed(script).startswith("MLX is imported already")


def test_without_a_fast_blas_the_refusal_says_what_to_install(tmp_path: Path) -> None:
    script = "import sys; sys.prefix = sys.base_prefix = sys.argv[1]; import elm_mlx; from elm_mlx.device import blas\n"
    script += "blas.OPENBLAS = 'libnone.so'\ntry: elm_mlx.use_fast_blas()\nexcept elm_mlx.ElmError as e: print(e)"
    assert "fast-cpu" in printed(script, tmp_path)


def test_importing_chooses_no_blas(tmp_path: Path) -> None:
    script = FAKE_MKL + "import elm_mlx.api, elm_mlx.convert; from elm_mlx.device import blas; print(blas.fast_blas())"
    assert printed(script, tmp_path) == "None"


def test_elsewhere_than_on_linux_mlx_needs_no_other_blas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert elm_mlx.use_fast_blas() is None


def test_the_program_prefers_a_fast_blas(tmp_path: Path) -> None:
    script = FAKE_MKL + "from elm_mlx.cli import run; from elm_mlx.device import blas\n"
    script += "run(['generate', '--max-tokens', '2'])"
    script += "; print(blas.fast_blas())"
    environment = {name: value for name, value in os.environ.items() if name != "ELM_MLX_BLAS"}
    for kept, expected in (({}, "libmkl_rt.so.3"), ({"ELM_MLX_BLAS": "reference"}, "None")):
        folder = tmp_path / expected
        folder.mkdir()
        command = [sys.executable, "-c", script, str(folder)]
        done = subprocess.run(command, env=environment | kept, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == expected


def test_numpys_blas_takes_one_thread_within_the_block_alone() -> None:
    script = "from elm_mlx.device.numpy_threads import numpy_on_one_thread, numpy_threads\n"
    script += "get, set_number = numpy_threads(); set_number(2); print(get(), end=' ')\n"
    script += "with numpy_on_one_thread(): print(get(), end=' ')\nprint(get())"
    assert printed(script) == "2 1 2"
