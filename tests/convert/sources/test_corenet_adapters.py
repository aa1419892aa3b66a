"""CoreNet's LoRA and DoRA checkpoints become the model that CoreNet evaluates, by a plain merged twin: the head has no
sum."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import checkpoints

import elm_mlx
from elm_mlx.convert import convert
from elm_mlx.convert.sources import open_source
from elm_mlx.errors import BadCheckpoint, ElmError, Unsupported

RAW = checkpoints.OPENELM
WEIGHTS = checkpoints.weights(RAW)
RANK, PADDING = 32, 128
Tensors = dict[str, np.ndarray]


def adapted(flat: Tensors, dora: bool, end: str = "", rank: int = RANK) -> Tensors:
    """CoreNet's tensors with sums beside the embedding and every matrix; `end` is what newer versions of PEFT put after
    the name of a magnitude."""
    random, made = np.random.RandomState(3), Tensors()
    for name, array in flat.items():
        stem = name.removesuffix(".weight")
        if array.ndim != 2:
            made[name] = array
            continue
        table = stem == "token_embeddings"
        O, I = array.shape
        a = random.standard_normal((rank, O if table else I)).astype(np.float32)
        b = 0.02 * random.standard_normal((I if table else O, rank)).astype(np.float32)
        made[f"{stem}.base_layer.weight"] = array
        for part, numbers in (("A", a), ("B", b)):
            made[f"{stem}.lora_embedding_{part}.lora" if table else f"{stem}.lora_{part}.lora.weight"] = numbers
        if dora:
            lengths = 1 + random.uniform(size=I if table else O).astype(np.float32)
            made[f"{stem}.lora_magnitude_vector.lora{end}"] = lengths
    return made


def twin(made: Tensors) -> Tensors:
    """The plain weights by the formulas, with Hugging Face's names; the head is the embedding without its sum."""
    plain = {f"transformer.{name}": array for name, array in made.items() if "lora_" not in name and "base" not in name}
    for name, base in made.items():
        if not name.endswith(".base_layer.weight"):
            continue
        stem = name.removesuffix(".base_layer.weight")
        table = stem == "token_embeddings"
        parts = {key.split(".")[-2 if key.endswith("lora") else -3]: made[key] for key in made
                 if key.startswith(f"{stem}.lora_")}  # fmt: skip
        a, b = (parts[f"lora_embedding_{part}" if table else f"lora_{part}"] for part in "AB")
        weight = base + ((b @ a).T if table else b @ a)
        if (m := parts.get("lora_magnitude_vector")) is not None:
            axis = 0 if table else 1
            weight = weight * np.expand_dims(m / np.linalg.norm(weight, axis=axis), axis)
        plain[f"transformer.{stem}.weight"] = weight
        if table:
            plain["lm_head.weight"] = base
    vocab = RAW["vocab_size"]
    tables = ("transformer.token_embeddings.weight", "lm_head.weight")
    return {name: array[:vocab] if name in tables else array for name, array in plain.items()}


def write(folder: Path, made: Tensors) -> Path:
    """A file as CoreNet publishes it, with a tokenizer beside it, and a yaml that says where the padding begins."""
    folder.mkdir()
    for file in checkpoints.TOKENIZER.glob("tokenizer.*"):
        shutil.copy(file, folder)
    facts = f"model:\n  language_modeling:\n    general_gpt:\n      padding_index: {RAW['vocab_size']}\n"
    (folder / "config.yaml").write_text(facts)
    return checkpoints.save_torch(folder / "openelm_lora_270M.pt", made)


def logits(where: Path) -> np.ndarray:
    with elm_mlx.load(where) as lm:
        return np.array(lm.logits([1, 5, 99, 230, 17, 4]))


@pytest.mark.parametrize(("dora", "end"), [(False, ""), (True, ""), (True, ".weight")])
def test_the_model_is_the_plain_merged_twin_whose_head_has_no_sum(dora: bool, end: str, tmp_path: Path) -> None:
    made = adapted(checkpoints.corenet(WEIGHTS, PADDING), dora, end)
    done = convert(write(tmp_path / "s", made), tmp_path / "out", dtype="float32")
    assert done.layout == f"CoreNet with {'DoRA' if dora else 'LoRA'}, merged"
    assert json.loads((done.output / "config.json").read_text())["share_input_output_layers"] is False
    other = checkpoints.write(tmp_path / "twin", RAW | {"share_input_output_layers": False})
    checkpoints.save(other, {name: checkpoints.mx.array(array) for name, array in twin(made).items()})
    ours, theirs = logits(done.output), logits(other)
    assert np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).max()


def test_a_prefix_of_a_wrapper_and_a_config_that_calls_the_model_tied_change_nothing(tmp_path: Path) -> None:
    made = adapted(checkpoints.corenet(WEIGHTS, 0), False)
    plain = convert(write(tmp_path / "a", made), tmp_path / "one", dtype="float32").output
    path = write(tmp_path / "b", {f"module.{name}": array for name, array in made.items()})
    (path.parent / "config.yaml").unlink()
    (path.parent / "config.json").write_text(json.dumps(RAW))
    other = convert(path, tmp_path / "two", dtype="float32").output
    assert (plain / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()


def test_without_a_sum_beside_the_embedding_the_model_stays_tied(tmp_path: Path) -> None:
    made = adapted(checkpoints.corenet(WEIGHTS, 0), False)
    table = made.pop("token_embeddings.base_layer.weight")
    made = {name: array for name, array in made.items() if not name.startswith("token_embeddings.")}
    opened = open_source(write(tmp_path / "s", made | {"token_embeddings.weight": table}))
    assert opened.config.tied


def lost(made: Tensors) -> Tensors:
    return {name: array for name, array in made.items() if name != "layers.0.attn.qkv_proj.lora_B.lora.weight"}


def turned(made: Tensors) -> Tensors:
    name = "layers.1.ffn.proj_1.lora_A.lora.weight"
    return made | {name: made[name].T}


def two(made: Tensors) -> Tensors:
    return made | {name.replace(".lora.", ".other."): array for name, array in made.items() if ".lora." in name}


@pytest.mark.parametrize(
    ("damage", "error", "words"),
    [(lost, BadCheckpoint, "no lora_B"), (turned, BadCheckpoint, "do not fit"), (two, Unsupported, "2 adapters")],
)
def test_what_is_no_such_checkpoint_is_refused(
    damage: object, error: type[ElmError], words: str, tmp_path: Path
) -> None:
    made = damage(adapted(checkpoints.corenet(WEIGHTS, 0), False))  # type: ignore[operator]
    with pytest.raises(error, match=words):
        open_source(write(tmp_path / "s", made))


def test_another_rank_is_refused_as_its_alpha_is_unknown(tmp_path: Path) -> None:
    made = adapted(checkpoints.corenet(WEIGHTS, 0), False, rank=8)
    with pytest.raises(Unsupported, match=r"rank 8.*alpha"):
        open_source(write(tmp_path / "s", made))
