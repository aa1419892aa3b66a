"""The CPU stand-in's policy: float32 where it fits, as stored where asked, and no kernel compiled by MLX."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import pytest
from helpers import checkpoints

import elm_mlx
from elm_mlx.convert import convert
from elm_mlx.device import memory as machine
from elm_mlx.models.attention import Uncached
from elm_mlx.models.matrices import QuantizedLinear

pytestmark = pytest.mark.skipif("config.getoption('--device') == 'gpu'", reason="policy of the CPU backend")


@pytest.fixture(scope="module")
def four_bit(openelm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny OpenELM at 4 bits with bfloat16 scales."""
    return convert(openelm, tmp_path_factory.mktemp("cpu") / "4bit", bits=4, group_size=32).output


def test_sixteen_bit_weights_are_computed_in_float32(openelm: Path, tmp_path: Path) -> None:
    output = convert(openelm, tmp_path / "out").output
    assert elm_mlx.load(output).model.dtype == mx.float32
    assert elm_mlx.load(output, cpu_policy="plain").model.dtype == mx.bfloat16


def test_low_bits_are_expanded_while_that_fits(four_bit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not isinstance(elm_mlx.load(four_bit).model.embedding, QuantizedLinear)
    monkeypatch.setattr(machine, "free_memory", lambda: 100_000)
    tight = elm_mlx.load(four_bit, force=True)
    assert isinstance(tight.model.embedding, QuantizedLinear)
    assert tight.model.dtype == mx.float32


def test_expanded_or_not_the_numbers_are_the_same(four_bit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = checkpoints.prompt()
    expanded = elm_mlx.load(four_bit).logits(ids)
    monkeypatch.setattr(machine, "free_memory", lambda: 100_000)
    kept = elm_mlx.load(four_bit, force=True).logits(ids)
    assert float(mx.abs(expanded - kept).max()) <= 2e-4 * float(mx.abs(kept).max())


def test_unquantized_weights_too_large_to_widen_stay_as_they_are(
    openelm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = convert(openelm, tmp_path / "out").output
    monkeypatch.setattr(machine, "free_memory", lambda: 100_000)
    assert elm_mlx.load(output, force=True).model.dtype == mx.bfloat16


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("how", [{}, {"bits": 4, "group_size": 32}, {"mode": "mxfp4"}], ids=str)
def test_nothing_promotes_under_the_plain_policy(
    openelm: Path, tmp_path: Path, dtype: str, how: dict[str, int]
) -> None:
    """States, logits and cache stay in the stored type from the first layer to the last."""
    lm = elm_mlx.load(convert(openelm, tmp_path / "out", dtype=dtype, **how).output, cpu_policy="plain")
    kind = getattr(mx, dtype)
    h = lm.model.embedding.rows(mx.array([[1, 2, 3]]))
    assert h.dtype == kind
    for block in lm.model.blocks:
        h = block(h, Uncached())
        assert h.dtype == kind
    assert lm.model(mx.array([[1]])).dtype == kind


def test_a_mixed_directory_is_computed_in_its_embeddings_type(tmp_path: Path) -> None:
    raw = checkpoints.CONFIGS["llama-3"]
    source = checkpoints.write(tmp_path / "s", raw, dtype=mx.bfloat16)
    arrays = dict(mx.load(str(source / "model.safetensors")).items())  # type: ignore[union-attr]
    checkpoints.save(source, {n: a.astype(mx.float32) if a.ndim == 1 else a for n, a in arrays.items()})
    lm = elm_mlx.load(source, cpu_policy="plain")
    assert lm.model(mx.array([[1]])).dtype == mx.bfloat16


def test_the_notice_names_the_stand_in(openelm: Path) -> None:
    notice = elm_mlx.load(openelm).notice
    assert notice is not None
    assert "stand-in" in notice


def generate_with(tmp: Path, path: str | None = None) -> subprocess.CompletedProcess[str]:
    """The demo, run with this folder for temporary files and this search path."""
    env = os.environ | {"TMPDIR": str(tmp)} | ({"PATH": path} if path else {})
    command = [sys.executable, "-m", "elm_mlx", "generate", "--prompt", "Once", "--max-tokens", "8"]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def test_a_broken_kernel_cache_or_compiler_does_not_end_a_run(tmp_path: Path) -> None:
    expected = generate_with(tmp_path / "nothing-here")
    assert expected.returncode == 0, expected.stderr
    cache = tmp_path / "tmp" / "mlx" / mx.__version__ / "cpu"
    cache.mkdir(parents=True)
    for name in ("libCompiledSigmoidMultiply.so", "libforeign.so"):
        (cache / name).write_bytes(b"\x7fELF truncated")
    compilers = tmp_path / "bin"
    compilers.mkdir()
    (compilers / "g++").write_text(
        "#!/bin/sh\ncase $1 in --version) echo g++ 12;; *) exit 1;; esac\n", encoding="utf-8"
    )
    (compilers / "g++").chmod(0o755)
    done = generate_with(tmp_path / "tmp", f"{compilers}:{os.environ['PATH']}")
    assert (done.returncode, done.stdout) == (0, expected.stdout), done.stderr
    (tmp_path / "unwritable").mkdir()
    (tmp_path / "unwritable" / "mlx").write_text("a file in its place, for root too", encoding="utf-8")
    done = generate_with(tmp_path / "unwritable", f"{compilers}:{os.environ['PATH']}")
    assert (done.returncode, done.stdout) == (0, expected.stdout), done.stderr


COMPILED = """
import elm_mlx
lm = elm_mlx.load(cpu_policy="compiled")
print(bool(lm.model.step), lm.generate("Once", 8).tokens)
"""


def compiled_with(tmp: Path, path: str) -> list[str]:
    """Whether the demo's steps were compiled with this folder and search path, and its tokens."""
    environment = os.environ | {"TMPDIR": str(tmp), "PATH": path}
    command = [sys.executable, "-c", COMPILED]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().split(" ", 1)


def test_a_step_that_cannot_be_compiled_is_taken_as_it_is(tmp_path: Path) -> None:
    """No compiler, one that cannot build, kernels that are damaged: each costs speed, never the run."""
    if not shutil.which("g++"):
        pytest.skip("no compiler, so nothing is compiled that could fail")
    folder = tmp_path / "tmp"
    folder.mkdir()
    compiled, tokens = compiled_with(folder, os.environ["PATH"])
    assert compiled == "True"
    for kernel in folder.rglob("*.so"):
        kernel.write_bytes(kernel.read_bytes()[:100])
    assert compiled_with(folder, os.environ["PATH"]) == ["False", tokens]
    broken = tmp_path / "bin"
    broken.mkdir()
    (broken / "g++").write_text("#!/bin/sh\ncase $1 in --version) echo g++ 12;; *) exit 1;; esac\n", encoding="utf-8")
    (broken / "g++").chmod(0o755)
    (tmp_path / "new").mkdir()
    assert compiled_with(tmp_path / "new", f"{broken}:{os.environ['PATH']}") == ["False", tokens]
    assert compiled_with(tmp_path / "new", "/nowhere")[1] == tokens  # MLX sees that there is none


# BLAS: each in a process of its own, which loads one for good.

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
    script = (
        FAKE_MKL
        + "from elm_mlx.cli import run; from elm_mlx.device import blas; run(['generate', '--max-tokens', '2'])"
    )
    script += "; print(blas.fast_blas())"
    environment = {name: value for name, value in os.environ.items() if name != "ELM_MLX_BLAS"}
    for kept, expected in (({}, "libmkl_rt.so.3"), ({"ELM_MLX_BLAS": "reference"}, "None")):
        folder = tmp_path / expected
        folder.mkdir()
        command = [sys.executable, "-c", script, str(folder)]
        done = subprocess.run(command, env=environment | kept, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == expected
