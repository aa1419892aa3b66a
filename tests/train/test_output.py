"""The directory of a training: one at a time writes there, and what a killed one left of a file goes away."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.training import tiny, write_texts

from elm_mlx.errors import InvalidRequest, NotFinite, NotFound
from elm_mlx.train import files, run, train
from elm_mlx.train.output import lock_output

SHORT = {"batch_size": 2, "steps": 1, "rank": 2, "layers": 1}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_texts(tmp_path / "data" / "train.jsonl")
    return tmp_path / "data"


@pytest.fixture(scope="module")
def openelm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny(tmp_path_factory.mktemp("openelm"))


def test_one_training_at_a_time_writes_to_a_directory(tmp_path: Path) -> None:
    with (
        lock_output(tmp_path / "out"),
        pytest.raises(InvalidRequest, match="Another training writes to"),
        lock_output(tmp_path / "out"),
    ):
        pass


def test_what_a_killed_training_left_of_a_file_goes_away(tmp_path: Path) -> None:
    (tmp_path / ".elm-mlx-0123456789abcdef.partial").write_bytes(b"half of a checkpoint")
    (tmp_path / "notes.partial").write_bytes(b"of somebody else")
    with lock_output(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == ["notes.partial"]


def test_to_go_on_where_nothing_is_leaves_no_directory_behind(data: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="to go on from"):
        train(data, tmp_path / "out", "no-such-model", resume=True)
    assert not (tmp_path / "out").exists()


def test_numbers_that_a_last_step_made_infinite_are_not_kept(data: Path, openelm: Path, tmp_path: Path) -> None:
    """The loss of a step is computed before it, so it cannot tell."""
    with pytest.raises(NotFinite, match="after step 1"):
        train(data, tmp_path / "out", openelm, learning_rate=1e39, **SHORT)
    write_texts(data / "valid.jsonl")
    with pytest.raises(NotFinite, match=r"validation loss after step 1 is nan"):
        train(data, tmp_path / "valid", openelm, learning_rate=1e39, **SHORT)
    for output in ("out", "valid"):
        assert [path.name for path in (tmp_path / output).iterdir()] == ["losses.jsonl"]


def test_the_disk_has_room_for_a_model_too(
    data: Path, openelm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is written before the first checkpoint, so without room for it the steps until then would be lost."""
    weights = sum(file.stat().st_size for file in openelm.glob("*.safetensors"))
    asked: list[int] = []
    monkeypatch.setattr(run, "check_room", lambda what, advice, *needs: asked.extend(count for _, count in needs))
    train(data, tmp_path / "out", openelm, kind="full", steps=1)
    train(data, tmp_path / "out", openelm, kind="full", steps=2, resume=True)
    assert asked[0] >= 2 * (3 * weights + weights) * 0.99
    assert asked[1] == pytest.approx(asked[0] / 2, rel=0.05)  # one of each is there


def test_a_file_of_which_nothing_can_be_learned_says_why(openelm: Path, tmp_path: Path) -> None:
    write_texts(tmp_path / "long" / "train.jsonl", [])
    with pytest.raises(InvalidRequest, match="no row to learn from"):
        train(tmp_path / "long", tmp_path / "out", openelm)
    cut = files.Rows[object](cut=2, ids_cut=9, dropped=2)
    with pytest.raises(InvalidRequest, match=r"rows cut at 4 tokens: 2.*larger .*max_length"):
        files.refuse_empty(tmp_path / "train.jsonl", cut, 4)  # type: ignore[arg-type]
    unfit = files.Rows[object](left_out={files.CUT: 3})
    with pytest.raises(InvalidRequest, match=r"3 answers are left out: they were cut off.*max_tokens"):
        files.refuse_empty(tmp_path / "train.jsonl", unfit, 4)  # type: ignore[arg-type]
