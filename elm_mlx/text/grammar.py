"""Forms that an answer can be held to, and what follows one: a regular expression, a JSON schema, a grammar.

llguidance, a library of the extra `structure`, turns a form into masks of ids. It is imported where a form is first
asked for. Its table of a vocabulary takes half a second with 128,000 ids; it is made once a model.
"""

from __future__ import annotations

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple

import numpy as np

from elm_mlx.errors import NotEnforceable, NotFound
from elm_mlx.text import form_library
from elm_mlx.text.bounded_call import call_within
from elm_mlx.text.constraint_row import ConstraintRow, Ids, Marks
from elm_mlx.text.form_bounds import QUOTED, check_lark, check_repeats, check_written
from elm_mlx.text.schema import MOST_CHARACTERS
from elm_mlx.text.token_bytes import Blanks, TokenBytes
from elm_mlx.text.tokenizer import Tokenizer

Kind = Literal["json_schema", "json_object", "regex", "choice", "lark", "calls"]
NAMED_ID = re.compile(r"<\[(\d+)\]>")
MOST_KEPT = 64  # compiled forms of a model
MOST_TEXT = 1 << 19  # characters of these in all: a compiled form takes up to some hundred bytes a character
TIME_LIMIT_S = 1.0
# JSON has no whitespace between its values: where it may have some, a model can write it without end. And no character
# has two spellings: else a key could come twice, the second time past what the schema says of it.
JSON_OPTIONS: Any = {"whitespace_flexible": False, "json_allowed_escapes": 'nrtbf\\"'}
ANY_OBJECT = '{"type":"object"}'
# What compiling and each mask may cost: steps of llguidance's lexer and parser, far fewer than by its own defaults, so
# that one hostile form cannot hold up an engine or fill the memory. A mask takes some 10 ms at most, as all rows of a
# batch may have to wait for it.
LIMITS: dict[str, Any] = {"initial_lexer_fuel": 250_000, "step_lexer_fuel": 15_000, "max_lexer_states": 50_000,
                          "verbose_errors": False}  # fmt: skip


@dataclass(frozen=True)
class Form:
    """A form that an answer is to have. `text` is a JSON schema, nothing for "json_object", a regular expression in
    Rust's notation, a JSON list of texts for "choice", or a grammar in Lark's notation; for "calls" one of ours, which
    may name ids."""

    kind: Kind
    text: str


class Ready(NamedTuple):
    """What all forms of a model share: what begins a grammar of llguidance's, the id that ends an answer in it, the
    bytes of all ids, and those that begin with a blank."""

    begin: Callable[[str], Any]
    end: int
    bytes: TokenBytes
    blanks: Blanks | None


class Grammars:
    """The forms of one model, compiled when they are first asked for. Threads may share it.

    `rows` is how many ids the model has. A form is compiled in a thread of its own, without the interpreter's lock, so
    that an engine in another thread goes on.
    """

    def __init__(self, tokenizer: Tokenizer, rows: int) -> None:
        self._tokenizer, self._rows = tokenizer, rows
        self._lock, self._making = threading.Lock(), threading.Lock()
        self._made: Ready | None = None
        self._kept: OrderedDict[Form, ConstraintRow] = OrderedDict()
        self._coming: dict[Form, Future[ConstraintRow]] = {}  # those that are being compiled

    def compile(self, form: Form) -> Future[ConstraintRow]:
        """Begins to compile a form, and returns at once what gives its row, from which that of each answer is begun;
        one that was compiled before is there already, and who asks for a form that is being compiled shares it.

        Raises NotEnforceable for a form that is too long, and NotFound without the extra `structure`. What is returned
        raises NotEnforceable for a form that is damaged, that no text has or that takes too long, and for a tokenizer
        that no form can follow; QueueFull where too many are being compiled.
        """
        check_form(form)
        if not self._made:
            check_extra()
        with self._lock:
            if row := self._kept.get(form):
                self._kept.move_to_end(form)
                return done(row)
            if coming := self._coming.get(form):
                return coming
            coming = self._coming[form] = Future()
        coming.set_running_or_notify_cancel()  # one who waits cannot cancel it for the others
        threading.Thread(target=self._compile, args=(form, coming), name="elm-mlx forms", daemon=True).start()
        return coming

    def prepare(self) -> None:
        """Makes what all forms share, where that is not there yet. Raises NotFound without the extra `structure`;
        NotEnforceable for a tokenizer that no form can follow."""
        self._ready()

    @property
    def longest_token(self) -> int:
        """The most bytes that one id adds to a text."""
        return self._ready().bytes.longest

    def _compile(self, form: Form, coming: Future[ConstraintRow]) -> None:
        """Compiles a form, keeps it, and tells those who wait for it."""
        try:
            row = call_within(TIME_LIMIT_S, partial(begin_row, self._ready(), form))
        except BaseException as error:
            self._come(form, None)
            coming.set_exception(error)
        else:
            self._come(form, row)
            coming.set_result(row)

    def _come(self, form: Form, row: ConstraintRow | None) -> None:
        """Notes that a form is compiled, or could not be (None)."""
        with self._lock:
            del self._coming[form]
            if row:
                self._kept[form] = row
            while len(self._kept) > MOST_KEPT or sum(len(one.text) for one in self._kept) > MOST_TEXT:
                self._kept.popitem(last=False)

    def _ready(self) -> Ready:
        """What all forms share, made by the first call."""
        with self._making:
            if self._made is None:
                self._made = make_ready(self._tokenizer, self._rows)
            return self._made


