"""What lm-eval asks of a model is answered as its own classes answer it, one question after the other."""

from __future__ import annotations

import pytest
from helpers import chat_templates, scripts
from helpers.endings import Question, check, slow_score

import elm_mlx
from elm_mlx.api.endings import EndingScore
from elm_mlx.errors import InvalidRequest
from elm_mlx.evaluate.borders import chat_ending, cut, rolling, text_ending
from elm_mlx.evaluate.examinee import Examinee
from elm_mlx.evaluate.remembered import Remembered

STORY = "Once upon a time there was a fox. "
LONG = STORY * 60  # more than the context
PAIRS = [(STORY, "The fox was happy"), (STORY, "zzz"), (STORY, ""), ("", "Once"), ("The fox was hap", "py"),
         ("caf", "é"), (LONG, "It ran away."), (STORY, "The fox was happy")]  # fmt: skip


@pytest.fixture(scope="module")
def one(openelm):
    with elm_mlx.load(openelm) as lm:
        yield lm


def examinee(lm, **options):
    return Examinee(lm, Remembered(None, {}), **options)


def test_likelihoods_are_those_of_a_slow_reading(one):
    told = []
    asked = examinee(one, progress=lambda done, total: told.append((done, total)))
    found = asked.loglikelihood([Question(*pair) for pair in PAIRS])
    wanted = [slow_score(one, cut(text_ending(one.tokenizer, *pair), one.config.context_length)) for pair in PAIRS]
    check([EndingScore(*each) for each in found], wanted, 2e-3)
    assert asked.counts == (len(PAIRS) - 1, 0, 1)  # two are the same question, and one is longer than the context
    assert told[-1] == (len(PAIRS) - 1, len(PAIRS) - 1)


def test_whole_texts_are_read_in_windows_after_bos(one):
    (found,) = examinee(one).loglikelihood_rolling([Question(LONG)])
    context = one.config.context_length
    windows = rolling(one.tokenizer.encode_text(LONG), [one.tokenizer.bos_token_id], context)
    assert found == pytest.approx(sum(slow_score(one, each).logprob for each in windows), rel=1e-5)


def test_answers_are_greedy_and_end_before_their_stop_strings(one):
    settings = {"until": ["\n", "."], "max_gen_toks": 6, "do_sample": False}
    contexts = [STORY, "The dog", LONG]
    found = examinee(one).generate_until([Question(context, settings) for context in contexts])
    room = one.config.context_length - 6
    for context, answer in zip(contexts, found, strict=True):
        ids = one.tokenizer.encode(context)[-room:]
        assert answer == one.generate(ids, 6, stop=["\n", "."], plain=True).text
        assert not {".", "\n"} & set(answer)


def test_drawn_answers_differ_in_their_seeds_and_come_again(one):
    settings = {"until": ["\n"], "max_gen_toks": 8, "do_sample": True, "temperature": 1.5}
    asked = [Question(STORY, settings)] * 3
    first, again = (examinee(one, seed=7).generate_until(asked) for _ in range(2))
    assert first == again
    assert len(set(first)) == 3
    assert examinee(one, seed=8).generate_until(asked) != first


def test_settings_that_nothing_here_does_are_refused(one):
    for settings in ({"num_beams": 4}, {"temperature": "hot"}, {"max_gen_toks": 10**6}, {"until": ["x"] * 99}):
        with pytest.raises(InvalidRequest):
            examinee(one).generate_until([Question(STORY, settings)])


def test_a_chat_is_known_again_by_its_text(tmp_path):
    with elm_mlx.load(scripts.write(tmp_path, chat_templates.LLAMA_32)) as lm:
        asked = examinee(lm)
        messages = [{"role": "user", "content": "Which one?"}]
        context = asked.apply_chat_template(messages)
        assert context.startswith("<|begin_of_text|>")
        found = asked.loglikelihood([Question(context, "this"), Question(context, "that one")])
        wanted = [slow_score(lm, chat_ending(lm, messages, False, text)) for text in ("this", "that one")]
        check([EndingScore(*each) for each in found], wanted)
        settings = {"until": ["zz"], "max_gen_toks": 5}
        (answer,) = asked.generate_until([Question(context, settings)])
        assert answer == lm.generate(lm.chat_prompt(messages), 5, plain=True, stop=["zz"]).text


def test_what_was_answered_is_not_asked_again(one, tmp_path):
    questions = [Question(*pair) for pair in PAIRS]
    place = tmp_path / "answers.jsonl"
    with Remembered(place, {"model": "x"}) as remembered:
        first = Examinee(one, remembered).loglikelihood(questions[:3])
    with place.open("ab") as file:
        file.write(b'{"key": "torn')  # as a killed process leaves it
    with Remembered(place, {"model": "x"}) as remembered:
        asked = Examinee(one, remembered)
        asked.scorer.positions = 0
        assert asked.loglikelihood(questions[:3]) == first
        assert asked.scorer.positions == 0
        asked.loglikelihood(questions)
        assert asked.counts[:2] == (4, 3 + 3)
    assert place.read_text().count("\n") == 1 + 7
