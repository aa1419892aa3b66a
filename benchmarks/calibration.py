"""What a calibration saves of the loss by rounding, beside mlx-lm's ways to learn, on the same windows of text.

    python benchmarks/calibration.py [--source DIR] [--calibrate stories | shipped | FILE] [--tokens N] [--bits 4,3,2]
        [--only PATTERN] [--json FILE]

The source is the demo unless another is given; what is lost is measured as by quantization.py, on stories held out from
its training. `stories` are some of its training, `shipped` is the text of the package; each that is given is a table
of its own. FILE keeps the rows of earlier runs for other sources.

Every row is made in a process of its own, whose seconds and greatest memory it shows. mlx-lm's functions get the same
windows of ids as ours, and all matrices get equal bits in groups of 64, its embeddings too, unless a row says
otherwise. Its AWQ does not know OpenELM, its GPTQ neither 3 bits nor 5. Needs the extra mlx-lm.
"""

from __future__ import annotations

import argparse
import copy
import json
import re
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from quantization import DEMO, ROOT, STORIES, TEXTS, Exact, machine

import elm_mlx
from elm_mlx.errors import NotFound
from elm_mlx.files import write_whole

GROUP, WINDOW, TOKENS = 64, 512, 65_536
STORY_COUNT = 1_000  # enough for TOKENS
RECIPES = {5: "mixed-4-6", 4: "mixed-3-5", 3: "mixed-2-4"}  # of about the size of these bits everywhere
LEAST_TARGET = 4  # bits per weight that the smallest recipe stays below, in every model
DWQ_RATE, DWQ_BATCH = 1e-4, 4


@dataclass(frozen=True)
class Text:
    """What is calibrated on: its name, and its path or true for the text of the package."""

    name: str
    given: Path | bool

    def windows(self, lm: elm_mlx.LanguageModel, tokens: int) -> list[list[int]]:
        """The windows of ids that `convert --calibrate` reads in it."""
        from elm_mlx.convert.calibrate import given_text

        place = None if self.given is True else Path(self.given)
        return given_text.read_sample(place, lm.tokenizer, lm.config, tokens).windows


@dataclass(frozen=True)
class Row:
    """One way to store a model, what is lost by it, and what making it took: processor `seconds` of both cores
    together, `elapsed` by the clock, and the greatest resident memory of its process in MB."""

    setting: str
    text: str
    bits_per_weight: float
    bytes: int
    kl: float
    perplexity: float
    top1: float
    seconds: float
    elapsed: float
    memory: float


Make = Callable[[Path, Path], None]  # makes of a checkpoint, the first path, an MLX directory, the second


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, default=DEMO, help="An unquantized checkpoint with its tokenizer.")
    parser.add_argument(
        "--calibrate", action="append", help="stories, shipped or a file; stories and shipped by default."
    )
    parser.add_argument("--tokens", type=int, default=TOKENS)
    parser.add_argument("--bits", type=lambda text: [int(each) for each in text.split(",")], default=[4, 3, 2])
    parser.add_argument("--only", default="", help="Only the rows whose setting fits this pattern.")
    parser.add_argument("--json", type=Path, help="Write every row here.")
    options = parser.parse_args()
    with suppress(NotFound):  # some machines have no fast BLAS, which only saves time
        elm_mlx.use_fast_blas()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        exact = Exact(options.source, STORIES.read_text(encoding="utf-8").splitlines()[TEXTS], folder)
        rows: list[Row] = []
        for number, given in enumerate(options.calibrate or ["stories", "shipped"]):
            found = ways(text_of(given, folder), options.bits, options.tokens)
            kept = {key: make for key, make in found.items() if re.search(options.only, key)}
            rows += [row for row in measure(exact, given, kept) if not (number and is_rounding(row))]
    print(table(rows))
    if options.json:
        document = json.loads(options.json.read_text(encoding="utf-8")) if options.json.exists() else {}
        document |= {"machine": machine(), options.source.name: [asdict(row) for row in rows]}
        write_whole(options.json, json.dumps(document, indent=1) + "\n")


