"""`elm-mlx serve --connect` prints settings and serves nothing; `--stdio` refuses what means nothing there."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.command_line import run


def test_connect_prints_settings_with_the_typed_address_models_and_aliases() -> None:
    done = run("serve", "--connect", "zed", "--port", "8123", "--alias", "gpt-4o=demo")
    assert (done.code, done.err) == (0, "")
    assert '"api_url": "http://127.0.0.1:8123/v1"' in done.out
    assert '"name": "demo"' in done.out
    assert '"name": "gpt-4o"' in done.out
    assert '"max_tokens": 512' in done.out
    assert "no chat template" in done.out


def test_connect_names_the_place_of_the_key_and_never_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "key"
    file.write_text("secret-word\n", encoding="utf-8")
    printed = run("serve", "--connect", "codex", "--api-key-file", str(file)).out
    monkeypatch.setenv("ELM_MLX_API_KEY", "secret-word")
    printed += run("serve", "--connect", "claude-code", "--host", "::1").out
    assert "secret-word" not in printed
    assert str(file) in printed
    assert 'ANTHROPIC_AUTH_TOKEN="$ELM_MLX_API_KEY"' in printed
    assert "http://[::1]:8080" in printed


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--connect", "emacs"], "codex, claude-code, xcode"),
        (["--connect", "codex", "--port", "0"], "--port"),
        (["--stdio", "--port", "1", "--json"], "Leave --port and --json out."),
    ],
)
def test_what_means_nothing_is_refused(words: list[str], said: str) -> None:
    done = run("serve", *words)
    assert done.code == 2
    assert said in done.err
    assert done.out == ""
