"""lm-eval asks our model, and finds what it finds with a slow one of its own making."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from helpers.command_line import answer, run
from helpers.endings import slow_score
from hypothesis import given
from hypothesis import strategies as st

import elm_mlx
from elm_mlx.api.endings import Ending
from elm_mlx.errors import InvalidRequest, NotFound, Unreachable
from elm_mlx.evaluate import Settings, evaluate
from elm_mlx.evaluate.borders import rolling
from elm_mlx.evaluate.suites import SUITES
from elm_mlx.evaluate.task_files import read_task

pytestmark = pytest.mark.parity
evaluator = pytest.importorskip("lm_eval.evaluator")
model_api = pytest.importorskip("lm_eval.api.model")
task_api = pytest.importorskip("lm_eval.api.task")

WHO = ("fox", "dog", "girl", "boy", "bird", "Zoë", "狐")
ACTS = ("was happy", "ran away", "ate the cake", "was very sad", "zzz qqq", "café", "a 狐 ran")


class Slow(model_api.TemplateLM):
    """Each text by itself, by all logits, with lm-eval's own encoding of texts and its own windows."""

    def __init__(self, lm: elm_mlx.LanguageModel) -> None:
        super().__init__()
        self.lm, self.context = lm, lm.config.context_length

    @property
    def eot_token_id(self) -> int:
        return self.lm.tokenizer.bos_token_id

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        return (
            self.lm.tokenizer.encode_text(string) if add_special_tokens is False else self.lm.tokenizer.encode(string)
        )

    def _loglikelihood_tokens(self, requests: Any, **_: Any) -> list[tuple[float, bool]]:
        asked = [((*before, *end)[-(self.context + 1) :], len(end)) for _, before, end in requests]
        return [tuple(slow_score(self.lm, Ending(*one))) for one in asked]

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

        totals = []
        for one in requests:
            ids = self.tok_encode(one.args[0], add_special_tokens=False)
            windows = map(make_disjoint_window, get_rolling_token_windows(ids, self.prefix_token_id, self.context, 1))
            totals.append(sum(score for score, _ in self._loglikelihood_tokens([(None, *each) for each in windows])))
        return totals

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        found = []
        for context, settings in (one.args for one in requests):
            ids = self.lm.tokenizer.encode(context)[-(self.context - settings["max_gen_toks"]) :]
            text = self.lm.generate(ids, settings["max_gen_toks"], plain=True, reuse=False).text
            found.append(min((text.split(stop)[0] for stop in settings["until"]), key=len))
        return found


@pytest.fixture(scope="module")
def tiny(openelm):
    with elm_mlx.load(openelm) as lm:
        yield lm


def questions(count=12, long=1):
    """Questions whose right answers are drawn, so that no model finds all; half of the texts are so many times as long.
    Some borders lie within characters or words, and an end may be empty."""
    draw = random.Random(0)
    story = "Once upon a time there was a {} in the wood. It was a sunny day and {} played {}."
    rows = []
    for number in range(count):
        who, other = draw.choices(WHO, k=2)
        text = story.format(who, other, number) * (long if draw.random() < 0.5 else 1)
        borders = ["é", "\u200d👧", "py", "" if rows else "\u0301"]  # lm-eval takes no empty one in a first question
        rows.append({"text": text, "who": who, "ends": draw.sample(ACTS, 4), "borders": borders,
                     "label": draw.randrange(4)})  # fmt: skip
    return rows


def write(folder, name, rows, **settings):
    """A task of one's own."""
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "rows.jsonl").write_text(lines)
    task = {"task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": "rows.jsonl"}},
            "test_split": "test", "fewshot_split": "test", "metadata": {"version": 1}} | settings  # fmt: skip
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(task))
    return str(path)


KINDS = {
    "choices": {"output_type": "multiple_choice", "doc_to_text": "{{text}} The {{who}}", "doc_to_choice": "{{ends}}",
                "doc_to_target": "label", "metric_list": [{"metric": "acc"}, {"metric": "acc_bytes"}]},
    "borders": {"output_type": "multiple_choice", "doc_to_text": "{{text}} The {{who}} was hap", "target_delimiter": "",
                "doc_to_choice": "borders", "doc_to_target": "label", "metric_list": [{"metric": "acc"}]},
    "words": {"output_type": "loglikelihood", "doc_to_text": "{{text}} The {{who}}", "doc_to_target": " {{ends[0]}}",
              "metric_list": [{"metric": "perplexity"}, {"metric": "acc"}]},
    "texts": {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{text}}",
              "metric_list": [{"metric": "bits_per_byte"}, {"metric": "word_perplexity"}]},
    "answers": {"output_type": "generate_until", "doc_to_text": "{{text}} The", "doc_to_target": "{{who}}",
                "generation_kwargs": {"until": [".", "\n"], "max_gen_toks": 8},
                "metric_list": [{"metric": "exact_match", "ignore_case": True}]},
}  # fmt: skip


