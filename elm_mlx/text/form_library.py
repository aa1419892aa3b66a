"""llguidance by its C interface, which computes without the interpreter's lock.

Its Python class for a vocabulary keeps the lock while it is made: a quarter of a second with 128,000 ids, in which no
other thread of Python runs. The functions here are in the same file of that package, and do the same (c/llguidance.h in
its repository has their forms). `load` gives None where a version lacks them; text.grammar then takes the classes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from types import SimpleNamespace
from typing import Any
from weakref import finalize

import numpy as np

SPECIAL = b"\xff"  # what a token that is no text begins with
BEYOND = 256  # bytes of zeros after a structure, which a later version may read: fields are added at the end
POINTER, SIZE, WORD = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint32
ENCODE = ctypes.CFUNCTYPE(SIZE, POINTER, POINTER, SIZE, ctypes.POINTER(WORD), SIZE)


class Limits(ctypes.Structure):
    """LlgParserLimits: a number that is 0 is the default."""

    _fields_ = (
        ("max_items_in_row", SIZE),
        ("initial_lexer_fuel", ctypes.c_uint64),
        ("step_lexer_fuel", ctypes.c_uint64),
        ("step_max_items", SIZE),
        ("max_lexer_states", SIZE),
        ("max_grammar_size", SIZE),
        ("precompute_large_lexemes", ctypes.c_bool),
        ("verbose_errors", ctypes.c_bool),
        ("beyond", ctypes.c_char * BEYOND),
    )


class Asked(ctypes.Structure):
    """LlgConstraintInit."""

    _fields_ = (
        ("tokenizer", POINTER),
        ("log_buffer_level", WORD),
        ("log_stderr_level", WORD),
        ("ff_tokens_ok", ctypes.c_bool),
        ("backtrack_ok", ctypes.c_bool),
        ("limits", Limits),
    )


class Vocabulary(ctypes.Structure):
    """LlgTokenizerInit."""

    _fields_ = (
        ("vocab_size", WORD),
        ("tok_eos", WORD),
        ("token_lens", POINTER),
        ("token_bytes", ctypes.c_char_p),
        ("tokenizer_json", ctypes.c_char_p),
        ("tokenize_assumes_string", ctypes.c_bool),
        ("tokenize_fn", ENCODE),
        ("greedy", ctypes.c_bool),
        ("tokenize_user_data", POINTER),
        ("slices", POINTER),
        ("beyond", ctypes.c_char * BEYOND),
    )


# name -> (what it gives, what it takes)
FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "llg_new_tokenizer": (POINTER, (ctypes.POINTER(Vocabulary), ctypes.c_char_p, SIZE)),
    "llg_new_matcher": (POINTER, (ctypes.POINTER(Asked), ctypes.c_char_p, ctypes.c_char_p)),
    "llg_matcher_compute_mask_into": (ctypes.c_int32, (POINTER, POINTER, SIZE)),
}
# So short that giving the interpreter away and waiting for it would take longer.
SHORT_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "llg_free_tokenizer": (None, (POINTER,)),
    "llg_constraint_init_set_defaults": (None, (ctypes.POINTER(Asked), POINTER)),
    "llg_clone_matcher": (POINTER, (POINTER,)),
    "llg_free_matcher": (None, (POINTER,)),
    "llg_matcher_get_mask_byte_size": (SIZE, (POINTER,)),
    "llg_matcher_consume_token": (ctypes.c_int32, (POINTER, WORD)),
    "llg_matcher_validate_tokens": (ctypes.c_int32, (POINTER, POINTER, SIZE)),
    "llg_matcher_get_error": (ctypes.c_char_p, (POINTER,)),
    "llg_matcher_is_error": (ctypes.c_bool, (POINTER,)),
    "llg_matcher_is_accepting": (ctypes.c_bool, (POINTER,)),
}


@cache
def load(path: str) -> SimpleNamespace | None:
    """The functions in the file of llguidance's that lies there; None where it lacks one of them."""
    found = {}
    for library, functions in ((ctypes.CDLL(path), FUNCTIONS), (ctypes.PyDLL(path), SHORT_FUNCTIONS)):
        for name, (gives, takes) in functions.items():
            if (function := getattr(library, name, None)) is None:
                return None
            function.restype, function.argtypes = gives, takes
            found[name] = function
    return SimpleNamespace(**found)


