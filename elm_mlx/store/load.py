"""From a directory to a model that runs: configuration, tokenizer, weights, each checked before the next is read."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import mlx.core as mx

from elm_mlx.arguments import Progress
from elm_mlx.config import HEAD_NAME, GuestConfig, ModelConfig, config_or_guest
from elm_mlx.config.generation import Generation, Sampling
from elm_mlx.device import choose_execution
from elm_mlx.device.execution import Execution
from elm_mlx.device.memory import check_memory
from elm_mlx.device.shared_linear import SharedLinear
from elm_mlx.distributed.part import Part
from elm_mlx.errors import BadCheckpoint, NotFound, Unsupported
from elm_mlx.files import read_json
from elm_mlx.models import build
from elm_mlx.models.collectives import world
from elm_mlx.models.guest import Guest
from elm_mlx.models.matrices import Linear
from elm_mlx.models.model import Model
from elm_mlx.models.parameters import Parameters
from elm_mlx.models.pipelined import LowerStage, Stage, UpperStage
from elm_mlx.shell import command_line
from elm_mlx.store.evaluate import Evaluate
from elm_mlx.store.guests import counted, load_guest
from elm_mlx.store.part_of import execution_of_all, load_part
from elm_mlx.store.stored_form import expand
from elm_mlx.store.tensors import called_for, repeats_embedding, runnable_weight_files, stored_dtype
from elm_mlx.store.text_settings import load_generation, read_settings
from elm_mlx.store.weight_files import check_directory, others_in
from elm_mlx.store.weights import check_copy, gather, read_arrays
from elm_mlx.text.settings import TokenizerSettings
from elm_mlx.text.tokenizer import Tokenizer

OWN_TOKENIZER = "Convert the model with {tokenizer=PATH}, where PATH is its own tokenizer.json or tokenizer.model."


Runs = Model | Guest | UpperStage | LowerStage


@dataclass(frozen=True)
class LoadedModel:
    """A model with all that belongs to it: `runs` is what computes, `settings` what the files beside its tokenizer say,
    `sampling` how it wants to be sampled, `stop_ids` the ids that its files name as the end of a text, `stop_strings`
    the texts that end one, `execution` how it runs here, `notices` sentences about what in its files has no meaning.
    """

    directory: Path
    config: ModelConfig
    runs: Runs
    tokenizer: Tokenizer
    settings: TokenizerSettings
    sampling: Sampling
    stop_ids: frozenset[int]
    stop_strings: tuple[str, ...]
    execution: Execution
    notices: tuple[str, ...] = ()

    @property
    def held(self) -> ModelConfig:
        """The configuration of what is held here, as caches and budgets need it: `config`, but where the model is one
        rank's part."""
        return self.runs.config

    @property
    def model(self) -> Model:
        """The model, where it is of our own architectures: for who looks into it. Raises Unsupported for a guest, and
        for the blocks of one machine of several."""
        if isinstance(self.runs, Stage):
            raise Unsupported("This does not work with a model that several machines share. Load it on one machine.")
        if not isinstance(self.runs, Model):
            raise Unsupported(f"{self.directory} is a model of the kind {self.config.model_type}, which mlx-lm's "
                              "classes compute. This works with llama and openelm alone.")  # fmt: skip
        return self.runs


def load_directory(
    directory: Path,
    cpu_policy: str = "auto",
    progress: Progress | None = None,
    force: bool = False,
    part: Part | None = None,
) -> LoadedModel:
    """Loads an MLX directory, or a Hugging Face one with safetensors and a tokenizer.json; of its weights the `part` of
    one rank, where several ranks of MLX's distributed group hold the model together. All of them must load then.

    `progress` is called with (bytes done, bytes in all). Raises NotFound, MissingTokenizer, BadCheckpoint,
    Unsupported, and NotEnoughMemory unless `force`.
    """
    config = read_config(directory)
    settings = read_settings(directory)
    tokenizer = load_tokenizer(directory, settings, config)
    generation = load_generation(directory)
    execution = choose_execution(config, cpu_policy)
    if part:
        execution = execution_of_all(execution, world(part))
        runs: Runs = load_part(directory, config, part, execution, progress, force)
    else:
        runs = load_any(directory, config, execution, progress, force)
    return LoadedModel(
        directory=directory,
        config=config,
        runs=runs,
        tokenizer=tokenizer,
        settings=settings,
        sampling=generation.sampling,
        stop_ids=named_stop_ids(config, generation, tokenizer),
        stop_strings=generation.stop_strings,
        execution=execution,
        notices=(*config.notices, *generation.notices),
    )