def theirs(lm, path, few_shot=0):
    """What lm-eval finds by the slow model."""
    task = task_api.ConfigurableTask(config=read_task(path))
    task.set_config("num_fewshot", few_shot)
    task.set_fewshot_seed(1234)
    name = task.config.task
    return name, evaluator.evaluate(lm=Slow(lm), task_dict={"tasks": {name: task}}, bootstrap_iters=0)


@pytest.mark.parametrize("kind", KINDS)
def test_our_results_are_those_of_a_slow_model(kind, tiny, tmp_path):
    path = write(tmp_path, kind, questions(12, 20), **KINDS[kind])
    few_shot = 2 if kind == "choices" else 0
    ours = evaluate(tiny, [path], Settings(few_shot=few_shot))
    name, found = theirs(tiny, tmp_path / f"{kind}.yaml", few_shot)
    for metric, value in ours["tasks"][name]["metrics"].items():
        assert value["value"] == pytest.approx(found["results"][name][f"{metric},none"], rel=1e-5, abs=1e-6)
    for one, other in zip(ours["questions"][name], found["samples"][name], strict=True):
        if kind == "answers":
            assert one["answers"] == other["resps"]
            continue
        for (mine,), (its,) in zip(one["answers"], other["resps"], strict=True):
            mine, its = (each if isinstance(each, list | tuple) else [each] for each in (mine, its))
            assert mine[0] == pytest.approx(its[0], abs=1e-4, rel=1e-6)
            assert mine[1:] == [*its[1:]]
    if "acc" in ours["tasks"][name]["metrics"] and kind != "words":
        assert 0 < ours["tasks"][name]["metrics"]["acc"]["value"] < 1
    assert bool(ours["answers"]["cut"]) == (kind != "texts")


@given(st.integers(0, 60), st.integers(1, 15))
def test_rolling_windows_are_lm_evals(count, context):
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    ids = list(range(1, count + 1))
    their = [make_disjoint_window(pair) for pair in get_rolling_token_windows(ids, 0, context, 1)]
    assert list(rolling(ids, [0], context)) == [Ending((*before, *end), len(end)) for before, end in their]


def test_an_evaluation_that_was_cut_short_goes_on_where_it_was(tiny, tmp_path):
    path = write(tmp_path, "choices", questions(20), **KINDS["choices"])
    whole = evaluate(tiny, [path])

    def stop(done, total):
        if done >= 50:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(tiny, [path], answers=tmp_path / "answers", progress=stop)
    with (tmp_path / "answers").open("ab") as file:
        file.write(b'{"key": "5')
    again = evaluate(tiny, [path], answers=tmp_path / "answers")
    assert again["answers"] == {"computed": whole["answers"]["computed"] - 50, "remembered": 50, "cut": 0}
    assert again["tasks"] == whole["tasks"]


@pytest.mark.follows("elm-mlx eval --json")
def test_the_command_prints_a_result_that_can_be_compared(openelm, tmp_path, monkeypatch):
    monkeypatch.setenv("ELM_MLX_CACHE", str(tmp_path / "kept"))
    path = write(tmp_path, "choices", questions(12), **KINDS["choices"])
    files = []
    for name, options in {"a": [], "b": ["--kv-bits", "4"]}.items():
        done = answer(run("eval", "--model", openelm, "--tasks", path, "--json", *options))
        assert done["settings"]["tasks"] == ["choices.yaml"]
        assert {"elm-mlx", "lm-eval", "mlx"} <= done["versions"].keys()
        assert len(done["questions"]["choices"]) == 12
        assert str(tmp_path) not in json.dumps(done)
        files.append(tmp_path / f"{name}.json")
        files[-1].write_text(json.dumps(done))
    assert "95 % between" in run("eval", "--compare", *files).out
    told = answer(run("eval", "--compare", *files, "--json"))["differences"]
    assert [one["metric"] for one in told] == ["acc", "acc_bytes"]
    shown = run("eval", "--model", openelm, "--tasks", path)
    assert "acc" in shown.out
    assert "Answers known from earlier runs: 48" in shown.err
    fewer = answer(run("eval", "--model", openelm, "--tasks", path, "--limit", 4, "--json"))
    (tmp_path / "c.json").write_text(json.dumps(fewer))
    refusal = run("eval", "--compare", files[0], tmp_path / "c.json")
    assert refusal.code == 2
    assert "limit is None in one" in refusal.err


