"""Which files of a directory or a repository are its model's weights. Loading, converting, fetching and the question
whether all files are there ask here.

The first of these that there is: model.safetensors, the files that its index names, pytorch_model.bin, the files that
its index names (transformers' order), other safetensors together, a numbered series of pytorch_model.bin.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from elm_mlx.errors import BadCheckpoint, InvalidRequest, NotFound, Unsupported
from elm_mlx.files import read_bytes, reading
from elm_mlx.shell import command_line
from elm_mlx.store.bounded_json import parse_bounded

WHOLE = ("model.safetensors", "pytorch_model.bin")
TORCH_SUFFIXES = (".bin", ".pt", ".pth")
SUFFIXES = (".safetensors", *TORCH_SUFFIXES, ".gguf")
MAX_INDEX_BYTES = 20 * 2**20  # the largest published ones have 9 MB
# What a training leaves beside a model, an adapter, and Mistral's own layout are other things than the model's weights.
OTHER = r"(?i:.*(?<![a-z])(adapters?|lora|consolidated|optimizer|scheduler|training)(?![a-z]))"
LOOSE = (rf"(?!{OTHER})[^/.][^/]*\.safetensors", r"pytorch_model-\d{5}-of-\d{5}\.bin")
NUMBERED = re.compile(r"(.*)-\d{5}-of-(\d{5})(\..*)")
ADAPTER = "an adapter's, which changes a model and is none. Merge it into its model first (merge_and_unload in PEFT)."


@dataclass(frozen=True)
class WeightFiles:
    """The weight files of a model by their paths in its directory, there or not, and the index that names them, if one
    does."""

    files: list[str] = field(default_factory=list)
    index: str | None = None

    @property
    def all_files(self) -> list[str]:
        """The files and the index: all that has to be there."""
        return [self.index, *self.files] if self.index else self.files

    @property
    def are_safetensors(self) -> bool:
        """Whether there are files, all in safetensors: what runs without a conversion."""
        return bool(self.files) and all(file.endswith(".safetensors") for file in self.files)

    @property
    def show_their_number(self) -> bool:
        """Whether a missing one would be noticed: by an index, or by their own names."""
        return self.index is not None or all(file in WHOLE or NUMBERED.fullmatch(file) for file in self.files)


def choose_weights(names: Collection[str], read_index: Callable[[str], list[str]]) -> WeightFiles:
    """Chooses among the `names` of all files; none may be the weights'. `read_index` gives the files that an index
    names: it is called for the one that decides, and never beside a whole file."""
    for whole in WHOLE:
        if whole in names:
            return WeightFiles([whole])
        if (index := f"{whole}.index.json") in names:
            return WeightFiles(read_index(index), index)
    loose = ([name for name in sorted(names) if re.fullmatch(pattern, name)] for pattern in LOOSE)
    found = next(filter(None, loose), [])
    return WeightFiles(found + sorted({lost for name in found if (lost := _lost_member(name, {*found}))}))


def _lost_member(name: str, there: Collection[str]) -> str | None:
    """The first file that is missing from the numbered series (-00001-of-00003) of one; None where none is."""
    if not (numbered := NUMBERED.fullmatch(name)):
        return None
    begin, count, end = numbered.groups()
    members = (f"{begin}-{number:05}-of-{count}{end}" for number in range(1, int(count) + 1))
    return next((member for member in members if member not in there), None)


def read_index(path: Path) -> list[str]:
    """Reads the files in which an index places tensors, each once. Where it places which is not asked: all are read.

    Raises NotFound, and BadCheckpoint for an index of nothing, or one that names a file outside its directory.
    """
    places = parse_bounded(read_bytes(path, MAX_INDEX_BYTES), path).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise BadCheckpoint(f"{path} lists no tensors. Fetch it again.")
    for name, file in places.items():
        if not _is_inside(file):
            raise BadCheckpoint(f"{path} places {name} in {file!r}, which names no file in its directory, or not as a "
                                "plain path in it. Fetch it again.")  # fmt: skip
    return list(dict.fromkeys(places.values()))


def _is_inside(value: object) -> bool:
    """Whether `value` names a file in the directory or below it, in one spelling. For a longer name the system raises
    an error."""
    if not isinstance(value, str) or str(PurePosixPath(value)) != value or value.startswith("/"):
        return False
    parts = value.split("/")
    return not {"", ".", ".."} & {*parts} and all(len(part.encode(errors="replace")) <= 255 for part in parts)


def weight_files(directory: Path) -> WeightFiles:
    """Finds the weight files of a directory; none where it has none. Raises NotFound where one of them is missing, and
    as `read_index`."""
    with reading(directory):
        names = [file.name for file in directory.iterdir()]
        found = choose_weights(names, lambda index: read_index(directory / index))
        absent = [file for file in found.files if not (directory / file).exists()]
    if absent:
        raise NotFound(_absence(directory, names, found.index, absent))
    return found


def _absence(directory: Path, names: Collection[str], index: str | None, absent: list[str]) -> str:
    more = f" ({len(absent)} such files are missing)" if len(absent) > 1 else ""
    if index is None:
        return f"There is no {absent[0]} in {directory}, a part of the model's weights{more}. Fetch it."
    rest = choose_weights([name for name in names if not name.endswith(".index.json")], lambda _: []).files
    other = f" Or remove {index} if the model lies in {some(rest)}." if rest and {*rest} <= {*names} else ""
    return f"There is no {absent[0]} in {directory}, which {index} names{more}. Fetch it.{other}"


def some(names: list[str]) -> str:
    """The first few of some names, and how many more there are."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def others_in(directory: Path) -> str:
    """A sentence about a GGUF file or an adapter in a directory, for where no model was found; empty without one."""
    names = [file.name for file in directory.iterdir()]
    files = gguf_among(names)
    return f" {files[0]} is {_gguf(directory / files[0])}" if files else adapter_among(names)


