"""A directory to a model that runs: configuration, tokenizer, weights, each checked before the next is touched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import mlx.core as mx

from elm_mlx.arguments import Progress
from elm_mlx.config import HEAD, ModelConfig, config_from_dict
from elm_mlx.config.values import token_ids
from elm_mlx.device import cpu
from elm_mlx.device import memory as machine
from elm_mlx.device.costs import footprint, gigabytes, parameter_count
from elm_mlx.engine.cache.kv import make_cache
from elm_mlx.engine.generate import PREFILL_CHUNK, Stream
from elm_mlx.engine.sampling import Sampling
from elm_mlx.errors import BadCheckpoint, InvalidRequest, NotEnoughMemory, NotFound
from elm_mlx.files import optional_json, read_json, reading
from elm_mlx.models import build
from elm_mlx.models.layers import Linear, Parameters
from elm_mlx.models.model import Model
from elm_mlx.store.stored_form import expand, stored_entries
from elm_mlx.store.weights import check_copy, check_entries, gather, read_arrays, safetensors_files
from elm_mlx.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Loaded:
    """The parts of a model: `sampling` is its own choice, `stop_ids` every id that ends its text, `prefill_chunk` how
    many ids of a prompt it reads at once, `streams` what they are computed on (none: MLX's own), `notice` what a
    program may say about the device."""

    directory: Path
    config: ModelConfig
    model: Model
    tokenizer: Tokenizer
    sampling: Sampling
    stop_ids: frozenset[int]
    prefill_chunk: int
    streams: Sequence[Stream]
    notice: str | None


def load_directory(
    directory: Path, cpu_policy: str = "auto", progress: Progress | None = None, force: bool = False
) -> Loaded:
    """Loads an MLX directory, or a Hugging Face one with safetensors and a tokenizer.json.

    `progress` is called with (bytes done, bytes in all). Raises NotFound, MissingTokenizer, BadCheckpoint,
    Unsupported, and NotEnoughMemory unless `force`.
    """
    config = read_config(directory)
    tokenizer = load_tokenizer(directory, config)
    sampling, named = read_generation(directory / "generation_config.json")
    plan = cpu.plan(config, cpu_policy)
    model = load_model(directory, config, plan, progress, force)
    if plan.doubtful and not cpu.runs(partial(first_step, model)):
        plan = replace(plan, compiled=False)
        model = load_model(directory, config, plan, progress, force)
    return Loaded(
        directory=directory,
        config=config,
        model=model,
        tokenizer=tokenizer,
        sampling=sampling,
        # Any of the three may name them: a stale file among them must not keep a model from stopping.
        stop_ids=frozenset(config.eos_token_ids) | named | tokenizer.stop_ids,
        prefill_chunk=plan.prefill_chunk or PREFILL_CHUNK,
        streams=plan.streams,
        notice=plan.notice,
    )


def load_model(directory: Path, config: ModelConfig, plan: cpu.Plan, progress: Progress | None, force: bool) -> Model:
    """The model with its weights in memory, as the plan says."""
    arrays, nbytes = load_arrays(directory, config)
    dtype = plan.dtype or stored_dtype(arrays, config)
    quantization = config.quantization
    if not force:
        as_stored = quantization is not None and not plan.expand
        check_memory(directory, config, nbytes if as_stored else parameter_count(config) * dtype.size, 8 * dtype.size)
    if plan.expand and quantization:
        arrays, quantization = expand(arrays, quantization, dtype), None
    linear = partial(cpu.SharedLinear, streams=plan.streams) if plan.streams else Linear
    evaluate = _Evaluate(sum(array.size for array in arrays.values()), nbytes, progress)
    parameters = Parameters(arrays, quantization, dtype, evaluate, linear)
    del arrays
    return build(config, parameters, compiled=plan.compiled)


def first_step(model: Model) -> mx.array:
    """A prompt of two ids and one token after it, so each kernel that there is."""
    cache = make_cache(model.config.num_layers, 3)
    model.hidden(mx.array([[0, 0]]), cache)
    return model.last_hidden(mx.array([[0]]), cache)


def check_memory(model: object, config: ModelConfig, weights: int, float_bits: int) -> None:
    """Raises NotEnoughMemory, with the numbers, for a model that this machine has no room for."""
    takes, available = footprint(config, weights, float_bits), machine.memory_limit()
    if takes.total > available:
        raise NotEnoughMemory(f"{model} takes {takes}, and this machine has {gigabytes(available)} for it. Take a "
                              "smaller model or fewer bits, close other programs, or try with --force (force=True).",
                              takes.total, available)  # fmt: skip


def read_config(directory: Path) -> ModelConfig:
    """The configuration of a model directory. Raises NotFound where there is none."""
    with reading(directory):
        if not directory.is_dir():
            raise NotFound(f"There is no directory {directory}. Give the path of a converted model.")
    return config_from_dict(read_json(directory / "config.json"))


def load_tokenizer(directory: Path, config: ModelConfig) -> Tokenizer:
    """The directory's tokenizer.json with its settings; a chat template may lie in a file of its own."""
    settings = optional_json(directory / "tokenizer_config.json")
    if (directory / "chat_template.jinja").exists():
        settings["chat_template"] = True
    tokenizer = Tokenizer.from_file(directory / "tokenizer.json", settings, config.bos_token_id)
    needed = max(tokenizer.ordinary_entries, (tokenizer.bos_token_id or 0) + 1)
    if needed > config.vocab_size:
        raise BadCheckpoint(f"{directory / 'tokenizer.json'} needs {needed} entries and the model has only "
                            f"{config.vocab_size}: it is another model's.")  # fmt: skip
    return tokenizer


def read_generation(path: Path) -> tuple[Sampling, frozenset[int]]:
    """(how the model wants to be sampled, the stop ids it names) from a generation_config.json that need not be there.

    Greedy unless it says `do_sample`, whatever else it says then. Lengths are never inherited. Raises BadCheckpoint
    for values without a meaning.
    """
    raw = optional_json(path)
    stop_ids = frozenset(token_ids(raw.get("eos_token_id"), f"{path}: eos_token_id"))
    if raw.get("do_sample") not in (None, True, False):
        raise BadCheckpoint(f"{path}: do_sample is {raw['do_sample']!r}, where true or false belongs.")
    if not raw.get("do_sample"):
        return Sampling(), stop_ids
    options = {name: raw[name] for name in ("temperature", "top_p", "top_k", "min_p") if raw.get(name) is not None}
    try:
        return Sampling(**({"temperature": 1.0} | options)), stop_ids
    except InvalidRequest as error:
        raise BadCheckpoint(f"{path} asks for sampling without a meaning: {error}") from error


def load_arrays(directory: Path, config: ModelConfig) -> tuple[dict[str, mx.array], int]:
    """The weights by name, lazily, and their bytes; exactly the tensors that `config` calls for."""
    files = safetensors_files(directory)
    if not files:
        raise NotFound(f"There are no weights in {directory} (model.safetensors or its index). For a PyTorch "
                       f"checkpoint run: elm-mlx convert {directory}")  # fmt: skip
    found = gather(directory, files, read_arrays)
    if config.tied and HEAD in found and config.embedding_name in found:
        check_copy(directory, found[HEAD][1], found[config.embedding_name][1])
    arrays = {name: array for name, (_, array) in found.items() if not config.is_redundant(name)}
    entries = {name: entry for name, (entry, _) in found.items() if not config.is_redundant(name)}
    is_quantized = {name for name in entries if name.removesuffix("weight") + "scales" in entries}
    check_entries(directory, stored_entries(config, mx.float32, is_quantized.__contains__), entries)
    return arrays, sum(entry.nbytes for entry in entries.values())


def stored_dtype(arrays: dict[str, mx.array], config: ModelConfig) -> mx.Dtype:
    """The floating type of a model: that of its embedding, else of the embedding's scales, else of the first norm."""
    scales = config.embedding_name.removesuffix("weight") + "scales"
    for name in (config.embedding_name, scales, *arrays):
        if name in arrays and mx.issubdtype(arrays[name].dtype, mx.floating):
            return arrays[name].dtype
    raise BadCheckpoint("The weights hold no floating-point tensor, so they are not a language model's.")


class _Evaluate:
    """Brings each parameter into memory as it is handed out, so that the peak stays near the file's size.

    Progress is counted in elements, which neither a cast nor joining rows changes, and told in stored bytes.
    """

    def __init__(self, elements: int, nbytes: int, progress: Progress | None) -> None:
        self.done, self.elements, self.nbytes, self.progress = 0, elements, nbytes, progress

    def __call__(self, *arrays: mx.array) -> None:
        mx.eval(*arrays)
        self.done += sum(array.size for array in arrays)
        if self.progress:
            done = min(self.done, self.elements)  # a norm that is repeated for every head counts more than once
            self.progress(self.nbytes * done // self.elements, self.nbytes)