def done(row: ConstraintRow) -> Future[ConstraintRow]:
    """What gives a row that is there."""
    future: Future[ConstraintRow] = Future()
    future.set_result(row)
    return future


def check_form(form: Form) -> None:
    """Raises NotEnforceable for a form that would take too long to compile, or to follow."""
    if len(form.text) > MOST_CHARACTERS:
        raise NotEnforceable(f"The form of the answer has {len(form.text):,} characters; it may have "
                             f"{MOST_CHARACTERS:,}. Make it shorter.")  # fmt: skip
    if form.kind == "regex":
        check_repeats("The regular expression", form.text)
        check_written("The regular expression", form.text)
    if form.kind == "lark":
        check_lark(form.text)


def check_extra() -> None:
    """Raises NotFound without the extra `structure`."""
    if find_spec("llguidance") is None:
        raise NotFound("A form of an answer needs one more package. Install it with its extra: pip install "
                       "'elm-mlx[structure]'; from a checkout: pip install -e '.[structure]'.")  # fmt: skip


def make_ready(tokenizer: Tokenizer, rows: int) -> Ready:
    """Makes llguidance's table of a vocabulary. Raises NotFound without the extra, NotEnforceable."""
    check_extra()
    known = TokenBytes(tokenizer, rows)
    # The ids that end an answer are the constraint's affair: here one is named that is no text, as one has to be.
    end = next((id for id, data in enumerate(known.of) if not data), rows)
    vocabulary = Vocabulary(tokenizer, known, end)
    begin = without_lock(vocabulary) or with_lock(vocabulary)
    return Ready(begin, end, known, known.blanks(tokenizer))


def without_lock(vocabulary: Vocabulary) -> Callable[[str], Any] | None:
    """What begins a grammar by llguidance's C interface; None where the package that is here does not have it."""
    from llguidance import _lib

    if not (library := form_library.load(str(_lib.__file__))):
        return None
    backend = form_library.Backend(library, vocabulary.tokens, vocabulary.eos_token_id, vocabulary)
    return partial(form_library.Matcher.begin, backend, limits=LIMITS)


def with_lock(vocabulary: Vocabulary) -> Callable[[str], Any]:
    """What begins a grammar by llguidance's Python classes, which keep Python's other threads waiting for a quarter of
    a second where a vocabulary is large."""
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

    backend = LLTokenizer(TokenizerWrapper(vocabulary), n_vocab=len(vocabulary.tokens))
    return partial(LLMatcher, backend, log_level=0, limits=LLParserLimits(**LIMITS))


class Vocabulary:
    """A vocabulary as llguidance's TokenizerWrapper takes it: it asks for the ids of text that a form leaves no choice
    about, and allows these alone there, as a model was trained with them."""

    def __init__(self, tokenizer: Tokenizer, known: TokenBytes, end: int) -> None:
        self._tokenizer = tokenizer
        self.eos_token_id, self.bos_token_id = end, None
        self.tokens = known.of + [b""] * (end + 1 - known.rows)
        self.special_token_ids = [id for id, data in enumerate(self.tokens) if not data]

    def __call__(self, text: bytes) -> list[int]:
        """The ids of a text inside of a longer one."""
        return self._tokenizer.encode_inside(text.decode())


def begin_row(ready: Ready, form: Form) -> ConstraintRow:
    """Compiles a form as far as its first mask, where some errors show first. Raises NotEnforceable."""
    try:
        matcher = ready.begin(grammar_of(form))
    except NotEnforceable:
        raise
    except ValueError as error:  # llguidance's, of JSON that is nested too deep for it
        raise NotEnforceable(f"The form of the answer cannot be read: {error}.") from error
    row = ConstraintRow(matcher, Ids(ready.bytes.rows, ready.end, ready.blanks, marks_of(form, ready.bytes)))
    row.prepare()
    return row


def marks_of(form: Form, known: TokenBytes) -> Marks | None:
    """The ids without a text that a form of calls names; None where it names none."""
    bare = QUOTED.sub("", form.text) if form.kind == "calls" else ""
    named = tuple(sorted({int(id) for id in NAMED_ID.findall(bare)}))
    silent = np.array([not data for data in known.of] + [False] * (-known.rows % 32))
    silent[list(named)] = False
    return Marks(named, np.packbits(silent, bitorder="little").view(np.uint32)) if named else None


def grammar_of(form: Form) -> str:
    """A form in llguidance's notation."""
    from llguidance import LLMatcher

    if form.kind == "regex":
        return LLMatcher.grammar_from_regex(form.text)
    if form.kind in ("lark", "calls"):
        return LLMatcher.grammar_from_lark(form.text)
    if form.kind == "choice":
        texts = " | ".join(json.dumps(text, ensure_ascii=False) for text in json.loads(form.text))
        return LLMatcher.grammar_from_lark(f"start: CHOICE\nCHOICE: {texts}")
    schema = form.text if form.kind == "json_schema" else ANY_OBJECT
    return LLMatcher.grammar_from_json_schema(schema, overrides=JSON_OPTIONS)
