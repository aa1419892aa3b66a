"""Every error a user can meet, as one tree:

    ElmError                     exit code 1: something failed at run time
    ├── InvalidRequest           2: an argument has no meaning (also a ValueError)
    │   └── PromptTooLong        2: the prompt does not fit the model's context
    ├── BadCheckpoint            65: a file is damaged, inconsistent or hostile
    ├── NotFound                 66: no such file, directory or model (also a FileNotFoundError)
    │   └── MissingTokenizer     66: the model is there, its tokenizer is not
    ├── MissingBackend           69: MLX is installed without a backend (also an ImportError)
    ├── CacheFull                70: more tokens than the key/value cache was made for
    ├── NotEnoughMemory          71: the model does not fit this machine (also a MemoryError)
    ├── VerificationFailed       72: a conversion is further from its source than it may be
    ├── TargetExists             73: the output is there already (also a FileExistsError)
    ├── DiskFull                 74: no space left for the output (also an OSError)
    ├── Unreachable              75: the hub does not answer, or the network is switched off
    ├── Gated                    77: a repository asks for a licence to be accepted, or for a token
    └── Unsupported              78: a valid model of a kind that elm-mlx does not run

The codes follow BSD's sysexits.h. The command line adds 129 (hung up), 130
(Ctrl-C), 141 (the reader of a pipe left) and 143 (terminated).
A message says what is wrong, why, and what to do about it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

# An argument of a call in an advice: {output}, {bits=4}. The library drops the braces, the command line writes flags.
ARGUMENT = re.compile(r"\{(\w+)(?:=([\w.-]+))?\}")


class ElmError(Exception):
    """The root: `except ElmError` catches whatever elm-mlx raises on purpose.

    `message` says what is wrong, why and what to do. What of that names arguments of the call stands in `advice`, each
    argument in braces as ARGUMENT reads it. As a string an error is both, one after the other.
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
    """The prompt does not fit the model's context."""


class BadCheckpoint(ElmError):
    """A file of a checkpoint is damaged, inconsistent or hostile."""

    exit_code = 65


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


class NotEnoughMemory(ElmError, MemoryError):
    """The model does not fit the memory of this machine: it would take `needed` bytes of `available` ones."""

    exit_code = 71

    def __init__(self, message: str, advice: str = "", needed: int = 0, available: int = 0) -> None:
        super().__init__(message, advice)
        self.needed, self.available = needed, available


class VerificationFailed(ElmError):
    """A converted model differs from its source by more than its bound."""

    exit_code = 72


class TargetExists(ElmError, FileExistsError):
    """The output is there already, and nobody said to replace it."""

    exit_code = 73


class DiskFull(ElmError, OSError):
    """The disk has no space for the output."""

    exit_code = 74


class Unreachable(ElmError, ConnectionError):
    """The hub does not answer, or the network is switched off."""

    exit_code = 75


class Gated(ElmError, PermissionError):
    """A repository asks for its licence to be accepted, and for a token that shows it."""

    exit_code = 77


class Unsupported(ElmError):
    """A valid model of a kind that elm-mlx does not run."""

    exit_code = 78


def unsupported(what: str, found: object, known: Iterable[object]) -> Unsupported:
    """The refusal of something that elm-mlx does not run, by its name, with what it does run."""
    return Unsupported(f"{what} {found!r} is not one that elm-mlx runs; it runs {', '.join(map(str, known))}.")
