"""A model is asked the questions of tasks, by lm-eval, and what came of it is written down with all that it depends
on."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any, cast

import elm_mlx
from elm_mlx import LanguageModel
from elm_mlx.arguments import Progress
from elm_mlx.errors import InvalidRequest, NotFound
from elm_mlx.evaluate.errors_of_means import error_of, pair_of
from elm_mlx.evaluate.examinee import Examinee
from elm_mlx.evaluate.remembered import Remembered
from elm_mlx.evaluate.suites import SUITES
from elm_mlx.evaluate.tasks import check_installed, load_tasks, quiet, reasons_of, wanted
from elm_mlx.library.copies import root
from elm_mlx.store.fingerprint import model_fingerprint, tokenizer_fingerprint

FORM = "elm-mlx eval 1"
SEED = 1234  # of lm-eval


@dataclass(frozen=True)
class Settings:
    """How tasks are asked: `few_shot` examples before each question (None: as the task says), at most `limit` questions
    of each task, by the model's chat template if `chat`; `window` and `kv_bits` hold keys and values as in `Options`,
    `adapter` names a loaded one. `seed` chooses examples, and draws answers where a task wants that."""

    few_shot: int | None = None
    limit: int | None = None
    chat: bool = False
    seed: int = SEED
    window: int | None = None
    kv_bits: int | str | None = None
    adapter: str | None = None


def evaluate(
    lm: LanguageModel,
    tasks: Sequence[str],
    settings: Settings = Settings(),
    *,
    answers: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Asks a model the questions of `tasks`: names of lm-eval's tasks, suites (`elm_mlx.evaluate.suites`), and YAML
    files. Answers are kept in the file of that name, from which the same call goes on after it was cut short.
    `progress` is called with (answered, in all) for each kind of question.

    Returns plain values, ready for JSON: settings, versions, each task's metrics, and each question's. Raises NotFound
    without the extra `eval`, and for tasks that are not there; InvalidRequest for what means nothing; Unreachable where
    questions cannot be fetched; and as `LanguageModel.generate`.
    """
    check_installed()
    if settings.chat and not lm.has_chat_template:
        raise NotFound("This model has no chat template.", "Leave {chat} out, or give a {chat_template}.")
    made_with = made_by(lm, settings)
    with quiet(), Remembered(answers, made_with) as remembered:
        loaded = load_tasks(wanted(tasks, settings.few_shot), settings.seed)
        options = {name: getattr(settings, name) for name in ("window", "kv_bits", "adapter")}
        examinee = Examinee(lm, remembered, options, settings.seed, progress)
        found = asked(examinee, loaded, settings)
    return {
        "form": FORM,
        "model": made_with,
        "settings": {"tasks": shown(tasks), **asdict(settings)},
        "versions": versions(),
        "tasks": {name: of_task(name, found) for name in found["samples"]},
        "groups": groups(tasks, found),
        "answers": examinee.counts._asdict(),
        "questions": {name: [question(one) for one in rows] for name, rows in found["samples"].items()},
    }


def asked(examinee: Examinee, loaded: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """What lm-eval finds. No standard errors are asked of it, which for some metrics forks processes."""
    import lm_eval.evaluator

    with reasons_of(", ".join(loaded["tasks"])):
        found: dict[str, Any] = lm_eval.evaluator.evaluate(
            lm=examinee, task_dict=loaded, limit=settings.limit, bootstrap_iters=0,
            apply_chat_template=settings.chat, fewshot_as_multiturn=settings.chat,
        )  # fmt: skip
    return found


def made_by(lm: LanguageModel, settings: Settings) -> dict[str, Any]:
    """What every answer depends on, beside the question."""
    adapters = lm.adapters
    return {
        "weights": model_fingerprint(lm.directory, lm.config),
        "tokenizer": tokenizer_fingerprint(lm.directory),
        "adapter": adapters[settings.adapter].fingerprint if settings.adapter in adapters else None,
        "type": str(lm.execution.dtype or lm.model.dtype),
        "window": settings.window,
        "kv_bits": settings.kv_bits,
        "chat": settings.chat,
        "seed": settings.seed,
        "version": elm_mlx.__version__,
    }


def default_answers(lm: LanguageModel, settings: Settings) -> Path:
    """Where answers are kept unless a call names a file: beside elm-mlx's copies of models, a file for each model and
    way of asking. Makes the folder."""
    name = hashlib.sha256(json.dumps(made_by(lm, settings), sort_keys=True).encode()).hexdigest()[:32]
    folder = root() / "evaluations"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}.jsonl"