def others_published(repository: str, names: Collection[str]) -> str:
    """A sentence about a GGUF file or an adapter among the `names` of a repository's files, which are not on this
    machine; empty without one."""
    if not (files := gguf_among(names)):
        return adapter_among(names)
    download = command_line("hf", "download", repository, files[0], "--local-dir", ".")
    convert = command_line("elm-mlx", "convert", files[0])
    return f" It has GGUF files ({some(files)}). Download one and convert it, for example: {download} && {convert}"


def gguf_among(names: Collection[str]) -> list[str]:
    """The GGUF files among some names that may be models: not what turns pictures into a model's input."""
    return sorted(name for name in names if name.lower().endswith(".gguf") and "mmproj" not in name.lower())


def adapter_among(names: Collection[str]) -> str:
    """A sentence about an adapter's file among some names; empty without one."""
    adapters = sorted(name for name in names if name.startswith("adapter_"))
    return f" {adapters[0]} is {ADAPTER}" if adapters else ""


def _gguf(file: Path) -> str:
    """What to do with a GGUF file where a model is to run."""
    return f"a GGUF file, which runs once it is converted: {command_line('elm-mlx', 'convert', file)}"


def is_file_name(text: str) -> bool:
    """Whether a text means a file and not a model's name: any GGUF, and what exists of weights, or in a folder."""
    suffix = Path(text).suffix.lower()
    return suffix == ".gguf" or ((suffix in SUFFIXES or "/" in text) and Path(text).is_file())


def check_directory(path: Path) -> None:
    """Raises NotFound for a model's directory that does not exist, and where there is a file in its place, an error
    that says what to give instead."""
    with reading(path):
        is_directory, is_file = path.is_dir(), path.is_file()
    if is_directory:
        return
    if path.suffix.lower() == ".gguf":
        if not is_file:
            raise NotFound(f"There is no file {path}. Download it first, or name the one that is there.")
        raise Unsupported(f"{path} is {_gguf(path)}")
    if not is_file or path.suffix not in SUFFIXES:
        file = ": that is a file" if is_file else ""
        raise NotFound(f"There is no directory {path}{file}. Give a model's directory, or a name.")
    raise InvalidRequest(f"{path} is a file of weights, where a model is a directory. {_way_to_run(path)}")


def _way_to_run(file: Path) -> str:
    """What to do with one file of weights."""
    directory, convert = file.parent, command_line("elm-mlx", "convert", file)
    if not (directory / "config.json").exists():
        return f"Put its config.json and its tokenizer beside it, and run: {convert}"
    chosen = weight_files(directory)
    if chosen.are_safetensors and file.name in chosen.files and (directory / "tokenizer.json").exists():
        return f"Give the directory: {directory}"
    return f"Convert it: {convert}"
