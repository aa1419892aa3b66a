"""The whole engine over ranks that each hold a part: the answers are those of one process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import checkpoints, quantized, rank_runs
from helpers.rank_scenes import SCENES

import elm_mlx

SCRIPT = """
from helpers.rank_scenes import SCENES
def main(lm, ranks):
    lm.use_chat_template("zephyr")
    say(json.dumps({name: SCENES[name](lm) for name in sys.argv[3].split(",")}))
run(main, sys.argv[1], sys.argv[2], rows=4)
"""
LLAMA = checkpoints.LLAMA | {"num_attention_heads": 12, "num_key_value_heads": 6, "head_dim": 32, "hidden_size": 128,
                             "intermediate_size": 384, "num_hidden_layers": 3}  # fmt: skip


FEW = ["together", "drawn", "stopped"]  # MLX's ranks wait busily: more of them than cores are slow
MAKE: dict[str, Callable[[Path], Path]] = {
    "openelm": lambda folder: checkpoints.write(folder, checkpoints.OPENELM),
    "llama": lambda folder: checkpoints.write(folder, LLAMA),
    "llama in 4 bits": lambda folder: quantized.write(folder, LLAMA, {"bits": 4, "group_size": 32}, tokenizer=True),
}


@pytest.mark.slow
@pytest.mark.parametrize(("model", "kind", "ranks"), [
    ("llama in 4 bits", "tensor", 2), ("llama", "tensor", 3), ("openelm", "pipeline", 2), ("openelm", "pipeline", 3),
    ("llama in 4 bits", "pipeline", 2),
])  # fmt: skip
def test_the_scenes_are_those_of_one_process(model: str, kind: str, ranks: int, tmp_path: Path) -> None:
    folder, names = MAKE[model](tmp_path / "model"), [*SCENES] if ranks == 2 else FEW
    words = folder, kind, ",".join(names)
    with rank_runs.ranks(tmp_path, SCRIPT, *words, count=ranks, PYTHONPATH=rank_runs.PATH) as run:
        with elm_mlx.load(folder, rows=4) as lm:
            lm.use_chat_template("zephyr")
            expected = json.loads(json.dumps({name: SCENES[name](lm) for name in names}))
        first, *others = run.ended()
    assert (first.code, first.error) == (0, "")
    assert {(one.code, one.error, one.out) for one in others} == {(0, "", "joined\n")}
    found = json.loads(first.out.splitlines()[-1])
    for name in names:
        assert found[name] == expected[name], name
