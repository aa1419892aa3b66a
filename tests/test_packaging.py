"""What is built holds all of the package and nothing beside it, and runs outside the checkout."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest

import elm_mlx

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETUPTOOLS = PROJECT["tool"]["setuptools"]
NOT_SOURCE = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "venv", "*.egg-info")


def call(*command: object, cwd: Path) -> str:
    """The stdout of a command that must succeed."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [*map(str, command)],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def git(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    """A git command in the checkout; skips the test where this is none."""
    if not shutil.which("git"):
        pytest.skip("needs git")
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    return done


def package_files(tree: Path) -> set[str]:
    """The files of the package by their installed names: convert/ lies inside it."""
    found = {path.relative_to(tree) for path in (tree / "elm_mlx").rglob("*") if path.is_file()}
    files = {path for path in found if path.parts[:2] != ("elm_mlx", "convert")}
    files |= {"elm_mlx" / path.relative_to(tree) for path in (tree / "convert").rglob("*") if path.is_file()}
    return {path.as_posix() for path in files if "__pycache__" not in path.parts and path.name != ".DS_Store"}


def test_the_package_list_is_the_directories() -> None:
    packages = {Path(name).parent for name in package_files(ROOT) if name.endswith("/__init__.py")}
    assert sorted(SETUPTOOLS["packages"]) == sorted(path.as_posix().replace("/", ".") for path in packages)


def test_every_other_file_of_the_package_is_package_data() -> None:
    others = [Path(name) for name in package_files(ROOT) if not name.endswith(".py")]
    assert len(others) > 4  # the demo's
    for path in others:
        patterns = SETUPTOOLS["package-data"].get(".".join(path.parent.parts), [])
        assert any(path.match(pattern) for pattern in patterns), path


def test_convert_is_linked_into_the_package() -> None:
    mode = git("ls-files", "-s", "elm_mlx/convert").stdout.split()[:1]
    assert mode == [b"120000"]
    assert git("show", ":elm_mlx/convert").stdout == b"../convert"


# The tests below build and install: some seconds each.


def checkout(folder: Path) -> Path:
    """The files as they lie here, the link included."""
    return Path(shutil.copytree(ROOT, folder, symlinks=True, ignore=NOT_SOURCE))


def archive_without_the_link(folder: Path) -> Path:
    """The last commit as a download: some ways of unpacking one lose links."""
    file = folder.with_suffix(".tar")
    git("archive", "--output", str(file), "HEAD")
    shutil.unpack_archive(file, folder, filter="data")
    (folder / "elm_mlx" / "convert").unlink()
    return folder


@pytest.fixture(scope="module", params=[checkout, archive_without_the_link], ids=lambda make: make.__name__)
def tree(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = request.param(tmp_path_factory.mktemp("tree") / "elm-mlx")
    return made


def setuptools_version() -> int:
    """The major version of the setuptools installed here, 0 without one."""
    try:
        return int(importlib.metadata.version("setuptools").split(".")[0])
    except importlib.metadata.PackageNotFoundError:
        return 0


@pytest.fixture(scope="module")
def wheel(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the sdist built from the tree. Without a recent setuptools here, pip fetches one."""
    folder = tmp_path_factory.mktemp("dist")
    isolation = ["--no-isolation"] if setuptools_version() >= 77 else []
    call(sys.executable, "-m", "build", *isolation, "--outdir", folder, tree, cwd=folder)
    return next(folder.glob("*.whl"))


@pytest.mark.slow
def test_the_wheel_is_the_package_and_small(wheel: Path, tree: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        names = {name for name in file.namelist() if ".dist-info/" not in name}
        entries = file.read(next(name for name in file.namelist() if name.endswith("entry_points.txt"))).decode()
    assert names == package_files(tree)
    assert "[llm]\nelm-mlx = elm_mlx.llm_plugin.hooks\n" in entries
    assert wheel.stat().st_size < 10e6


@pytest.mark.slow
def test_the_wheel_runs_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    python, neutral = tmp_path / "venv" / "bin" / "python", tmp_path / "neutral"
    neutral.mkdir()
    call(python, "-m", "pip", "install", "--no-deps", "--no-index", wheel, cwd=neutral)
    names = ["convert", "benchmarks", "tests", "examples", "checkpoints", "elm_mlx.convert"]
    script = f"from importlib.util import find_spec as f; print(*[n for n in {names} if f(n)])"
    assert call(python, "-c", script, cwd=neutral) == "elm_mlx.convert\n"

    site = next((tmp_path / "venv" / "lib").glob("python*/site-packages"))
    dependencies = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site / "dependencies.pth").write_text("\n".join(dependencies), encoding="utf-8")  # behind the wheel's own place
    where = call(python, "-c", "import elm_mlx.convert as c; print(c.__file__)", cwd=neutral)
    assert Path(where.strip()) == site / "elm_mlx" / "convert" / "__init__.py"
    program = tmp_path / "venv" / "bin" / "elm-mlx"
    assert call(program, "--version", cwd=neutral) == f"elm-mlx {elm_mlx.__version__}\n"
    assert call(program, "generate", "--max-tokens", 5, cwd=neutral).endswith("\n")
