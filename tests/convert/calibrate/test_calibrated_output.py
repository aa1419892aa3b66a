"""A conversion with a calibration: what may be asked, what the output says of it, and what a verification still asks
of the weights."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from helpers import checkpoints
from helpers.rounding_stages import RoundingStages

import elm_mlx
from elm_mlx.convert import check, convert, plan
from elm_mlx.convert.calibrate import rounding, stages
from elm_mlx.convert.verify import held_out, verify
from elm_mlx.errors import InvalidRequest, NotFound, TargetExists

ASKED: dict[str, Any] = {"bits": 4, "group_size": 32, "calibrate": held_out(), "calibrate_tokens": 512}
EMBEDDING, NORM = "transformer.token_embeddings.weight", "transformer.layers.1.ffn_norm.weight"


@pytest.fixture(autouse=True, scope="module")
def one_sweep() -> Iterator[None]:
    """What more sweeps do is in test_rounding; here they would only take time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rounding, "SWEEPS", 1)
        yield


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in takes the place of the arithmetic."""
    monkeypatch.setattr(stages, "Calibration", RoundingStages)


@pytest.fixture(scope="module")
def calibrated(openelm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real calibration of the tiny OpenELM; tests copy it before they change it."""
    return convert(openelm, tmp_path_factory.mktemp("calibrated") / "out", **ASKED).output


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (
            {"calibrate": True},
            "calibrate means nothing for weights that are not quantized. Give bits, mode, recipe or target_bits",
        ),
        ({"calibrate": "text.txt"}, "calibrate means nothing for weights that are not quantized"),
        ({"bits": 4, "calibrate_tokens": 1024}, "calibrate_tokens means nothing without calibrate"),
        ({"bits": 4, "calibrate": False, "calibrate_tokens": 1024}, "calibrate_tokens means nothing without"),
        ({"bits": 4, "calibrate": True, "calibrate_tokens": 511}, "calibrate_tokens is 511; it must be 512 to"),
        ({"bits": 4, "calibrate": True, "calibrate_tokens": 10**9}, "calibrate_tokens is 1000000000"),
        ({"bits": 4, "calibrate": True, "calibrate_tokens": True}, "calibrate_tokens is True"),
        ({"bits": 4, "calibrate": True, "calibrate_tokens": 1e4}, "calibrate_tokens is 10000.0"),
        ({"bits": 4, "calibrate": True, "allow_nonfinite": True}, "Leave allow_nonfinite out, or calibrate"),
        ({"bits": 4, "calibrate": ""}, "calibrate is empty"),
        ({"bits": 4, "calibrate": 4}, "calibrate is 4; it must be a path"),
        ({"bits": 4, "calibrate": "a\0b"}, "calibrate is 'a"),
    ],
)
def test_a_calibration_that_means_nothing_is_refused(
    openelm: Path, tmp_path: Path, options: dict[str, Any], complaint: str
) -> None:
    for call in (check, convert, plan):
        with pytest.raises(InvalidRequest, match=complaint):
            call(openelm, tmp_path / "out", **options)  # type: ignore[operator]
    assert list(tmp_path.iterdir()) == []


def test_a_text_that_is_not_there_is_refused_before_a_model_is_fetched(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="There is no file or directory nowhere"):
        check("OpenELM-270M", tmp_path / "out", bits=4, calibrate="nowhere")
    (tmp_path / "image").write_bytes(b"\xff\xd8")
    with pytest.raises(InvalidRequest, match="is not UTF-8 text"):
        check("OpenELM-270M", tmp_path / "out", bits=4, calibrate=tmp_path / "image")


