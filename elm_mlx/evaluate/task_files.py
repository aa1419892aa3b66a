"""Tasks of one's own: a YAML file as lm-eval's task guide describes it, with questions in JSON lines beside it.

What lm-eval would execute of such a file is refused by name, and nothing is fetched: `!function` imports a module that
lies beside the file, `class`, `include`, `process_docs`, `process_results`, `custom_dataset` and `use_prompt` are for
code, a metric that lm-eval does not know is fetched from a hub as code, and templates would run outside of a sandbox
(lm_eval.tasks._yaml_loader, lm_eval.api.registry.get_metric, lm_eval.utils.apply_template). What is left is a
dictionary whose texts are functions of ours, so that lm-eval reads neither the file nor a template.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from elm_mlx.errors import BadCheckpoint, InvalidRequest
from elm_mlx.evaluate.generation_settings import generation_options
from elm_mlx.evaluate.task_rows import Rows, read_splits
from elm_mlx.evaluate.task_templates import choices_writer, target_among, target_writer, text_of, text_writer
from elm_mlx.evaluate.task_yaml import EXECUTES, parse_yaml
from elm_mlx.files import MAX_SMALL_BYTES, read_text

TEXTS = ("task_alias", "training_split", "validation_split", "test_split", "fewshot_split")
PLAIN_TEXTS = ("description", "gen_prefix", "target_delimiter", "fewshot_delimiter")  # lm-eval runs two as templates
OTHERS = ("task", "dataset_path", "dataset_name", "dataset_kwargs", "doc_to_text", "doc_to_target",
          "doc_to_choice", "fewshot_config", "num_fewshot", "metric_list", "output_type", "generation_kwargs",
          "filter_list", "metadata", "repeats")  # fmt: skip
IDLE = ("tag", "group", "should_decontaminate", "doc_to_decontamination_query")  # for lm-eval's lists and other tools
CODE = ("class", "custom_dataset", "process_docs", "process_results", "use_prompt", "unsafe_code")
METRICS = {  # that lm-eval finds, by kind of question
    "multiple_choice": ("acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match", "brier_score", "f1", "mcc"),
    "loglikelihood": ("acc", "perplexity"),
    "loglikelihood_rolling": ("word_perplexity", "byte_perplexity", "bits_per_byte"),
    "generate_until": ("exact_match",),
}
AGGREGATIONS = {  # of those metrics that are no means
    "perplexity": "perplexity", "word_perplexity": "weighted_perplexity", "byte_perplexity": "weighted_perplexity",
    "bits_per_byte": "bits_per_byte", "brier_score": "brier_score", "f1": "f1", "mcc": "matthews_corrcoef",
}  # fmt: skip
METRIC_SETTINGS = {"aggregation": str, "higher_is_better": bool, "ignore_case": bool, "ignore_punctuation": bool,
                   "ignore_numbers": bool}  # fmt: skip
FILTERS = ("take_first", "lowercase", "uppercase", "remove_whitespace")
SAMPLERS = ("default", "first_n")


def read_task(path: Path) -> dict[str, Any]:
    """The configuration of the task in a YAML file, for lm_eval.api.task.ConfigurableTask: its texts are functions, its
    data is `custom_dataset`, a function too. Raises NotFound and InvalidRequest, which name the file."""
    try:
        return configuration(parse_yaml(read_text(path, MAX_SMALL_BYTES)), path)
    except (InvalidRequest, BadCheckpoint) as error:
        raise InvalidRequest(f"{path} is not a task that runs here: {error.message}", error.advice) from error


def configuration(raw: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """What lm-eval gets of a file's values. Raises InvalidRequest for those that it may not have."""
    refuse_keys(raw)
    splits = read_splits(raw, path)
    rows = next(iter(splits.values()))
    made: dict[str, Any] = {
        "task": text_of(raw.get("task"), "task"),
        "output_type": one_of(raw, "output_type", (*METRICS,)),
    }
    made |= {name: text_of(raw[name], name) for name in TEXTS if raw.get(name) is not None}
    made |= {name: plain_text(raw[name], name) for name in PLAIN_TEXTS if raw.get(name) is not None}
    made |= {name: whole(raw, name) for name in ("num_fewshot", "repeats") if raw.get(name) is not None}
    made |= writers(raw, rows)
    if raw.get("metric_list") is not None:
        made["metric_list"] = [metric(each, METRICS[made["output_type"]]) for each in objects(raw, "metric_list")]
    if raw.get("filter_list") is not None:
        made["filter_list"] = [pipeline(each) for each in objects(raw, "filter_list")]
    if raw.get("generation_kwargs") is not None:
        made["generation_kwargs"] = dict(an_object(raw["generation_kwargs"], "generation_kwargs"))
        generation_options(made["generation_kwargs"])
    if raw.get("fewshot_config") is not None:
        made["fewshot_config"] = fewshot(an_object(raw["fewshot_config"], "fewshot_config"))
    check_splits(made, splits)
    version = an_object(raw.get("metadata") or {}, "metadata").get("version", 0)
    return made | {"metadata": {"version": version}, "custom_dataset": lambda **_: splits}


