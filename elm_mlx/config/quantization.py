"""How matrices are stored with few bits: the settings, read from and written to config.json as mlx-lm does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from elm_mlx.arguments import whole_number
from elm_mlx.config.foreign import load_refusal, method_of
from elm_mlx.config.values import CONFIG, Values
from elm_mlx.errors import InvalidRequest, unsupported

# mode -> (bits, group sizes); the non-affine modes fix both (mx.quantize's own table).
QUANTIZATION_MODES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "affine": ((2, 3, 4, 5, 6, 8), (32, 64, 128)),
    "mxfp4": ((4,), (32,)),
    "mxfp8": ((8,), (32,)),
    "nvfp4": ((4,), (16,)),
}

ROW_SCALES = "row_scales"  # the tensor of a matrix, and the key of its setting, that mlx-lm does not know

# recipe -> bits of the matrices that lose least by quantization, of most matrices, and of those that lose most; affine,
# groups of 64. convert.recipes says which matrices these are.
RECIPES: dict[str, tuple[int, int, int]] = {"mixed-2-4": (2, 3, 4), "mixed-3-5": (3, 4, 5), "mixed-4-6": (4, 5, 6)}
TARGET_BITS = (2.0, 9.0)  # the least and the most bits per weight that can be asked for: 8 bits take 8.5 with scales


def check_bits(bits: int | None) -> None:
    """Raises InvalidRequest for bits that affine quantization does not have; None means not quantized."""
    known = QUANTIZATION_MODES["affine"][0]
    if bits is not None and whole_number("bits", bits) not in known:
        raise InvalidRequest(f"bits is {bits!r}; it must be one of {', '.join(map(str, known))}.")


@dataclass(frozen=True)
class Quantization:
    """How matrices are stored: `mode`, `bits` per weight, columns that share a scale (`group_size`).

    `overrides` maps a weight's name without ".weight" to its own setting, or to None where it is not quantized. With
    `rows` each row is also multiplied with a float of its own, as FP8 checkpoints have it: elm-mlx alone runs that.
    """

    bits: int = 4
    group_size: int = 64
    mode: str = "affine"
    overrides: Mapping[str, Quantization | None] = field(default_factory=dict)
    rows: bool = False

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], where: str = CONFIG) -> Quantization:
        """Reads the `quantization` object that mlx-lm writes into config.json; errors call the file `where`.

        Raises Unsupported for a mode, a number of bits or a group size that MLX cannot run, BadCheckpoint for
        settings inside the setting of one weight.
        """
        nested = {name: value for name, value in raw.items() if isinstance(value, Mapping) or value is False}
        if any(isinstance(inner, Mapping) for value in nested.values() if value for inner in value.values()):
            raise Values(raw, where).wrong("quantization nests settings inside the setting of one weight.")
        own = {name: cls._plain(Values(value, where)) if value else None for name, value in nested.items()}
        return replace(cls._plain(Values(raw, where)), overrides=own)

    @classmethod
    def _plain(cls, values: Values) -> Quantization:
        """Reads one setting without its overrides; a missing value becomes the mode's default."""
        values.require("mode", list(QUANTIZATION_MODES))
        mode = values.get("mode") or "affine"
        bits, groups = QUANTIZATION_MODES[mode]
        default_bits, default_group = (4, 64) if mode == "affine" else (bits[0], groups[0])
        setting = cls(values.integer("bits", default_bits, 32), values.integer("group_size", default_group, 4096), mode,
                      rows=bool(values.get(ROW_SCALES)))  # fmt: skip
        if setting.rows and mode != "mxfp8":
            raise unsupported(f"{mode} quantization: {ROW_SCALES}", True, (False,))
        if setting.bits not in bits:
            raise unsupported(f"{mode} quantization: bits", setting.bits, bits)
        if setting.group_size not in groups:
            raise unsupported(f"{mode} quantization: group size", setting.group_size, groups)
        return setting

    def to_dict(self) -> dict[str, Any]:
        """The `quantization` object of config.json, as mlx-lm reads it."""
        own: dict[str, Any] = {"group_size": self.group_size, "bits": self.bits, "mode": self.mode}
        own |= {ROW_SCALES: True} if self.rows else {}
        return own | {name: value.to_dict() if value else False for name, value in self.overrides.items()}

    def setting(self, stem: str) -> Quantization | None:
        """The setting of a weight by its name without ".weight", or None where an override leaves it unquantized."""
        return self.overrides.get(stem, self)

    def of(self, name: str, shape: tuple[int, ...]) -> Quantization | None:
        """The setting of one weight, or None where it is not quantized: a vector, or rows that groups do not divide."""
        setting = self.setting(name.removesuffix(".weight"))
        return setting if setting and len(shape) > 1 and shape[-1] % setting.group_size == 0 else None


def in_words(raw: Mapping[str, Any]) -> str:
    """Describes the object of `to_dict` for people: 4-bit, or 3- to 5-bit where matrices differ."""
    bits = sorted({raw["bits"], *(own["bits"] for own in raw.values() if isinstance(own, Mapping))})
    span = f"{bits[0]}-bit" if len(bits) == 1 else f"{bits[0]}- to {bits[-1]}-bit"
    rows = ", each row times a float" if raw.get(ROW_SCALES) else ""
    return f"{raw['mode']} {span} in groups of {raw['group_size']}{rows}"


def read_quantization(values: Values) -> Quantization | None:
    """Reads MLX's own quantization, or None. Beside it, another library's is what its source had, and does not count.

    Raises Unsupported, with the name, for another library's alone (GPTQ, AWQ, bitsandbytes, fp8, ...), whether or not a
    conversion reads it, and BadCheckpoint for two settings that disagree.
    """
    own, other = values.section("quantization").raw, values.section("quantization_config").raw
    if method_of(Values(other, values.where)) is not None:
        if not own:
            raise load_refusal(Values(other, values.where))
        other = {}
    found = [Quantization.from_dict(raw, values.where) for raw in (own, other) if raw]
    if any(setting != found[0] for setting in found):
        raise values.wrong("quantization and quantization_config disagree.", "Keep the right one.")
    return found[0] if found else None
