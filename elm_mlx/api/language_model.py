"""A model to call: loaded by name or directory, it completes prompts, answers chats and gives logits."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Unpack

from elm_mlx.api.options import MAX_TOKENS, Options, sampling_for
from elm_mlx.api.stream import Asked, Completion, Stream
from elm_mlx.arguments import Progress, whole_number
from elm_mlx.config import ModelConfig
from elm_mlx.config.quantization import check_bits
from elm_mlx.demo import demo_directory
from elm_mlx.device import check_policy
from elm_mlx.device.backend import mx
from elm_mlx.device.execution import Execution
from elm_mlx.device.memory import wire
from elm_mlx.engine.cache.kv import RESERVE, make_cache
from elm_mlx.engine.plain import generate
from elm_mlx.engine.prefill import all_logits
from elm_mlx.engine.sampling import Sampler
from elm_mlx.engine.warm_up import warm_up
from elm_mlx.errors import BadCheckpoint, InvalidRequest, PromptTooLong
from elm_mlx.library.pull import pull
from elm_mlx.models.model import Model
from elm_mlx.store.load import LoadedModel, load_directory
from elm_mlx.store.text_settings import has_template, read_templates
from elm_mlx.text.chat.template import FOR_TOOLS, USUAL, ChatTemplate, choose
from elm_mlx.text.tokenizer import Tokenizer


class LanguageModel:
    """A model with its tokenizer, ready to complete. Make one with `load`.

    Compute in one thread, or in the few of a pool: MLX keeps threads of its own for every thread that ever computed.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self.directory: Path = loaded.directory
        self.config: ModelConfig = loaded.config
        self.tokenizer: Tokenizer = loaded.tokenizer
        self.model: Model = loaded.model
        self.execution: Execution = loaded.execution
        self._sampling = loaded.sampling
        self._file_notices = loaded.notices
        self._settings = loaded.settings
        self._named_stop_ids = loaded.stop_ids
        self._given_template: ChatTemplate | None = None

    @property
    def notice(self) -> str | None:
        """A sentence about the device that a program may show to its user, or None."""
        return self.execution.notice

    @property
    def notices(self) -> tuple[str, ...]:
        """Sentences that a program may show to its user: about the device, and about what in the model's files has no
        meaning."""
        return (*((self.notice,) if self.notice else ()), *self._file_notices)

    def generate(
        self, prompt: str | Sequence[int], max_tokens: int = MAX_TOKENS, **options: Unpack[Options]
    ) -> Completion:
        """Completes `prompt`: text, encoded with one BOS where the model wants it, or ids taken as they are.

        `options` are those of `elm_mlx.api.options.Options`. Raises InvalidRequest for options without a meaning,
        PromptTooLong for a prompt that leaves no room in the context, NotFinite for a model whose logits are NaN.
        """
        stream = self.stream(prompt, max_tokens, **options)
        for _ in stream:
            pass
        return stream.completion

    def stream(
        self,
        prompt: str | Sequence[int],
        max_tokens: int = MAX_TOKENS,
        *,
        progress: Progress | None = None,
        **options: Unpack[Options],
    ) -> Stream:
        """Completes `prompt` as `generate` does, and gives a Piece for each token. `progress` is called with (prompt
        tokens read, in all) while the prompt is read. Raises as `generate`."""
        begun = time.perf_counter()
        sampling = sampling_for(self._sampling, options)
        ids = self._ids(prompt)
        room = self._room(len(ids), max_tokens)
        wire(self.config.kv_bytes_per_token(8 * self.model.dtype.size) * (len(ids) + room))
        answer = generate(
            self.model,
            ids,
            make_cache(self.config.num_layers, len(ids) + room - 1, reserve=len(ids) + RESERVE),
            Sampler(sampling, options.get("seed")),
            max_tokens=room,
            stop_ids=self.stop_ids,
            execution=self.execution,
            progress=progress,
        )
        return Stream(Asked(len(ids), room, begun), answer, self.tokenizer, self.stop_ids)

    @property
    def stop_ids(self) -> frozenset[int]:
        """Every id that ends an answer: those that config.json, generation_config.json and the tokenizer's files name,
        and those that end a turn in the chat templates, the model's own and one from `use_chat_template`."""
        # All are one set: an outdated file must not keep a model from stopping.
        return self._named_stop_ids.union(
            *(template.turn_ends(self.tokenizer) for template in self._usable_templates())
        )

    @property
    def has_chat_template(self) -> bool:
        """Whether there is a chat template, the model's own or one from `use_chat_template`."""
        return bool(self._given_template) or has_template(self.directory, self._settings)

    @cached_property
    def _own_templates(self) -> dict[str, ChatTemplate]:
        """The model's own chat templates by name."""
        return read_templates(self.directory, self._settings)

    def _usable_templates(self) -> list[ChatTemplate]:
        """Every chat template that may be used; what is wrong with the model's own is said when a chat needs them."""
        try:
            own = [one for name, one in self._own_templates.items() if name in (USUAL, FOR_TOOLS)]
        except BadCheckpoint:
            own = []
        return [*own, *([self._given_template] if self._given_template else [])]

    def use_chat_template(self, template: str | Path) -> None:
        """Uses this chat template instead of the model's own: a file with one, or "zephyr", which is perhaps the format
        of OpenELM-Instruct; nobody has confirmed it. The token that ends a turn in it ends answers from now on.

        Raises NotFound, BadCheckpoint.
        """
        self._given_template = ChatTemplate.from_name(template, self._settings.texts)

    def chat_prompt(self, messages: Sequence[Mapping[str, Any]], **variables: Any) -> list[int]:
        """The ids of `messages` by the model's chat template, ready for its answer; `variables` (tools, date_string)
        are the template's. Where the model has a template named tool_use, tools are asked for by that one. Text in a
        message never becomes a control token.

        Raises InvalidRequest for messages that the template refuses, NotFound where the model has no template, and
        BadCheckpoint for one that fails, or writes nothing.
        """
        template = self._given_template or choose(self._own_templates, self.directory, variables.get("tools"))
        if not (ids := template.encode(messages, self.tokenizer, **variables)):
            raise template.unusable("writes nothing for these messages")
        return ids

    def chat(
        self, messages: Sequence[Mapping[str, Any]], max_tokens: int = MAX_TOKENS, **options: Unpack[Options]
    ) -> Completion:
        """The model's answer to `messages`, a list of {"role": ..., "content": ...}; `options` as of `generate`.

        Raises as `chat_prompt` and `generate`.
        """
        return self.generate(self.chat_prompt(messages), max_tokens, **options)

    def logits(self, ids: Sequence[int]) -> mx.array:
        """The logits after every id: ids (L,) -> evaluated logits (L, V) in float32.

        Raises InvalidRequest for ids the model does not have, PromptTooLong for more than its context.
        """
        checked = self._ids(ids)
        if len(checked) > self.config.context_length:
            raise self._too_long(len(checked))
        cache = make_cache(self.config.num_layers, len(checked), reserve=len(checked))
        given = mx.array([checked])
        logits = all_logits(self.model, given, cache, self.execution)[0].astype(mx.float32)
        mx.eval(logits)
        return logits

    def _ids(self, prompt: str | Sequence[int]) -> list[int]:
        """The prompt as ids. Raises InvalidRequest where it cannot be, and for ids that the model does not have."""
        if isinstance(prompt, str):
            prompt = self.tokenizer.encode(prompt)
        listed = prompt.tolist() if hasattr(prompt, "tolist") else prompt
        if isinstance(listed, bytes | bytearray | Mapping) or not isinstance(listed, Iterable):
            raise InvalidRequest(f"The prompt is of type {type(prompt).__name__}; give text or a list of token ids.")
        ids = [whole_number("A token id", token) for token in listed]
        if not ids:
            raise InvalidRequest("The prompt holds no token, and the model needs one to begin with. Give some text.")
        for token in ids:
            if not 0 <= token < self.config.vocab_size:
                raise InvalidRequest(self.tokenizer.why_beyond(token, self.config.vocab_size))
        return ids

    def _room(self, prompt: int, max_tokens: int) -> int:
        """How many tokens the answer may have: those asked for, at most those that the context has left."""
        wanted = whole_number("max_tokens", max_tokens)
        if wanted < 1:
            raise InvalidRequest(f"max_tokens is {wanted}; it must be above 0.")
        if prompt >= self.config.context_length:
            raise self._too_long(prompt)
        return min(wanted, self.config.context_length - prompt)

    def _too_long(self, length: int) -> PromptTooLong:
        return PromptTooLong(f"The prompt has {length} tokens and the model's context {self.config.context_length}. "
                             "Shorten the prompt.")  # fmt: skip


