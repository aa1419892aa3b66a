"""What is generated is up to date, and what the documents promise exists."""

from __future__ import annotations

import re
import runpy
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]


def test_cli_page_is_what_the_commands_say() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "make_cli.py"))
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == made["text"](), "run: python docs/make_cli.py"


def test_api_page_is_what_the_docstrings_say() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "make_api.py"))
    assert (ROOT / "docs" / "api.md").read_text(encoding="utf-8") == made["text"](), "run: python docs/make_api.py"


@pytest.mark.parametrize("name", ["generate", "test"])
def test_the_readme_commands_are_found_by_their_markers(name: str) -> None:
    """As .ci/run finds them: the third line from the marker on."""
    script = rf"sed -n '/<!-- ci:{name} -->/,/^```$/p' README.md | sed -n 3p"
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("python3 -m venv .venv && .venv/bin/pip install -e '.[cpu")


def test_the_table_of_extras_is_that_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    page = (ROOT / "docs" / "installing.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ((?:`[a-z0-9-]+`,? ?)+) \|", page, re.MULTILINE)
    assert sorted(re.findall(r"`(.*?)`", " ".join(rows))) == sorted(project["optional-dependencies"])


def test_the_chinese_readme_has_the_readme_s_commands() -> None:
    def commands(name: str) -> list[str]:
        text = (ROOT / name).read_text(encoding="utf-8")
        return re.findall(r"<!-- ci:\w+ -->\n```sh\n(.*)\n```", text)

    assert commands("README.zh-CN.md") == commands("README.md") != []


def test_the_table_of_times_has_the_steps_of_ci_run() -> None:
    steps = re.findall(r'^step "(.*?)"', (ROOT / ".ci" / "run").read_text(encoding="utf-8"), re.MULTILINE)
    page = (ROOT / "docs" / "contributing.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| (.*?) \| \d+ \|$", page, re.MULTILINE) == steps


def test_the_issue_templates_are_forms_and_ask_for_what_is_needed() -> None:
    folder = ROOT / ".github" / "ISSUE_TEMPLATE"
    forms = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in folder.glob("*.yml")}
    assert forms.pop("config") == {"blank_issues_enabled": True}
    for form in forms.values():
        assert {"name", "description", "labels", "body"} <= set(form)
        assert all(part["type"] in ("textarea", "markdown") for part in form["body"])
    assert any("elm-mlx doctor --json" in part["attributes"]["label"] for part in forms["bug"]["body"][1:])
    for place in ("README.md", "benchmarks/mac.py"):  # where a Mac's file is to be sent
        assert forms["mac"]["name"] in (ROOT / place).read_text(encoding="utf-8")
