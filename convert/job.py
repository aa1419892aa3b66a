"""A conversion that has been checked but not started: it describes what it will do, and does it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elm_mlx.arguments import Progress
from elm_mlx.convert.calibrate.saved import count_saved
from elm_mlx.convert.calibrate.work import Calibration
from elm_mlx.convert.kept import Kept
from elm_mlx.convert.keymap import Matched
from elm_mlx.convert.output import pipeline, provenance
from elm_mlx.convert.output.card import card
from elm_mlx.convert.output.chat_check import chat_refusal
from elm_mlx.convert.output.journal import Journal
from elm_mlx.convert.output.target import path_beside, refuse_existing, refuse_unfit, write_atomically
from elm_mlx.convert.sources import Source
from elm_mlx.convert.tokenizer import TokenizerFiles
from elm_mlx.convert.verify import Report, compare
from elm_mlx.convert.verify.layerwise import open_directory, refuse_guest, source_model
from elm_mlx.errors import VerificationFailed
from elm_mlx.files import check_room, disk_errors, free_space, write_json

BASE_BYTES = 200 * 2**20  # of memory that a conversion takes beside the tensors
ADVICE = {  # where a verification fails, by the kind of failure
    "altered": "That is a fault of elm-mlx or of this machine; please report it.",
    "source": "There is nothing to compare the result with: convert without {verify}, or fetch the source again.",
    "broken": "Convert with more bits, or unquantized.",
    "diverged": "Convert with more bits, or keep the result all the same: leave {verify} out.",
}


@dataclass(frozen=True)
class Conversion:
    """What a conversion wrote: `bytes` of weights, `bits_per_weight` over all parameters, `dropped` tensors of the
    source that nothing reads (RoPE tables, the copy of a tied embedding, padding rows as NAME[32000:]), the `report` of
    the verification, if there was one, why the chat template, if there is one, cannot be used: `chat_refusal`, and what
    conversion.json says of the `calibration`, if there was one, and of the matrices that were `kept` as the source has
    them in few bits, if there were some."""

    output: Path
    family: str
    layout: str
    parameters: int
    bytes: int
    bits_per_weight: float
    dropped: list[str]
    report: Report | None = None
    chat_refusal: str | None = None
    calibration: dict[str, Any] | None = None
    kept: dict[str, Any] | None = None


@dataclass(frozen=True)
class Job:
    """An open checkpoint, what it will become (`config` is the object of the config.json to write), and where."""

    source: Source
    target: Path
    matched: Matched
    tokenizer: TokenizerFiles
    config: dict[str, Any]
    shards: pipeline.Shards
    options: dict[str, Any]
    calibration: Calibration | None = None
    kept: Kept | None = None

    @property
    def calibration_folder(self) -> Path:
        """Where the stages of a calibration are kept that are done."""
        return path_beside(self.target, "calibration")

    @property
    def kept_stages(self) -> int:
        """How many stages of a calibration are kept there."""
        if self.calibration is None:
            return 0
        return count_saved(self.calibration_folder, self.fingerprint(), self.calibration.stages.count)

    @property
    def dropped(self) -> list[str]:
        """The tensors and rows of the source that are left out, by name."""
        return self.source.dropped + self.matched.dropped

    @property
    def bits_per_weight(self) -> float:
        """Bits of the output's weights per parameter."""
        return 8 * self.shards.nbytes / self.source.config.parameter_count

    def describe(self) -> dict[str, Any]:
        """Describes what will be done, in plain JSON; `memory` is the most that it will take, in bytes."""
        largest = max(pipeline.element_count(tensor) for tensor in self.matched.tensors.values())
        return {
            "source": str(self.source.where),
            "layout": self.source.layout,
            "family": self.source.config.label,
            "parameters": self.source.config.parameter_count,
            "tensors": self.matched.names,
            "dropped": self.dropped,
            "tokenizer": str(self.tokenizer.source),
            "quantization": self.options["quantization"],
            "dtype": self.options["dtype"],
            "kept": len(self.kept.tensors) if self.kept else 0,
            "output": str(self.target),
            "files": {file: sum(map(self.shards.size, names)) for file, names in self.shards.files.items()},
            "bytes": self.shards.nbytes,
            "bits_per_weight": self.bits_per_weight,
            "memory": BASE_BYTES + max(2 * 4 * largest, self.calibration.memory if self.calibration else 0),
            "disk_free": free_space(self.target),
            "calibration": self.calibration.describe(self.kept_stages) if self.calibration else None,
        }

    def refuse(self, force: bool) -> None:
        """Raises TargetExists, DiskFull or ElmError where the target or its disk would refuse the output, and writes
        nothing. Another run that is writing the target now is not noticed."""
        with disk_errors(f"{self.target} cannot be written"):
            refuse_unfit(self.target)
            refuse_existing(self.target, force)
            self.check_room(bytes_in(path_beside(self.target, "partial")))  # to keep or remove

    def check_room(self, written: int) -> None:
        """Raises DiskFull where the disk has no room for the weights, and what their calibration takes, beyond the
        bytes that are `written` already."""
        advice = "Free some space, or name another {output}."
        calibrating = self.calibration.disk - bytes_in(self.calibration_folder) if self.calibration else 0
        check_room(self.target, advice, (self.target.parent, self.shards.nbytes - written + max(0, calibrating)))

    def run(
        self,
        force: bool,
        verified: bool,
        progress: Progress | None,
        verifying: Progress | None,
        calibrating: Progress | None = None,
    ) -> Conversion:
        """Writes the output, and keeps what a killed run wrote. Raises as `elm_mlx.convert.convert`."""
        if verified:
            refuse_guest(self.source.config)
        with disk_errors(f"Writing {self.target}"), write_atomically(self.target, force) as (folder, log):
            fingerprint = self.fingerprint()
            journal = Journal(log, fingerprint)
            done = pipeline.resume(folder, self.shards, journal)
            self.check_room(sum(map(self.shards.size, done)))
            self.tokenizer.write(folder)
            write_json(folder / "config.json", self.config)
            with provenance.hash_in_background(self.source, self.tokenizer.files, self.options) as make_record:
                with self.calibrated(done, fingerprint, calibrating) as ready:
                    ready = {**ready, **(self.kept.readers() if self.kept else {})}
                    pipeline.write_shards(folder, self.shards, self.matched, done, journal, progress, ready)
                learned = {"calibration": self.calibration.record()} if self.calibration else {}
                learned |= {"kept": self.kept.record()} if self.kept else {}
                write_json(folder / "conversion.json", conversion := make_record() | learned)
            report = self.verify(folder, verifying) if verified else None
            text = card(self.source.config, conversion, self.shards.nbytes, report)
            (folder / "README.md").write_text(text, encoding="utf-8")
        config = self.source.config
        return Conversion(
            self.target, config.label, self.source.layout, config.parameter_count, self.shards.nbytes,
            self.bits_per_weight, self.dropped, report, chat_refusal(self.target, config), learned.get("calibration"),
            learned.get("kept"),
        )  # fmt: skip

    def fingerprint(self) -> str:
        """A hash of all that the weights' bytes come from."""
        learned = [self.calibration.facts()] if self.calibration else []
        return provenance.source_fingerprint(self.source, self.config, self.shards, *learned)

    @contextmanager
    def calibrated(self, done: set[str], fingerprint: str, progress: Progress | None) -> Iterator[pipeline.Parts]:
        """Calibrates the weights of a calibration and yields readers of them; nothing where all of them are `done`."""
        if self.calibration is None or done.issuperset(self.calibration.names):
            yield {}
            return
        with self.calibration.run(self.calibration_folder, fingerprint, progress) as ready:
            yield ready

    def verify(self, folder: Path, progress: Progress | None) -> Report:
        """Compares what was written with the source. Raises VerificationFailed where it does not pass."""
        report = compare(open_directory(folder), source_model(self.source, self.matched), progress=progress)
        if failure := report.failure:
            raise VerificationFailed(f"{self.target} does not pass against {self.source.where}, so it was not kept: "
                                     f"{failure.what}.", ADVICE[failure.kind])  # fmt: skip
        return report


def bytes_in(folder: Path) -> int:
    """Bytes of the files in a folder of ours; 0 where there is none."""
    files = folder.iterdir() if folder.is_dir() and not folder.is_symlink() else ()
    return sum(file.lstat().st_size for file in files)