ARC = {"question": "What is hot?", "choices": {"text": ["ice", "fire"], "label": ["A", "B"]}, "answerKey": "B"}
SCIQ = {"support": " Water is wet.", "question": "What is wet?", "distractor1": "sand", "distractor2": "fire",
        "distractor3": "air", "correct_answer": "water"}  # fmt: skip
HELLASWAG = {"activity_label": "Run", "ctx_a": "A boy runs.", "ctx_b": "he", "label": "2",
             "endings": ["falls.", "[x] sings.", "eats.", "sleeps."]}  # fmt: skip
WINOGRANDE = {"sentence": "It saw the dog, and _ ran.", "option1": "the fox", "option2": "the dog", "answer": "2"}
TRUTH = {"question": "Is the moon cheese?", "mc1_targets": {"choices": ["No", "Yes"], "labels": [1, 0]},
         "mc2_targets": {"choices": ["No", "It is rock", "Yes"], "labels": [1, 1, 0]}}  # fmt: skip
FETCHED: dict[str, dict[str, Any]] = {  # a question of each of the paper's tasks, made up, in the form of the hub's
    "allenai/ai2_arc": ARC,
    "aps/super_glue": {"passage": "The fox is red.", "question": "is the fox red", "label": 1},
    "Rowan/hellaswag": HELLASWAG,
    "baber/piqa": {"goal": "Open a door", "sol1": "push it", "sol2": "eat it", "label": 0},
    "allenai/sciq": SCIQ,
    "allenai/winogrande": WINOGRANDE,
    "cais/mmlu": {"question": "What is 1 + 1? ", "choices": ["1", "2", "3", "4"], "answer": 1},
    "truthfulqa/truthful_qa": TRUTH,
}


def fetch(path: str, name: str | None = None, **_: Any) -> Any:
    """30 such questions as a data set."""
    import datasets

    split = datasets.Dataset.from_list([FETCHED[path] | {"nth": number} for number in range(30)])
    return datasets.DatasetDict(dict.fromkeys(("train", "validation", "test", "dev"), split))


@pytest.mark.parametrize("suite", SUITES)
def test_the_papers_tasks_run_with_their_examples(suite, tiny, monkeypatch):
    monkeypatch.setattr(task_api.datasets, "load_dataset", fetch)
    done = evaluate(tiny, [suite], Settings(limit=1))
    for part in SUITES[suite]:
        if part.task != "mmlu":
            assert done["tasks"][part.task]["few_shot"] == part.few_shot
            assert part.metric in done["tasks"][part.task]["metrics"]
    if suite == "openelm-leaderboard":
        assert done["tasks"]["mmlu_astronomy"]["few_shot"] == 5
        assert "acc" in done["groups"]["mmlu"]["metrics"]
    assert 0 <= done["groups"][suite]["metrics"]["mean"] <= 1


def test_tasks_that_are_not_there_are_refused(tiny, tmp_path, monkeypatch):
    with pytest.raises(NotFound, match="Did you mean hellaswag"):
        evaluate(tiny, ["helaswag"])
    with pytest.raises(NotFound, match=r"task\.yaml"):
        evaluate(tiny, [str(tmp_path / "task.yaml")])
    with pytest.raises(NotFound, match="chat template"):
        evaluate(tiny, ["piqa"], Settings(chat=True))
    path = write(tmp_path, "choices", questions(2), **KINDS["choices"] | {"doc_to_target": "{{ nothing }}"})
    with pytest.raises(InvalidRequest, match="doc_to_target fails"):
        evaluate(tiny, [path])

    def offline(*_: Any, **__: Any) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(task_api.datasets, "load_dataset", offline)
    with pytest.raises(Unreachable, match="no network"):
        evaluate(tiny, ["piqa"])
