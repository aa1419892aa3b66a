"""What a client asks, in whichever API it is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Ask:
    """A request of a client: either `messages`, for a chat, or `prompts`, each a text or ids that the model gets as
    they are. Every prompt gets `n` answers; a chat counts as one prompt.

    `model` is the name that the client gave, None where it gave none. `max_tokens` None means as many as the context
    has room for. `options` are those of `elm_mlx.api.options.Options`. `tools` and `tool_choice` are those of
    `LanguageModel.chat`. With `goes_on` the last message is the beginning of the answer, which is continued. Unless
    `calls_in_parallel`, an answer is over with its first call of a tool. `template_variables` go to the chat template.
    With `scores_prompts` the tokens of the prompts are told with their log-probabilities, as those of the answers are.
    `ignored` names the fields that were in the request and have no effect because nobody knows them.
    """

    model: str | None
    messages: Sequence[Mapping[str, Any]] | None = None
    prompts: Sequence[str | Sequence[int]] = ()
    max_tokens: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    tools: Sequence[Any] | None = None
    tool_choice: Any = None
    n: int = 1
    streamed: bool = False
    goes_on: bool = False
    calls_in_parallel: bool = True
    template_variables: Mapping[str, Any] = field(default_factory=dict)
    scores_prompts: bool = False
    ignored: tuple[str, ...] = ()

    @property
    def answers(self) -> int:
        """How many answers are asked for. Answer number i belongs to prompt i // n."""
        return self.n * (1 if self.messages is not None else len(self.prompts))
