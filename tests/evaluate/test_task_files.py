"""A task of one's own says what is asked and what is right; nothing that stands in its file is executed or fetched."""

from __future__ import annotations

import json

import pytest

from elm_mlx.errors import ElmError, InvalidRequest, NotFound
from elm_mlx.evaluate.suites import FOLDERS, SUITES
from elm_mlx.evaluate.task_files import read_task
from elm_mlx.evaluate.tasks import wanted

TASK = {
    "task": "fox",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "fox.jsonl"}},
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "{{ question.strip() }}\nAnswer:",
    "doc_to_choice": "{{ [one, two] }}",
    "doc_to_target": "label",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}, {"metric": "acc_norm"}],
}
ROWS = [
    {"question": " Who? ", "one": "fox", "two": "dög's {{ 7 }}", "label": 1},
    {"question": "b", "one": "", "two": "c"},
]


def write(folder, changes=None, rows=ROWS, text=None):
    """A task's file and its questions; None takes a key away."""
    raw = {key: value for key, value in (TASK | (changes or {})).items() if value is not None}
    (folder / "fox.yaml").write_text(json.dumps(raw) if text is None else text)  # JSON is YAML
    (folder / "fox.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "fox.yaml"


def refused(path, match):
    with pytest.raises(ElmError, match=match) as caught:
        read_task(path)
    assert path.name in str(caught.value) or isinstance(caught.value, NotFound)


def test_a_questions_texts_are_what_its_templates_write(tmp_path):
    made = read_task(write(tmp_path))
    rows = made["custom_dataset"](version=3)["test"]
    assert rows == ROWS
    assert made["doc_to_text"](rows[0]) == "Who?\nAnswer:"
    assert made["doc_to_choice"](rows[0]) == ["fox", "dög's {{ 7 }}"]  # what a question holds is no template
    assert made["doc_to_target"](rows[0]) == 1


@pytest.mark.parametrize(("source", "value"), [
    ("{{ label }}", 1), (1, 1), ("{{ one }}", "fox"), ("{{ [one, two] }}", ["fox", ROWS[0]["two"]]), ("one", "fox"),
    (["fox"], ["fox"]), ("[{{ one }}]", "refused"),
])  # fmt: skip
def test_what_is_right_is_a_number_a_text_or_several(tmp_path, source, value):
    target = read_task(write(tmp_path, {"doc_to_target": source}))["doc_to_target"]
    if value == "refused":
        with pytest.raises(InvalidRequest, match="must write a list"):
            target(ROWS[0])
    else:
        assert target(ROWS[0]) == value


@pytest.mark.parametrize("name", ["doc_to_text", "doc_to_target", "process_docs", "metric", "deep"])
def test_a_function_in_a_file_is_refused_and_its_module_never_imported(tmp_path, name):
    (tmp_path / "utils.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\ndef f(doc): return 'x'\n")
    place = {"metric": "metric_list: [{metric: !function utils.f}]", "deep": "metadata: {a: [!function utils.f]}"}
    text = "\n".join(f"{key}: {json.dumps(value)}" for key, value in TASK.items() if key != name)
    refused(write(tmp_path, text=f"{text}\n{place.get(name, f'{name}: !function utils.f')}\n"), "!function utils.f")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "tag", ["!!python/object/apply:os.system ['touch ran']", "!!python/name:os.system", "!x 1", "!!binary eA=="]
)
def test_other_tags_and_references_are_refused(tmp_path, tag):
    refused(write(tmp_path, text=f"task: {tag}\n"), "tag|text")


@pytest.mark.parametrize(
    "text", ["a: &x [1]\nb: *x\n", "a: " + "[" * 200 + "]" * 200, "- 1\n", "a: [\n", "", "1: 2\n", "a: 1\x00"]
)
def test_yaml_that_is_none_or_a_trap_is_refused(tmp_path, text):
    refused(write(tmp_path, text=text), "not a task|not valid|an object|cannot be read")


