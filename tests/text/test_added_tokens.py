"""Added tokens are found where the tokenizers library finds them."""

from __future__ import annotations

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, models

from elm_mlx.text.added_tokens import AddedTokens

TEXTS = ("<a>", "<a>b", "b", "<", "é", "<a><a>", "²b")
FLAGS = st.fixed_dictionaries({"single_word": st.booleans(), "normalized": st.booleans()})


@settings(max_examples=300)
@given(st.dictionaries(st.sampled_from(TEXTS), FLAGS, max_size=4), st.text("<a>bé²_ \u0301", max_size=12))
@pytest.mark.slow
def test_tokens_are_found_as_by_the_library(flags: dict[str, dict[str, bool]], text: str) -> None:
    added = [AddedToken(token, special=True, **chosen) for token, chosen in flags.items()]
    library = tokenizers.Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    library.add_tokens(added)
    encoded = library.encode(text, add_special_tokens=False)
    assert AddedTokens(added).split(text)[1::2] == [token for token in encoded.tokens if token != "?"]


@pytest.mark.parametrize(
    ("text", "is_found"),
    [("end", True), (" end.", True), ("the end", True), ("ending", False), ("bend", False), ("²end", True),
     ("e\u0301end", False), ("_end", False), ("日end", False)],
)  # fmt: skip
def test_a_single_word_stands_alone(text: str, is_found: bool) -> None:
    assert (AddedTokens([AddedToken("end", single_word=True)]).split(text)[1::2] == ["end"]) is is_found
