"""Numbers and paths of callers: a sentence for whatever is none, however it is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from elm_mlx.arguments import MOST_BITS, file_to_write, named_path, real_number, shown, whole_number
from elm_mlx.errors import InvalidRequest

HUGE = 10**5000  # Python refuses to write it in digits


@pytest.mark.parametrize("value", [5, -3, np.int64(7), 10**400, 2**MOST_BITS - 1], ids=type)
def test_a_whole_number_is_an_int(value: Any) -> None:
    assert type(whole_number("n", value)) is int
    assert str(whole_number("n", value)) == str(value)


@pytest.mark.parametrize("value", [True, 1.0, "1", None, HUGE, -HUGE, [HUGE], "x" * 1000], ids=type)
def test_anything_else_is_refused_in_a_short_sentence(value: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"^n is .{1,120}$"):
        whole_number("n", value)


@pytest.mark.parametrize("value", [True, "1", None, 1j, HUGE], ids=type)
def test_what_is_no_real_number_is_refused_in_a_short_sentence(value: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"^n is .{1,120}$"):
        real_number("n", value)


def test_values_are_shown_cut_and_escaped() -> None:
    assert shown("a\nb") == "'a\\nb'"
    assert shown("x" * 100) == f"'{'x' * 76}..."
    assert shown([HUGE]) == "a number of thousands of digits"


@pytest.mark.parametrize("value", [None, 5, b"bytes", "", "a\0b", "half a character: \ud800"])
def test_what_is_no_path_is_refused(value: Any) -> None:
    for call in (named_path, file_to_write):
        with pytest.raises(InvalidRequest, match=r"^path is "):
            call("path", value)


def test_a_name_that_no_disk_takes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="cannot be a file to write: File name too long"):
        file_to_write("path", tmp_path / ("x" * 5000))
