"""What a conversion will do, and what it has done, in lines for people."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from elm_mlx.cli.messages import one_line, say
from elm_mlx.config.quantization import in_words
from elm_mlx.files import readable_size
from elm_mlx.shell import command_line
from elm_mlx.store import conversion_record
from elm_mlx.store.weight_files import some

if TYPE_CHECKING:
    from elm_mlx.convert import Conversion


def show_plan(planned: dict[str, Any], as_json: bool) -> None:
    """Prints the plan of a conversion, as JSON or in rows."""
    if as_json:
        click.echo(json.dumps(planned))
        return
    how = planned["quantization"]
    kept = f", {planned['kept']} matrices as the source has them" if planned["kept"] else ""
    rows = {
        "source": f"{planned['source']}: {planned['layout']} {planned['family']}, {planned['parameters']:,} parameters",
        "tensors": f"{len(planned['tensors'])}, of which {sum(a != b for a, b in planned['tensors'].items())} renamed",
        "left out": ", ".join(planned["dropped"]) or "nothing",
        "tokenizer": planned["tokenizer"],
        "stored as": (in_words(how) if how else planned["dtype"]) + kept,
        "output": f"{planned['output']}: {readable_size(planned['bytes'])} at {planned['bits_per_weight']:.2f} bits "
        f"per weight, {len(planned['files'])} file{'s' * (len(planned['files']) > 1)}",
        **({"calibration": describe_calibration(calibration)} if (calibration := planned["calibration"]) else {}),
        "memory": f"at most {readable_size(planned['memory'])}",
        "disk": f"{readable_size(planned['disk_free'])} free",
    }
    for name, value in rows.items():
        click.echo(one_line(f"{name:<12} {value}"))


def describe_calibration(planned: dict[str, Any]) -> str:
    """Describes a calibration that is planned, for people."""
    share = ", all" if planned["whole_text"] else ""
    kept = f", of which {done} are done" if (done := planned["done"]) else ""
    return (f"{planned['tokens']:,} tokens{share} of the text {planned['text']['name']}, in {planned['stages']} "
            f"stages{kept}; at most {readable_size(planned['disk'])} of disk beside the output")  # fmt: skip


def tell_result(done: Conversion) -> None:
    """Tells what a conversion has made, and how to try it."""
    say(f"{done.layout} {done.family}, {done.parameters:,} parameters: {done.bytes / 1e6:,.1f} MB at "
        f"{done.bits_per_weight:.2f} bits per weight in {done.output}")  # fmt: skip
    if done.calibration:
        say(one_line(f"The quantized weights are {conversion_record.in_words(done.calibration)}"))
    if done.kept:
        say(one_line(f"{conversion_record.kept_in_words(done.kept)}."))
    if done.dropped:
        say(f"Left out, as nothing reads them: {some(done.dropped)}")
    if report := done.report:
        say(f"Verified: {report.kl_divergence:.3g} nats per token from its source, of {report.bound:g} allowed")
    if done.chat_refusal:
        say(f"The model completes text, but cannot chat: {done.chat_refusal}")
    raw = ["--raw"] if done.chat_refusal else []
    command = command_line("elm-mlx", "generate", "--model", done.output, *raw, "--prompt", "Once upon a time")
    say(f"Try it: {command}")
