"""README.md of an output, a model card as the Hugging Face hub reads it: origin, form, use, and what was measured.

Format: https://huggingface.co/docs/hub/model-cards. The licence is the source's, which this program cannot judge.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from elm_mlx.config import ModelConfig
from elm_mlx.config.quantization import in_words
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
original.{nonfinite}{kept}{calibration}

## Use

```sh
elm-mlx generate --model DIRECTORY --prompt "Once upon a time"
mlx_lm.generate --model DIRECTORY --prompt "Once upon a time"
```

## Quality

{quality}
"""
NONFINITE = " Weights that are NaN or infinite there were let through (`--allow-nonfinite`)."
CALIBRATED = """

The quantized weights were calibrated, not only rounded: by {method}, so that layer by layer the
products of the model change least on {tokens:,} tokens of a text: {name}, sha256
`{sha256}`."""
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
    source, how = record["source"], record["options"]["quantization"]
    repository, count = source.get("repository"), config.parameter_count
    name = repository or one_line(source["directory"])
    return CARD.format(
        name=name.rpartition("/")[2],
        family=config.label,
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
        quality=VERIFIED.format(**vars(report), weights=report.weights) if report else UNVERIFIED,
    )