def text_of(given: str, folder: Path) -> Text:
    """The text that an option names; the demo's stories are written to a file in `folder`."""
    if given == "shipped":
        return Text(given, True)
    if given != "stories":
        return Text(Path(given).name, Path(given))
    sys.path.insert(0, str(ROOT / "examples/demo_model"))
    import stories

    file = folder / "stories.txt"
    file.write_text("\n".join(islice(stories.training(STORY_COUNT), STORY_COUNT)), encoding="utf-8")
    return Text(given, file)


def ways(text: Text, bits: list[int], tokens: int) -> dict[str, Make]:
    """Every way to store a model in about these bits, by its name in the table."""
    found: dict[str, Make] = {}
    calibrated = {"calibrate": text.given, "calibrate_tokens": tokens}
    for count in bits:
        found[f"{count}-bit, rounding"] = partial(by_us, {"bits": count})
        found[f"{count}-bit, calibrated"] = partial(by_us, {"bits": count} | calibrated)
        for name, learn in {"GPTQ": gptq, "AWQ": awq, "DWQ": dwq, "dynamic_quant": dynamic}.items():
            found[f"{count}-bit, mlx-lm's {name}"] = partial(by_mlx_lm, learn, count, text, tokens)
        if recipe := RECIPES.get(count):
            found[f"{recipe}, rounding"] = partial(by_us, {"recipe": recipe})
            found[f"{recipe}, calibrated"] = partial(by_us, {"recipe": recipe} | calibrated)
        if count >= LEAST_TARGET:
            found[f"{count} bits mixed, rounding"] = partial(by_us, {"target_bits": count})
            found[f"{count} bits mixed, calibrated"] = partial(by_us, {"target_bits": count} | calibrated)
    return found


def is_rounding(row: Row) -> bool:
    """Whether a row does not depend on the text."""
    return row.setting.endswith("rounding")


def by_us(how: dict[str, Any], source: Path, target: Path) -> None:
    """Converts a checkpoint with these options."""
    from elm_mlx.convert import convert

    convert(source, target, **how)


def by_mlx_lm(learn: Callable[..., Any], bits: int, text: Text, tokens: int, source: Path, target: Path) -> None:
    """Quantizes a checkpoint by one of mlx-lm's functions, called with its model and config, bits and windows."""
    import mlx.core as mx
    from mlx_lm.utils import load, save

    from elm_mlx.convert import convert

    plain = convert(source, target.with_name("plain"), force=True).output
    windows = text.windows(elm_mlx.load(plain), tokens)
    model, tokenizer, config = load(str(plain), return_config=True)
    if learn is not gptq:  # which takes a minute; the others take many on the CPU backend in bfloat16
        model.set_dtype(mx.float32)
    model, config = learn(model, config, bits, mx.array(windows))
    model.set_dtype(mx.bfloat16)
    save(target, plain, model, tokenizer, config)


def gptq(model: Any, config: dict[str, Any], bits: int, data: Any) -> Any:
    """Column by column, each error moved into the columns still to come."""
    from mlx_lm.quant.gptq import gptq_quantize

    model, config["quantization"] = gptq_quantize(model, data, bits, GROUP, bits, GROUP)
    return model, config


def awq(model: Any, config: dict[str, Any], bits: int, data: Any) -> Any:
    """Columns scaled against the norm before them, and clipped."""
    from mlx_lm.quant.awq import AWQ_MODEL_CONFIGS, awq_quantize, update_config

    known = AWQ_MODEL_CONFIGS[config["model_type"]]
    awq_quantize(model, data, known, group_size=GROUP, bits=bits, embed_group_size=GROUP, embed_bits=bits)
    return model, update_config(model, config)


