"""--show-config: what each option of a command comes to, and where from. No weights are read, nothing is fetched."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from elm_mlx.cli.adapter import judge_adapter
from elm_mlx.cli.find import check_template, find_here, refuse_system, settle_options
from elm_mlx.cli.messages import FLAGS, one_line
from elm_mlx.cli.sections import OTHERS, SECTIONS, section_of
from elm_mlx.cli.wishes import naming, origin, settle
from elm_mlx.config.generation import SAMPLING_NAMES, Sampling
from elm_mlx.config.quantization import in_words
from elm_mlx.errors import NotFound
from elm_mlx.library.names import parse_name
from elm_mlx.shell import command_line

if TYPE_CHECKING:
    from elm_mlx.api.defaults import Defaults
    from elm_mlx.api.model_files import ModelFiles

SHOWN = (
    "Sampling",
    "Stopping",
    "Structured output",
    "Caches",
    "Speculation",
    "Output",
)  # sections; of the others a row says what is meant
HIDDEN = ("as_json", "show_config", "quiet", "help")  # how to print, not how to ask
DEFAULT, FILES = "default", "the model's files"
# What the absence of a value means, in words; a program gets null.
ABSENT = {
    "seed": "another one for each answer",
    "window": "none: every position is kept",
    "kv_bits": "none: as computed",
}
FIELDS = {"banned_ids": "banned"}  # options that `Sampling` has under another name


@dataclass(frozen=True)
class Setting:
    """An option by its name in Python, the `value` that it comes to, and in words where that is from."""

    name: str
    value: Any
    origin: str

    @property
    def label(self) -> str:
        """The name as a row of a table has it, which is that of the flag."""
        return FLAGS.get(self.name, self.name).removeprefix("--").replace("_", "-")

    @property
    def text(self) -> str:
        """The value as a row of a table shows it."""
        return ABSENT.get(self.name, "none") if self.value is None else in_text(self.value)


def print_config(
    model: str | None, bits: str | None, asked: dict[str, Any], options: dict[str, Any], as_json: bool
) -> None:
    """Prints the settings of a command that asks a model, as a table or one JSON object. `asked` holds how prompts are
    put (raw, chat_template, system), `options` those of generation.

    Raises NotFound for a model that is not on this machine, and what the command itself would raise before it loads.
    """
    template: str | None = asked.get("chat_template")
    if template:
        check_template(template)
    judge_adapter(options["adapter"])
    settle_options(options)
    if (draft := options["draft"]) not in (None, "auto"):
        with naming("draft"):
            find_here(draft, None)  # which judges its name
    chosen = {"bits": bits}
    directory = find_without_fetching(model, chosen)
    settle_options(options, directory)

    from elm_mlx.api.model_files import read_model_files  # here, as --help needs no MLX

    files = read_model_files(directory, template)
    if "system" in asked:
        told = {"system": asked["system"]}
        settle(partial(refuse_system, files), told, "system")
        asked = asked | told
    settings = [
        *about_model(model, chosen["bits"], directory, files),
        Setting("adapter", options["adapter"], origin("adapter") or DEFAULT),
        *about_prompt(asked, files, bool(options["plain"])),
        *about_options(options, files),
    ]
    print(as_object(settings) if as_json else as_table(settings))


def find_without_fetching(model: str | None, asked: dict[str, str | None]) -> Path:
    """The directory of a model in the `asked` bits, or of the demo. Drops a wish for bits that the model cannot have.
    Raises NotFound where it is not on this machine."""
    with naming("model"):
        if model is not None:
            parse_name(model)
        found = settle(partial(find_here, model), asked, "bits")
    return found or refuse_absent(model, asked["bits"])


def refuse_absent(model: str | None, bits: str | None) -> NoReturn:
    """Raises NotFound for a model that is not on this machine in these bits."""
    command = command_line("elm-mlx", "pull", model, *(("--bits", bits) if bits else ()))
    which = f"{model} in {bits} bits" if bits else model
    raise NotFound(
        f"{which} is not on this machine, and its options are in its files. Fetch it by `{command}`.",
        "{show_config} fetches nothing.",
    )


def about_model(model: str | None, bits: str | None, directory: Path, files: ModelFiles) -> list[Setting]:
    """Which model it is, and in which bits."""
    stored = files.config.quantization
    held = in_words(stored.to_dict()) if stored else "not quantized"
    return [
        Setting("model", "the built-in demo" if model is None else model, origin("model") or DEFAULT),
        Setting("directory", str(directory), "this machine"),
        Setting("bits", held, (origin("bits") if bits else None) or FILES),
    ]


def about_prompt(asked: dict[str, Any], files: ModelFiles, plain: bool) -> list[Setting]:
    """How a prompt is put to the model, what it is told about its role, and what its files say ends its answers."""
    template = asked.get("chat_template")
    if asked.get("raw"):
        prompt = Setting("prompt", "as it is", origin("raw") or DEFAULT)
    elif template:
        prompt = Setting("prompt", f"by the chat template {template}", origin("chat_template") or DEFAULT)
    elif files.has_chat_template:
        prompt = Setting("prompt", "by the model's chat template", FILES)
    else:
        whence = None if plain else files.defaults.origins.get("raw")
        prompt = Setting("prompt", "as it is, without a chat template", whence or FILES)
    told = [Setting("system", asked["system"], origin("system") or DEFAULT)] if "system" in asked else []
    ends = [Setting("stop_ids", sorted(files.stop_ids), FILES), Setting("stop_strings", files.stop_strings, FILES)]
    return [prompt, *told, *ends]


def about_options(options: dict[str, Any], files: ModelFiles) -> list[Setting]:
    """The options of generation, in the order of the command's help. What is given counts; then, for sampling and
    unless `plain`, the model's files or its publisher; then the default."""
    given = click.get_current_context().params | options
    rows = [name for title in SHOWN for name in SECTIONS[title] if name in given and name not in HIDDEN]
    rows += [name for name in options if section_of(name) == OTHERS]
    return [about_option(name, given[name], files.defaults, bool(options["plain"])) for name in rows]


def about_option(name: str, value: Any, defaults: Defaults, plain: bool) -> Setting:
    """An option of generation with the value that the command has of it, None where that has none."""
    field = FIELDS.get(name, name)
    if value is not None or field not in SAMPLING_NAMES:
        return Setting(name, value, origin(name) or DEFAULT)
    if plain:
        return Setting(name, getattr(Sampling(), field), DEFAULT)
    return Setting(name, getattr(defaults.sampling, field), defaults.origins.get(field, DEFAULT))


def in_text(value: Any) -> str:
    """A value in words: yes or no, a number, texts in quotes, several with commas between them."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{key}={one:g}" for key, one in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(json.dumps(one, ensure_ascii=False) for one in value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def as_table(settings: list[Setting]) -> str:
    """The settings as aligned lines: name, value, where from."""
    rows = [(one.label, one_line(one.text), one.origin) for one in settings]
    wide, wider = (max(len(row[column]) for row in rows) for column in (0, 1))
    return "\n".join(f"{name:<{wide}}  {value:<{wider}}  {whence}" for name, value, whence in rows)


def as_object(settings: list[Setting]) -> str:
    """The settings as one JSON object: by the names of options an object with value and origin each."""
    return json.dumps({one.name: {"value": one.value, "origin": one.origin} for one in settings})