def named_stop_ids(config: ModelConfig, generation: Generation, tokenizer: Tokenizer) -> frozenset[int]:
    """The ids that a model's files name as the end of a text. Each of the three may name some: one outdated file must
    not keep a model from stopping."""
    own = tokenizer.eos_token_id
    return frozenset(config.eos_token_ids) | generation.stop_ids | ({own} if own is not None else set())


def load_any(
    directory: Path, config: ModelConfig, execution: Execution, progress: Progress | None, force: bool
) -> Model | Guest:
    """Loads a model of our own architectures, or a guest."""
    if isinstance(config, GuestConfig):
        return load_guest(directory, config, execution, progress, force)
    return load_model(directory, config, execution, progress, force)


def load_model(
    directory: Path, config: ModelConfig, execution: Execution, progress: Progress | None, force: bool
) -> Model:
    """Brings the weights into memory and builds the model, to be run as `execution` says."""
    arrays, nbytes = load_arrays(directory, config)
    dtype = execution.dtype or stored_dtype(arrays, config)
    quantization = config.quantization
    if not force:
        as_stored = quantization is not None and not execution.expand
        weights = nbytes if as_stored else config.parameter_count * dtype.size
        check_memory(directory, config, weights, 8 * dtype.size, held=mx.get_active_memory())
    if execution.expand and quantization:
        arrays, quantization = expand(arrays, quantization, dtype), None
    linear = partial(SharedLinear, streams=execution.streams) if execution.streams else Linear
    evaluate = Evaluate(sum(array.size for array in arrays.values()), nbytes, progress)
    parameters = Parameters(arrays, quantization, dtype, evaluate, linear)
    del arrays
    return build(config, parameters, compiled=execution.compiled)


def read_config(directory: Path) -> ModelConfig:
    """Reads the configuration of a model directory. Raises NotFound where there is none, and as `check_directory`."""
    check_directory(directory)
    path = directory / "config.json"
    if not path.exists():
        names = [file.name for file in directory.iterdir()]
        meta = f" For Meta's own files run: {command_line('elm-mlx', 'convert', directory)}"
        advice = meta if "params.json" in names else others_in(directory) or " Give a model's directory."
        if path.is_symlink():
            advice = " It is a link that leads nowhere: copy the directory with what its links lead to (cp -rL)."
        raise NotFound(f"There is no config.json in {directory.absolute()}.{advice}")
    config = config_or_guest(read_json(path))
    return counted(directory, config, runnable_weight_files(directory)) if isinstance(config, GuestConfig) else config


def load_tokenizer(directory: Path, settings: TokenizerSettings, config: ModelConfig) -> Tokenizer:
    """Reads the tokenizer.json of a directory, of whose other files `settings` is the content. Raises MissingTokenizer,
    and BadCheckpoint for a tokenizer of another model."""
    path = directory / "tokenizer.json"
    tokenizer = Tokenizer.from_file(path, settings, config.bos_token_id, config.vocab_size)
    check_tokenizer(tokenizer, config, path)
    return tokenizer


def check_tokenizer(tokenizer: Tokenizer, config: ModelConfig, path: Path) -> None:
    """Checks that the embedding has a row for each entry of a tokenizer's vocabulary, and for BOS. Added tokens may lie
    beyond, as transformers allows: many tokenizers have a padding token that their model never sees.

    Raises BadCheckpoint, which names the tokenizer's `path`.
    """
    needed = max(tokenizer.vocab_size, (tokenizer.bos_token_id or 0) + 1)
    if needed > config.vocab_size:
        raise BadCheckpoint(f"{path} has ids up to {needed - 1} and the model only {config.vocab_size} of them: it is "
                            "another model's tokenizer.", OWN_TOKENIZER)  # fmt: skip


def load_arrays(directory: Path, config: ModelConfig) -> tuple[dict[str, mx.array], int]:
    """(the weights by name, not read yet; their bytes in all): exactly the tensors that `config` calls for. Raises
    NotFound without weights, BadCheckpoint for other tensors, and Unsupported for names that only `convert` reads."""
    found = gather(directory, runnable_weight_files(directory), read_arrays)
    used = called_for(directory, config, found)
    if repeats_embedding(config, found):
        check_copy(directory, found[HEAD_NAME][1], found[config.embedding_name][1])
    return {name: array for name, (_, array) in used.items()}, sum(entry.nbytes for entry, _ in used.values())
