"""Where a context ends and its continuation begins, as ids: the ids of the whole text, with one BOS before it."""

from __future__ import annotations

import pytest
from helpers import chat_templates, scripts
from hypothesis import given, settings
from hypothesis import strategies as st

import elm_mlx
from elm_mlx.api.endings import Ending
from elm_mlx.errors import InvalidRequest
from elm_mlx.evaluate.borders import chat_ending, cut, rolling, text_ending
from elm_mlx.text.chat.template import ZEPHYR

JOINED = [("Once upon a ti", "me there"), ("The fox was hap", "py and"), ("Zür", "ich"), ("a fo", "x")]
APART = [("caf", "é"), ("e", "\u0301"), ("日", "本"), ("👩", "\u200d👧"), ("The fox", " was happy")]


@pytest.fixture(scope="module")
def demo():
    with elm_mlx.load() as lm:
        yield lm


@pytest.mark.parametrize(("context", "ending"), JOINED + APART)
def test_the_ids_are_those_of_the_whole_text_after_one_bos(demo, context, ending):
    found = text_ending(demo.tokenizer, context, ending)
    assert [*found.ids] == demo.tokenizer.encode(context + ending)
    assert found.ids.count(demo.tokenizer.bos_token_id) == 1


@pytest.mark.parametrize(("context", "ending"), APART)
def test_an_end_begins_after_the_contexts_own_ids(demo, context, ending):
    found = text_ending(demo.tokenizer, context, ending)
    assert [*found.ids[: found.start]] == demo.tokenizer.encode(context)


@pytest.mark.parametrize(("context", "ending"), JOINED)
def test_a_token_over_the_border_belongs_to_the_end(demo, context, ending):
    found = text_ending(demo.tokenizer, context, ending)
    before = demo.tokenizer.encode(context)
    assert [*found.ids[: found.start]] == before[: found.start]
    assert found.start < len(before)


@settings(max_examples=40)
@given(st.text(max_size=30), st.text(max_size=12))
def test_any_border_leaves_the_whole_text_as_it_is(demo, context, ending):
    found = text_ending(demo.tokenizer, context, ending)
    assert [*found.ids] == demo.tokenizer.encode(context + ending)
    assert found.start >= 1


def test_blanks_at_the_end_of_a_context_belong_to_what_follows(demo):
    assert text_ending(demo.tokenizer, "The fox ", "was") == text_ending(demo.tokenizer, "The fox", " was")


def test_an_end_without_a_context_stands_after_bos_and_an_empty_one_has_no_ids(demo):
    bos = demo.tokenizer.bos_token_id
    assert text_ending(demo.tokenizer, "", "Once") == Ending((bos, *demo.tokenizer.encode_text("Once")), 1)
    assert text_ending(demo.tokenizer, "Once upon", "").scored == 0
    assert text_ending(demo.tokenizer, "", "") == Ending((bos,), 0)


def test_a_text_that_is_too_long_loses_its_beginning_and_never_its_end():
    whole = Ending(tuple(range(20)), 3)
    assert cut(whole, 19) == whole
    assert cut(whole, 8) == Ending(tuple(range(11, 20)), 3)
    assert cut(whole, 3).start == 1
    with pytest.raises(InvalidRequest, match="longer context"):
        cut(whole, 2)


@given(st.integers(0, 50), st.integers(1, 12))
def test_rolling_windows_score_every_id_once_after_as_much_as_fits(count, context):
    ids = list(range(1, count + 1))
    found = list(rolling(ids, [0], context))
    assert [id for one in found for id in one.ids[one.start :]] == ids
    assert all(len(one.ids) <= context + 1 and one.start >= 1 for one in found)
    assert all(len(one.ids) == context + 1 for one in found[1:])
    assert not found or found[0].ids[0] == 0


@pytest.fixture(scope="module", params=["LLAMA_32", "ZEPHYR"])
def chatting(request, tmp_path_factory):
    template = getattr(chat_templates, request.param, None) or ZEPHYR
    with elm_mlx.load(scripts.write(tmp_path_factory.mktemp("chatting"), template)) as lm:
        yield lm


def test_an_answer_in_a_chat_stands_where_the_template_writes_it(chatting):
    messages = [{"role": "user", "content": "Is <|eot_id|> a token?"}]
    prompt = chatting.chat_prompt(messages)
    for ending in ("yes", "no, it is not", "\u00e9t\u00e9"):
        found = chat_ending(chatting, messages, False, ending)
        assert [*found.ids[: found.start]] == prompt
        assert found.ids.count(chatting.tokenizer.bos_token_id) <= 1
        assert chatting.tokenizer.decode(found.ids[found.start :]) == ending
    begun = [*messages, {"role": "assistant", "content": "The answer is"}]
    assert (
        chat_ending(chatting, begun, True, " no").ids == chat_ending(chatting, messages, False, "The answer is no").ids
    )
