"""README.md of an output, a model card as the Hugging Face hub reads it: origin, form, use, and what was measured.

Format: https://huggingface.co/docs/hub/model-cards. The licence is the source's, which this program cannot judge.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from elm_mlx.config import ModelConfig
from elm_mlx.config.quantization import ROW_SCALES, in_words
from elm_mlx.convert.verify import Report
from elm_mlx.files import readable_size
from elm_mlx.store.conversion_record import kept_in_words

CARD = """\
---
library_name: mlx
pipeline_tag: text-generation
tags:
- mlx
- {family}
{base}---

# {name} for MLX

{origin}, converted to MLX by elm-mlx {elm_mlx} (MLX {mlx}): {parameters:,} parameters, {form}, {size} at
{bits:.2f} bits per weight. Files, hashes and options: [conversion.json](conversion.json). The licence is that of the
original.{nonfinite}{kept}{calibration}{merged}

## Use

```sh
elm-mlx generate --model DIRECTORY --prompt "Once upon a time"
{mlx_lm}```

## Quality

{quality}
"""
MLX_LM = 'mlx_lm.generate --model DIRECTORY --prompt "Once upon a time"\n'
IN_MLX_LM = ("openelm", "llama")  # the architectures that mlx-lm loads as they are written here
NONFINITE = " Weights that are NaN or infinite there were let through (`--allow-nonfinite`)."
CALIBRATED = """

The quantized weights were calibrated, not only rounded: by {method}, so that layer by layer the
products of the model change least on {tokens:,} tokens of a text: {name}, sha256
`{sha256}`."""
MERGED = """

An adapter ({kind}, rank {rank}, beside {matrices} matrices) was merged into it: {name}. Its matrices were
made from {floats}, and are stored as {stored_as}; all others are those of the model."""
UNVERIFIED = "Not measured. `elm-mlx verify DIRECTORY --against SOURCE` compares it with its source."
VERIFIED = """\
Against its source over {tokens:,} tokens, both computed in float32 (`elm-mlx verify`):

| | |
|---|---|
| weights | {weights} |
| KL divergence, nats per token | {kl_divergence:.3g} (bound {bound:g}) |
| perplexity | {perplexity:.4g}, of the source {source_perplexity:.4g} |
| same likeliest token | {same_top:.2%} |
| largest difference of a logit | {max_difference:.3g}, {relative_difference:.2g} of the largest |"""

BESIDE = """\
Against the same model with the adapter beside it over {tokens:,} tokens, both computed in float32 (`elm-mlx merge`):

| | |
|---|---|
| KL divergence, nats per token | {kl_divergence:.3g} |
| perplexity | {perplexity:.4g}, unmerged {source_perplexity:.4g} |
| same likeliest token | {same_top:.2%} |"""


def describe_calibration(calibration: Mapping[str, Any]) -> str:
    """A paragraph on how weights were calibrated; `calibration` is the object of conversion.json."""
    text = calibration["text"]
    return CALIBRATED.format(
        method=calibration["method"], tokens=calibration["tokens"], name=one_line(text["name"]), sha256=text["sha256"]
    )


def one_line(text: str) -> str:
    """A text with no line in it but one."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


def card(config: ModelConfig, record: Mapping[str, Any], nbytes: int, report: Report | None) -> str:
    """The model card of an output with `nbytes` of weights; `record` is the object of its conversion.json. The card
    does not name the output's place, so that equal inputs give equal bytes."""
    return fill(
        config, record, nbytes, VERIFIED.format(**vars(report), weights=report.weights) if report else UNVERIFIED
    )


def merged_card(config: ModelConfig, record: Mapping[str, Any], nbytes: int, report: Report) -> str:
    """The model card of a merged model, of which `report` says how far it is from the unmerged one."""
    return fill(config, record, nbytes, BESIDE.format(**vars(report)))


def describe_merge(merged: Mapping[str, Any]) -> str:
    """A paragraph on the adapter that was merged in; `merged` is the object of conversion.json."""
    adapter, floats = merged["adapter"], merged["floats"]
    source = f"the floats of {one_line(floats.get('repository') or floats['directory'])}" if floats else "its own"
    kinds = {"lora": "LoRA", "dora": "DoRA"}
    return MERGED.format(
        kind=kinds[adapter["kind"]], rank=adapter["rank"], matrices=adapter["matrices"], stored_as=merged["stored_as"],
        name=one_line(adapter.get("repository") or adapter["directory"]), floats=source,
    )  # fmt: skip


def fill(config: ModelConfig, record: Mapping[str, Any], nbytes: int, quality: str) -> str:
    """A card with a section on its `quality`."""
    source, how = record["source"], record["options"]["quantization"]
    repository, count = source.get("repository"), config.parameter_count
    name = repository or one_line(source["directory"])
    return CARD.format(
        name=name.rpartition("/")[2],
        family=config.model_type,
        mlx_lm=MLX_LM if config.model_type in IN_MLX_LM and not is_by_rows(how or {}) else "",
        base=f"base_model: {repository}\n" if repository else "",
        origin=f"{repository} at revision {source['revision']}" if repository else name,
        elm_mlx=record["elm_mlx"],
        mlx=record["mlx"],
        parameters=count,
        form=in_words(how) if how else record["options"]["dtype"],
        size=readable_size(nbytes),
        bits=8 * nbytes / count,
        nonfinite=NONFINITE if record["options"].get("allow_nonfinite") else "",
        kept=f" {kept_in_words(record['kept'])}." if "kept" in record else "",
        calibration=describe_calibration(record["calibration"]) if "calibration" in record else "",
        merged=describe_merge(record["merged"]) if "merged" in record else "",
        quality=quality,
    )


def is_by_rows(how: Mapping[str, Any]) -> bool:
    """Whether matrices may have a float for each row, which mlx-lm does not load, by a config's `quantization`."""
    return any(isinstance(one, Mapping) and bool(one.get(ROW_SCALES)) for one in (how, *how.values()))
