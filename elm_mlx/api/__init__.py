"""The public API: load a model, complete a prompt, stream it, or look at its logits."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from elm_mlx.arguments import Progress, whole
from elm_mlx.config import ModelConfig
from elm_mlx.config.quantization import check_bits
from elm_mlx.device.backend import mx
from elm_mlx.device.costs import (
    Footprint,
    footprint,
    gigabytes,
    kv_bytes_per_token,
    parameter_count,
    quantized_bytes,
    rough_bytes,
)
from elm_mlx.device.memory import memory_limit, wire
from elm_mlx.engine.cache.kv import RESERVE, make_cache
from elm_mlx.engine.generate import all_logits, generate
from elm_mlx.engine.sampling import Sampler, Sampling
from elm_mlx.errors import InvalidRequest, NotFound, PromptTooLong
from elm_mlx.files import optional_json
from elm_mlx.library import copies as library
from elm_mlx.library import names as registry
from elm_mlx.library.names import Known
from elm_mlx.library.pull import locate, pull
from elm_mlx.models.model import Model
from elm_mlx.store.load import Loaded, load_arrays, load_directory, read_config, stored_dtype
from elm_mlx.text.tokenizer import StreamDecoder, Tokenizer

if TYPE_CHECKING:
    from elm_mlx.text.chat.template import ChatTemplate

MAX_TOKENS = 256


@dataclass(frozen=True)
class Stats:
    """Times and sizes of one completion. Rates are None where there was nothing to time.

    `time_to_first_token_s` runs from the request to the first id; `prefill_tokens_per_s` is the prompt over that
    time; `decode_tokens_per_s` counts the ids after the first; `peak_memory_bytes` is the highest that MLX's
    allocator has reached in this process.
    """

    prompt_tokens: int
    generated_tokens: int
    time_to_first_token_s: float
    prefill_tokens_per_s: float | None
    decode_tokens_per_s: float | None
    peak_memory_bytes: int


@dataclass(frozen=True)
class Completion:
    """A finished answer: `tokens` without the id that ended it; `finish_reason` "stop" or "length"."""

    text: str
    tokens: list[int]
    finish_reason: str
    stats: Stats


@dataclass(frozen=True)
class Piece:
    """One token as it comes: the text it settles (possibly none), its id, and on the last one why it is the last.

    The piece of an end-of-text id has finish_reason "stop" and whatever text was still held back.
    """

    text: str
    token: int
    finish_reason: str | None


class Stream:
    """An iterator over Pieces; once it is exhausted, or closed, `completion` sums it up.

    It is read in the thread that began it, since MLX's streams belong to threads. Times are as its reader saw them:
    what it does between two pieces counts.
    """

    def __init__(
        self, lm: LanguageModel, prompt: list[int], ids: Generator[int, None, None], max_tokens: int, begun: float
    ) -> None:
        self._lm, self._prompt, self._ids, self._max_tokens = lm, prompt, ids, max_tokens
        self._decoder = StreamDecoder(lm.tokenizer)
        self._begun = self._first = self._last = begun
        self._thread = threading.get_ident()
        self._pieces: list[Piece] = []

    def __iter__(self) -> Iterator[Piece]:
        return self

    def __next__(self) -> Piece:
        if threading.get_ident() != self._thread:
            raise InvalidRequest("A stream is read in the thread that began it. Begin it there, or pass the pieces on.")
        token = next(self._ids)
        self._last = time.perf_counter()
        if not self._pieces:
            self._first = self._last
        self._pieces.append(self._piece(token, is_last=len(self._pieces) + 1 == self._max_tokens))
        return self._pieces[-1]

    def _piece(self, token: int, *, is_last: bool) -> Piece:
        if token in self._lm.stop_ids:
            return Piece(self._decoder.flush(), token, "stop")
        text = self._decoder.add(token)
        return Piece(text + self._decoder.flush(), token, "length") if is_last else Piece(text, token, None)

    def close(self) -> None:
        """Stops the generation; what came so far stays in `completion`."""
        self._ids.close()

    @property
    def completion(self) -> Completion:
        """What has come so far; a stream closed early counts as ended by its length."""
        tokens = [piece.token for piece in self._pieces if piece.finish_reason != "stop"]
        reason = self._pieces[-1].finish_reason if self._pieces else None
        text = "".join(piece.text for piece in self._pieces)
        return Completion(text, tokens, reason or "length", self._stats(len(tokens)))

    def _stats(self, generated: int) -> Stats:
        wait, spent = self._first - self._begun, self._last - self._first
        return Stats(
            prompt_tokens=len(self._prompt),
            generated_tokens=generated,
            time_to_first_token_s=wait,
            prefill_tokens_per_s=len(self._prompt) / wait if wait else None,
            decode_tokens_per_s=(len(self._pieces) - 1) / spent if spent else None,
            peak_memory_bytes=mx.get_peak_memory(),
        )


class LanguageModel:
    """A model with its tokenizer, ready to complete. Make one with `load`.

    Let one thread, or the few of a pool, do the computing: MLX keeps threads of its own for each that ever did.
    """

    def __init__(self, loaded: Loaded) -> None:
        self.directory: Path = loaded.directory
        self.config: ModelConfig = loaded.config
        self.tokenizer: Tokenizer = loaded.tokenizer
        self.model: Model = loaded.model
        self.stop_ids: frozenset[int] = loaded.stop_ids
        self.prefill_chunk: int = loaded.prefill_chunk
        self.streams = loaded.streams
        self.notice: str | None = loaded.notice
        self._sampling = loaded.sampling
        self._template: ChatTemplate | None = None

    def generate(
        self,
        prompt: str | Sequence[int],
        max_tokens: int = MAX_TOKENS,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        min_p: float | None = None,
        seed: int | None = None,
    ) -> Completion:
        """Completes `prompt`: text, encoded with one BOS where the model wants it, or ids taken as they are.

        None for a sampling option means the model's generation_config, else greedy. Raises InvalidRequest for
        options without a meaning, PromptTooLong for a prompt that leaves no room in the context.
        """
        stream = self.stream(prompt, max_tokens, temperature, top_p, top_k, min_p, seed)
        for _ in stream:
            pass
        return stream.completion

    def stream(
        self,
        prompt: str | Sequence[int],
        max_tokens: int = MAX_TOKENS,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        min_p: float | None = None,
        seed: int | None = None,
        progress: Progress | None = None,
    ) -> Stream:
        """The same as `generate`, a Piece a token. `progress` hears (prompt tokens read, in all) in the prefill."""
        begun = time.perf_counter()
        sampling = self._sampling_for(temperature, top_p, top_k, min_p)
        ids = self._ids(prompt)
        room = self._room(len(ids), max_tokens)
        wire(kv_bytes_per_token(self.config, 8 * self.model.dtype.size) * (len(ids) + room))
        ids_out = generate(
            self.model,
            ids,
            make_cache(self.config.num_layers, len(ids) + room - 1, reserve=len(ids) + RESERVE),
            Sampler(sampling, seed),
            max_tokens=room,
            stop_ids=self.stop_ids,
            chunk=self.prefill_chunk,
            streams=self.streams,
            progress=progress,
        )
        return Stream(self, ids, ids_out, room, begun)

    @property
    def has_chat_template(self) -> bool:
        """Whether it is known how messages become the model's prompt."""
        return bool(self._template) or self.tokenizer.has_chat_template

    def use_chat_template(self, template: str | Path) -> None:
        """Takes this chat template for the model's own: a file with one, or "zephyr", which is perhaps the format of
        OpenELM-Instruct and unconfirmed. Raises NotFound, BadCheckpoint."""
        from elm_mlx.text.chat.template import ChatTemplate  # here, as it imports a template engine

        self._template = ChatTemplate.named(template, optional_json(self.directory / "tokenizer_config.json"))

    def chat_prompt(self, messages: Sequence[Mapping[str, Any]], **variables: Any) -> list[int]:
        """The ids of `messages` by the model's chat template, ready for its answer; `variables` (tools, date_string)
        are the template's. What the messages say is never control.

        Raises InvalidRequest for messages that the template refuses, NotFound where the model has no template.
        """
        from elm_mlx.text.chat.template import ChatTemplate  # here, as it imports a template engine

        settings = optional_json(self.directory / "tokenizer_config.json")
        template = self._template or ChatTemplate.from_directory(
            self.directory, settings, with_tools=bool(variables.get("tools"))
        )
        return template.encode(messages, self.tokenizer, **variables)

    def chat(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> Completion:
        """The model's answer to `messages`, a list of {"role": ..., "content": ...}; options as `generate`'s.

        Raises as `chat_prompt` and `generate`.
        """
        return self.generate(self.chat_prompt(messages), **options)

    def logits(self, ids: Sequence[int]) -> mx.array:
        """The logits after every id: ids (L,) -> evaluated logits (L, V) in float32.

        Raises InvalidRequest for ids the model does not have, PromptTooLong for more than its context.
        """
        checked = self._ids(ids)
        if len(checked) > self.config.context_length:
            raise self._too_long(len(checked))
        cache = make_cache(self.config.num_layers, len(checked), reserve=len(checked))
        given = mx.array([checked])
        logits = all_logits(self.model, given, cache, chunk=self.prefill_chunk, streams=self.streams)[0]
        logits = logits.astype(mx.float32)
        mx.eval(logits)
        return logits

    def _ids(self, prompt: str | Sequence[int]) -> list[int]:
        """The prompt's ids, each of them one that the model has."""
        if isinstance(prompt, str):
            prompt = self.tokenizer.encode(prompt)
        listed = prompt.tolist() if hasattr(prompt, "tolist") else prompt
        if isinstance(listed, bytes | bytearray | Mapping) or not isinstance(listed, Iterable):
            raise InvalidRequest(f"The prompt is a {type(prompt).__name__}; give text or a list of token ids.")
        ids = [whole("A token id", token) for token in listed]
        if not ids:
            raise InvalidRequest("The prompt is empty, and this model has no BOS to begin with. Give some text.")
        for token in ids:
            if not 0 <= token < self.config.vocab_size:
                raise InvalidRequest(
                    f"{token} is no token id of this model, which has 0 to {self.config.vocab_size - 1}."
                )
        return ids

    def _room(self, prompt: int, max_tokens: int) -> int:
        """How many tokens can come: as many as asked for, or as the context has left."""
        wanted = whole("max_tokens", max_tokens)
        if wanted < 1:
            raise InvalidRequest(f"max_tokens is {wanted}; it must be above 0.")
        if prompt >= self.config.context_length:
            raise self._too_long(prompt)
        return min(wanted, self.config.context_length - prompt)

    def _too_long(self, length: int) -> PromptTooLong:
        return PromptTooLong(f"The prompt has {length} tokens and the model's context {self.config.context_length}. "
                             "Shorten the prompt.")  # fmt: skip

    def _sampling_for(
        self, temperature: float | None, top_p: float | None, top_k: int | None, min_p: float | None
    ) -> Sampling:
        """The model's own sampling with the caller's options in it."""
        options: dict[str, Any] = {"temperature": temperature, "top_p": top_p, "top_k": top_k, "min_p": min_p}
        given = {name: value for name, value in options.items() if value is not None}
        sampling = replace(self._sampling, **given)
        if temperature is None and sampling.is_greedy and sampling.filters:
            names = " and ".join(sampling.filters)
            raise InvalidRequest(f"{names} would change nothing: this model is greedy by default. Give a temperature.")
        return sampling


def demo_directory() -> Path:
    """Where the built-in demo model lies."""
    return Path(str(files("elm_mlx.demo")))


def load(
    model: str | Path | None = None,
    bits: int | None = None,
    cpu_policy: str = "auto",
    progress: Progress | None = None,
    force: bool = False,
) -> LanguageModel:
    """Loads a model: a name that `elm-mlx list` shows, owner/name[@revision] of a repository, or the directory of a
    converted model or of a Hugging Face one with safetensors and a tokenizer.json.

    A name is looked up on this machine, and else pulled as `pull` does, in `bits` if given. No model means the
    built-in demo. `cpu_policy` "plain" computes in the stored type on the CPU backend too, and "compiled" in
    compiled steps, as on a GPU, if there is a compiler. `progress` hears (bytes loaded, in all). Raises
    InvalidRequest, NotFound, MissingTokenizer, BadCheckpoint, Unsupported, and NotEnoughMemory for what this machine
    has no room for, unless `force`.
    """
    directory = directory_of(model, bits, force)
    return LanguageModel(load_directory(directory, cpu_policy, progress, force))


def directory_of(model: str | Path | None, bits: int | None, force: bool) -> Path:
    """Where a model lies once it is on this machine."""
    if model is None:
        if bits:
            raise InvalidRequest("The built-in demo has 8 bits. Name a model, or leave bits out.")
        return demo_directory()
    return pull(model, bits, force=force).path


@dataclass(frozen=True)
class ModelInfo:
    """What a model directory holds, read from its headers (and a tied head's copy, if it carries one): exact
    parameters, a tied head counted once; bits per weight as stored; bytes of weights; cache bytes a position; the
    context in tokens. And what it takes while it runs, in bytes: `footprint` with a cache for `footprint.context`
    positions, of the `available` ones that this machine has for a model."""

    model: str
    family: str
    parameters: int
    bits_per_weight: float
    weight_bytes: int
    kv_bytes_per_token: int
    context_length: int
    dtype: str
    quantization: dict[str, Any] | None
    footprint: Footprint
    available: int

    @property
    def fits(self) -> bool:
        """Whether this machine has room for it."""
        return self.footprint.total <= self.available


def here(model: str | Path, bits: int | None) -> Path:
    """Where a model lies on this machine, in whatever bits. Raises NotFound, saying what a known one would take."""
    parsed = registry.parse(model)
    if found := locate(model) or next(iter(library.copies_of(parsed)), None):
        return found.path
    takes = ""
    if isinstance(parsed, Known):
        stored = bits or (registry.READY_BITS if parsed.ready else None)
        takes = (f" In {stored or 16} bits it takes about {gigabytes(rough_bytes(parsed.parameters, stored))} and its "
                 f"cache, and this machine has {gigabytes(memory_limit())} for a model.")  # fmt: skip
    raise NotFound(f"{model} is not on this machine yet.{takes} Fetch it with `elm-mlx pull {model}`.")


def info(model: str | Path | None = None, context: int | None = None, bits: int | None = None) -> ModelInfo:
    """The figures of a model that is on this machine, by name or directory (None: the demo); where a name is here in
    other bits only, of those.

    The footprint is that of `context` positions (4,096 by default, at most the model's), as if it were quantized to
    `bits` if they are given. Raises InvalidRequest, NotFound, BadCheckpoint, Unsupported.
    """
    check_bits(bits)
    if context is not None and whole("context", context) < 1:
        raise InvalidRequest(f"context is {context}; it must be above 0.")
    directory = demo_directory() if model is None else here(model, bits)
    config = read_config(directory)
    arrays, nbytes = load_arrays(directory, config)
    dtype, count = stored_dtype(arrays, config), parameter_count(config)
    is_quantized = any(name.endswith(".scales") for name in arrays)
    weights = quantized_bytes(config, bits) if bits else nbytes
    return ModelInfo(
        model="demo" if model is None else str(model),
        family=config.family,
        parameters=count,
        bits_per_weight=8 * nbytes / count,
        weight_bytes=nbytes,
        kv_bytes_per_token=kv_bytes_per_token(config, 8 * dtype.size),
        context_length=config.context_length,
        dtype=str(dtype).removeprefix("mlx.core."),
        quantization=config.quantization.to_dict() if config.quantization and is_quantized else None,
        footprint=footprint(config, weights, 8 * dtype.size, context),
        available=memory_limit(),
    )
