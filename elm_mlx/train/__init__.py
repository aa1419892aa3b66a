"""Fine-tuning: from rows of text to an adapter, by MLX's own gradients and optimizers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from elm_mlx.train.job import Step
    from elm_mlx.train.run import Outcome


def train(
    data: str | Path,
    output: str | Path,
    model: str | Path | None = None,
    *,
    resume: bool = False,
    force: bool = False,
    report: Callable[[Step], None] | None = None,
    notify: Callable[[str], None] | None = None,
    **settings: Any,
) -> Outcome:
    """Trains an adapter for a model (None: the built-in demo) on rows of `data`, and writes it to `output`.

    `data` is a directory with train.jsonl and, to validate, valid.jsonl; a row is a JSON object with "text", with
    "prompt" and "completion", or with "messages" (and "tools"), each row judged alone. `output` gets mlx-lm's
    adapters.safetensors and adapter_config.json (with validation the best ones, else the last), checkpoint.safetensors,
    losses.jsonl and losses.svg. With `resume` a stopped training goes on from its checkpoint, and ends with the same
    adapter as one that was not stopped. `report` gets a Step after each step, in this thread; `notify` sentences that a
    person should know.

    Settings: `kind` "lora" or "dora"; `rank`, `scale` of the sums; the last `layers` (None: all); `targets`, names of
    matrices as "q_proj" (None: all of a layer); `batch_size` rows; `steps` or `epochs` (by default one epoch);
    `learning_rate`, `schedule` "constant", "linear" or "cosine", `warmup` steps; `max_length` ids of a row that are
    seen; `mask_prompt`: only answers count, `last_turn_only`: of a chat the last one; `accumulate` batches a step;
    `evaluate_every` steps; `patience` validations without a better one that end the training; `save_every` steps;
    `seed`. Losses are means over tokens.

    Raises InvalidRequest, Unsupported, NotFound, TargetExists, BadCheckpoint, NotEnoughMemory with the numbers unless
    `force`, NotFinite, DiskFull, and what loading a model raises.
    """
    from elm_mlx.train.run import run
    from elm_mlx.train.settings import Settings
    from elm_mlx.train.ways import Ways

    try:
        judged = Settings(**settings)
    except TypeError as error:
        from elm_mlx.errors import InvalidRequest

        raise InvalidRequest(f"train does not know one of the settings {', '.join(settings)}.") from error
    return run(model, Path(data), Path(output), judged, Ways(resume, force, report, notify))