def load(
    model: str | Path | None = None,
    bits: int | None = None,
    cpu_policy: str = "auto",
    progress: Progress | None = None,
    force: bool = False,
) -> LanguageModel:
    """Loads a model: a name that `elm-mlx list` shows, owner/name[@revision] of a repository, or the directory of a
    converted model or of a Hugging Face one with safetensors and a tokenizer.json.

    A model that is not on this machine is pulled as `pull` does, in `bits` if given. No model means the built-in demo.
    `cpu_policy` "plain" computes in the stored type on the CPU backend too, and "compiled" in compiled steps, as on a
    GPU, if there is a compiler. `progress` is called with (bytes loaded, in all).

    Raises InvalidRequest, NotFound, MissingTokenizer, BadCheckpoint, Unsupported, and NotEnoughMemory for a model that
    this machine has no room for, unless `force`; where it is pulled Gated, Unreachable and DiskFull, too.
    """
    check_bits(bits)
    check_policy(cpu_policy)
    loaded = load_directory(pull_directory(model, bits, force), cpu_policy, progress, force)
    execution = warm_up(loaded.model, loaded.config.num_layers, loaded.execution)
    return LanguageModel(replace(loaded, execution=execution))


def pull_directory(model: str | Path | None, bits: int | None, force: bool) -> Path:
    """The directory of a model, which is pulled where it is not on this machine. No model means the built-in demo."""
    if model is None:
        if bits:
            raise InvalidRequest("The built-in demo has 8 bits. Name a model, or leave bits out.")
        return demo_directory()
    return pull(model, bits, force=force).path