def refuse_keys(raw: Mapping[str, Any]) -> None:
    """Raises InvalidRequest for keys that would execute code, and for unknown ones."""
    for name in raw:
        if name in CODE:
            raise InvalidRequest(f"{name} {EXECUTES}. Leave it out.")
        if name == "include":
            raise InvalidRequest("include takes another file's values. Copy them into this one.")
        if name not in (*TEXTS, *PLAIN_TEXTS, *OTHERS, *IDLE):
            raise InvalidRequest(f"{name!r:.80} is not a setting that elm-mlx knows. Leave it out.")


def writers(raw: Mapping[str, Any], rows: Rows) -> dict[str, Any]:
    """The texts of a question as functions."""
    made: dict[str, Any] = {}
    columns, has_choices = rows.features, raw.get("doc_to_choice") is not None
    if has_choices:
        made["doc_to_choice"] = choices_writer(raw["doc_to_choice"], columns, "doc_to_choice")
    made["doc_to_text"] = text_writer(raw.get("doc_to_text", ""), columns, "doc_to_text", has_choices)
    made["doc_to_target"] = target_writer(raw.get("doc_to_target"), columns, "doc_to_target", has_choices)
    if has_choices:
        made["doc_to_target"] = target_among(made["doc_to_target"], made["doc_to_text"], made["doc_to_choice"])
    return made


def plain_text(value: Any, name: str) -> str:
    """A text that is no template, as lm-eval would run it outside of a sandbox. Raises InvalidRequest."""
    text = text_of(value, name)
    if any(mark in text for mark in ("{{", "{%", "{#")):
        raise InvalidRequest(f"{name} is a template, and those {EXECUTES} there. Write it as plain text, or into "
                             "doc_to_text.")  # fmt: skip
    return text


def metric(raw: Mapping[str, Any], known: Sequence[str]) -> dict[str, Any]:
    """One entry of metric_list, where these are `known`. Raises InvalidRequest for one that lm-eval would fetch as
    code, or would not find."""
    name = raw.get("metric")
    if name not in known:
        raise InvalidRequest(f"metric {name!r:.80} is none of {', '.join(known)}, which are those of its output_type; "
                             "what lm-eval does not know it would fetch as code.")  # fmt: skip
    for key, value in raw.items():
        if key != "metric" and not isinstance(value, METRIC_SETTINGS.get(key, type(None))):
            raise InvalidRequest(f"the setting {key!r:.80} of the metric {name} means nothing here. Leave it out.")
    how = AGGREGATIONS.get(str(name), "mean")
    if raw.get("aggregation", how) != how:
        raise InvalidRequest(f"the aggregation of {name} is {raw['aggregation']!r:.80}; it must be {how}.")
    return dict(raw)


def pipeline(raw: Mapping[str, Any]) -> dict[str, Any]:
    """One entry of filter_list. Raises InvalidRequest for a filter that may run for ever, as regular expressions do."""
    steps = [an_object(each, "a filter") for each in raw.get("filter") or []]
    for step in steps:
        if set(step) != {"function"} or step["function"] not in FILTERS:
            raise InvalidRequest(f"the filter {step!s:.80} is none of {', '.join(FILTERS)}. Regular expressions of a "
                                 "task's file are not run, as they can take for ever.")  # fmt: skip
    return {"name": text_of(raw.get("name"), "the name of a filter"), "filter": [dict(step) for step in steps]}


def fewshot(raw: Mapping[str, Any]) -> dict[str, Any]:
    """How examples are chosen. Raises InvalidRequest."""
    if set(raw) - {"sampler"}:
        raise InvalidRequest("fewshot_config may hold a sampler alone. Name the split as fewshot_split.")
    return {"sampler": one_of(raw, "sampler", SAMPLERS)} if raw else {}


def check_splits(made: Mapping[str, Any], splits: Mapping[str, Rows]) -> None:
    """Raises InvalidRequest where no questions are named, or a split that is not there."""
    named = {name: made[name] for name in TEXTS if name.endswith("_split") and name in made}
    if not {"test_split", "validation_split"} & set(named):
        raise InvalidRequest("it names neither a test_split nor a validation_split, so there are no questions.")
    for name, split in named.items():
        if split not in splits:
            raise InvalidRequest(f"{name} is {split!r:.80}; its data has {', '.join(splits)}.")


def one_of(raw: Mapping[str, Any], name: str, known: tuple[str, ...]) -> str:
    """A value that is one of the known ones. Raises InvalidRequest."""
    if (value := raw.get(name)) not in known:
        raise InvalidRequest(f"{name} is {value!r:.80}; it must be one of {', '.join(known)}.")
    return str(value)


def whole(raw: Mapping[str, Any], name: str) -> int:
    """A whole number from 0 to 1000. Raises InvalidRequest."""
    value = raw[name]
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 1000:
        raise InvalidRequest(f"{name} is {value!r:.80}; it must be a number from 0 to 1000.")
    return value


def objects(raw: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    """A list of objects. Raises InvalidRequest."""
    value = raw[name]
    if not isinstance(value, list):
        raise InvalidRequest(f"{name} must be a list.")
    return [an_object(each, f"an entry of {name}") for each in value]


def an_object(value: Any, what: str) -> Mapping[str, Any]:
    """An object. Raises InvalidRequest."""
    if not isinstance(value, dict):
        raise InvalidRequest(f"{what} is {value!r:.80}; it must be an object.")
    return value
