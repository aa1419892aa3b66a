"""The demo's own stories are read by the grammar that wrote its text."""

from __future__ import annotations

import stories
from grammar import NotAStory

import elm_mlx
from elm_mlx import demo


def reads(text: str) -> bool:
    try:
        stories.grammar().read(text)
    except NotAStory:
        return False
    return True


def test_four_of_five_sampled_stories_are_read_whole_and_end() -> None:
    lm = elm_mlx.load()
    start = lm.tokenizer.encode(demo.PROMPT)
    told = [lm.generate(start, 400, temperature=0.6, top_p=0.9, seed=seed) for seed in range(15)]
    assert [completion.finish_reason for completion in told] == ["stop"] * 15
    assert sum(reads(lm.tokenizer.decode([*start, *completion.tokens])) for completion in told) >= 12


def test_the_shipped_held_out_text_is_the_grammar_s() -> None:
    shipped = (elm_mlx.api.demo_directory() / "held_out.txt").read_text(encoding="utf-8").splitlines()
    assert shipped == list(stories.held_out(len(shipped)))
