"""What a caller may ask of a calibration: which text it reads, and how much of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from elm_mlx.arguments import named_path, whole_number
from elm_mlx.errors import InvalidRequest

WINDOW = 512  # positions that attend to one another
TOKENS = 128 * WINDOW
LEAST_TOKENS, MOST_TOKENS = WINDOW, 2**22


def check_calibration(calibrate: Any, calibrate_tokens: Any, is_quantized: bool, allow_nonfinite: bool) -> None:
    """Refuses a calibration that means nothing: `calibrate` is true for the text that elm-mlx brings, or the path of
    another, or nothing; `calibrate_tokens` how much of it is read. Raises InvalidRequest."""
    if not is_wanted(calibrate):
        if calibrate_tokens is not None:
            raise InvalidRequest("", "{calibrate_tokens} means nothing without {calibrate}. Give both or neither.")
        return
    if calibrate is not True:
        named_path("calibrate", calibrate)
    if not is_quantized:
        raise InvalidRequest("", "{calibrate} means nothing for weights that are not quantized. Give {bits}, {mode}, "
                                 "{recipe} or {target_bits}, too, or leave it out.")  # fmt: skip
    if allow_nonfinite:
        raise InvalidRequest("", "{calibrate} computes with the weights, which NaN or infinity would spoil. Leave "
                                 "{allow_nonfinite} out, or {calibrate}.")  # fmt: skip
    count = token_count(calibrate_tokens)
    if not LEAST_TOKENS <= count <= MOST_TOKENS:
        raise InvalidRequest(f"calibrate_tokens is {count}; it must be {LEAST_TOKENS} to {MOST_TOKENS:,}.")


def is_wanted(calibrate: Any) -> bool:
    """Whether weights are to be calibrated."""
    return calibrate is not None and calibrate is not False


def token_count(calibrate_tokens: int | None) -> int:
    """How many tokens are read. Raises InvalidRequest for what is no whole number."""
    return TOKENS if calibrate_tokens is None else whole_number("calibrate_tokens", calibrate_tokens)


def text_path(calibrate: str | Path | bool | None) -> Path | None:
    """The path of the text that the caller gives; None for the text that elm-mlx brings, or for no calibration."""
    return None if isinstance(calibrate, bool) or calibrate is None else Path(calibrate)
