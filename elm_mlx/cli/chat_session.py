"""The session of a chat, and its answers as they are printed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from elm_mlx.cli.pieces import print_texts
from elm_mlx.errors import ElmError

if TYPE_CHECKING:
    from elm_mlx.api import LanguageModel, Session, SessionStream


def open_session(lm: LanguageModel, messages: list[Any], tools: list[Any]) -> Session:
    """A session after these messages, also with a model that has no chat template. Raises InvalidRequest for messages
    that such a model cannot be given, and as `LanguageModel.session`."""
    from elm_mlx.api.session import Session  # here, as --help needs no MLX
    from elm_mlx.api.session_prompts import refuse_beyond_text
    from elm_mlx.api.session_turn import Toolbox

    if lm.has_chat_template:
        return lm.session(transcript=messages, tools=tools)
    refuse_beyond_text(messages)
    return Session(lm, messages, Toolbox(), {}, completes=True)


def print_pieces(stream: SessionStream) -> bool:
    """Prints an answer as it comes; returns whether it came to its end, and was not stopped by Ctrl-C: then what came
    stays as the answer. Raises KeyboardInterrupt where nothing came."""
    try:
        print_texts(stream)
    except KeyboardInterrupt:
        stream.close()
        if not stream.completion.tokens:
            raise
        stream.keep()
        return False
    except ElmError:
        if stream.completion.text:
            print()  # what came stays, and the error begins a line
        raise
    finally:
        stream.close()
    return True
