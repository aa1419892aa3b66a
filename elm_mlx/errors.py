"""Every error a user can meet, as one tree:

    ElmError                     exit code 1: something failed at run time
    ├── InvalidRequest           2: an argument has no meaning (also a ValueError)
    │   ├── PromptTooLong        2: the prompt does not fit the model's context
    │   │   └── ExceededContextWindow  2: a session's transcript does not
    │   └── NotEnforceable       2: the form that an answer is to have cannot be enforced
    ├── BadCheckpoint            65: a file is damaged, inconsistent or hostile
    │   └── NotFinite            65: weights are NaN or infinite, or a model gives such logits
    ├── NotFound                 66: no such file, directory or model (also a FileNotFoundError)
    │   └── MissingTokenizer     66: the model is there, its tokenizer is not
    ├── MissingBackend           69: MLX, or a backend for it, is missing (also an ImportError)
    ├── CacheFull                70: more tokens than the key/value cache was made for
    │   └── CannotTrim           70: a window has forgotten what shorter text would show again
    ├── NotEnoughMemory          71: a model, or a request, does not fit this machine (also a MemoryError)
    ├── VerificationFailed       72: a converted model differs too much from its source
    ├── TargetExists             73: the output is there already (also a FileExistsError)
    ├── DiskFull                 74: no space left for the output (also an OSError)
    ├── Unreachable              75: the hub does not answer, or may not be asked (also a ConnectionError)
    ├── QueueFull                76: too many requests wait already
    ├── Gated                    77: a repository asks for a licence or a token (also a PermissionError)
    ├── Unsupported              78: a valid model of a kind that elm-mlx does not run
    ├── RequestFailed            79: computing failed in a step that this request took part in
    ├── EngineStopped            80: the model was closed, or computing failed twice in a row
    │   └── RankFailed           87: one of several machines with a model failed, or they do not go together
    ├── Forked                   81: a process made by fork uses the model of its parent (also a RuntimeError)
    ├── ConcurrentRequests       84: a session is asked while it answers
    ├── ToolCallError            85: an answer goes on calling tools
    ├── AddressInUse             86: another process listens at that address (also an OSError)
    └── Unfinished               a request ended before its answer did: it has the completion so far
        ├── Cancelled            82: it was cancelled
        └── TimedOut             83: it was not answered in time (also a TimeoutError)

The codes follow BSD's sysexits.h. The command line adds 129 (hung up), 130
(Ctrl-C), 141 (the reader of a pipe left) and 143 (terminated).
A message says what is wrong, why, and what to do about it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

# Finds the arguments that an advice names: {output}, {bits=4}. The library drops the braces, the command line writes
# flags.
ARGUMENT = re.compile(r"\{(\w+)(?:=([\w.-]+))?\}")


class ElmError(Exception):
    """The root of the tree: `except ElmError` catches every error that elm-mlx raises on purpose.

    An error says what is wrong, why and what to do. What of that names arguments of the call stands in `advice`, each
    argument in braces as ARGUMENT reads it; the rest is `message`, which may be empty. str(error) is both.
    """

    exit_code = 1

    def __init__(self, message: str, advice: str = "") -> None:
        super().__init__(message)
        self.message, self.advice = message, advice

    def __str__(self) -> str:
        return f"{self.message} {ARGUMENT.sub(lambda found: found[0][1:-1], self.advice)}".strip()


class InvalidRequest(ElmError, ValueError):
    """An argument has no meaning for this model or this call."""

    exit_code = 2


class PromptTooLong(InvalidRequest):
    """The prompt, of `tokens` tokens, does not fit the model's context of `context` tokens."""

    def __init__(self, message: str, advice: str = "", tokens: int = 0, context: int = 0) -> None:
        super().__init__(message, advice)
        self.tokens, self.context = tokens, context


class ExceededContextWindow(PromptTooLong):
    """The transcript of a session, with what was asked last, does not fit the model's context."""


