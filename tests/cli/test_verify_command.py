"""`elm-mlx verify`: the report on stdout, and the verdict as the exit code."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from helpers import checkpoints
from helpers.command_line import Result, run

from elm_mlx.convert import convert
from elm_mlx.convert.verify import MAX_KL


@pytest.fixture(scope="module")
def converted(openelm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny OpenELM in bfloat16."""
    return convert(openelm, tmp_path_factory.mktemp("converted") / "out").output


@pytest.fixture
def wrong(converted: Path, tmp_path: Path) -> Path:
    """The converted model with another RoPE base in its configuration."""
    folder = Path(shutil.copytree(converted, tmp_path / "wrong"))
    raw = json.loads((folder / "config.json").read_text(encoding="utf-8")) | {"rope_freq_constant": 100}
    (folder / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    return folder


def verify(*arguments: object) -> Result:
    return run("verify", *arguments, "--tokens", 64)


@pytest.mark.follows("elm-mlx verify", "elm-mlx verify DIRECTORY --against SOURCE")
def test_a_person_reads_a_table(openelm: Path, converted: Path) -> None:
    assert "`elm-mlx verify DIRECTORY --against SOURCE`" in (converted / "README.md").read_text(encoding="utf-8")
    done = verify(converted, "--against", openelm)
    assert (done.code, done.err) == (0, "")
    told = dict(line.split(maxsplit=1) for line in done.out.splitlines())
    assert (told["converted"], told["source"], told["tokens"]) == (str(converted), str(openelm), "64")
    assert told["bound"] == "0.003 nats per token, the weights being stored as bfloat16"
    assert told["verdict"] == "passed"
    assert "float32" in done.out


def test_a_program_reads_one_json_object(openelm: Path, converted: Path) -> None:
    done = verify(converted, "--against", openelm, "--json")
    assert (done.code, done.out.count("\n")) == (0, 1)
    told: dict[str, Any] = json.loads(done.out)
    assert list(told) == ["converted", "source", "tokens", "max_difference", "relative_difference", "kl_divergence",
                          "same_top", "perplexity", "source_perplexity", "stored", "bound", "altered",
                          "not_finite", "source_not_finite", "must_match", "calibrated", "passed",
                          "failure"]  # fmt: skip
    assert (told["tokens"], told["stored"], told["bound"], told["passed"]) == (64, "bfloat16", MAX_KL["bfloat16"], True)
    assert 0 < told["kl_divergence"] < told["bound"]


def test_past_the_bound_it_exits_with_72_and_still_reports(openelm: Path, wrong: Path) -> None:
    done = verify(wrong, "--against", openelm, "--max-kl", "1e-5")
    assert done.code == 72
    assert done.out.endswith("FAILED\n")
    assert re.fullmatch(rf"elm-mlx: {wrong} does not pass against {openelm}: it differs by 0\.\d+ nats per token, more "
                        r"than the 1e-05 allowed for bfloat16 weights\. Convert with more bits, or set another bound "
                        r"with --max-kl\.\n", done.err)  # fmt: skip
    failed = verify(wrong, "--against", openelm, "--max-kl", "1e-5", "--json")
    assert (failed.code, json.loads(failed.out)["passed"]) == (72, False)
    assert verify(wrong, "--against", openelm, "--max-kl", "100").code == 0


def test_an_altered_weight_fails_in_every_face_of_the_report(openelm: Path, converted: Path, tmp_path: Path) -> None:
    """Unless --max-kl is given: then the verdict says what alone decided."""
    altered = Path(shutil.copytree(converted, tmp_path / "altered"))
    file = altered / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    name = "transformer.norm.weight"
    failed = verify(altered, "--against", openelm)
    assert (failed.code, failed.out.endswith("FAILED\n")) == (72, True)
    assert f"weights are not the source's, rounded as conversion.json says: {name}. Fetch or convert" in failed.err
    told = verify(altered, "--against", openelm, "--json")
    assert (told.code, json.loads(told.out)["altered"], json.loads(told.out)["passed"]) == (72, [name], False)
    allowed = verify(altered, "--against", openelm, "--max-kl", 1)
    assert (allowed.code, allowed.err) == (0, "")
    assert allowed.out.endswith("passed by its divergence alone, as its weights are not the source's\n")


def test_no_number_is_null_in_json(openelm: Path, tmp_path: Path) -> None:
    import mlx.core as mx

    arrays = {name: mx.array(value) for name, value in checkpoints.weights(checkpoints.OPENELM).items()}
    wrong = Path(shutil.copytree(openelm, tmp_path / "wrong"))
    checkpoints.save(wrong, arrays | {"transformer.norm.weight": mx.full((64,), float("nan"))})
    done = verify(wrong, "--against", openelm, "--json")
    told = json.loads(done.out, parse_constant=lambda constant: pytest.fail(f"{constant} is not JSON"))
    assert (done.code, told["kl_divergence"], told["passed"]) == (72, None, False)
    assert told["failure"] == "its weights are NaN or infinite, and the source's are not: transformer.norm.weight"


def test_the_rope_factor_of_metas_files_can_be_said(tmp_path: Path) -> None:
    params = checkpoints.META_PARAMS | {"use_scaled_rope": True}
    theirs = checkpoints.meta(checkpoints.weights(checkpoints.META), checkpoints.META)
    source = checkpoints.write_meta(tmp_path / "source", params, [theirs])
    output = convert(source, tmp_path / "out", dtype="float32", rope_factor=500).output
    assert verify(output, "--against", source).code == 72
    assert verify(output, "--against", source, "--rope-factor", 500).code == 0
    assert verify(output, "--against", output, "--rope-factor", 500).code == 2


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (["nowhere", "--against", "{model}"], 66, "There is no directory nowhere"),
        (["nowhere", "--against", "openelm-450m"], 66, "There is no directory nowhere"),
        (["{model}", "--against", "nowhere"], 66, "There is no model"),
        (["{model}", "--against", "{model}", "--text", "nowhere.txt"], 66, "There is no file nowhere.txt"),
        (["{model}", "--against", "{other}"], 2, "is not a conversion of"),
        (["{model}"], 2, "Missing option '--against'"),
        (["{model}", "--against", "{model}", "--max-kl", "-1"], 2, "not in the range"),
    ],
)
def test_mistakes_are_sentences_with_their_codes(
    openelm: Path, tmp_path: Path, arguments: list[str], code: int, complaint: str
) -> None:
    other = checkpoints.write(tmp_path / "other", checkpoints.LLAMA)
    done = verify(*(argument.format(model=openelm, other=other) for argument in arguments))
    assert (done.code, done.out) == (code, "")
    assert complaint in done.err
