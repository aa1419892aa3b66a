"""How many bits a model needs for a text, a token and a byte: the second is comparable over tokenizers.

A text's bits are the sum of -log2 p(id | the ids before it) over its ids; over its bytes in UTF-8 they are what
compression by the model would leave of each byte times eight. Perplexity is 2 to the bits of a token.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from elm_mlx import LanguageModel
from elm_mlx.api.scores import Scores
from elm_mlx.arguments import Progress, whole_number
from elm_mlx.errors import InvalidRequest
from elm_mlx.evaluate.windows import Window, windows

LENGTH = 2048  # ids of a window where the model's context is not shorter
ENOUGH_WINDOWS = 10  # from which on a standard error is told


@dataclass(frozen=True)
class Perplexity:
    """How well a model predicts a text of `tokens` ids, which were scored, and `bytes` bytes.

    `bits_per_token_error` is the standard error of `bits_per_token`, as the windows differ; None for less than ten
    windows. `window` and `stride` are in ids. Beside another model: `kl_divergence` is the mean of KL(other || this) in
    nats a token, `same_top` the share of tokens where both find the same id the likeliest, and `other_bits_per_token`
    what the other needs.
    """

    tokens: int
    bytes: int
    bits_per_token: float
    bits_per_byte: float
    perplexity: float
    window: int
    stride: int
    bits_per_token_error: float | None = None
    kl_divergence: float | None = None
    same_top: float | None = None
    other_bits_per_token: float | None = None


def perplexity(
    lm: LanguageModel,
    texts: Iterable[str],
    *,
    window: int | None = None,
    stride: int | None = None,
    windows_at_most: int | None = None,
    adapter: str | None = None,
    against: LanguageModel | None = None,
    cache_window: int | None = None,
    kv_bits: int | str | None = None,
    progress: Progress | None = None,
) -> Perplexity:
    """Measures how well a model predicts `texts`, each on its own, in windows of `window` ids (by default 2,048, or the
    model's context) that begin `stride` ids after one another (by default half a window), so that each id but the first
    ones has at least the rest of a window before it. Each begins with BOS where the model has one.

    `windows_at_most` ends it early. `adapter` names a loaded one. `against` is a model with the same vocabulary to
    compare with, as the original of a quantized one. `cache_window` and `kv_bits` hold this model's keys and values as
    `window` and `kv_bits` of `Options` do. `progress` is called with (windows done, in all).

    Raises InvalidRequest for sizes that mean nothing, for texts in which nothing is to be predicted and for models that
    do not go together, and as `LanguageModel.scores`.
    """
    bos = lm.tokenizer.encode("")
    length, step = sizes(lm, len(bos), window, stride)
    if against is not None:
        check_pair(lm, against)
    encoded = [(text, lm.tokenizer.encode_text(text)) for text in texts]
    whole = [each for _, ids in encoded for each in windows(ids, bos, length, step)]
    read = whole[: whole_number("windows_at_most", windows_at_most)] if windows_at_most is not None else whole
    if not read:
        raise InvalidRequest("The text has no token that is left to predict. Give a longer text.")
    how = {"adapter": adapter, "against": against, "window": cache_window, "kv_bits": kv_bits}
    scores = list(score_all(lm, read, how, progress))
    nbytes = scored_bytes(lm, encoded, bos, whole, read)
    return summarize(scores, nbytes, length, step)


def sizes(lm: LanguageModel, bos: int, window: int | None, stride: int | None) -> tuple[int, int]:
    """(ids of a window, ids between the beginnings of two). Raises InvalidRequest."""
    most = lm.config.context_length
    length = min(LENGTH, most) if window is None else whole_number("window", window)
    if not 2 <= length <= most:
        raise InvalidRequest(f"window is {length}; it must be 2 to {most:,}, the model's context.")
    longest = length - max(bos, 1)
    step = max(1, length // 2) if stride is None else whole_number("stride", stride)
    if not 1 <= step <= longest:
        raise InvalidRequest(f"stride is {step}; it must be 1 to {longest:,}, what a window of {length:,} can predict.")
    return length, step


def check_pair(lm: LanguageModel, against: LanguageModel) -> None:
    """Raises InvalidRequest for models whose ids do not mean the same."""
    if lm.config.vocab_size != against.config.vocab_size or lm.tokenizer.encode_text(PROBE) != (
        against.tokenizer.encode_text(PROBE)
    ):
        raise InvalidRequest("The two models have different vocabularies, so what they predict cannot be compared "
                             "token by token. Compare their bits per byte instead.")  # fmt: skip


PROBE = "The quick brown fox jumps over 13 lazy dogs; l'été à Zürich, 東京 – done.\n\n\tdef f(x): return x"


def score_all(
    lm: LanguageModel, read: Sequence[Window], how: Mapping[str, Any], progress: Progress | None
) -> Iterator[Scores]:
    """The scores of each window's last ids, those that it is to predict; `how` are arguments of
    `LanguageModel.scores`."""
    for done, (ids, scored) in enumerate(read, 1):
        yield lm.scores(ids, **how).last(scored)
        if progress:
            progress(done, len(read))


def scored_bytes(
    lm: LanguageModel,
    encoded: Sequence[tuple[str, list[int]]],
    bos: Sequence[int],
    whole: Sequence[Window],
    read: Sequence[Window],
) -> int:
    """The bytes of the texts that the scored ids stand for: of all texts where all of their ids are scored, else of the
    text that those ids give, by themselves."""
    if bos and len(read) == len(whole):
        return sum(len(text.encode()) for text, _ in encoded)
    left = sum(one.scored for one in read)
    nbytes = 0
    for _, ids in encoded:
        scorable = ids if bos else ids[1:]
        taken = list(islice(scorable, left))
        rest = ids[: len(ids) - len(scorable)]
        before = len(lm.tokenizer.decode(rest).encode())
        nbytes += len(lm.tokenizer.decode([*rest, *taken]).encode()) - before if taken else 0
        left -= len(taken)
    return nbytes


def summarize(scores: Sequence[Scores], nbytes: int, length: int, step: int) -> Perplexity:
    """Makes one figure of the scores of all windows."""
    losses = [one.losses.astype(np.float64) for one in scores]
    tokens = sum(map(len, losses))
    bits = sum(map(np.sum, losses)) / tokens / math.log(2)
    return Perplexity(
        tokens=tokens,
        bytes=nbytes,
        bits_per_token=float(bits),
        bits_per_byte=float(bits * tokens / nbytes) if nbytes else math.nan,
        perplexity=float(2 ** min(bits, 1000.0)),
        window=length,
        stride=step,
        bits_per_token_error=standard_error(losses) if len(losses) >= ENOUGH_WINDOWS else None,
        kl_divergence=mean([one.divergences for one in scores]),
        same_top=mean([one.same for one in scores]),
        other_bits_per_token=None if (other := mean([o.other_losses for o in scores])) is None else other / math.log(2),
    )


def mean(rows: Sequence[np.ndarray | None]) -> float | None:
    """The mean of all numbers in the rows; None where a row is missing."""
    there = [row for row in rows if row is not None]
    return float(np.concatenate(there).mean(dtype=np.float64)) if len(there) == len(rows) else None


def standard_error(losses: Sequence[np.ndarray]) -> float:
    """The standard error of the mean loss of a token, in bits, where whole windows are drawn and not tokens, which hang
    together: of a ratio of sums, as W. G. Cochran, Sampling Techniques (1977), section 6.4, has it."""
    sums, counts = (np.array([f(row) for row in losses], np.float64) for f in (np.sum, len))
    rest = sums - sums.sum() / counts.sum() * counts
    count = len(losses)
    return float(math.sqrt(count / (count - 1) * np.square(rest).sum()) / counts.sum() / math.log(2))
