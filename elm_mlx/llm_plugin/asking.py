"""What llm asks, as a request to a loaded model; and what the model says, as llm's events."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import llm
from llm.parts import StreamEvent

from elm_mlx.errors import InvalidRequest
from elm_mlx.llm_plugin.messages import messages_of, text_of
from elm_mlx.llm_plugin.shelf import loaded
from elm_mlx.protocols.openai.lead import Lead
from elm_mlx.protocols.token_texts import TokenTexts

if TYPE_CHECKING:
    from elm_mlx.api import Piece, Stream


class Asked:
    """One request of llm's, and its answer while it comes."""

    def __init__(self, directory: Path, prompt: llm.Prompt, response: Any) -> None:
        """Loads the model where it is not loaded, and asks it. Raises as `elm_mlx.load`, and as `LanguageModel.chat`
        or, for a model without a chat template, `generate`."""
        self._response = response
        lm = loaded(directory)
        options = {name: value for name, value in prompt.options if value is not None}
        if prompt.schema:
            options["schema"] = prompt.schema
        messages, tools = messages_of(message.to_dict() for message in prompt.messages), tools_of(prompt)
        self.stream: Stream
        if lm.has_chat_template:
            most = options.pop("max_tokens", None)  # an answer may fill the context
            self.stream = lm.chat_stream(messages, most, tools=tools or None, **options)
        else:  # llm has refused tools, as the model has said that it supports none
            self.stream = lm.submit(text_of(messages), **options)
        self._lead = Lead(TokenTexts(lm.tokenizer), is_needed=not (lm.has_chat_template or prompt.schema))

    def events(self, piece: Piece) -> Iterator[StreamEvent]:
        """What llm is told of a piece; a call is noted for it, too."""
        if call := piece.tool_call:
            self._response.add_tool_call(
                llm.ToolCall(name=call.name, arguments=dict(call.arguments), tool_call_id=call.id)
            )
            yield StreamEvent(type="tool_call_name", chunk=call.name, tool_call_id=call.id)
            yield StreamEvent(type="tool_call_args", chunk=json.dumps(call.arguments), tool_call_id=call.id)
        elif piece.kind == "reasoning" and piece.text:
            yield StreamEvent(type="reasoning", chunk=piece.text)
        elif piece.kind == "text" and (text := self._lead.with_blank(piece.token, piece.text)):
            yield StreamEvent(type="text", chunk=text)

    def end(self) -> None:
        """Tells llm how many tokens there were, and why the answer ended."""
        done = self.stream.completion
        cached = {"cached_tokens": done.stats.cached_tokens} if done.stats.cached_tokens else None
        self._response.set_usage(input=done.stats.prompt_tokens, output=done.stats.generated_tokens, details=cached)
        self._response.response_json = {"finish_reason": done.finish_reason, "stop_reason": done.stop_reason}


def tools_of(prompt: llm.Prompt) -> list[dict[str, Any]]:
    """The functions that the model may call, as OpenAI's API has them. Raises InvalidRequest for tools that only a
    provider's servers have."""
    for tool in prompt.tools:
        if not isinstance(tool, llm.Tool):
            raise InvalidRequest(f"The tool {tool.name} runs on a provider's server, and there is none. Leave it out.")
    return [
        {
            "type": "function",
            "function": {
                "name": tool.name,
                "description": tool.description or "",
                "parameters": tool.input_schema or {"type": "object", "properties": {}},
            },
        }
        for tool in prompt.tools
    ]
