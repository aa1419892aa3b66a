"""Encodes a text in which some added tokens are meant and others are only written out.

The tokenizers library looks for added tokens all over a text. So a second tokenizer over the same vocabulary knows the
tokens that can be meant by other texts, their stand-ins, which nothing else in the prompt has. The text is encoded as
one, so that what depends on the start of a text, or on a token's neighbours, is as it is for a trusted text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import tokenizers
from tokenizers import AddedToken

from elm_mlx.text.settings import flags_of

Ids = list[int]
MAX_ROUNDS = 16  # a stand-in that is not found and read as text may keep its neighbours from being found


class StandInEncoder:
    """Encodes texts in which each key of `tokens`, a stand-in, means the added token of `backend` that is its value."""

    def __init__(self, backend: tokenizers.Tokenizer, tokens: Mapping[str, str]) -> None:
        self.tokens = dict(tokens)
        self._backend = tokenizers.Tokenizer(backend.model)  # shares the vocabulary
        for part in ("normalizer", "pre_tokenizer"):
            if (value := getattr(backend, part)) is not None:
                setattr(self._backend, part, value)
        self._real = self._add(backend.get_added_tokens_decoder())
        self.meant = {i for text in tokens.values() if (i := backend.token_to_id(text)) is not None}
        self._ids = {stand_in: self._backend.token_to_id(stand_in) for stand_in in tokens}
        self._found_as = set(self._ids.values())
        self._check_ids()

    def _check_ids(self) -> None:
        """Raises ValueError where an added token has the id of another word: a vocabulary that leaves ids out may have
        words at those which the tokenizers library gives to new tokens."""
        word, added = self._backend.model.id_to_token, self._backend.get_added_tokens_decoder()
        if any(word(here) not in (None, token.content) for here, token in added.items()):
            raise ValueError("the vocabulary leaves ids out, and new tokens get those of its words")

    def _add(self, added: Mapping[int, AddedToken]) -> dict[int, int]:
        """Adds the tokens, by their stand-ins where they have one; returns the id of each by the id that it has
        here."""
        stand_ins = {text: stand_in for stand_in, text in self.tokens.items()}
        texts = {i: stand_ins.get(token.content, token.content) for i, token in sorted(added.items())}
        self._backend.add_tokens([AddedToken(text, **flags_of(added[i])) for i, text in texts.items()])
        real = {text: i for i, text in texts.items()}
        return {here: real[token.content] for here, token in self._backend.get_added_tokens_decoder().items()}

    def encode(self, pieces: Sequence[str]) -> tuple[Ids, Ids]:
        """The ids of the joined `pieces` (text, stand-in, text, ..., text), and those of them that come from no added
        token.

        A stand-in that the token's flags keep from being found (a single word amid letters) is read as the token's
        text, as in a trusted text.
        """
        written, meant = list(pieces), set(range(1, len(pieces), 2))
        for _ in range(MAX_ROUNDS):
            found = self._backend.encode("".join(written), add_special_tokens=False)
            missed = meant.difference(self._places(written, found))
            if not missed:
                plain = [i for i in found.ids if i not in self._real]
                return [self._real.get(i, i) for i in found.ids], plain
            for number in missed:
                written[number] = self.tokens[written[number]]
            meant -= missed
        raise ValueError("the tokenizer does not find the tokens that are meant")

    def _places(self, pieces: list[str], found: tokenizers.Encoding) -> Iterator[int]:
        """Yields the numbers of the pieces that are found as the stand-ins that they are: an id of that token has a
        span around the piece. Spans are in order, and may hold blanks around a token."""
        left = [item for item in zip(found.ids, found.offsets, strict=True) if item[0] in self._found_as][::-1]
        place = 0
        for number, piece in enumerate(pieces):
            begin, place = place, place + len(piece)
            while left and left[-1][1][1] < place:
                left.pop()
            if left and left[-1][0] == self._ids.get(piece) and left[-1][1][0] <= begin:
                yield number
