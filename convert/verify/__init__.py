"""Compares a converted model with its source: both run over one text, with one layer in memory at a time.

Both compute in float32 with the weights as they are stored, so what differs is the weights and the configuration, not
the arithmetic.
"""

from __future__ import annotations

import math
from importlib.resources import files
from itertools import count
from pathlib import Path

import mlx.core as mx
import numpy as np

from elm_mlx.arguments import Progress, named_path, real_number, whole_number
from elm_mlx.convert.sources import open_source
from elm_mlx.convert.sources.meta import check_rope_factor
from elm_mlx.convert.verify.layerwise import ModelOnDisk, open_directory, open_original
from elm_mlx.convert.verify.report import Report
from elm_mlx.convert.verify.rounding import Weights, compare_weights
from elm_mlx.device.thread import Relay, on_device
from elm_mlx.errors import BadCheckpoint, InvalidRequest, NotFound
from elm_mlx.files import reading
from elm_mlx.store.load import load_tokenizer
from elm_mlx.store.text_settings import read_settings

TOKENS, MOST_TOKENS = 2048, 1_000_000
WINDOW = 512  # positions that attend to one another
POSITIONS = 64  # whose logits are in memory at a time: [64, V]
CHARACTERS = 64  # of the text that are read for each token; English has about four

# Mean KL divergence, in nats per token, that a way of storing the weights may cost: at least three times what it costs
# the demo's draft, as small models lose most; less at 3 and 2 bits, or a model that is wrong in every layer would pass.
MAX_KL = {
    "exact": 1e-6,  # nothing was rounded: float32's own noise
    "float16": 1e-4,
    "kept": 0.02,  # as 8-bit: what the source has in few bits, of which a part may be stored in 8
    "bfloat16": 3e-3,
    "8-bit": 0.02,
    "mxfp8": 0.1,
    "6-bit": 0.06,
    "5-bit": 0.25,
    "4-bit": 1.0,
    "nvfp4": 1.0,
    "mxfp4": 1.5,
    "3-bit": 3.0,
    "2-bit": 4.0,
}


def verify(
    converted: str | Path,
    source: str | Path,
    text: str | Path | None = None,
    *,
    tokens: int = TOKENS,
    max_kl: float | None = None,
    rope_factor: float | None = None,
    progress: Progress | None = None,
) -> Report:
    """Compares `converted`, an MLX directory, with `source`, what it was made from or another MLX directory.

    `text` is a UTF-8 file, by default the demo's held-out stories; its first `tokens` by the converted model's own
    tokenizer are read in windows of up to 512 that begin with BOS where the model has one. Where conversion.json in
    `converted` says that elm-mlx rounded the weights, each must be the source's, rounded, those excepted that it
    calibrated. `max_kl` replaces the bound, and makes the divergence alone decide. `rope_factor` is what a
    source in Meta's layout was converted with. `progress` is called with (layers done, in all).

    Raises InvalidRequest for models that do not belong together, and NotFound, MissingTokenizer, BadCheckpoint,
    Unsupported. A difference raises nothing: the report says whether the model `passed`, and its `failure`.
    """
    check_options(text, tokens, max_kl, rope_factor)
    places = named_path("converted", converted), named_path("source", source)

    def work(relay: Relay) -> Report:
        ours = open_directory(places[0])
        theirs = open_original(open_source(places[1], rope_factor=rope_factor).like(ours.config))
        return compare(ours, theirs, text, tokens=tokens, max_kl=max_kl, progress=relay(progress))

    return on_device(work)


def check_options(
    text: str | Path | None, tokens: int, max_kl: float | None = None, rope_factor: float | None = None
) -> None:
    """Checks the options of `verify` that need no model. Raises InvalidRequest, and NotFound without a text."""
    if not 1 <= whole_number("tokens", tokens) <= MOST_TOKENS:
        raise InvalidRequest(f"tokens is {tokens}; it must be 1 to {MOST_TOKENS:,}.")
    if max_kl is not None and not real_number("max_kl", max_kl) >= 0:
        raise InvalidRequest(f"max_kl is {max_kl}; it must be 0 or above, in nats per token.")
    check_rope_factor(rope_factor)
    if text is not None:
        read_beginning(named_path("text", text), 1)


def compare(
    ours: ModelOnDisk,
    theirs: ModelOnDisk,
    text: str | Path | None = None,
    *,
    tokens: int = TOKENS,
    max_kl: float | None = None,
    progress: Progress | None = None,
) -> Report:
    """Compares two open models as `verify` does. Raises InvalidRequest for models that do not belong together."""
    check_pair(ours, theirs)
    windows = encode_windows(ours, held_out() if text is None else Path(text), tokens)
    steps, total = count(1), 2 * (ours.config.num_layers + 2) + 1  # embedding and norm, too; the last is both heads

    def step() -> None:
        if progress:
            progress(next(steps), total)

    inputs = [window[:-1] for window in windows]
    targets = mx.array([token for window in windows for token in window[1:]])
    table = compare_positions(ours, theirs, ours.hidden(inputs, step), theirs.hidden(inputs, step), targets)
    step()
    weights = compare_weights(ours.stored(), ours.quantization, ours.dtypes, theirs.originals, ours.keeps)
    return summarize(ours, theirs, table, max_kl, weights)


