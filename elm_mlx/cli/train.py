"""`elm-mlx train`: an adapter for a model, trained on rows of text."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from elm_mlx.cli.blas import prefer_fast_blas
from elm_mlx.cli.find import MODEL, check_template
from elm_mlx.cli.generation_options import CHAT_TEMPLATE
from elm_mlx.cli.kinds import COUNT, NAME, CommaList, Number, Text, Whole
from elm_mlx.cli.messages import quietable, say
from elm_mlx.files import readable_size
from elm_mlx.train import train
from elm_mlx.train.names import BETA, CONSTANT, KINDS, LORA, LOSSES, RANK, SCALE, SCHEDULES, TOKENS

if TYPE_CHECKING:
    from elm_mlx.train.job import Step
    from elm_mlx.train.run import Outcome

POSITIVE = Number(0, min_open=True)


@click.command()
@MODEL
@click.option("--data", type=NAME, required=True, metavar="DIR", help="Directory with train.jsonl and valid.jsonl.")
@click.option("-o", "--output", type=NAME, required=True, metavar="DIR", help="Directory to write.")
@click.option("--kind", type=click.Choice(KINDS), default=LORA, show_default=True, help="What to train.")
@click.option("--rank", type=Whole(1, 4096), help=f"Rank of an adapter's sums. Default: {RANK}.")
@click.option("--scale", type=POSITIVE, help=f"Factor of an adapter's sums. Default: {SCALE:g}.")
@click.option("--layers", type=COUNT, help="Train the last N layers. Default: all.")
@click.option(
    "--targets", type=CommaList(Text()), metavar="NAMES", help="Matrices, such as q_proj,v_proj. Default: all."
)
@click.option("--loss", type=click.Choice(LOSSES), default=TOKENS, show_default=True, help="The loss to minimise.")
@click.option("--beta", type=POSITIVE, help=f"With --loss dpo: how far answers may move. Default: {BETA}.")
@click.option("-b", "--batch-size", type=COUNT, default=4, show_default=True, help="Rows in a batch.")
@click.option("--accumulate", type=COUNT, default=1, show_default=True, help="Batches that a step learns from.")
@click.option(
    "--checkpoint-gradients", is_flag=True, help="Less memory, more time: compute layers again for gradients."
)
@click.option("--steps", type=COUNT, help="Take N steps.")
@click.option("--epochs", type=COUNT, help="Or learn every row N times. Default: 1.")
@click.option("--learning-rate", type=POSITIVE, default=1e-4, show_default=True, help="The highest rate.")
@click.option("--schedule", type=click.Choice(SCHEDULES), default=CONSTANT, show_default=True, help="How it falls.")
@click.option("--warmup", type=Whole(min=0), default=0, show_default=True, help="Steps in which the rate grows.")
@click.option("--max-length", type=Whole(min=2), default=2048, show_default=True, help="Cut rows after N tokens.")
@click.option("--mask-prompt", is_flag=True, help="Learn only completions and the assistant's turns.")
@click.option("--last-turn-only", is_flag=True, help="With --mask-prompt: only the last turn of a chat.")
@CHAT_TEMPLATE
@click.option("--evaluate-every", type=COUNT, default=100, show_default=True, help="Validate every N steps.")
@click.option("--patience", type=COUNT, help="Stop after N validations without a better one.")
@click.option("--save-every", type=COUNT, default=100, show_default=True, help="Write a checkpoint every N steps.")
@click.option(
    "--seed", type=Whole(min=0), default=0, show_default=True, help="Seed of the row order and the first weights."
)
@click.option("--resume", is_flag=True, help="Continue from the checkpoint in --output.")
@click.option("--force", is_flag=True, help="Try even if memory seems too small.")
@click.option("--json", "as_json", is_flag=True, help="Print each step and the outcome as a JSON object a line.")
@quietable
def command(data: str, output: str, model: str | None, as_json: bool, **settings: Any) -> None:
    """Train an adapter, or a whole model (--kind full), on the rows of DIR/train.jsonl.

    A row is a JSON object with "text", with "prompt" and "completion", or with "messages"; with --loss dpo it has
    "prompt", "chosen" and "rejected". An adapter is written in mlx-lm's layout. The losses are written, too, as lines
    of JSON and as a picture. After Ctrl-C or a crash the same command with --resume continues from the last
    checkpoint. docs/train.md says more.
    """
    if settings["chat_template"]:
        check_template(settings["chat_template"])
    prefer_fast_blas()
    report = print_json if as_json else say_step
    outcome = train(data, output, model, report=report, notify=say, **settings)
    if as_json:
        click.echo(json.dumps(asdict(outcome)))
    else:
        say(ending(outcome))


def print_json(step: Step) -> None:
    """Prints a step as a line of JSON."""
    click.echo(json.dumps(asdict(step)))


def say_step(step: Step) -> None:
    """Says how a training goes: every tenth step, and each that was validated."""
    if step.step % 10 and step.valid_loss is None and step.step != step.steps:
        return
    valid = "" if step.valid_loss is None else f", validation {step.valid_loss:.4f}"
    order = "" if step.accuracy is None else f", accuracy {step.accuracy:.2f}, margin {step.margin:.3f}"
    if step.valid_accuracy is not None:
        valid += f" (accuracy {step.valid_accuracy:.2f}, margin {step.valid_margin:.3f})"
    pace = f"{step.tokens_per_second:,.0f} tokens/s, {readable_size(step.memory)}, {in_words(step.seconds_left)} left"
    say(f"Step {step.step:,} of {step.steps:,}: loss {step.loss:.4f}{order}{valid}; {pace}.")


def in_words(seconds: float) -> str:
    """A time for people to read."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"


def ending(outcome: Outcome) -> str:
    """How a training ended."""
    why = "It ended early, as validation got no better" if outcome.ended == "patience" else "Done"
    best = "" if outcome.valid_loss is None else f"; the best validation loss is {outcome.valid_loss:.4f}"
    return (
        f"{why} after {outcome.steps:,} steps{best}. What was trained, {outcome.parameters:,} numbers, is in "
        f"{outcome.output}."
    )