def dwq(model: Any, config: dict[str, Any], bits: int, data: Any) -> Any:
    """Scales, biases and norms trained towards the unquantized model, once over the windows."""
    import mlx.core as mx
    import mlx.optimizers
    from mlx_lm.quant.dwq import dwq_quantize
    from mlx_lm.utils import quantize_model

    student, config = quantize_model(copy.deepcopy(model), config, GROUP, bits)
    rows = [(window, 0) for window in data.tolist()]
    dwq_quantize(
        student, lambda batch, index, split: model(batch), mlx.optimizers.Adam(DWQ_RATE, bias_correction=True), rows,
        rows[:DWQ_BATCH], batch_size=DWQ_BATCH, max_seq_length=WINDOW + 1, seed=0, dtype=mx.float32,
    )  # fmt: skip
    return student, config


def dynamic(model: Any, config: dict[str, Any], bits: int, data: Any) -> Any:
    """One bit more or less where a gradient says so, of the size that equal bits have."""
    from mlx_lm.quant.dynamic_quant import estimate_sensitivities, estimate_threshold
    from mlx_lm.utils import quantize_model

    low, high = {2: (2, 3), 3: (2, 4), 4: (3, 5), 5: (4, 6)}[bits]
    sensitivities = dict(estimate_sensitivities(model, data, low, GROUP, high, GROUP))
    threshold = estimate_threshold(model, sensitivities, bits + 0.51, low, GROUP, high, GROUP)

    def predicate(path: str, module: Any) -> bool | dict[str, int]:
        if not hasattr(module, "to_quantized"):
            return False
        return {"bits": high, "group_size": GROUP} if sensitivities[path] > threshold else True

    return quantize_model(model, config, GROUP, low, quant_predicate=predicate)


def measure(exact: Exact, text: str, made: dict[str, Make]) -> Iterator[Row]:
    """A row for each way that runs; what does not run is said on stderr."""
    for setting, make in made.items():
        print(f"{exact.source.name}, {text}: {setting}", file=sys.stderr, flush=True)
        target = exact.folder / re.sub(r"\W+", "-", f"{text} {setting}")
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            try:
                took = pool.submit(taking, make, exact.source, target).result()
            except Exception as error:
                print(f"  does not run: {type(error).__name__}: {error}"[:200], file=sys.stderr)
                continue
        info = elm_mlx.info(target)
        yield Row(setting, text, info.bits_per_weight, info.weight_bytes, *exact.lost(target), *took)


def taking(make: Make, source: Path, target: Path) -> tuple[float, float, float]:
    """Makes a directory: (processor seconds, seconds by the clock, the greatest resident memory in MB)."""
    with suppress(NotFound):
        elm_mlx.use_fast_blas()
    clock, processor = time.monotonic(), time.process_time()
    make(source, target)
    return time.process_time() - processor, time.monotonic() - clock, greatest_memory()


def greatest_memory() -> float:
    """The greatest resident memory of this process so far, in MB. On Linux getrusage also counts what its parent had
    when it began."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.findall(r"VmHWM:\s*(\d+) kB", status.read_text())[0]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def table(rows: list[Row]) -> str:
    """The rows as a Markdown table."""
    lines = ["| stored as | calibrated on | bits per weight | MB | KL, nats a token | perplexity | same top token | "
             "seconds | memory, MB |", "|---|---|---:|---:|---:|---:|---:|---:|---:|"]  # fmt: skip
    for row in sorted(rows, key=lambda row: (row.setting.partition(",")[0], -row.kl)):
        text = "" if is_rounding(row) else row.text
        lines.append(f"| {row.setting} | {text} | {row.bits_per_weight:.2f} | {row.bytes / 1e6:.2f} | {row.kl:.5f} | "
                     f"{row.perplexity:.3f} | {row.top1:.1%} | {row.elapsed:.0f} | {row.memory:.0f} |")  # fmt: skip
    return "\n".join(lines)


if __name__ == "__main__":
    main()