def check_pair(ours: ModelOnDisk, theirs: ModelOnDisk) -> None:
    """Raises InvalidRequest unless both have weights of the same names and shapes."""
    here, there = ours.config.weight_shapes(), theirs.config.weight_shapes()
    for name in here | there:
        if here.get(name) != there.get(name):
            raise InvalidRequest(f"{ours.where} is not a conversion of {theirs.where}: {name} is "
                                 f"{here.get(name, 'missing')} here and {there.get(name, 'missing')} there. Name the "
                                 "checkpoint that it was made from.")  # fmt: skip


def encode_windows(model: ModelOnDisk, text: Path, tokens: int) -> list[list[int]]:
    """Encodes the beginning of a text in windows [BOS, ...] of one id more than the model reads: the last is only
    predicted.

    Raises InvalidRequest for a text with no id to predict, MissingTokenizer, BadCheckpoint.
    """
    tokenizer = load_tokenizer(model.where, read_settings(model.where), model.config)
    ids = tokenizer.encode_text(read_beginning(text, CHARACTERS * tokens))[:tokens]
    if max(ids, default=0) >= model.config.vocab_size:
        raise BadCheckpoint(tokenizer.why_beyond(max(ids), model.config.vocab_size))
    bos = tokenizer.encode("")
    length = min(WINDOW, model.config.context_length) + 1 - len(bos)
    windows = [bos + ids[start : start + length] for start in range(0, len(ids), length)]
    if not (windows := [window for window in windows if len(window) > 1]):
        raise InvalidRequest(f"{text} is too short: no token in it is left to predict. Give a longer text.")
    return windows


def held_out() -> Path:
    """The demo's held-out stories."""
    return Path(str(files("elm_mlx.demo") / "held_out.txt"))


def read_beginning(path: Path, characters: int) -> str:
    """Reads the first `characters` of a UTF-8 file. Raises NotFound, InvalidRequest."""
    with reading(path):
        if not path.exists():
            raise NotFound(f"There is no file {path}. Give a text file.")
        try:
            with path.open(encoding="utf-8") as file:
                return file.read(characters)
        except UnicodeDecodeError as error:
            raise InvalidRequest(f"{path} is not UTF-8 text. Convert it first, for example with iconv.") from error


def compare_positions(
    ours: ModelOnDisk, theirs: ModelOnDisk, our_states: mx.array, their_states: mx.array, ids: mx.array
) -> np.ndarray:
    """Compares what both models predict from their states [N, E] for the ids [N] that follow. Returns [6, N], a row
    each: largest difference of logits, the source's largest logit, divergence, whether the likeliest token is the same,
    log-probability of the id by ours and by theirs."""
    our_head, their_head = ours.head(), theirs.head()
    columns = []
    for start in range(0, len(ids), POSITIONS):
        here = slice(start, start + POSITIONS)
        a, b = our_head(our_states[here]), their_head(their_states[here])  # [P, V]
        q, p = (logits - mx.logsumexp(logits, axis=-1, keepdims=True) for logits in (a, b))
        divergence = mx.maximum((mx.exp(p) * (p - q)).sum(axis=-1), 0.0)  # rounding alone can make it negative
        same = mx.argmax(a, axis=-1) == mx.argmax(b, axis=-1)
        chosen = [mx.take_along_axis(log, ids[here, None], axis=-1)[:, 0] for log in (q, p)]
        columns.append(np.array(mx.stack([mx.abs(a - b).max(-1), mx.abs(b).max(-1), divergence, same, *chosen])))
    return np.concatenate(columns, axis=1)


def stored_as(ours: ModelOnDisk, theirs: ModelOnDisk) -> str:
    """How the weights are stored, as MAX_KL names it: of several settings the one with the fewest bits counts, of
    several types the coarsest that a weight was rounded to; "exact" where none was."""
    if ours.keeps and any(tensor.packed for tensor in theirs.originals.values()):
        return "kept"
    if how := ours.quantization:
        coarsest = min((setting for setting in (how, *how.overrides.values()) if setting), key=lambda one: one.bits)
        return f"{coarsest.bits}-bit" if coarsest.mode == "affine" else coarsest.mode
    pairs = ((ours.dtypes[name], dtype) for name, dtype in theirs.dtypes.items())
    rounded = {str(here).removeprefix("mlx.core.") for here, there in pairs if here not in (mx.float32, there)}
    return max(rounded, key=MAX_KL.__getitem__, default="exact")


def summarize(
    ours: ModelOnDisk, theirs: ModelOnDisk, table: np.ndarray, max_kl: float | None, weights: Weights
) -> Report:
    """Makes one figure of each row of `table` [6, N], which has one for every position."""
    (difference, largest, *_), mean = table.max(axis=1), table.mean(axis=1, dtype=np.float64)
    stored = stored_as(ours, theirs)
    return Report(
        converted=ours.where,
        source=theirs.where,
        tokens=table.shape[1],
        max_difference=float(difference),
        relative_difference=float(difference) / (float(largest) or 1.0),
        kl_divergence=float(mean[2]),
        same_top=float(mean[3]),
        perplexity=perplexity(mean[4]),
        source_perplexity=perplexity(mean[5]),
        stored=stored,
        bound=MAX_KL[stored] if max_kl is None else float(max_kl),
        altered=weights.altered,
        not_finite=weights.not_finite,
        source_not_finite=weights.source_not_finite,
        must_match=ours.rounded and max_kl is None,
        calibrated=sorted(ours.calibrated),
    )


def perplexity(mean_log_probability: float) -> float:
    """exp of the mean loss, limited to what a float can hold."""
    return math.exp(min(-mean_log_probability, 700.0))