@pytest.mark.parametrize("form", [{"bits": 3}, {"mode": "mxfp4"}, {"recipe": "mixed-3-5"}])
def test_the_default_output_says_that_it_is_calibrated(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, form: dict[str, Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    plain = check("OpenELM-270M", **form)
    assert check("OpenELM-270M", calibrate=True, **form).name == f"{plain.name}-calibrated"


def test_a_form_that_quantizes_no_matrix_leaves_nothing_to_calibrate(openelm: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"No matrix of this model is quantized so.*Leave calibrate out"):
        plan(openelm, tmp_path / "out", **ASKED | {"group_size": 128})


def test_rounded_weights_are_not_calibrated_to_the_same_form(openelm: Path, tmp_path: Path) -> None:
    rounded = convert(openelm, tmp_path / "rounded", bits=4, group_size=32).output
    with pytest.raises(InvalidRequest, match="Name the checkpoint that it was made from"):
        convert(rounded, tmp_path / "out", **ASKED)


def test_a_text_that_the_output_would_replace_is_refused(openelm: Path, tmp_path: Path) -> None:
    target = Path(shutil.copytree(openelm, tmp_path / "out"))
    (target / "text.txt").write_text(held_out().read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(TargetExists, match="would be replaced or removed"):
        convert(openelm, target, force=True, **ASKED | {"calibrate": target / "text.txt"})


@pytest.mark.slow
def test_without_a_calibration_nothing_of_it_is_there(openelm: Path, tmp_path: Path) -> None:
    script = f"from elm_mlx.convert import convert; convert({str(openelm)!r}, {str(tmp_path / 'out')!r}, bits=4)"
    script += "; import sys; assert 'elm_mlx.convert.calibrate.stages' not in sys.modules"
    script += "; assert 'elm_mlx.convert.calibrate.compensate' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)
    record = json.loads((tmp_path / "out" / "conversion.json").read_text(encoding="utf-8"))
    assert "calibration" not in record
    assert "calibrated" not in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


def test_the_output_says_how_it_was_calibrated(openelm: Path, calibrated: Path) -> None:
    record = json.loads((calibrated / "conversion.json").read_text(encoding="utf-8"))["calibration"]
    assert (record["tokens"], record["windows"], record["rounded"]) == (512, 1, [])
    assert record["text"]["name"] == "held_out.txt"
    card = (calibrated / "README.md").read_text(encoding="utf-8")
    assert "512 tokens of a text: held_out.txt" in card
    assert record["text"]["sha256"] in card
    assert elm_mlx.info(calibrated).calibration == record
    assert elm_mlx.info(openelm).calibration is None


def test_the_name_of_a_text_breaks_no_line_of_the_card(openelm: Path, tmp_path: Path, quick: None) -> None:
    odd = tmp_path / "a\n# Safe \x1b[2J"
    shutil.copy(held_out(), odd)
    output = convert(openelm, tmp_path / "out", **ASKED | {"calibrate": odd}).output
    card = (output / "README.md").read_text(encoding="utf-8")
    assert "\n# Safe" not in card
    assert "\x1b" not in card


@pytest.mark.slow
def test_a_calibration_gives_the_same_bytes_each_time_and_wherever_the_text_lies(
    openelm: Path, tmp_path: Path, calibrated: Path
) -> None:
    text = Path(shutil.copy(held_out(), tmp_path / "held_out.txt"))
    again = convert(openelm, tmp_path / "out", **ASKED | {"calibrate": text}).output
    assert [file.read_bytes() for file in sorted(again.iterdir())] == [
        file.read_bytes() for file in sorted(calibrated.iterdir())
    ]


@pytest.mark.slow
def test_a_real_calibration_that_was_interrupted_gives_the_same_bytes(
    openelm: Path, tmp_path: Path, calibrated: Path
) -> None:
    for share in (0.3, 0.9):

        def stop(done: int, total: int, share: float = share) -> None:
            if done > share * total:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            convert(openelm, tmp_path / "out", calibrating=stop, **ASKED)
    output = convert(openelm, tmp_path / "out", **ASKED).output
    assert (output / "model.safetensors").read_bytes() == (calibrated / "model.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "form"),
    [
        ("llama-3.1", {"bits": 3, "group_size": 32}),
        ("openelm", {"bits": 3, "group_size": 32}),
        ("openelm-untied", {"bits": 2}),
        ("llama-3.2", {"mode": "mxfp4"}),
        ("openelm", {"mode": "nvfp4"}),
        ("llama-3.1", {"recipe": "mixed-3-5"}),
    ],
)
def test_both_families_are_calibrated_into_several_files_and_run(
    tmp_path: Path, family: str, form: dict[str, Any]
) -> None:
    source = checkpoints.write(tmp_path / "source", checkpoints.CONFIGS[family])
    asked = form | {"calibrate": held_out(), "calibrate_tokens": 512, "max_shard_size": 0.00005}
    done = convert(source, tmp_path / "out", **asked)
    report = verify(done.output, source, tokens=64)
    assert len([*done.output.glob("*.safetensors")]) > 1
    assert report.passed
    assert report.altered
    assert set(report.altered) <= set(report.calibrated)
    assert done.bytes == plan(source, tmp_path / "rounded", **form).shards.nbytes
    assert elm_mlx.load(done.output).generate("a", 2).tokens


@pytest.mark.slow
def test_all_layouts_of_one_model_give_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "meta").mkdir()
    theirs = checkpoints.meta(checkpoints.weights(checkpoints.META), checkpoints.META)
    sources = [
        checkpoints.write(tmp_path / "hugging-face", checkpoints.META),
        checkpoints.write_meta(tmp_path / "meta", checkpoints.META_PARAMS, checkpoints.dealt(theirs, 2, 16)),
    ]
    sources.append(convert(sources[0], tmp_path / "mlx", dtype="float32").output)
    outputs = [convert(source, tmp_path / f"{source.name}-out", **ASKED).output for source in sources]
    assert len({(output / "model.safetensors").read_bytes() for output in outputs}) == 1


def test_what_is_not_calibrated_must_still_match(openelm: Path, tmp_path: Path, calibrated: Path) -> None:
    report = verify(calibrated, openelm, tokens=64)
    assert (report.passed, report.must_match) == (True, True)
    assert EMBEDDING in report.calibrated
    assert set(report.altered) <= set(report.calibrated)
    copy = Path(shutil.copytree(calibrated, tmp_path / "copy"))
    arrays = mx.load(str(copy / "model.safetensors"))
    assert isinstance(arrays, dict)
    checkpoints.save(copy, arrays | {NORM: arrays[NORM] * 1.01})
    failure = verify(copy, openelm, tokens=64).failure
    assert failure
    assert (failure.kind, NORM in failure.what) == ("altered", True)
    assert EMBEDDING not in failure.what


def test_quantized_weights_that_were_left_to_rounding_must_match(
    openelm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class LayersAlone(RoundingStages):
        def names(self, stage: int) -> list[str]:
            return [] if stage == self.count - 1 else super().names(stage)

    monkeypatch.setattr(stages, "Calibration", LayersAlone)
    output = convert(openelm, tmp_path / "out", **ASKED).output
    record = json.loads((output / "conversion.json").read_text(encoding="utf-8"))
    assert record["calibration"]["rounded"] == [EMBEDDING]
    report = verify(output, openelm, tokens=64)
    assert report.passed
    assert EMBEDDING not in [*report.altered, *report.calibrated]
    record["calibration"]["rounded"] = []
    (output / "conversion.json").write_text(json.dumps(record), encoding="utf-8")
    assert EMBEDDING in verify(output, openelm, tokens=64).calibrated


@pytest.mark.parametrize("said", [None, True, [], {}, {"rounded": 3}, {"rounded": [[]], "text": "x", "tokens": "many"}])
def test_a_record_that_says_anything_does_no_harm(openelm: Path, tmp_path: Path, calibrated: Path, said: Any) -> None:
    copy = Path(shutil.copytree(calibrated, tmp_path / "copy"))
    record = json.loads((copy / "conversion.json").read_text(encoding="utf-8")) | {"calibration": said}
    (copy / "conversion.json").write_text(json.dumps(record), encoding="utf-8")
    assert verify(copy, openelm, tokens=8).passed == isinstance(said, dict)
    assert elm_mlx.info(copy).calibration == (said if isinstance(said, dict) else None)


def test_info_lives_with_a_record_that_is_damaged(tmp_path: Path, calibrated: Path) -> None:
    copy = Path(shutil.copytree(calibrated, tmp_path / "copy"))
    (copy / "conversion.json").write_bytes(b"{")
    assert elm_mlx.info(copy).calibration is None


def test_the_plan_tells_what_a_calibration_takes(openelm: Path, tmp_path: Path, quick: None) -> None:
    plain, asked = plan(openelm, tmp_path / "out", bits=4, group_size=32), plan(openelm, tmp_path / "out", **ASKED)
    assert plain.describe()["calibration"] is None
    told = asked.describe()
    assert told["memory"] >= plain.describe()["memory"]
    assert told["calibration"] == {
        **asked.calibration.record(),  # type: ignore[union-attr]
        "stages": 5,
        "done": 0,
        "disk": told["calibration"]["disk"],
        "whole_text": False,
    }
    json.dumps(told)
