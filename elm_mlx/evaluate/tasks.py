"""From the names that a person types to lm-eval's tasks: a suite, a task that lm-eval brings, or a file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from elm_mlx.errors import ElmError, InvalidRequest, NotFound, Unreachable
from elm_mlx.evaluate.suites import FOLDERS, SUITES
from elm_mlx.evaluate.task_files import read_task

ENDINGS = (".yaml", ".yml")  # of a task's own file
NO_EXTRA = ("An evaluation needs lm-eval. Install it with its extra: pip install 'elm-mlx[eval]'; from a checkout: "
            "pip install -e '.[eval]'.")  # fmt: skip


class Wanted(NamedTuple):
    """A task by name or file, with how many examples before each question (None: as the task says)."""

    name: str
    few_shot: int | None

    @property
    def is_file(self) -> bool:
        """Whether the name is that of a file."""
        return self.name.endswith(ENDINGS)


def wanted(names: Sequence[str], few_shot: int | None) -> list[Wanted]:
    """The tasks that these names mean, suites taken apart. Raises InvalidRequest for a task that comes twice."""
    found = [one for name in names for one in taken_apart(name, few_shot)]
    for one in found:
        if sum(other.name == one.name for other in found) > 1:
            raise InvalidRequest(f"The task {one.name} is asked for twice.", "Name it once in {tasks}, and two suites "
                                 "that share it one at a time.")  # fmt: skip
    return found


def taken_apart(name: str, few_shot: int | None) -> list[Wanted]:
    """The tasks of a suite, or the task itself. Raises InvalidRequest."""
    if name not in SUITES:
        return [Wanted(name, few_shot)]
    if few_shot is not None:
        raise InvalidRequest(f"{name} says itself how many examples stand before each question.",
                             "Leave {few_shot} out, or name single {tasks}.")  # fmt: skip
    return [Wanted(part.task, part.few_shot) for part in SUITES[name]]


def check_installed() -> None:
    """Raises NotFound without lm-eval."""
    if find_spec("lm_eval") is None:
        raise NotFound(NO_EXTRA)


def check_tasks(names: Sequence[str], few_shot: int | None) -> None:
    """Raises what is wrong with names of tasks that can be judged without a model: NotFound, InvalidRequest."""
    check_installed()
    asked = wanted(names, few_shot)
    for one in asked:
        if one.is_file:
            read_task(Path(one.name))
    if brought := tuple(one.name for one in asked if not one.is_file):
        manager_of(brought)


def load_tasks(asked: Sequence[Wanted], seed: int) -> dict[str, Any]:
    """lm-eval's tasks and groups by name, as its TaskManager loads them. Questions of tasks that it brings are fetched
    where they are not here. Raises NotFound, InvalidRequest, Unreachable."""
    from lm_eval.api.task import ConfigurableTask

    configurations = [(one, read_task(Path(one.name))) for one in asked if one.is_file]
    loaded: dict[str, Any] = {"tasks": {}, "groups": {}, "group_map": {}}
    for one, made in configurations:
        with reasons_of(one.name):
            task = ConfigurableTask(config=made)
        add(loaded, {"tasks": {task.config.task: task}}, one, seed)
    if brought := [one for one in asked if not one.is_file]:
        manager = manager_of(tuple(one.name for one in brought))
        for one in brought:
            add(loaded, fetched(manager, one.name), one, seed)
    return loaded


@cache
def manager_of(names: tuple[str, ...]) -> Any:
    """lm-eval's TaskManager, which knows these names. Raises NotFound for one that it does not know."""
    import lm_eval.tasks

    folder = Path(lm_eval.tasks.__file__).parent
    if all(name in FOLDERS for name in names):
        places = sorted({str(folder / FOLDERS[name]) for name in names})
        return lm_eval.tasks.TaskManager(include_path=places, include_defaults=False)
    manager = lm_eval.tasks.TaskManager()
    for name in names:
        if name not in manager.task_index:
            near = get_close_matches(name, [*manager.all_tasks, *SUITES], n=1)
            hint = f"Did you mean {near[0]}? " if near else ""
            raise NotFound(f"lm-eval {version()} has no task {name!r:.80}. {hint}`lm-eval ls tasks` lists them; a file "
                           f"of one's own ends with {ENDINGS[0]}.")  # fmt: skip
    return manager


def version() -> str:
    """lm-eval's version."""
    import lm_eval

    return str(lm_eval.__version__)


def fetched(manager: Any, name: str) -> dict[str, Any]:
    """A task that lm-eval brings, with its questions. Raises Unreachable where these cannot be had."""
    try:
        found: dict[str, Any] = manager.load([name])
    except Exception as error:  # of datasets, of the hub's client, of the network
        why = " ".join(str(error).split())[:300]
        raise Unreachable(
            f"The questions of {name} could not be fetched: {why}. lm-eval fetches them from the Hugging Face hub, "
            "once; a task in a YAML file of one's own needs no hub."
        ) from error
    return found


@contextmanager
def reasons_of(name: str) -> Iterator[None]:
    """Says in a sentence what lm-eval's code raises over tasks. Raises InvalidRequest."""
    try:
        yield
    except (ElmError, MemoryError):
        raise
    except Exception as error:  # whatever that code makes of the values of a file
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise InvalidRequest(f"{name:.200} cannot be asked by lm-eval: {why:.300}") from error


def add(loaded: dict[str, Any], found: dict[str, Any], one: Wanted, seed: int) -> None:
    """Adds what was loaded of a task, and sets its number of examples, unless the task itself fixes that to none.
    Raises InvalidRequest for a task that is there already."""
    for name, task in found["tasks"].items():
        if name in loaded["tasks"]:
            raise InvalidRequest(f"Two tasks have the name {name}.", "Name it once in {tasks}.")
        number = task.get_config("num_fewshot")
        if one.few_shot is not None and number != 0:
            number = one.few_shot
        task.set_config("num_fewshot", number or 0)
        task.set_fewshot_seed(seed=seed)
    for part in loaded:
        loaded[part] |= found.get(part) or {}


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps lm-eval from writing logs and progress bars of its own, and puts back what it changes of the process."""
    import logging
    import random
    import sys
    from contextlib import redirect_stdout

    import lm_eval.api.task
    import numpy as np

    logger, bar = logging.getLogger("lm_eval"), lm_eval.api.task.tqdm
    level, drawn, drawn_too = logger.level, random.getstate(), np.random.get_state()
    lm_eval.api.task.tqdm = lambda items, **_: items
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stdout(sys.stderr), np.errstate(divide="ignore", invalid="ignore"):  # of empty endings
            yield
    finally:
        lm_eval.api.task.tqdm = bar
        logger.setLevel(level)
        random.setstate(drawn)
        np.random.set_state(drawn_too)
