"""What the settings of a client are made of: where the server answers, and blocks of text to copy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

KEY = "ELM_MLX_API_KEY"  # the variable that clients are told to read the key from
NO_KEY = "none"  # clients want a key that is not empty, and a server without one takes any
AGENT_CONTEXT = 32_000  # tokens that a coding agent's first prompt may take


@dataclass(frozen=True)
class Served:
    """A model as clients know it: its name, its context in tokens where that is known, and whether it has a chat
    template, without which it only completes text."""

    name: str
    context: int | None = None
    chats: bool = True


@dataclass(frozen=True)
class Place:
    """Where a server answers: its `url` without a path, the models, the first of which is the default, and whether it
    asks for a key; `key_file` is the file that the key is in, if it is in one."""

    url: str
    models: Sequence[Served]
    needs_key: bool = False
    key_file: str | None = None

    @property
    def api(self) -> str:
        """The address that OpenAI's clients are given."""
        return f"{self.url}/v1"

    @property
    def first(self) -> Served:
        """The default model."""
        return self.models[0]

    @property
    def context(self) -> int:
        """The context of the default model; 0 where it is not known."""
        return self.first.context or 0


@dataclass(frozen=True)
class Block:
    """Text for one place: `where` says where it goes, `form` is "toml", "yaml", "json", "shell", "python" or "text"."""

    where: str
    text: str
    form: str


@dataclass(frozen=True)
class Advice:
    """The settings of one client: blocks to copy, and sentences to read."""

    blocks: Sequence[Block]
    notes: Sequence[str] = ()


def context_notes(place: Place, *, what: str) -> list[str]:
    """A warning where the prompts of an agent do not fit the model."""
    if not 0 < place.context < AGENT_CONTEXT:
        return []
    return [f"{what} sends prompts of tens of thousands of tokens, and {place.first.name} has a context of "
            f"{place.context:,}: take a model with a longer one, such as Llama 3.1 or later."]  # fmt: skip


Make = Callable[[Place], Advice]


def quoted(text: str) -> str:
    """A text between double quotes, as TOML and YAML read it."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(one if one.isprintable() else f"\\U{ord(one):08x}" for one in escaped) + '"'
