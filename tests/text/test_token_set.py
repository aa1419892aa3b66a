"""Tokens found in a text as by the tokenizers library: the leftmost, then the longest."""

from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from elm_mlx.text.token_set import TokenSet

TOKENS = st.sets(st.text("<ab>|", min_size=1, max_size=4), max_size=6)
TEXT = st.text("<ab>| ", max_size=20)


@settings(max_examples=100)
@given(TOKENS, TEXT)
def test_a_text_is_split_as_by_a_pattern_of_all_tokens_the_longest_first(tokens: set[str], text: str) -> None:
    pattern = "|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) or "(?!)"
    assert TokenSet(tokens).split(text) == re.split(f"({pattern})", text)
