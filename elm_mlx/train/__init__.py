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
    """Trains a model (None: the built-in demo) or an adapter for it on rows of `data`, and writes that to `output`.

    `data` is a directory with train.jsonl and, to validate, valid.jsonl; a row is a JSON object with "text", with
    "prompt" and "completion", or with "messages" (and "tools"), each row judged alone; or an answer that
    `elm-mlx batch --with-prompts` wrote. `output` gets an adapter in mlx-lm's layout, or a model's directory (with
    validation the best one, else the last), checkpoint.safetensors, losses.jsonl and losses.svg. With `resume` a
    stopped training goes on from its checkpoint, and ends as one that was not stopped. `report` gets a Step after each
    step, in this thread; `notify` sentences that a person should know.

    Settings: `kind` "lora" or "dora" for an adapter, "full" for all floats of a model that is not quantized; `rank`,
    `scale` of an adapter's sums; the last `layers` (None: all); `targets`, names of matrices as "q_proj" (None: all of
    a layer); `batch_size` rows; `steps` or `epochs` (by default one epoch); `learning_rate`, `schedule` "constant",
    "linear" or "cosine", `warmup` steps; `max_length` ids of a row that are seen; `mask_prompt`: only answers count,
    `last_turn_only`: of a chat the last one; `chat_template`, the name or file of one to use instead of the model's
    own; `accumulate` batches a step; `checkpoint_gradients`: states of layers are computed twice instead of being kept;
    `evaluate_every` steps; `patience` validations without a better one that end the training; `save_every` steps;
    `seed`. Losses are means over tokens, in nats.

    With `loss` "dpo" rows have "prompt", "chosen" and "rejected", and the loss is a mean over these pairs of -log
    sigmoid of `beta` times how much more the model prefers the chosen answer than it did before the training.

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

        raise InvalidRequest(
            f"train does not know one of the settings {', '.join(settings)}. Check their names."
        ) from error
    return run(model, Path(data), Path(output), judged, Ways(resume, force, report, notify))
