"""The settings that --connect prints are read back as the clients read them, whatever a model is called."""

from __future__ import annotations

import ast
import json
import shlex
import subprocess
import tomllib
from typing import Any

import pytest
import yaml

from elm_mlx.errors import InvalidRequest
from elm_mlx.server.advice import Block, Place, Served
from elm_mlx.server.clients import CLIENTS
from elm_mlx.server.connect import connect

URL = "http://127.0.0.1:8080"
NAMES = ["owner/name@rev", 'it\'s "a" $(model) \\ #:\U0001f600\x7f', "no: yes"]
OPEN = Place(URL, [Served(name, 8192, chats=number != 1) for number, name in enumerate(NAMES)])
LOCKED = Place(URL, OPEN.models, needs_key=True, key_file="/keys/the key")


def block(client: str, place: Place, form: str) -> str:
    found: list[Block] = [one for one in CLIENTS[client](place).blocks if one.form == form]
    assert len(found) == 1
    return found[0].text


def variables(text: str) -> dict[str, str]:
    """What a shell makes of lines that export variables."""
    lines = "".join(f"{line}\n" for line in text.splitlines() if line.startswith("export "))
    done = subprocess.run(["bash", "-c", f"{lines} env -0"], env={"ELM_MLX_API_KEY": "the-key"}, capture_output=True,
                          check=True)  # fmt: skip
    return dict(one.split("=", 1) for one in done.stdout.decode().split("\0") if "=" in one)


def key(place: Place) -> str:
    return "the-key" if place.needs_key else "none"


@pytest.mark.parametrize("place", [OPEN, LOCKED], ids=["open", "locked"])
@pytest.mark.parametrize("client", CLIENTS)
def test_every_client_gets_the_address_a_model_and_the_place_of_the_key(client: str, place: Place) -> None:
    text = connect(client, place)
    assert URL in text or client == "xcode"
    assert NAMES[0] in text or client in ("xcode", "open-webui")  # which ask for the names
    assert ("/keys/the key" in text) == place.needs_key
    assert all(line.isprintable() for line in text.splitlines())


@pytest.mark.parametrize("place", [OPEN, LOCKED], ids=["open", "locked"])
def test_codex_reads_toml(place: Place) -> None:
    read = tomllib.loads(block("codex", place, "toml"))
    assert (read["model"], read["model_context_window"]) == (NAMES[0], 8192)
    provider = read["model_providers"][read["model_provider"]]
    assert (provider["base_url"], provider["wire_api"]) == (f"{URL}/v1", "responses")
    assert provider.get("env_key") == ("ELM_MLX_API_KEY" if place.needs_key else None)


@pytest.mark.parametrize("place", [OPEN, LOCKED], ids=["open", "locked"])
def test_shells_read_variables_and_commands(place: Place) -> None:
    odd = Place(URL, [place.models[1]], place.needs_key)
    claude = variables(block("claude-code", odd, "shell"))
    assert (claude["ANTHROPIC_BASE_URL"], claude["ANTHROPIC_AUTH_TOKEN"]) == (URL, key(place))
    assert claude["ANTHROPIC_DEFAULT_OPUS_MODEL"] == claude["ANTHROPIC_DEFAULT_HAIKU_MODEL"] == NAMES[1]
    assert claude["CLAUDE_CODE_ATTRIBUTION_HEADER"] == "0"
    for client, name in (("aider", "OPENAI_API_BASE"), ("open-webui", "OPENAI_API_BASE_URL"),
                         ("openai", "OPENAI_BASE_URL")):  # fmt: skip
        read = variables(block(client, odd, "shell"))
        assert (read[name], read["OPENAI_API_KEY"]) == (f"{URL}/v1", key(place))
    command = block("aider", place, "shell").splitlines()[-1]
    assert shlex.split(command) == ["aider", "--model", f"openai/{NAMES[0]}"]


@pytest.mark.parametrize("place", [OPEN, LOCKED], ids=["open", "locked"])
def test_yaml_has_every_model_by_its_name(place: Place) -> None:
    models: Any = yaml.safe_load(block("continue", place, "yaml"))["models"]
    assert [one["model"] for one in models] == NAMES
    assert [one.get("useLegacyCompletionsEndpoint") for one in models] == [None, True, None]
    assert models[0]["apiKey"] == ("${{ secrets.ELM_MLX_API_KEY }}" if place.needs_key else "none")
    models = yaml.safe_load(CLIENTS["llm"](place).blocks[0].text)
    assert [(one["model_name"], one["api_base"]) for one in models] == [(name, f"{URL}/v1") for name in NAMES]
    assert models[0].get("api_key_name") == ("elm-mlx" if place.needs_key else None)
    models = yaml.safe_load(block("litellm", place, "yaml"))["model_list"]
    assert [one["litellm_params"]["model"] for one in models] == [f"openai/{name}" for name in NAMES]


def test_json_has_every_model_and_its_context() -> None:
    provider = json.loads(block("zed", OPEN, "json"))["language_models"]["openai_compatible"]["elm-mlx"]
    assert [(one["name"], one["max_tokens"]) for one in provider["available_models"]] == [(n, 8192) for n in NAMES]
    known = json.loads(block("aider", OPEN, "json"))
    assert {name: one["max_input_tokens"] for name, one in known.items()} == {f"openai/{n}": 8192 for n in NAMES}


@pytest.mark.parametrize("place", [OPEN, LOCKED], ids=["open", "locked"])
def test_opencode_reads_json(place: Place) -> None:
    read = json.loads(block("opencode", place, "json"))
    assert read["model"] == f"elm-mlx/{NAMES[0]}"
    provider = read["provider"]["elm-mlx"]
    key = "{env:ELM_MLX_API_KEY}" if place.needs_key else "none"
    assert provider["options"] == {"baseURL": f"{URL}/v1", "apiKey": key}
    assert list(provider["models"]) == NAMES
    assert [one["tool_call"] for one in provider["models"].values()] == [True, False, True]
    assert provider["models"][NAMES[0]]["limit"] == {"context": 8192, "output": 2048}


@pytest.mark.parametrize("client", ["langchain", "openai", "anthropic"])
@pytest.mark.parametrize("place", [OPEN, LOCKED], ids=["open", "locked"])
def test_python_is_python(client: str, place: Place) -> None:
    text = block(client, place, "python")
    values = [one.value for one in ast.walk(ast.parse(text)) if isinstance(one, ast.Constant)]
    assert {f"{URL}/v1", URL} & set(values)
    assert ("ELM_MLX_API_KEY" if place.needs_key else "none") in values
    assert ("import os" in text) == place.needs_key


def test_xcode_is_told_a_port_or_an_address_and_a_key() -> None:
    assert "Port: 8080" in block("xcode", OPEN, "text")
    assert "x-api-key" in block("xcode", LOCKED, "text")


def test_agents_are_warned_of_a_short_context() -> None:
    assert "context of 8,192" in connect("claude-code", OPEN)
    assert "context of" not in connect("codex", Place(URL, [Served("long", 131_072)]))


def test_a_client_that_is_not_known_lists_those_that_are() -> None:
    with pytest.raises(InvalidRequest, match="codex, claude-code, xcode"):
        connect("emacs", OPEN)
