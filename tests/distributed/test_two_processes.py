"""Two processes, each with the whole model, take the same steps and give the answers of one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers import rank_runs, small_demo
from helpers.rank_scenes import SCENES

import elm_mlx

SCRIPT = """
from helpers.rank_scenes import SCENES, refusals, TEXTS
def main(lm, ranks):
    lm.use_chat_template("zephyr")
    found = {name: scene(lm) for name, scene in SCENES.items()}
    calls, real = [], mx.distributed.all_sum
    mx.distributed.all_sum = lambda *given, **named: calls.append(1) or real(*given, **named)
    lm.generate(TEXTS[1], 20, plain=True)
    found["collectives"] = len(calls)
    free = [lm.submit(text, 12, temperature=1.0) for text in TEXTS]
    found["without seeds"] = [len(one.result().tokens) for one in free]
    found["refusals"] = refusals(lm)
    say(json.dumps(found))
run(main, sys.argv[1], rows=4)
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_demo.write(tmp_path_factory.mktemp("demo") / "demo")


def test_two_ranks_answer_as_one_process_does(model: Path, tmp_path: Path) -> None:
    with rank_runs.ranks(tmp_path, SCRIPT, model, PYTHONPATH=rank_runs.PATH) as run:
        with elm_mlx.load(model, rows=4) as lm:
            lm.use_chat_template("zephyr")
            expected = json.loads(json.dumps({name: scene(lm) for name, scene in SCENES.items()}))
        first, second = run.ended()
    assert (first.code, first.error, second.code, second.error, second.out) == (0, "", 0, "", "joined\n")
    found = json.loads(first.out.splitlines()[-1])
    for name in SCENES:
        assert found[name] == expected[name], name
    assert found["collectives"] == 20  # one for each id
    assert found["without seeds"] == [12, 12, 12]
    assert len(found["refusals"]) == 8
    assert all("several" in sentence for sentence in found["refusals"])