def versions() -> dict[str, str]:
    """What computed and asked."""
    packages = {name: version_of(name) for name in ("mlx", "lm-eval", "datasets")}
    return {"elm-mlx": elm_mlx.__version__, **packages, "python": platform.python_version()}


def shown(tasks: Sequence[str]) -> list[str]:
    """The names of tasks, of files without their folders."""
    return [name if name in SUITES else Path(name).name for name in tasks]


def of_task(name: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """A task's metrics with their errors, and how it was asked."""
    rows, better = found["samples"][name], found["higher_is_better"].get(name) or {}
    metrics = {}
    for label, value in told(found["results"][name]).items():
        metric = label.partition(" ")[0]
        parts = [pair_of(metric, plain(row[metric])) for row in rows if filtered(metric, row) == label]
        error = None if None in parts else error_of(metric, value, cast(list[tuple[float, float]], parts))
        metrics[label] = {"value": value, "error": error, "higher_is_better": better.get(metric, True)}
    questions = len({row["doc_id"] for row in rows})
    return {"version": plain(found["versions"].get(name)), "few_shot": found["n-shot"].get(name, 0),
            "questions": questions, "metrics": metrics}  # fmt: skip


def told(results: Mapping[str, Any]) -> dict[str, float]:
    """The metrics in lm-eval's results by their labels."""
    found = {}
    for key, value in results.items():
        metric, comma, filter = key.partition(",")
        if comma and not metric.endswith("_stderr") and isinstance(plain(value), int | float):
            found[labelled(metric, filter)] = float(value)
    return found


def labelled(metric: str, filter: str) -> str:
    """The name of a metric; of one after a filter with that one's name."""
    return metric if filter == "none" else f"{metric} ({filter})"


def filtered(metric: str, row: Mapping[str, Any]) -> str | None:
    """The label of a metric in a question's row; None where it has none."""
    return labelled(metric, row["filter"]) if metric in row["metrics"] else None


def groups(tasks: Sequence[str], found: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics of lm-eval's groups, and of a suite the mean of its tasks' metrics."""
    made: dict[str, Any] = {name: {"metrics": told(values)} for name, values in (found.get("groups") or {}).items()}
    for name in tasks:
        parts = SUITES.get(name, ())
        values = [told(found["results"][part.task]).get(part.metric) for part in parts]
        if parts and None not in values:
            made[name] = {"metrics": {"mean": sum(filter(None, values)) / len(values)}}
    return made


def question(row: Mapping[str, Any]) -> dict[str, Any]:
    """What came of one question: `question` names it and what is right."""
    name = hashlib.sha256(f"{row['doc_hash']} {row['target_hash']}".encode()).hexdigest()[:16]
    metrics = {labelled(metric, row["filter"]): plain(row[metric]) for metric in row["metrics"]}
    return {"id": row["doc_id"], "question": name, "metrics": metrics, "answers": plain(row["resps"])}


def plain(value: Any) -> Any:
    """A value as JSON has it: numpy's numbers as Python's, tuples as lists. Raises InvalidRequest for any other."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    raise InvalidRequest(f"A task's metric gives a {type(value).__name__}, which JSON cannot hold.",
                         "Leave this task out of {tasks}.")  # fmt: skip