@pytest.mark.parametrize("changes", [
    {"include": "other.yaml"}, {"class": "x"}, {"process_results": "x"}, {"use_prompt": "x"}, {"custom_dataset": "x"},
    {"unsafe_code": True}, {"something": 1}, {"description": "{{ cycler.__init__ }}"}, {"gen_prefix": "{% if 1 %}"},
    {"metric_list": [{"metric": "./evil.py"}]}, {"metric_list": [{"metric": "acc", "hf_evaluate": True}]},
    {"metric_list": [{"metric": "perplexity"}]}, {"metric_list": [{"metric": ["acc"]}]},
    {"metric_list": [{"metric": "f1", "aggregation": "mean"}]}, {"output_type": "generate_until"},
    {"metric_list": [{"metric": "exact_match", "regexes_to_ignore": ["(a+)+b"]}]}, {"metric_list": "acc"},
    {"filter_list": [{"name": "x", "filter": [{"function": "regex", "regex_pattern": "(a+)+b"}]}]},
    {"fewshot_config": {"samples": []}}, {"num_fewshot": -1}, {"repeats": "x"}, {"output_type": "exec"},
    {"generation_kwargs": {"temperature": "x"}}, {"test_split": None}, {"test_split": "none"}, {"task": 3},
    {"dataset_path": "pandas"}, {"dataset_path": "owner/name"}, {"dataset_name": "x"}, {"doc_to_text": 4},
    {"dataset_kwargs": {"data_files": "https://example.org/x.jsonl"}}, {"dataset_kwargs": {"data_dir": "."}},
    {"dataset_kwargs": {"data_files": "../fox.jsonl"}}, {"dataset_kwargs": {"data_files": "/etc/passwd"}},
    {"dataset_kwargs": {"data_files": {"test": ["fox.jsonl"] * 101}}},
    {"dataset_kwargs": {"data_files": dict.fromkeys(["test", *map(str, range(100))], "fox.jsonl")}},
    {"dataset_kwargs": {"data_files": []}}, {"dataset_kwargs": {"data_files": "none.jsonl"}},
    {"doc_to_text": "{{ "}, {"doc_to_text": "{% include 'x' %}"},
])  # fmt: skip
def test_what_would_execute_fetch_or_mean_nothing_is_refused_by_name(tmp_path, changes):
    refused(write(tmp_path, changes), "not a task that runs here|There is no file")


@pytest.mark.parametrize("template", [
    "{{ ''.__class__.__mro__ }}", "{{ cycler.__init__.__globals__ }}", "{{ self._TemplateReference__context }}",
    "{{ question.format.__self__ }}", "{% for i in range(10**9) %}x{% endfor %}", "{{ 'x' * 10**10 }}",
    "{{ missing }}", "{{ question | attr('__class__') }}", "{{ lipsum.__globals__ }}",
])  # fmt: skip
def test_a_template_reaches_nothing_but_its_question(tmp_path, template):
    write_text = read_task(write(tmp_path, {"doc_to_text": template}))["doc_to_text"]
    with pytest.raises(InvalidRequest, match="doc_to_text fails"):
        write_text(ROWS[0])


@pytest.mark.parametrize(("changes", "row"), [
    ({"doc_to_text": "question"}, {"question": None, "label": 0}), ({}, {"label": 2}), ({}, {"label": -1}),
    ({}, {"label": "hen"}), ({}, {}), ({"doc_to_target": "{{ [0, 2] }}"}, {}), ({}, {"label": 1.0}),
])  # fmt: skip
def test_a_question_without_a_text_or_a_right_answer_among_its_own_is_refused(tmp_path, changes, row):
    """lm-eval would count it as answered wrongly, or end with a traceback."""
    asked = {"question": "Who?", "one": "fox", "two": "cow"} | row
    made = read_task(write(tmp_path, changes, [asked, {"label": 0}]))
    with pytest.raises(InvalidRequest, match=r"none of its 2 choices|must give a text"):
        made["doc_to_target"](asked), made["doc_to_text"](asked)


def test_a_number_is_the_text_of_itself_where_there_are_no_choices(tmp_path):
    changes = {"output_type": "generate_until", "doc_to_choice": None, "metric_list": None, "doc_to_text": "label"}
    made = read_task(write(tmp_path, changes))
    assert (made["doc_to_text"](ROWS[0]), made["doc_to_target"](ROWS[0])) == ("1", "1")


def test_a_link_out_of_the_folder_is_no_file_of_the_task(tmp_path):
    folder = tmp_path / "task"
    folder.mkdir()
    path = write(folder, {"dataset_kwargs": {"data_files": "linked.jsonl"}})
    (tmp_path / "secret.jsonl").write_text('{"a": 1}\n')
    (folder / "linked.jsonl").symlink_to(tmp_path / "secret.jsonl")
    refused(path, "not in the task's own folder")


@pytest.mark.parametrize("line", ["[1]", "{", '{"a": NaN}', '{"a": "\\ud800"}', "[" * 10**5])
def test_a_line_that_is_no_question_is_named(tmp_path, line):
    path = write(tmp_path)
    (tmp_path / "fox.jsonl").write_text('{"question": "x"}\n\n' + line + "\n")
    refused(path, "Line 3 of fox.jsonl")


def test_suites_are_the_papers_tasks_with_their_examples():
    zero = wanted(["openelm-zero-shot"], None)
    assert [one.name for one in zero] == [
        "arc_challenge", "arc_easy", "boolq", "hellaswag", "piqa", "sciq", "winogrande"]  # fmt: skip
    assert {one.few_shot for one in zero} == {0}
    assert {one.name: one.few_shot for one in wanted(["openelm-leaderboard"], None)} == {
        "arc_challenge": 25, "hellaswag": 10, "mmlu": 5, "truthfulqa_mc2": 0, "winogrande": 5}  # fmt: skip
    assert {part.task for parts in SUITES.values() for part in parts} == FOLDERS.keys()
    for names, few_shot in ((["openelm-zero-shot"], 5), (["piqa", "piqa"], None), (list(SUITES), None)):
        with pytest.raises(InvalidRequest, match="tasks"):
            wanted(names, few_shot)
