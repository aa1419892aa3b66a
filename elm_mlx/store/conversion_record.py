"""What conversion.json says of a directory that elm-mlx converted; as a file from anywhere, it may say anything."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from elm_mlx.config.quantization import ROW_SCALES
from elm_mlx.errors import BadCheckpoint
from elm_mlx.files import optional_json

RECORD = "conversion.json"


def read_record(directory: Path) -> dict[str, Any]:
    """The object in conversion.json; an empty one where there is no file. Raises BadCheckpoint."""
    return optional_json(directory / RECORD)


def calibration_of(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """The object that says how weights were calibrated; None where they were not."""
    found = record.get("calibration")
    return found if isinstance(found, dict) else None


def kept_of(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """The object that says how many matrices were kept as their source has them in few bits; None where none was."""
    found = record.get("kept")
    return found if isinstance(found, dict) else None


def read_calibration(directory: Path) -> dict[str, Any] | None:
    """How a directory's weights were calibrated; None where they were not, or where its conversion.json is damaged."""
    try:
        return calibration_of(read_record(directory))
    except BadCheckpoint:
        return None


def rounded_names(calibration: Mapping[str, Any]) -> set[str]:
    """The quantized weights that a calibration left to rounding."""
    names = calibration.get("rounded")
    return {name for name in names if isinstance(name, str)} if isinstance(names, list) else set()


def in_words(calibration: Mapping[str, Any]) -> str:
    """Describes a calibration for people."""
    text, tokens = calibration.get("text"), calibration.get("tokens")
    name = text.get("name") if isinstance(text, dict) else None
    count = f"{tokens:,} tokens of " if type(tokens) is int else ""
    return f"calibrated on {count}the text {name}" if isinstance(name, str) else "calibrated"


def kept_in_words(kept: Mapping[str, Any]) -> str:
    """Describes, for people, the matrices that a conversion kept in few bits."""
    error = kept["largest_error"]
    loss = f"up to {error:.2g} of their size in {kept['of']}" if error else "nothing"
    if error is None:
        loss = "what cannot be measured, as they hold NaN or infinity"
    how = f", {kept['anew']} of them quantized anew, as MLX lacks their form" if kept.get("anew") else ""
    how = how or " as the source has them"
    said = f"{kept['matrices']} matrices are kept in few bits{how}, which changes {loss}"
    if not kept.get(ROW_SCALES):
        return said
    return f"{said}; {kept[ROW_SCALES]} have a scale for each row, which mlx-lm does not load (it does with 8 bits)"
