"""How weights are to be stored, as a caller asks for it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from elm_mlx.arguments import real_number
from elm_mlx.config import ModelConfig
from elm_mlx.config.quantization import QUANTIZATION_MODES, RECIPES, TARGET_BITS, Quantization
from elm_mlx.convert import recipes
from elm_mlx.convert.calibrate.options import check_calibration, is_wanted
from elm_mlx.errors import InvalidRequest

WEIGHT_DTYPES = {"bfloat16": mx.bfloat16, "float16": mx.float16, "float32": mx.float32}
DEFAULT_DTYPE = "bfloat16"
SHORT_NAMES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}


@dataclass(frozen=True)
class Form:
    """Weights plain in `dtype`, by default bfloat16, or quantized: to `bits` in groups of `group_size`, in another
    `mode`, by a `recipe`, or in mixed bits, at most `target_bits` per weight; with NaN and infinity among them only
    where `allow_nonfinite` says so. Where nothing says how they are stored, matrices that are packed at the source are
    kept. Quantized ones may be calibrated: on `calibrate_tokens` tokens of a text, whose path `calibrate` is, or true
    for the text that elm-mlx brings. With `unshare` weights that several layers share are written for each of them.

    Raises InvalidRequest for what MLX does not have, and for options that contradict each other or mean nothing.
    """

    bits: int | None = None
    group_size: int | None = None
    mode: str | None = None
    recipe: str | None = None
    target_bits: float | None = None
    dtype: str | None = None
    allow_nonfinite: bool = False
    calibrate: str | Path | bool | None = None
    calibrate_tokens: int | None = None
    unshare: bool = False

    def __post_init__(self) -> None:
        """Refuses values that MLX does not have, and options that contradict each other."""
        affine_bits, affine_groups = QUANTIZATION_MODES["affine"]
        known = (
            ("dtype", self.dtype, [None, *WEIGHT_DTYPES]),
            ("mode", self.mode, [None, *QUANTIZATION_MODES]),
            ("recipe", self.recipe, [None, *RECIPES]),
            ("bits", self.bits, [None, *affine_bits]),
            ("group_size", self.group_size, [None, *affine_groups]),
            ("allow_nonfinite", self.allow_nonfinite, [False, True]),
            ("unshare", self.unshare, [False, True]),
        )
        for name, value, values in known:
            if value not in values:
                allowed = ", ".join(str(one) for one in values if one is not None)
                raise InvalidRequest(f"{name} is {value!r}; it must be one of {allowed}.")
        low, high = TARGET_BITS
        if self.target_bits is not None and not low <= real_number("target_bits", self.target_bits) <= high:
            raise InvalidRequest(f"target_bits is {self.target_bits:g}; it must be {low:g} to {high:g}.")
        self._refuse_contradictions()

    def _refuse_contradictions(self) -> None:
        sized = (self.bits, self.group_size) != (None, None)
        if self.recipe and self.target_bits:
            raise InvalidRequest(
                "", f"{{recipe={self.recipe}}} has a size of its own; leave it out, or {{target_bits}}."
            )
        for name, value in (("recipe", self.recipe), ("target_bits", self.target_bits)):
            if value and (sized or self.mode):
                raise InvalidRequest("", f"{{{name}={value}}} says how each matrix is stored; leave {{bits}}, "
                                         "{group_size} and {mode} out.")  # fmt: skip
        if self.mode not in (None, "affine") and sized:
            raise InvalidRequest("", f"{{mode={self.mode}}} fixes its bits and group size; leave {{bits}} and "
                                     "{group_size} out.")  # fmt: skip
        if self.group_size and not (self.bits or self.mode):
            raise InvalidRequest("", "{group_size} means nothing without {bits}. Give both, or leave it out.")
        is_quantized = any((self.bits, self.mode, self.recipe, self.target_bits))
        check_calibration(self.calibrate, self.calibrate_tokens, is_quantized, self.allow_nonfinite)

    @property
    def is_open(self) -> bool:
        """Whether nothing says how weights are to be stored, so that matrices that are packed can be kept."""
        return not any((self.bits, self.mode, self.recipe, self.target_bits, self.dtype))

    def quantization(self, config: ModelConfig) -> Quantization | None:
        """The quantization settings for a model; None for plain weights."""
        if self.target_bits:
            return recipes.quantization_of_size(self.target_bits, config, WEIGHT_DTYPES[self.dtype or DEFAULT_DTYPE])
        return recipes.quantization(self.recipe, config) if self.recipe else self._uniform()

    def _uniform(self) -> Quantization | None:
        if self.mode not in (None, "affine"):
            return Quantization.from_dict({"mode": self.mode})
        if self.bits is None and self.mode is None:
            return None
        return Quantization.from_dict({"mode": "affine", "bits": self.bits, "group_size": self.group_size})

    def default_output(self, source: Path, kept: Quantization | None = None) -> Path:
        """The output directory where the caller names none: OpenELM-270M -> OpenELM-270M-mlx-4bit, or
        OpenELM-270M-mlx-4bit-calibrated. `kept` is the setting of a source whose matrices are kept."""
        # abspath and not resolve: the output lies beside a link, not beside what the link leads to
        source, uniform = Path(os.path.abspath(source)), kept or self._uniform()  # noqa: PTH100
        if self.target_bits:
            kind = f"{self.target_bits:g}bit-mixed"
        elif self.recipe or not uniform:
            kind = self.recipe or SHORT_NAMES[self.dtype or DEFAULT_DTYPE]
        else:
            kind = f"{uniform.bits}bit" if uniform.mode == "affine" else "fp8" if uniform.rows else uniform.mode
        learned = "-calibrated" if is_wanted(self.calibrate) else ""
        unshared = "-unshared" if self.unshare else ""
        return source.with_name(f"{source.name}-mlx-{kind}{learned}{unshared}")
