"""Writes a Homebrew formula, with every package that it installs by its version and hash.

    python packaging/homebrew/make_formula.py SDIST --files URL          # from the lock beside this file
    python packaging/homebrew/make_formula.py SDIST --files URL --lock   # locks that release first: needs uv

SDIST is the released sdist, and URL where its index keeps files, the sdist's and those of all packages. The lock,
lock.toml, says which packages a release with the extra `serve` asks for: what uv writes of it (pylock.toml, PEP 751),
reduced to the sdists, as Homebrew builds everything from its source. MLX and NumPy are Homebrew's own. There is no
release yet, so no formula lies here, nobody has installed one, and no Mac was at hand.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import tarfile
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from packaging.markers import Marker

HERE = Path(__file__).parent
LOCK = HERE / "lock.toml"
FORMULA = "elm-mlx.rb"
OF_HOMEBREW = ("mlx", "mlx-metal", "numpy")
PYTHON = "3.14"
MAC = {
    "implementation_name": "cpython", "os_name": "posix", "platform_machine": "arm64", "sys_platform": "darwin",
    "platform_python_implementation": "CPython", "platform_system": "Darwin", "python_full_version": f"{PYTHON}.0",
    "python_version": PYTHON, "extra": "",
}  # fmt: skip
TEMPLATE = """\
# Made by packaging/homebrew/make_formula.py; changes here are lost.
class ElmMlx < Formula
  include Language::Python::Virtualenv

  desc "Run OpenELM and Llama 3 on Apple silicon, convert and serve them"
  homepage "{homepage}"
  url "{url}"
  sha256 "{sha256}"
  license "Apache-2.0"

  depends_on "rust" => :build # hf-xet, llguidance, tokenizers
  depends_on "libyaml"
  depends_on arch: :arm64
  depends_on macos: :sonoma
  depends_on "mlx"
  depends_on "numpy"
  depends_on "python@{python}"

{resources}
  def install
    virtualenv_install_with_resources
  end

  service do
    run [opt_bin/"elm-mlx", "serve"]
    keep_alive true
    log_path var/"log/elm-mlx.log"
    error_log_path var/"log/elm-mlx.log"
  end

  test do
    assert_match version.to_s, shell_output("#{{bin}}/elm-mlx --version")
    told = shell_output("#{{bin}}/elm-mlx generate --prompt 'Once upon a time' --max-tokens 4")
    assert_match "there lived", told
  end
end
"""
RESOURCE = """\
  resource "{name}" do
    url "{url}"
    sha256 "{sha256}"
  end
"""


def formula(lock: dict[str, Any], files: str, homepage: str, release: tuple[str, str]) -> str:
    """The formula of a release, its version and the hash of its sdist, where all files lie under the address
    `files`."""
    version, sha256 = release
    resources = "\n".join(RESOURCE.format(**one) for one in packages(lock, files))
    url = f"{files}/source/e/elm-mlx/elm_mlx-{version}.tar.gz"
    return TEMPLATE.format(homepage=homepage, url=url, sha256=sha256, python=PYTHON, resources=resources)


def packages(lock: dict[str, Any], files: str) -> list[dict[str, str]]:
    """Name, address and hash of each package that a Mac needs and Homebrew lacks, by name."""
    return [
        {"name": one["name"], "url": f"{files}/{one['sdist']['path']}", "sha256": one["sdist"]["sha256"]}
        for one in lock["packages"]
        if Marker(one["marker"]).evaluate(MAC)
    ]


def reduced(lock: dict[str, Any]) -> str:
    """Of a lock as uv writes it what a formula needs, as TOML: of each package its sdist, and when it is wanted.
    Raises SystemExit for a package without an sdist."""
    tables = []
    for one in lock["packages"]:
        if one["name"] in OF_HOMEBREW:
            continue
        if "sdist" not in one:
            raise SystemExit(f"{one['name']} has no sdist, so Homebrew cannot build it.")
        path, digest = one["sdist"]["url"].partition("/packages/")[2], one["sdist"]["hashes"]["sha256"]
        named = {"name": one["name"], "version": one["version"], "marker": one.get("marker", "python_version >= '3'")}
        fields = "".join(f"{key} = {json.dumps(value)}\n" for key, value in named.items())
        tables.append(f"[[packages]]\n{fields}sdist = {{ path = {json.dumps(path)}, sha256 = {json.dumps(digest)} }}\n")
    return "\n".join(
        ("# What a release asks for: uv's lock of its sdist, without wheels.", 'lock-version = "1.0"\n', *tables)
    )


def locked(sdist: Path) -> dict[str, Any]:
    """The lock of an sdist with the extra `serve`, as uv makes it."""
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(sdist) as archive:
            archive.extractall(folder, filter="data")
        (project,) = Path(folder).iterdir()
        export = ["uv", "export", "-q", "--format", "pylock.toml", "--extra", "serve", "--no-emit-project"]
        done = subprocess.run(export, cwd=project, check=True, capture_output=True, text=True)
    return tomllib.loads(done.stdout)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("sdist", type=Path, metavar="SDIST")
    options.add_argument("--files", required=True, metavar="URL", help="where the index keeps its files")
    options.add_argument("--homepage", default="https://github.com/OWNER/elm-mlx", metavar="URL")
    options.add_argument("--lock", action="store_true", help="lock the release first, by uv")
    given = options.parse_args()
    if given.lock:
        LOCK.write_text(reduced(locked(given.sdist)), encoding="utf-8")
    version = given.sdist.name.removeprefix("elm_mlx-").removesuffix(".tar.gz")
    digest = hashlib.sha256(given.sdist.read_bytes()).hexdigest()
    lock = tomllib.loads(LOCK.read_text(encoding="utf-8"))
    Path(FORMULA).write_text(
        formula(lock, given.files.rstrip("/"), given.homepage, (version, digest)), encoding="utf-8"
    )
    print(FORMULA, "written")


if __name__ == "__main__":
    main()
