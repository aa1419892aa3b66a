"""Two processes, each with the whole model, take the same steps and give the answers of one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers import checkpoints, rank_runs, small_demo
from helpers.rank_scenes import SCENES, together
from helpers.shallow import shallow

import elm_mlx

SCRIPT = """
from helpers.rank_scenes import SCENES, refusals, TEXTS
def main(lm, ranks):
    found = {}
    for name in sys.argv[3:]:
        if name == "talked":
            lm.use_chat_template("zephyr")
        found[name] = SCENES[name](lm)
    calls, real = [], mx.distributed.all_sum
    mx.distributed.all_sum = lambda *given, **named: calls.append(1) or real(*given, **named)
    lm.generate(TEXTS[1], 20, plain=True)
    found["collectives"] = len(calls)
    free = [lm.submit(text, 12, temperature=1.0) for text in TEXTS]
    found["without seeds"] = [len(one.result().tokens) for one in free]
    found["refusals"] = refusals(lm)
    say(json.dumps(found))
run(main, sys.argv[1], sys.argv[2] or None, rows=4)
"""


def answers_of_ranks(folder: Path, model: Path, kind: str, names: Sequence[str], count: int = 2) -> dict[str, Any]:
    """What rank 0 answers to scenes; it and the others end in order."""
    with rank_runs.ranks(folder, SCRIPT, model, kind, *names, count=count, PYTHONPATH=rank_runs.PATH) as run:
        first, *others = run.ended()
    assert (first.code, first.error) == (0, "")
    assert [(one.code, one.error, one.out) for one in others] == [(0, "", "joined\n")] * (count - 1)
    found: dict[str, Any] = json.loads(first.out.splitlines()[-1])
    return found


def test_two_ranks_answer_as_one_process_does(tmp_path: Path) -> None:
    model = checkpoints.write(tmp_path / "model", shallow(checkpoints.OPENELM) | {"eos_token_id": None})
    found = answers_of_ranks(tmp_path, model, "", ["together"])
    with elm_mlx.load(model, rows=4) as lm:
        assert found["together"] == together(lm)
    assert found["collectives"] == 20  # one for each id
    assert all(0 < count <= 12 for count in found["without seeds"])
    assert len(found["refusals"]) == 9
    assert all("several" in sentence for sentence in found["refusals"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "kind", "count"),
    [("", "", 2), ("llama-3.1", "tensor", 2), ("llama-3.1", "pipeline", 2), ("openelm", "pipeline", 3)],
)
def test_every_scene_on_several_ranks_is_that_of_one_process(
    tmp_path: Path, family: str, kind: str, count: int
) -> None:
    model = checkpoints.write(tmp_path / "model", checkpoints.CONFIGS[family]) if family else tmp_path / "model"
    names = [name for name in SCENES if not family or name != "talked"]  # the demo's text alone fits a template
    if not family:
        small_demo.write(model)
    found = answers_of_ranks(tmp_path, model, kind, names, count)
    with elm_mlx.load(model, rows=4) as lm:
        if not family:
            lm.use_chat_template("zephyr")
        for name in names:
            assert found[name] == json.loads(json.dumps(SCENES[name](lm))), name
