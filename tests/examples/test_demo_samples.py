"""The demo's own stories are read by the grammar that wrote its text."""

from __future__ import annotations

import pytest
import stories
from grammar import NotAStory

import elm_mlx
from elm_mlx import demo


def reads(lm: elm_mlx.LanguageModel, tokens: list[int]) -> bool:
    """Whether the grammar reads what the demo says after its prompt, prompt and all."""
    try:
        stories.grammar().read(lm.tokenizer.decode([*lm.tokenizer.encode(demo.PROMPT), *tokens]))
    except NotAStory:
        return False
    return True


@pytest.mark.slow
def test_the_likeliest_story_is_read_whole_and_ends() -> None:
    lm = elm_mlx.load()
    told = lm.generate(demo.PROMPT)
    assert told.finish_reason == "stop"
    assert len(told.text.split()) > 50
    assert reads(lm, told.tokens)


@pytest.mark.slow
def test_four_of_five_sampled_stories_are_read_whole_and_end() -> None:
    lm = elm_mlx.load()
    told = [lm.generate(demo.PROMPT, 400, temperature=0.6, top_p=0.9, seed=seed) for seed in range(10)]
    assert [completion.finish_reason for completion in told] == ["stop"] * 10
    assert sum(reads(lm, completion.tokens) for completion in told) >= 8


def test_the_shipped_held_out_text_is_the_grammar_s() -> None:
    shipped = (demo.demo_directory() / "held_out.txt").read_text(encoding="utf-8").splitlines()
    assert shipped == list(stories.held_out(len(shipped)))
