"""Turns a --model argument into a directory, which is pulled where it is not here, and into a loaded model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

import elm_mlx
from elm_mlx import demo
from elm_mlx.cli.adapter import judge_adapter, use_adapter
from elm_mlx.cli.kinds import NAME
from elm_mlx.cli.messages import say, with_flags
from elm_mlx.cli.parallel import kind_here
from elm_mlx.cli.progress import ProgressBar, bars
from elm_mlx.cli.wishes import drop, is_wish, naming, settle
from elm_mlx.config.generation import FILTER_NAMES, Sampling
from elm_mlx.errors import BadCheckpoint, InvalidRequest
from elm_mlx.library.names import known_models, parse_name
from elm_mlx.shell import command_line

if TYPE_CHECKING:
    from elm_mlx import LanguageModel, Located
    from elm_mlx.api.model_files import ModelFiles
    from elm_mlx.distributed.part import Kind
    from elm_mlx.distributed.ranks import Ranks

DEMO_NOTICE = f"No --model given: this is the built-in demo, {demo.ABOUT}."
UNCONFIRMED = "zephyr is perhaps the format of OpenELM-Instruct; nobody has confirmed it."
WINDOW_NOTICE = "The model sees only the last {:,} tokens: this is a window, not unlimited context."
NO_SYSTEM = "This model has no chat template, so it can be given no system message."
TEMPLATE_HELP = 'Use the chat template in this file; or "zephyr", which may be OpenELM-Instruct\'s (unconfirmed).'


def complete_names(_context: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """The completions that a shell offers for the beginning of a name: known models, else directories."""
    known = [CompletionItem(name) for name in known_models() if name.startswith(begun)]
    return known or [CompletionItem(begun, type="dir")]


MODEL = click.option(
    "-m",
    "--model",
    type=NAME,
    metavar="MODEL",
    shell_complete=complete_names,
    help="A name, OWNER/NAME or a directory. Default: the built-in demo.",
)


def load_with_notices(
    model: str | None, bits: str | None, force: bool, chat_template: str | None, options: dict[str, Any], **sizes: Any
) -> LanguageModel:
    """Loads a model to be asked with these options, and says what a person should know of it. What can be judged before
    the model is fetched or its weights are read is judged then. Drops wishes from `options` that mean nothing to it,
    and takes the draft out of them, which belongs to loading. `sizes` are further arguments of `elm_mlx.load`."""
    if chat_template:
        check_template(chat_template)
    judge_adapter(options.get("adapter"))
    settle_options(options)
    asked = {"bits": bits}
    with repair_advice(model, asked):
        directory = pull_directory(model, asked, force)
        settle_options(options, directory or demo.demo_directory())
        if kind := kind_here():
            sizes["ranks"] = meet(kind, directory or demo.demo_directory(), force)
        if draft := options.pop("draft", None):
            sizes["draft"] = pull_draft(draft, force)
            settle(partial(judge_draft, directory), sizes, "draft")
        with ProgressBar("Loading", in_bytes=True) as bar:
            lm = elm_mlx.load(directory, progress=bar, force=force, **sizes)
    use_adapter(lm, options, force)
    if chat_template:
        lm.use_chat_template(chat_template)
    unconfirmed = UNCONFIRMED if chat_template == "zephyr" else None
    window = WINDOW_NOTICE.format(options["window"]) if options.get("window") else None
    for notice in (DEMO_NOTICE if model is None else None, *lm.notices, unconfirmed, window):
        if notice:
            say(notice)
    return lm


def check_template(name: str) -> None:
    """Raises NotFound and BadCheckpoint for a --chat-template that cannot be used with any model."""
    from elm_mlx.text.chat.template import ChatTemplate  # here, as it imports a template engine

    with naming("chat_template"):
        ChatTemplate.from_name(name, {})


def yield_temperature(options: dict[str, Any]) -> None:
    """Drops a wish for greedy decoding where a filter was typed, which would mean nothing then."""
    typed = [name for name in FILTER_NAMES if options.get(name) is not None and not is_wish(name)]
    if typed and options.get("temperature") == 0 and is_wish("temperature"):
        drop(options, "temperature", "What was typed is for sampling.")


def settle_options(options: dict[str, Any], directory: Path | None = None) -> None:
    """Drops wishes from `options`, a draft among them, that mean nothing beside the others to the model in a directory,
    or without one to any model. Raises InvalidRequest where that is so of options that were typed."""
    if not directory and not any(value for name, value in options.items() if name != "max_tokens"):
        return  # none is given, and so a wrong name of a model is told before MLX is loaded

    yield_temperature(options)
    settle(partial(check_options, directory), options, *(name for name in options if name != "temperature"))


def check_options(directory: Path | None, **options: Any) -> None:
    """Raises InvalidRequest for options that mean nothing to the model in a directory, or without one to any model, as
    asking it does."""
    from elm_mlx.api.cache_kind import cache_kind
    from elm_mlx.api.defaults import read_defaults  # here, as --help needs no MLX
    from elm_mlx.api.options import Options, check_ids, sampling_for
    from elm_mlx.store.load import read_config

    refuse_idle(**options)
    asked: Any = {name: value for name, value in options.items() if name in Options.__annotations__}
    own = read_defaults(directory).sampling if directory else Sampling(temperature=1.0)  # where filters mean something
    sampling = sampling_for(own, asked)
    if directory and (sampling.logit_bias or sampling.banned or asked.get("window")):
        config = read_config(directory)
        check_ids(sampling, asked, config.vocab_size)
        cache_kind(asked, config.context_length)


def refuse_idle(draft: str | None = None, lookup: bool | None = None, **_: object) -> None:
    """Raises InvalidRequest for a draft that would propose nothing."""
    if draft and lookup:
        raise InvalidRequest("Only one of two can propose tokens.", "Leave {draft} or {lookup} out.")


def refuse_system(model: LanguageModel | ModelFiles, system: str | None) -> None:
    """Raises InvalidRequest for a system message to a model that cannot be given one."""
    if system and not model.has_chat_template:
        raise InvalidRequest(NO_SYSTEM, "Leave {system} out, or give a {chat_template}.")


@contextmanager
def repair_advice(model: str | None, asked: dict[str, str | None]) -> Iterator[None]:
    """Adds to the error of a damaged model how to repair it, where it was fetched by its name and the `asked` bits."""
    try:
        yield
    except BadCheckpoint as error:
        if has_own_bits(model):
            raise
        bits = ("--bits", asked["bits"]) if asked["bits"] else ()
        command = command_line("elm-mlx", "pull", model, *bits, "--verify")
        raise BadCheckpoint(f"{with_flags(error)} `{command}` tells what is damaged here, and repairs it.") from error


def meet(kind: Kind, directory: Path, force: bool) -> Ranks:
    """Meets the other ranks for the model in a directory. Raises RankFailed."""
    from elm_mlx.distributed.joining import join_model  # here, as --help needs no MLX

    return join_model(kind, lambda: directory, force, {"cpu_policy": "auto"}, with_flags)


def pull_directory(model: str | None, asked: dict[str, str | None], force: bool) -> Path | None:
    """The directory of a model in the `asked` bits, pulled where it is not here; None for the demo. Says repository and
    commit. Drops a wish for bits that the model cannot have. Of several ranks none pulls."""
    if model is not None:
        with naming("model"):
            parse_name(model)  # a name that can be none is no matter of its bits
    found = settle(partial(pull_bits, model, force), asked, "bits")
    if found and found.repository and found.commit:
        say(f"{found.repository.name} at commit {found.commit[:12]}, in {found.path}")
    return found.path if found else None


def pull_bits(model: str | None, force: bool, bits: str | None) -> Located | None:
    """Finds a model in these bits, or pulls it; None for the demo."""
    refuse_bits(model, bits)
    if model is None:
        return None
    if kind_here():
        from elm_mlx.distributed.joining import located_here

        return located_here(model, int(bits) if bits else None)
    with bars("Fetching", "Converting") as (fetching, converting):
        number = int(bits) if bits else None
        return elm_mlx.pull(model, number, fetching=fetching, converting=converting, say=say, force=force)


def find_here(model: str | None, bits: str | None) -> Path | None:
    """The directory of a model in these bits, or of the demo; None where it is not on this machine. Raises as
    `locate`."""
    from elm_mlx.library.local import locate  # here, as --help needs no MLX

    refuse_bits(model, bits)
    if model is None:
        return demo.demo_directory()
    found = locate(model, int(bits) if bits else None)
    return found.path if found else None


def judge_draft(directory: Path | None, draft: str | Path | None, **_: Any) -> None:
    """Raises InvalidRequest for a draft that cannot propose for the model in a directory (None: the demo)."""
    from elm_mlx.api.drafts import find_draft  # here, as --help needs no MLX

    find_draft(draft, directory or demo.demo_directory())


def pull_draft(draft: str | None, force: bool) -> str | Path | None:
    """What `elm_mlx.load` takes as a draft: the directory of the named model, which is pulled where it is not here;
    "auto", or None."""
    if draft in (None, "auto"):
        return draft
    with naming("draft"):
        found = pull_bits(draft, force, None)
    return found.path if found else None


def has_own_bits(model: str | None) -> bool:
    """Whether a model is the demo (None) or a directory, for which bits cannot be chosen."""
    return model is None or isinstance(parse_name(model), Path)


def refuse_bits(model: str | None, bits: str | None) -> None:
    """Raises InvalidRequest for bits that are asked of the demo or of a directory."""
    if bits and has_own_bits(model):
        what = "The built-in demo" if model is None else f"The model in {model}"
        raise InvalidRequest(f"{what} runs in the bits that it is stored in.",
                             "Leave {bits} out, or name a model; `elm-mlx convert` makes other bits.")  # fmt: skip
