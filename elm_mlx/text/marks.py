"""The marks by which a model sets parts of its answer apart: its reasoning, and what is meant for a tool."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from elm_mlx.text.tokenizer import Tokenizer
from elm_mlx.text.tools.wordings import LLAMA, Wording

# What begins and ends reasoning: the first are DeepSeek-R1's (and its distilled Llamas') and Qwen's.
PAIRS = (
    ("<think>", "</think>"), ("<thinking>", "</thinking>"), ("<reasoning>", "</reasoning>"), ("[THINK]", "[/THINK]"),
)  # fmt: skip
PYTHON_TAG = "<|python_tag|>"  # Llama 3.1's, before what is meant for a tool
TAIL = 32  # ids at the end of a prompt that are looked at


@dataclass(frozen=True)
class Marks:
    """The texts of a model's marks, each empty where it has none: `begin` and `end` of reasoning, and the one before
    what is meant for a `tool`. `ids` are those whose tokens decoding leaves out, so that only their ids show them; the
    others are found in the text. `wording` is how the model words its calls, which may have more marks."""

    begin: str = ""
    end: str = ""
    tool: str = ""
    ids: Mapping[int, str] = field(default_factory=dict)
    wording: Wording = LLAMA

    @property
    def of_calls(self) -> Marks:
        """These without those of reasoning."""
        return replace(self, begin="", end="")

    def is_reasoning_after(self, prompt: Sequence[int], tokenizer: Tokenizer) -> bool:
        """Whether a prompt has begun the reasoning, as some templates do: it ends with that mark, and blanks."""
        tail = list(prompt[-TAIL:])
        marks = [place for place, token in enumerate(tail) if token in self.ids]
        if marks and self.ids[tail[marks[-1]]] == self.begin:
            return not tokenizer.decode(tail[marks[-1] :]).strip()
        return bool(self.begin) and tokenizer.decode(tail).rstrip().endswith(self.begin)


def find_marks(tokenizer: Tokenizer, templates: Iterable[str], wording: Wording = LLAMA) -> Marks:
    """The marks of a model that words its calls so: those of reasoning, if the sources of its templates, or its added
    tokens, have both of a pair; the model's name says nothing."""
    added, sources = tokenizer.added_ids, "\0".join(templates)
    pairs = (pair for pair in PAIRS if all(mark in sources or mark in added for mark in pair))
    begin, end = next(pairs, ("", ""))
    tool = PYTHON_TAG if PYTHON_TAG in added else ""
    hidden = {
        added[mark]: mark
        for mark in (begin, end, tool, *wording.marks)
        if mark in added and not tokenizer.has_text(added[mark])
    }
    return Marks(begin, end, tool, hidden, wording)
