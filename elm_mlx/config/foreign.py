"""Quantizations of other libraries, by the name that config.json has for them (`quant_method`): which of them a
conversion reads, and why it does not read the others.

The names are those of transformers' QuantizationMethod (utils/quantization_config.py), and of vLLM's readers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from elm_mlx.config.values import CONFIG, Values
from elm_mlx.errors import Unsupported

KEY, METHOD = "quantization_config", "quant_method"
CONVERTED = {
    "gptq": "GPTQ",
    "awq": "AWQ",
    "fbgemm_fp8": "FP8 (fbgemm)",
    "fp8": "FP8",
    "compressed-tensors": "compressed-tensors",
    "bitnet": "BitNet",
}
# The one form that a model is published in, and kept number by number: a model that is pulled to run is converted.
OWN_FORMS = ("bitnet",)
CODEBOOKS = "its weights are entries of a learned table, and MLX has no such form"
ROTATED = "its weights are rotated, and would have to be turned back with the library's own code"
OWN_FORM = "its form is its library's own"
REASONS = {
    "bitsandbytes": "NF4 and FP4 are tables of 16 values, and int8 keeps outliers apart: MLX has no such form",
    "aqlm": CODEBOOKS,
    "vptq": CODEBOOKS,
    "quip": CODEBOOKS,
    "higgs": ROTATED,
    "fp_quant": ROTATED,
    "spqr": "it keeps outliers in sparse matrices beside the quantized ones",
    "hqq": OWN_FORM,
    "eetq": OWN_FORM,
    "quanto": OWN_FORM,
    "torchao": "its files hold pickled tensor classes of torchao",
    "auto-round": "it packs by several libraries' rules; AutoRound also exports to GPTQ and AWQ, which are read",
    "modelopt": OWN_FORM,
    "quark": OWN_FORM,
    "exl2": OWN_FORM,
    "marlin": "its rows are shuffled for one GPU kernel",
}
REMEDY = "Take the weights from before they were quantized."


def method_of(settings: Values) -> str | None:
    """The name of another library's quantization in a `quantization_config`; None where there is none."""
    method: Any = settings.get(METHOD)
    return None if method is None else str(method)


def is_own_form(raw: Mapping[str, Any]) -> bool:
    """Whether the object of a config.json is that of a model whose publisher's own form has to be converted to run."""
    settings = raw.get(KEY)
    return isinstance(settings, Mapping) and settings.get(METHOD) in OWN_FORMS and not raw.get("quantization")


def as_plain(raw: Mapping[str, Any], where: str = CONFIG) -> dict[str, Any]:
    """The object of a config.json as the plain model has it that a conversion makes of it: without what another library
    has quantized. Raises Unsupported where a conversion does not read that either."""
    settings = Values(raw, where).section(KEY)
    if method_of(settings) is None or Values(raw, where).section("quantization").raw:
        return dict(raw)
    if method_of(settings) not in CONVERTED:
        raise convert_refusal(settings)
    return {key: value for key, value in raw.items() if key != KEY}


def load_refusal(settings: Values) -> Unsupported:
    """The error for a model that is to run and that another library has quantized: it says whether a conversion helps.
    `settings` is the object of its `quantization_config`."""
    method = str(method_of(settings))
    if method not in CONVERTED:
        return convert_refusal(settings)
    return Unsupported(
        f"{settings.where}: the weights are quantized by {CONVERTED[method]} (quant_method {method!r}), which "
        "elm-mlx does not run as it is. Convert it: `elm-mlx convert` takes this directory, or the repository's name, "
        "and writes one that runs."
    )


def convert_refusal(settings: Values) -> Unsupported:
    """The error for another library's quantization that a conversion does not read either."""
    method = str(method_of(settings))
    reason = REASONS.get(method, "elm-mlx does not know that form")
    known = ", ".join(sorted(CONVERTED))
    return Unsupported(f"{settings.where}: quantization {method!r:.40} is not one that elm-mlx reads: {reason}. It "
                       f"converts {known}. {REMEDY}")  # fmt: skip
