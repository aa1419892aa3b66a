"""The built-in demo: what ships is what the recipe's checkpoints convert to, and it tells stories."""

from __future__ import annotations

import math
from pathlib import Path

import mlx.core as mx
import pytest

import elm_mlx
from elm_mlx import demo
from elm_mlx.convert import convert
from elm_mlx.demo import demo_directory

RECIPE = Path(__file__).parents[2] / "examples" / "demo_model"
PLACES = {"demo": demo_directory(), "draft": demo_directory() / "draft"}
MOST_BYTES = {"demo": 6_000_000, "draft": 1_000_000}
PROMPTS = (demo.PROMPT, "Long ago there lived a brave", "In Elmwick there lived a shy owl named")


@pytest.fixture(scope="module", params=PLACES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def lm() -> elm_mlx.LanguageModel:
    return elm_mlx.load()


def perplexity(lm: elm_mlx.LanguageModel, texts: list[str]) -> float:
    lost, count = 0.0, 0
    for text in texts:
        ids = [*lm.tokenizer.encode(text), *lm.stop_ids]
        logits = lm.logits(ids[:-1])  # (L, V)
        chosen = mx.take_along_axis(logits, mx.array(ids[1:])[:, None], axis=-1)[:, 0] - mx.logsumexp(logits, axis=-1)
        lost, count = lost - chosen.sum().item(), count + len(ids) - 1
    return math.exp(lost / count)


def likeliest(lm: elm_mlx.LanguageModel, ids: list[int]) -> list[int]:
    """The likeliest id after each of `ids`, in one pass without a cache."""
    return mx.argmax(lm.model(mx.array([ids]))[0], axis=-1).tolist()  # type: ignore[return-value]


def test_what_ships_is_what_the_checkpoint_converts_to(name: str, tmp_path: Path) -> None:
    output = convert(RECIPE / name, tmp_path / name, bits=8).output
    for file in output.iterdir():
        if file.name in ("README.md", "conversion.json"):  # the package has its own card
            continue
        assert (PLACES[name] / file.name).read_bytes() == file.read_bytes(), file.name


def test_the_recipe_s_two_weight_files_convert_to_the_same(name: str, tmp_path: Path) -> None:
    source = tmp_path / "bin"
    source.mkdir()
    for file in ("config.json", "pytorch_model.bin", "tokenizer.model"):
        (source / file).write_bytes((RECIPE / name / file).read_bytes())
    output = convert(source, bits=8).output
    assert (output / "model.safetensors").read_bytes() == (PLACES[name] / "model.safetensors").read_bytes()


def test_both_models_are_small_and_share_a_tokenizer(name: str) -> None:
    assert sum(file.stat().st_size for file in PLACES[name].glob("*") if file.is_file()) <= MOST_BYTES[name]
    assert (PLACES[name] / "tokenizer.json").read_bytes() == (PLACES["demo"] / "tokenizer.json").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 5])
def test_eight_bits_cost_less_than_a_hundredth_of_perplexity(
    lm: elm_mlx.LanguageModel, tmp_path: Path, count: int
) -> None:
    texts = (demo_directory() / "held_out.txt").read_text(encoding="utf-8").splitlines()[:count]
    exact = elm_mlx.load(convert(RECIPE / "demo", tmp_path / "exact", dtype="float32").output)
    reached, expected = perplexity(lm, texts), perplexity(exact, texts)
    assert expected < 2.2
    assert reached == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_fast_path_tells_the_plain_path_s_story(lm: elm_mlx.LanguageModel, prompt: str) -> None:
    ids = lm.tokenizer.encode(prompt)
    told = lm.generate(ids, max_tokens=24).tokens
    assert len(told) == 24
    assert told == likeliest(lm, ids + told)[len(ids) - 1 : -1]  # so the plain path draws each of them, too


def test_a_seed_tells_the_same_story_again_and_another_seed_another(lm: elm_mlx.LanguageModel) -> None:
    def told(seed: int) -> str:
        return lm.generate(demo.PROMPT, 20, temperature=0.8, top_p=0.95, seed=seed).text

    assert told(1) == told(1) != told(2)


def test_the_draft_mostly_agrees_with_the_demo(lm: elm_mlx.LanguageModel) -> None:
    draft = elm_mlx.load(PLACES["draft"])
    text = (demo_directory() / "held_out.txt").read_text(encoding="utf-8").splitlines()[0]
    ids = lm.tokenizer.encode(text)[:80]
    same = mx.argmax(lm.logits(ids), axis=-1) == mx.argmax(draft.logits(ids), axis=-1)
    assert same.mean().item() > 0.7
