"""Merging: a model and an adapter go in, a model with the adapter's sums within its matrices comes out."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import elm_mlx.device.backend  # noqa: F401  first: it says what to install where MLX has no backend
from elm_mlx.arguments import Progress, named_path
from elm_mlx.convert.merge.plan import EIGHT_BIT, FLOATS, KEEPS, MergePlan, plan_merge
from elm_mlx.convert.output import pipeline, provenance
from elm_mlx.convert.output.card import merged_card
from elm_mlx.convert.output.config_file import output_config
from elm_mlx.convert.output.journal import Journal
from elm_mlx.convert.output.path_guards import check_places, refuse_unnameable
from elm_mlx.convert.output.target import refuse_existing, refuse_unfit, write_atomically
from elm_mlx.convert.tokenizer import TokenizerFiles, prepare_tokenizer
from elm_mlx.convert.verify import TOKENS, Report, check_options, compare
from elm_mlx.convert.verify.layerwise import ModelOnDisk, UnreadTensors, dtypes, open_directory
from elm_mlx.device.thread import on_device
from elm_mlx.errors import VerificationFailed
from elm_mlx.files import check_room, disk_errors, write_json
from elm_mlx.library.local import find_in_any_bits
from elm_mlx.store.conversion_record import calibration_of, read_record, rounded_names
from elm_mlx.store.load import load_arrays

__all__ = ["EIGHT_BIT", "FLOATS", "KEEPS", "Merged", "merge"]


@dataclass(frozen=True)
class Merged:
    """What a merge wrote: an adapter of this `kind` ("lora" or "dora") and `rank` within so many `matrices`.

    These were quantized once from the floats in `source`, or where it is None stored as `stored_as` says, for the
    reason `why` (None where the model's own were floats). `report` compares the result with the unmerged model, the
    adapter beside it: its `kl_divergence` is that of the merged model, in nats per token.
    """

    output: Path
    kind: str
    rank: int
    matrices: int
    source: Path | None
    stored_as: str
    why: str | None
    bytes: int
    bits_per_weight: float
    report: Report


def merge(
    model: str | Path,
    adapter: str | Path,
    output: str | Path,
    *,
    source: str | Path | None = None,
    keep: str | None = None,
    text: str | Path | None = None,
    tokens: int = TOKENS,
    force: bool = False,
    progress: Progress | None = None,
    measuring: Progress | None = None,
) -> Merged:
    """Merges an adapter into a model on this machine, and writes the result to the directory `output`.

    A plain model's matrices get their sums in float32 and are stored in the model's own type. Of a quantized model the
    adapted matrices are made from the floats that it was quantized from, and quantized once as they were: `source`, by
    default the checkpoint that the model's conversion.json names, if it is on this machine and unchanged. Without one
    they are expanded, and stored in 8 bits or, with `keep` "floats", as floats; `keep` "8-bit" or "floats" asks for no
    source. All other weights stay bit for bit as they are.

    The result is compared with the unmerged model on up to `tokens` tokens of `text`, a UTF-8 file, by default the
    demo's held-out stories, a layer at a time. `force` replaces an output, and takes an adapter of other weights.
    `progress` is called with (source bytes done, in all), `measuring` with (layers done, in all).

    Raises InvalidRequest, NotFound, BadCheckpoint, Unsupported, MissingTokenizer, TargetExists, DiskFull,
    VerificationFailed where the result's logits are no numbers, and Forked in a process that was forked from one with a
    model.
    """
    check_options(text, tokens)
    place = find_in_any_bits(model, None)
    sums, floats = named_path("adapter", adapter), None if source is None else named_path("source", source)
    target = Path(os.path.abspath(named_path("output", output)))  # noqa: PTH100  a link is to be refused later
    refuse_unnameable(target)
    with disk_errors(f"{target} cannot be written"):
        refuse_unfit(target)
        refuse_existing(target, force)

    def measure_with(report: Progress | None) -> Callable[[ModelOnDisk, ModelOnDisk], Report]:
        return lambda ours, theirs: compare(ours, theirs, text, tokens=tokens, progress=report)

    def work(relay: Any) -> Merged:
        plan = plan_merge(place, sums, floats, keep, force)
        tokenizer = prepare_tokenizer(place, None, plan.config)
        check_places(target, [*plan.base.files, *tokenizer.files], place, sums, floats or place)
        return write(plan, tokenizer, target, force, (relay(progress), measure_with(relay(measuring))))

    return on_device(work)


def write(
    plan: MergePlan,
    tokenizer: TokenizerFiles,
    target: Path,
    force: bool,
    told: tuple[Progress | None, Callable[[ModelOnDisk, ModelOnDisk], Report]],
) -> Merged:
    """Writes the merged model, whole or not at all; `told` is (progress, what compares it with the unmerged one)."""
    dtype = pipeline.dtype_name(plan.shards.dtype)
    config = output_config(plan.base.raw_config, plan.base.config, plan.quantization, dtype)
    options = {"quantization": config.get("quantization"), "dtype": dtype, "max_shard_size": 5.0}
    progress, measure = told
    facts = record_of(plan)
    with disk_errors(f"Writing {target}"), write_atomically(target, force) as (folder, log):
        journal = Journal(log, provenance.source_fingerprint(plan.base, config, plan.shards, facts))
        done = pipeline.resume(folder, plan.shards, journal)
        written = sum(map(plan.shards.size, done))
        check_room(target, "Free some space, or name another {output}.", (target.parent, plan.shards.nbytes - written))
        tokenizer.write(folder)
        write_json(folder / "config.json", config)
        with provenance.hash_in_background(plan.base, tokenizer.files, options) as make_record:
            pipeline.write_shards(folder, plan.shards, plan.matched, done, journal, progress, plan.kept())
            record = make_record() | learned(plan) | {"merged": facts}
            write_json(folder / "conversion.json", record)
        report = checked(target, measure(open_directory(folder), unmerged(plan)))
        card = merged_card(plan.base.config, record, plan.shards.nbytes, report)
        (folder / "README.md").write_text(card, encoding="utf-8")
    bits = 8 * plan.shards.nbytes / plan.config.parameter_count
    return Merged(target, plan.adapter.kind, plan.adapter.rank, len(plan.adapted),
                  plan.floats.source.where if plan.floats else None, stored_as(plan), plan.why,
                  plan.shards.nbytes, bits, report)  # fmt: skip


def checked(target: Path, report: Report) -> Report:
    """The report by the output's name. Raises VerificationFailed where the merged model's logits are no numbers."""
    if not math.isfinite(report.kl_divergence):
        raise VerificationFailed(f"{target} was not kept: the logits of the merged model are NaN or infinite.",
                                 "Merge an adapter that answers well beside its model.")  # fmt: skip
    return replace(report, converted=target)


def record_of(plan: MergePlan) -> dict[str, Any]:
    """The object `merged` of conversion.json: the adapter, and what its matrices were made from."""
    names = ("adapter_config.json", "adapters.safetensors", "adapter_model.safetensors")
    files = [file for name in names if (file := plan.adapter.path / name).is_file()]
    return {
        "adapter": provenance.origin(plan.adapter.path)
        | {"kind": plan.adapter.kind, "rank": plan.adapter.rank, "matrices": len(plan.adapted)}
        | {"files": {file.name: provenance.identify_file(file, lambda: False) for file in files}},
        "floats": plan.floats.record() if plan.floats else None,
        "stored_as": stored_as(plan),
    }


def stored_as(plan: MergePlan) -> str:
    """How the adapted matrices are stored, in words."""
    settings = [plan.shards.settings[name] for name in plan.adapted]
    words = {f"{one.bits}-bit" if one and one.mode == "affine" else one.mode if one else "" for one in settings}
    plain = pipeline.dtype_name(plan.shards.dtype)
    return " and ".join(sorted(word or plain for word in words))


def learned(plan: MergePlan) -> dict[str, Any]:
    """What the model's conversion.json says of its calibration, from which the adapted matrices are excepted now."""
    if (calibration := calibration_of(read_record(plan.base.directory))) is None:
        return {}
    return {"calibration": calibration | {"rounded": sorted({*rounded_names(calibration), *plan.adapted})}}


def unmerged(plan: MergePlan) -> ModelOnDisk:
    """The model with the adapter beside it, in float32."""
    stored, _ = load_arrays(plan.base.directory, plan.config)
    return ModelOnDisk(plan.base.where, plan.base.config, None, dtypes(stored, plan.config),
                       lambda: UnreadTensors(plan.unmerged()))  # fmt: skip
