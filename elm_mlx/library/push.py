"""Sharing a model that elm-mlx converted: what may be shared, with a card that says where it comes from."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from elm_mlx.arguments import Progress
from elm_mlx.config import names_guest
from elm_mlx.convert import unfinished
from elm_mlx.errors import BadCheckpoint, Gated, InvalidRequest, NotFound
from elm_mlx.files import optional_json, read_text, readable_size
from elm_mlx.library.hub_errors import SITE
from elm_mlx.library.names import Repository, parse_name, terms_of
from elm_mlx.library.upload import File, Origin, Pushed, names_there, origin_of, send, size_of
from elm_mlx.store.conversion_record import RECORD, read_record
from elm_mlx.store.layout import has_tokenizer, is_complete, small_files
from elm_mlx.store.side_files import file_names
from elm_mlx.store.weight_files import weight_files

CARD = "README.md"
FRONT = re.compile(r"\A---\n(.*?\n)---\n", re.DOTALL)
MOST_CARD = 1 << 20  # bytes
BESIDE = ("model.safetensors.index.json", "LICENSE", "LICENSE.txt", "LICENSE.md", "USE_POLICY.md", "NOTICE")
WEIGHTS = (".safetensors", ".bin", ".pth", ".pt", ".gguf", ".npz")


@dataclass(frozen=True)
class Shared:
    """A model that may be shared: its repository to be, the files by name, what the directory has beside them, and
    whether its card says how good it is."""

    repository: str
    files: Mapping[str, File]
    left_out: list[str]
    measured: bool

    @property
    def nbytes(self) -> int:
        """Bytes of all files together."""
        return sum(map(size_of, self.files.values()))


def push(
    directory: str | Path,
    name: str,
    *,
    license: str | None = None,
    private: bool = False,
    yes: bool = False,
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Pushed:
    """Gives a converted model to the Hugging Face hub as `name`, owner/name. Raises as `prepare` and `upload.send`."""
    shared = prepare(directory, name, license=license, yes=yes)
    if shared.left_out:
        say(f"Left out, as they are no part of the model: {', '.join(shared.left_out)}.")
    if not shared.measured:
        say("The card has no figures of quality: `elm-mlx verify` measures them.")
    say(f"Sending {len(shared.files)} files, {readable_size(shared.nbytes)}, to {shared.repository}.")
    return send(shared.repository, shared.files, private, progress)


def prepare(directory: str | Path, name: str, *, license: str | None = None, yes: bool = False) -> Shared:
    """Judges a model that is to be shared, and completes its card. `license` is the identifier of a licence, for a
    model whose origin the hub does not know; `yes` says that who shares it has read the licence of a gated original.

    Raises InvalidRequest, NotFound, BadCheckpoint, and Gated for a model of a gated original without `yes`.
    """
    folder, repository = Path(directory), named(name)
    check_folder(folder)
    record = check_record(folder)
    origin = judge_origin(record, license, yes)
    names = file_names(folder)
    weights = weight_files(folder)
    parts = [*small_files(names), *weights.all_files, RECORD, *(name for name in BESIDE if name in names)]
    files: dict[str, File] = {part: own_file(folder, part) for part in dict.fromkeys(parts)}
    card = read_text(own_file(folder, CARD), MOST_CARD) if (folder / CARD).is_file() else ""
    files[CARD] = completed(card, folder / CARD, origin)
    check_place(repository, files)
    left_out = [name for name in names if name not in files and not (folder / name).is_dir()]
    return Shared(repository, files, left_out, "Not measured" not in card)


def named(name: str) -> str:
    """The repository that a name means. Raises InvalidRequest for anything but owner/name."""
    found = parse_name(name) if "/" in name and not name.startswith((".", "/", "~")) else None
    if not isinstance(found, Repository) or "@" in name:
        raise InvalidRequest(f"{name!r} is not a repository's name.", "Give OWNER/NAME, such as you/OpenELM-270M-4bit.")
    return found.name


def check_folder(folder: Path) -> None:
    """Refuses what is no whole model. Raises NotFound, InvalidRequest, BadCheckpoint."""
    if not folder.is_dir():
        raise NotFound(f"There is no directory {folder}.", "Give one that `elm-mlx convert` wrote.")
    place = folder.resolve()
    if place.name.startswith(".") or place in unfinished(place.parent):
        raise InvalidRequest(f"{folder} is not finished: its conversion was stopped, or is still at work.",
                             "Give the same `elm-mlx convert` command again, and push what it writes.")  # fmt: skip
    if not is_complete(folder) or not has_tokenizer(folder):
        raise BadCheckpoint(f"{folder} lacks files of its model, so nobody could run it.", "Convert it again.")


def own_file(folder: Path, name: str) -> Path:
    """A file of a directory. Raises InvalidRequest for a link out of it, which may lead to what nobody means to share,
    and for what is no file."""
    place = folder / name
    if folder.resolve() not in place.resolve().parents or not place.is_file():
        raise InvalidRequest(f"{place} leads out of this directory, or is not a plain file, so "
                             "it is not sent.", "Copy what is meant to be shared into the directory.")  # fmt: skip
    return place


def check_record(folder: Path) -> dict[str, Any]:
    """The conversion.json of a directory that may be shared. Raises InvalidRequest for what elm-mlx did not convert,
    for guests, and for weights that are no numbers."""
    record = read_record(folder)
    source, options = record.get("source"), record.get("options")
    if not isinstance(source, dict) or not isinstance(options, dict):
        raise InvalidRequest(f"{folder} has no {RECORD} that says what it was made of.",
                             "Only what `elm-mlx convert` wrote is pushed; hf upload takes anything.")  # fmt: skip
    if names_guest(optional_json(folder / "config.json")):
        raise InvalidRequest(f"{folder} is a model of a family that mlx-lm computes.",
                             "Push it with mlx-lm's own command, mlx_lm.upload.")  # fmt: skip
    if options.get("allow_nonfinite"):
        raise InvalidRequest(f"{folder} was converted although weights of its source are NaN or infinite.",
                             "Fetch the source again, and convert that.")  # fmt: skip
    return record


def judge_origin(record: Mapping[str, Any], license: str | None, yes: bool) -> Origin:
    """What is known of the licence of a model, from the repository that it was made from. Raises InvalidRequest where
    nothing is and no `license` is given, or is another one, and Gated for a gated repository without `yes`."""
    repository = record["source"].get("repository")
    if not isinstance(repository, str) or not re.fullmatch(r"[\w.-]+/[\w.-]+", repository, re.ASCII):
        if not license:
            raise InvalidRequest(f"{RECORD} does not say which repository the model comes from, so its licence is not "
                                 "known.", "Give {license}, as model cards write it, such as apache-2.0.")  # fmt: skip
        return Origin(False, license)
    found = origin_of(repository, str(record["source"].get("revision") or "main"))
    if found.gated and not yes:
        terms = f" It is {terms_of(repository)}." if terms_of(repository) else ""
        raise Gated(f"{repository}, from which the model comes, is given only to those who accept its licence; who "
                    f"shares the model has to keep that licence, too.{terms}",
                    f"Read it at {SITE}/{repository}, and give {{yes=True}} if it lets you.")  # fmt: skip
    if not (found.license or license):
        raise InvalidRequest(f"{repository} names no licence on the hub.",
                             "Give {license}, as model cards write it, such as apache-2.0.")  # fmt: skip
    if found.license and license not in (None, found.license):
        raise InvalidRequest(f"{repository} has the licence {found.license}, and what is made of it keeps that.",
                             "Leave {license} out.")  # fmt: skip
    return found if found.license else Origin(found.gated, str(license))


def completed(card: str, place: Path, origin: Origin) -> bytes:
    """A model card with its licence. Raises BadCheckpoint for one without a head that can be read, or without text, and
    InvalidRequest for one with another licence."""
    head = FRONT.match(card)
    try:
        told = yaml.safe_load(head[1]) if head else None
    except (yaml.YAMLError, RecursionError):
        told = None
    if not head or not isinstance(told, dict) or not card[head.end() :].strip():
        raise BadCheckpoint(f"{place} is not a model card: it lacks its head, or its text.",
                            f"Convert the model again, or write one as {SITE}/docs/hub/model-cards says.")  # fmt: skip
    if str(told.get("license", origin.license)) != origin.license:
        raise InvalidRequest(f"{place} names the licence {told['license']!s:.80}, and it is {origin.license}.",
                             f"Correct that line of {CARD}.")  # fmt: skip
    lines = {name: getattr(origin, name) for name in ("license", "license_name", "license_link")}
    more = yaml.safe_dump({name: value for name, value in lines.items() if value and name not in told}, sort_keys=False)
    return f"---\n{head[1]}{'' if more.startswith('{}') else more}---\n{card[head.end() :]}".encode()


def check_place(repository: str, files: Mapping[str, File]) -> None:
    """Refuses a repository that holds weights which the push would not replace. Raises InvalidRequest."""
    there = names_there(repository) or []
    if others := [name for name in there if name.endswith(WEIGHTS) and name not in files]:
        raise InvalidRequest(f"{repository} holds other weights ({', '.join(sorted(others)[:3])}), which would lie "
                             "beside these.", "Name another repository, or remove them there.")  # fmt: skip
