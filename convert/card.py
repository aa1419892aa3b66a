"""README.md of an output, a model card as the Hugging Face hub reads it: origin, form, use, and what was measured.

Format: https://huggingface.co/docs/hub/model-cards. The licence is the source's, which this program cannot judge.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from elm_mlx.config import ModelConfig
from elm_mlx.convert.verify import Report
from elm_mlx.costs import gigabytes, parameter_count

CARD = """\
---
library_name: mlx
pipeline_tag: text-generation
tags:
- mlx
- {family}
{base}---

# {name}

{origin}, converted to MLX by elm-mlx {elm_mlx} (MLX {mlx}): {parameters:,} parameters {form}, {size} at {bits:.2f} bits
per weight. Files, hashes and options: [conversion.json](conversion.json). The licence is that of the original.

## Use

```sh
elm-mlx generate --model {name} --prompt "Once upon a time"
mlx_lm.generate --model {name} --prompt "Once upon a time"
```

## Quality

{quality}
"""
UNVERIFIED = "Not measured. `elm-mlx verify {name} --against SOURCE` compares it with its source."
VERIFIED = """\
Against its source over {tokens:,} tokens, both computed in float32 (`elm-mlx verify`):

| | |
|---|---|
| KL divergence, nats per token | {kl_divergence:.3g} (bound {bound:g}) |
| perplexity | {perplexity:.4g}, of the source {source_perplexity:.4g} |
| same likeliest token | {same_top:.2%} |
| largest difference of a logit | {max_difference:.3g}, {relative_difference:.2g} of the largest |"""


def card(name: str, config: ModelConfig, made: Mapping[str, Any], nbytes: int, report: Report | None) -> str:
    """The card of an output `name` with `nbytes` of weights; `made` is its conversion.json's object."""
    source, how = made["source"], made["options"]["quantization"]
    repository = source.get("repository")
    quality = VERIFIED.format_map(vars(report)) if report else UNVERIFIED.format(name=name)
    count = parameter_count(config)
    return CARD.format(
        name=name,
        family=config.family,
        base=f"base_model: {repository}\n" if repository else "",
        origin=f"{repository} at revision {source['revision']}" if repository else f"{source['directory']}",
        elm_mlx=made["elm_mlx"],
        mlx=made["mlx"],
        parameters=count,
        form=f"in {how['mode']} {how['bits']}-bit groups of {how['group_size']}"
        if how
        else f"in {made['options']['dtype']}",
        size=gigabytes(nbytes),
        bits=8 * nbytes / count,
        quality=quality,
    )
