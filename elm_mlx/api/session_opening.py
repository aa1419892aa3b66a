"""Making a session of what a caller gives: instructions or a transcript, and tools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from elm_mlx.api.options import Options
from elm_mlx.api.session import Session
from elm_mlx.api.session_prompts import Conversable
from elm_mlx.api.session_turn import Toolbox
from elm_mlx.api.tool_running import check_seconds
from elm_mlx.api.tools import tools_of
from elm_mlx.api.transcript import Message, check_transcript, read_transcript
from elm_mlx.arguments import is_unicode, shown, whole_number
from elm_mlx.errors import InvalidRequest


def open_session(
    lm: Conversable,
    instructions: str | None,
    transcript: str | Path | Sequence[Mapping[str, Any]] | None,
    toolbox: Toolbox,
    options: Options,
) -> Session:
    """Makes a session, as `LanguageModel.session` says."""
    lm._maker.check((), 1, options)
    if not lm.has_chat_template:
        lm.chat_prompt([{"role": "user", "content": ""}])  # raises NotFound, and says what to do
    if toolbox.tools:
        lm._templates.refuse_without_tools()
    messages = read_transcript(transcript) if isinstance(transcript, str | Path) else check_transcript(transcript or [])
    return Session(lm, told(instructions, messages), toolbox, options)


def told(instructions: str | None, messages: list[Message]) -> list[Message]:
    """A transcript that begins with these instructions. Raises InvalidRequest for what is no text, and where it has
    some already."""
    if instructions is None:
        return messages
    if not isinstance(instructions, str) or not is_unicode(instructions):
        raise InvalidRequest(f"instructions is {shown(instructions)}; it must be a text in Unicode.")
    if messages and messages[0]["role"] == "system":
        raise InvalidRequest("The transcript has a system message already.",
                             "Leave {instructions} out, or the system message.")  # fmt: skip
    return [{"role": "system", "content": instructions}, *messages]


def toolbox_of(tools: object, rounds: int, seconds: float) -> Toolbox:
    """A toolbox with these tools. Raises InvalidRequest for limits without a meaning, and as `tools_of`."""
    if whole_number("tool_rounds", rounds) < 1:
        raise InvalidRequest(f"tool_rounds is {rounds}; it must be above 0.")
    check_seconds("tool_seconds", seconds)
    return Toolbox({tool.name: tool for tool in tools_of(tools)}, rounds, seconds)
