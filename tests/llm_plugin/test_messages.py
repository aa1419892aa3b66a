"""llm's messages become those of chat templates, and the text that a base model goes on with; none is lost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from elm_mlx.demo import demo_directory
from elm_mlx.errors import InvalidRequest, NotFound
from elm_mlx.llm_plugin import shelf
from elm_mlx.llm_plugin.messages import messages_of, text_of


def said(role: str, *parts: dict[str, Any]) -> dict[str, Any]:
    return {"role": role, "parts": [*parts]}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


CALL = {"type": "tool_call", "name": "weather", "arguments": {"city": "Oslo"}, "tool_call_id": "call_1"}
RESULT = {"type": "tool_result", "name": "weather", "output": "Rain.", "tool_call_id": "call_1"}


def test_a_conversation_with_a_tool_becomes_messages() -> None:
    given = [
        said("system", text("Be brief.")),
        said("user", text("How is "), text("Oslo?")),
        said("assistant", {"type": "reasoning", "text": "Let me look."}, CALL),
        said("tool", RESULT, RESULT | {"tool_call_id": "call_2"}),
        said("system", text("Be brief.")),  # llm repeats it with each turn
        said("user", text("And Rome?")),
    ]
    function = {"name": "weather", "arguments": {"city": "Oslo"}}
    result = {"role": "tool", "name": "weather", "content": "Rain."}
    assert messages_of(given) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "How is Oslo?"},
        {
            "role": "assistant",
            "content": "",
            "reasoning": "Let me look.",
            "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
        },
        result | {"tool_call_id": "call_1"},
        result | {"tool_call_id": "call_2"},
        {"role": "user", "content": "And Rome?"},
    ]


def test_a_base_model_goes_on_with_the_text_of_all_messages() -> None:
    given = messages_of([said("user", text("Once")), said("assistant", text(" upon")), said("user", text(" a time"))])
    assert text_of(given) == "Once upon a time"


@pytest.mark.parametrize(
    "given", [said("system", text("Be brief.")), said("assistant", CALL), said("tool", RESULT)], ids=lambda m: m["role"]
)
def test_what_a_base_model_cannot_be_told_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="no chat template"):
        text_of(messages_of([given]))


def test_pictures_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="'attachment'; these models read text alone"):
        messages_of([said("user", {"type": "attachment", "attachment": {"type": "image/png"}})])
    with pytest.raises(InvalidRequest, match="text alone"):
        messages_of([said("tool", RESULT | {"attachments": [{"type": "image/png"}]})])


def test_the_demo_is_always_there_and_a_template_says_whether_there_are_tools(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ELM_MLX_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    assert shelf.names_here() == {"demo": demo_directory()}
    assert not shelf.takes_tools(demo_directory())
    (tmp_path / "chat_template.jinja").write_text("{{ tools | tojson }}", encoding="utf-8")
    assert shelf.takes_tools(tmp_path)


def test_a_cache_that_cannot_be_read_hides_no_models_of_others(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unreadable() -> None:
        raise NotFound("The cache cannot be read.")

    monkeypatch.setattr("elm_mlx.library.here.models_here", unreadable)
    assert shelf.names_here() == {"demo": demo_directory()}
    assert "its demo alone: The cache cannot be read." in caplog.text


def test_listing_the_models_imports_no_mlx(tmp_path: Path) -> None:
    script = "import sys; from elm_mlx.llm_plugin import shelf; shelf.names_here(); print('mlx.core' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("False\n", "")