class Backend:
    """A vocabulary: what each id adds to a text, nothing for what is no text. `encode` gives the ids of a text inside
    of a longer one. Raises ValueError for a vocabulary that the library cannot use."""

    def __init__(
        self, library: SimpleNamespace, tokens: Sequence[bytes], end: int, encode: Callable[[bytes], list[int]]
    ) -> None:
        self.library = library
        whole = [token or SPECIAL for token in tokens]
        lengths = np.fromiter(map(len, whole), np.uint32, len(whole))
        self._encode = ENCODE(writer(encode))  # kept: the library calls it
        asked = Vocabulary(len(whole), end, lengths.ctypes.data, b"".join(whole), tokenize_assumes_string=True,
                           tokenize_fn=self._encode)  # fmt: skip
        why = ctypes.create_string_buffer(512)
        self.address = library.llg_new_tokenizer(asked, why, len(why))
        if not self.address:
            raise ValueError(why.value.decode(errors="replace"))
        finalize(self, library.llg_free_tokenizer, self.address).atexit = False


def writer(encode: Callable[[bytes], list[int]]) -> Callable[..., int]:
    """`encode` as the library calls it. An error cannot leave it: then there are no ids, and masks allow none."""

    def write(_: Any, data: int, length: int, out: Any, room: int) -> int:
        try:
            ids = encode(ctypes.string_at(data, length))
        except Exception:
            return 0
        for place, id in enumerate(ids[:room]):
            out[place] = id
        return len(ids)

    return write


class Matcher:
    """A place in a grammar, with the methods of llguidance.LLMatcher. One thread at a time may use it."""

    def __init__(self, backend: Backend, address: int) -> None:
        self._backend, self._library, self._address = backend, backend.library, address
        finalize(self, free, backend, address).atexit = False

    @classmethod
    def begin(cls, backend: Backend, grammar: str, limits: Mapping[str, int]) -> Matcher:
        """The beginning of a grammar in llguidance's notation. What is wrong with it `get_error` says."""
        asked = Asked()
        backend.library.llg_constraint_init_set_defaults(asked, backend.address)
        asked.log_buffer_level = asked.log_stderr_level = 0
        for name, value in limits.items():
            setattr(asked.limits, name, value)
        data = grammar.encode()
        if b"\0" in data:  # where it would be cut
            raise ValueError("it has a character of the value 0")
        return cls(backend, backend.library.llg_new_matcher(asked, b"llguidance", data))

    def deep_copy(self) -> Matcher:
        """A copy that goes on alone."""
        return Matcher(self._backend, self._library.llg_clone_matcher(self._address))

    def compute_bitmask(self) -> np.ndarray:
        """The ids that may come next, as bits in bytes; none where there is an error."""
        words = np.zeros(self._library.llg_matcher_get_mask_byte_size(self._address) // 4, np.uint32)
        self._library.llg_matcher_compute_mask_into(self._address, words.ctypes.data, words.nbytes)
        return words

    def consume_token(self, token: int) -> bool:
        """Goes on by an id; False where the grammar does not allow it."""
        return self._library.llg_matcher_consume_token(self._address, token) == 0

    def validate_tokens(self, tokens: Sequence[int]) -> int:
        """How many of these ids may come one after the other."""
        given = np.array(tokens, np.uint32)
        return int(self._library.llg_matcher_validate_tokens(self._address, given.ctypes.data, len(given)))

    def is_accepting(self) -> bool:
        """Whether the text may end here."""
        return bool(self._library.llg_matcher_is_accepting(self._address))

    def is_error(self) -> bool:
        """Whether it has failed, for good."""
        return bool(self._library.llg_matcher_is_error(self._address))

    def get_error(self) -> str:
        """Why it has failed."""
        return str((self._library.llg_matcher_get_error(self._address) or b"").decode(errors="replace"))


def free(backend: Backend, address: int) -> None:
    """Frees a matcher, and only then what it stands on."""
    backend.library.llg_free_matcher(address)
