"""The demo learns to write letters, which are always the same: those that it has not seen take fewer bits then."""

from __future__ import annotations

import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples" / "tune_demo"
sys.path.append(str(FOLDER))
import letters  # noqa: E402

BITS = re.compile(r"of (\d+) (letters|stories) that it has not seen: ([\d.]+) before, ([\d.]+) after")


@pytest.mark.slow
def test_the_letters_are_those_of_their_seeds_and_none_is_in_two_parts() -> None:
    parts = [letters.letters(40, seed) for seed in (0, letters.VALIDATION_FROM, letters.HELD_OUT_FROM)]
    texts = [one.written for part in parts for one in part]
    assert len(set(texts)) == len(texts)
    assert texts[0].startswith("Dear Ida, greetings from Maplewood! They say that it will be sunny on Saturday.")
    for text in texts[::40]:
        letters.grammar().read(text, "letter")


@pytest.mark.parametrize(
    ("options", "most"),
    [
        pytest.param("--letters 24 --held-out 2 --epochs 1", 12.0, marks=pytest.mark.slow, id="short"),
        pytest.param("", 1.2, marks=pytest.mark.soak, id="whole"),
    ],
)
def test_letters_that_it_has_not_seen_take_fewer_bits_than_before(tmp_path: Path, options: str, most: float) -> None:
    command = [sys.executable, "-W", "error", FOLDER / "tune.py", "--output", tmp_path / "out", *options.split()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    found = {what: (float(before), float(after)) for _, what, before, after in BITS.findall(done.stdout)}
    before, after = found["letters"]
    assert after < most < before
    assert found["stories"][0] < 1
    assert re.search(r"^Before: Dear Ida, .+\n(.*\n)*After: Dear Ida, .+$", done.stdout, re.MULTILINE)
    curve = ET.parse(tmp_path / "out" / "adapter" / "losses.svg").getroot()
    assert sum(one.tag.endswith("polyline") for one in curve.iter()) == 2
