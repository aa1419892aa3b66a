"""What a release is made with: the formula is that of its lock, and the workflow's own commands name what is there."""

from __future__ import annotations

import hashlib
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import elm_mlx

ROOT = Path(__file__).parents[1]
HOMEBREW = ROOT / "packaging" / "homebrew"
UV = {
    "packages": [
        {"name": "mlx", "version": "0.32.4"},
        {"name": "thing", "version": "1", "sdist": {"url": "https://mirror/packages/a/b/thing-1.tar.gz",
                                                    "hashes": {"sha256": "1" * 64}}},
        {"name": "windows-thing", "version": "2", "marker": "sys_platform == 'win32'",
         "sdist": {"url": "https://mirror/packages/c/w-2.tar.gz", "hashes": {"sha256": "2" * 64}}},
    ]
}  # fmt: skip


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    return runpy.run_path(str(HOMEBREW / "make_formula.py"))


@pytest.fixture(scope="module")
def formula(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The formula of a release, as the program writes it into the folder where it runs."""
    folder = tmp_path_factory.mktemp("release")
    (folder / "elm_mlx-0.1.0.tar.gz").write_bytes(b"a release")
    command = [
        sys.executable,
        HOMEBREW / "make_formula.py",
        "elm_mlx-0.1.0.tar.gz",
        "--files",
        "https://index/packages/",
    ]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return (folder / "elm-mlx.rb").read_text(encoding="utf-8")


def test_a_formula_names_the_release_and_every_package_of_its_lock(made: dict[str, Any], formula: str) -> None:
    assert 'url "https://index/packages/source/e/elm-mlx/elm_mlx-0.1.0.tar.gz"' in formula
    assert f'sha256 "{hashlib.sha256(b"a release").hexdigest()}"' in formula
    lock = tomllib.loads((HOMEBREW / "lock.toml").read_text(encoding="utf-8"))
    for one in made["packages"](lock, "https://index/packages"):
        assert f'url "{one["url"]}"\n    sha256 "{one["sha256"]}"' in formula


def test_the_lock_has_what_the_project_asks_for(made: dict[str, Any]) -> None:
    lock = tomllib.loads((HOMEBREW / "lock.toml").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["serve"]]
    names = {re.split(r"[^A-Za-z0-9_-]", one)[0].lower().replace("_", "-") for one in asked}
    assert names <= {one["name"] for one in lock["packages"]} | set(made["OF_HOMEBREW"])


def test_a_lock_is_reduced_to_sdists_that_a_mac_needs(made: dict[str, Any]) -> None:
    lock = tomllib.loads(made["reduced"](UV))
    assert [one["name"] for one in lock["packages"]] == ["thing", "windows-thing"]
    assert made["packages"](lock, "https://index") == [
        {"name": "thing", "url": "https://index/a/b/thing-1.tar.gz", "sha256": "1" * 64}
    ]
    with pytest.raises(SystemExit, match="wheel-only has no sdist"):
        made["reduced"]({"packages": [{"name": "wheel-only", "version": "1"}]})


def test_the_formula_is_ruby(formula: str) -> None:
    if not shutil.which("ruby"):
        pytest.skip("no Ruby is here")
    subprocess.run(["ruby", "-c"], input=formula.encode(), check=True, capture_output=True)


def test_the_workflow_of_a_release_names_what_is_there() -> None:
    text = (ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8")
    jobs = yaml.safe_load(text)["jobs"]
    assert "Nobody has run it yet." in text
    assert jobs["build"]["permissions"]["attestations"] == "write"
    commands = {step.get("name"): step["run"] for job in jobs.values() for step in job["steps"] if "run" in step}
    script = f"GITHUB_REF_NAME=v{elm_mlx.__version__}; {commands['the tag is the version']}"
    assert subprocess.run(["bash", "-c", script], cwd=ROOT, check=False).returncode == 0
    assert subprocess.run(["bash", "-c", script.replace("=v", "=w")], cwd=ROOT, check=False).returncode == 1
    assert "packaging/homebrew/make_formula.py dist/*.tar.gz --lock" in commands["the formula"]