class NotEnforceable(InvalidRequest):
    """The form that an answer is to have cannot be enforced, for the reason that the message names."""


class BadCheckpoint(ElmError):
    """A file of a checkpoint is damaged, inconsistent or hostile."""

    exit_code = 65


class NotFinite(BadCheckpoint):
    """Weights are NaN or infinite, or the logits that a model gives are."""


class NotFound(ElmError, FileNotFoundError):
    """A file, a directory or a model is not there."""

    exit_code = 66


class MissingTokenizer(NotFound):
    """The model is there and its tokenizer is not."""


class MissingBackend(ElmError, ImportError):
    """MLX is installed without a backend for this machine."""

    exit_code = 69


class CacheFull(ElmError):
    """More tokens were fed than the key/value cache was made for."""

    exit_code = 70


class CannotTrim(CacheFull):
    """More is to be trimmed of a key/value cache than its window's margin still holds."""


class NotEnoughMemory(ElmError, MemoryError):
    """A model or a request does not fit this machine: it needs `needed` bytes, and `available` bytes are there."""

    exit_code = 71

    def __init__(self, message: str, advice: str = "", needed: int = 0, available: int = 0) -> None:
        super().__init__(message, advice)
        self.needed, self.available = needed, available


class VerificationFailed(ElmError):
    """A converted model differs from its source by more than its bound."""

    exit_code = 72


class TargetExists(ElmError, FileExistsError):
    """The output is there already, and the call does not ask to replace it."""

    exit_code = 73


class DiskFull(ElmError, OSError):
    """The disk has no space for the output."""

    exit_code = 74


class Unreachable(ElmError, ConnectionError):
    """The hub does not answer, or the network is switched off."""

    exit_code = 75


class QueueFull(ElmError):
    """Too many requests wait for the model already; the request was not taken."""

    exit_code = 76


class Gated(ElmError, PermissionError):
    """A repository opens only to a user who accepted its licence, and whose token shows it."""

    exit_code = 77


class Unsupported(ElmError):
    """A valid model of a kind that elm-mlx does not run."""

    exit_code = 78


class RequestFailed(ElmError):
    """Computing failed in a step that this request took part in, with the error that is its cause. Others go on."""

    exit_code = 79


class EngineStopped(ElmError):
    """The model answers no more: it was closed, or computing failed twice in a row."""

    exit_code = 80


class RankFailed(EngineStopped):
    """One of the machines that hold a model together failed, or they do not go together: all of them stop. `is_told`
    says whether the process has written the message to stderr already."""

    exit_code = 87
    is_told = False


class Forked(ElmError, RuntimeError):
    """A process that was made by fork uses the model of its parent, whose threads do not exist there."""

    exit_code = 81


class ConcurrentRequests(ElmError):
    """A session was asked while it answers. It answers one request at a time; a model has any number of sessions."""

    exit_code = 84


class ToolCallError(ElmError):
    """A turn of a session called tools in more rounds than it may, and had no answer."""

    exit_code = 85


class AddressInUse(ElmError, OSError):
    """Another process listens at the address that a server is to have."""

    exit_code = 86


class Unfinished(ElmError):
    """A request ended before its answer did; `completion` is what came until then, an elm_mlx.Completion."""

    def __init__(self, message: str, advice: str = "", completion: Any = None) -> None:
        super().__init__(message, advice)
        self.completion = completion


class Cancelled(Unfinished):
    """The request was cancelled before its end."""

    exit_code = 82


class TimedOut(Unfinished, TimeoutError):
    """The request was not answered in time, and was cancelled."""

    exit_code = 83


def unsupported(what: str, found: object, known: Iterable[object], remedy: str = "") -> Unsupported:
    """Makes the error for `found`, which elm-mlx does not run; its message lists the `known` ones that it runs, and
    `remedy` says what to do where that is not to take another model."""
    runs = f"{what} {found!r} is not one that elm-mlx runs; it runs {', '.join(map(str, known))}."
    return Unsupported(f"{runs} {remedy}".strip())
