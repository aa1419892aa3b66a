"""A server answers as MODEL:ADAPTER beside MODEL, in every API, and refuses adapters that are not the model's."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from helpers import chat_templates, checkpoints, scripts
from helpers.adapters import config_of, made_sums, write_sums
from helpers.live_server import live_server

import elm_mlx
from elm_mlx.demo import demo_directory
from elm_mlx.errors import ElmError, InvalidRequest, NotFound
from elm_mlx.models.lora import LowRank
from elm_mlx.server.adapters import Wanted, parse_wanted
from elm_mlx.server.house import House
from elm_mlx.server.settings import Settings
from elm_mlx.store.adapters.adapter_file import Base
from elm_mlx.store.adapters.write import Written, write_adapter

NAMES = "demo", "demo:pirate", "demo:poet"
PROMPT = "Once upon a time there was"


class Ship(NamedTuple):
    """A server with the demo and two adapters of it, and what each of the three answers alone."""

    url: str
    adapters: dict[str, Path]
    alone: dict[str, str]


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, demo = tmp_path_factory.mktemp("adapters"), demo_directory()
    ends = ("layers.0.attn.qkv_proj", "layers.1.ffn.proj_2")
    return {
        name: write_sums(folder / name, demo, made_sums(demo, seed, dora=dora, ends=ends), scale=0.3)
        for name, seed, dora in (("pirate", 1, False), ("poet", 2, True))
    }


@pytest.fixture(scope="module")
def ship(adapters: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ship]:
    with elm_mlx.load() as lm:
        for name, path in adapters.items():
            lm.load_adapter(name, path)
        alone = {
            name: lm.generate(PROMPT, 8, adapter=name.partition(":")[2] or None, temperature=0).text for name in NAMES
        }
    llama = scripts.write(tmp_path_factory.mktemp("ship") / "llama", chat_templates.LLAMA_31)
    rhyme = write_sums(llama.with_name("rhyme"), llama, made_sums(llama, ends=("q_proj",)))
    typed = (f"demo:pirate={adapters['pirate']}", f"demo:poet={adapters['poet']}", f"llama:rhyme={rhyme}")
    with live_server(models=("demo", str(llama)), aliases={"gpt": "demo:pirate"}, adapters=typed) as server:
        yield Ship(server.url, adapters, alone)


def complete(url: str, model: str) -> dict[str, Any]:
    body = {"model": model, "prompt": PROMPT, "max_tokens": 8, "temperature": 0}
    answer: dict[str, Any] = httpx.post(f"{url}/v1/completions", json=body, timeout=60).json()
    return answer


def test_models_are_listed_with_their_adapters(ship: Ship) -> None:
    listed = [one["id"] for one in httpx.get(f"{ship.url}/v1/models").json()["data"]]
    assert listed == [*NAMES, "llama", "llama:rhyme", "gpt"]
    assert httpx.get(f"{ship.url}/v1/models/demo:poet").json()["id"] == "demo:poet"


def test_each_name_answers_with_its_own_adapter_in_one_batch(ship: Ship) -> None:
    assert len({*ship.alone.values()}) == 3
    asked = [*NAMES, "gpt", "default:poet"]
    with ThreadPoolExecutor(len(asked)) as threads:
        answers = list(threads.map(lambda name: complete(ship.url, name), asked))
    texts = [one["choices"][0]["text"] for one in answers]
    assert [text.strip() for text in texts] == [ship.alone[name] for name in (*NAMES, "demo:pirate", "demo:poet")]
    assert [one["model"] for one in answers[:3]] == list(NAMES)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("v1/responses", {"input": PROMPT, "max_output_tokens": 16}),
        ("v1/chat/completions", {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 4}),
        ("v1/messages", {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 4}),
        ("v1/messages/count_tokens", {"messages": [{"role": "user", "content": PROMPT}]}),
        ("v1/completions", {"prompt": PROMPT, "max_tokens": 4}),
        ("tokenize", {"content": PROMPT}),
    ],
)
def test_an_adapter_that_is_not_there_is_a_404_in_every_api(ship: Ship, path: str, body: dict[str, Any]) -> None:
    answer = httpx.post(f"{ship.url}/{path}", json={"model": "demo:nobody", **body}, timeout=60)
    assert answer.status_code == 404
    assert "The model demo has no adapter 'nobody' here. It has: pirate, poet." in answer.text


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("v1/responses", {"input": PROMPT, "max_output_tokens": 16}),
        ("v1/chat/completions", {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 4}),
        ("v1/messages", {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 4}),
    ],
)
def test_an_adapter_answers_in_every_api_by_its_name(ship: Ship, path: str, body: dict[str, Any]) -> None:
    told = httpx.post(f"{ship.url}/{path}", json={"model": "llama:rhyme", **body}, timeout=60).json()
    assert told["model"] == "llama:rhyme"


def test_log_probabilities_of_a_prompt_are_those_with_the_adapter(ship: Ship) -> None:
    body = {"prompt": PROMPT, "max_tokens": 1, "echo": True, "logprobs": 1}
    told = {
        name: httpx.post(f"{ship.url}/v1/completions", json={"model": name, **body}, timeout=60).json()["choices"][0][
            "logprobs"
        ]["token_logprobs"]
        for name in NAMES[:2]
    }
    assert len(told["demo"]) == len(told["demo:pirate"])
    assert told["demo"] != told["demo:pirate"]


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        ("runs/7", (None, "7", "runs/7")),
        ("pirate=runs/7", (None, "pirate", "runs/7")),
        ("demo:pirate=runs/7", ("demo", "pirate", "runs/7")),
        ("a/b:pirate=runs/x=y", ("a/b", "pirate", "runs/x=y")),
    ],
)
def test_an_adapter_is_named_as_it_is_typed(typed: str, wanted: tuple[str | None, str, str]) -> None:
    assert parse_wanted(typed) == Wanted(wanted[0], wanted[1], Path(wanted[2]))


def opened(*typed: str, models: tuple[str, ...] = ("demo",)) -> None:
    """What a server does before it answers."""

    async def run() -> None:
        house = House(Settings(models=models, adapters=typed))
        try:
            await house.open()
        finally:
            await house.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (("a:b",), "has a : in its name"),
        (("demo:=x",), "is not PATH"),
        (("=x",), "is not PATH"),
        (("other:one=x",), "not told to serve"),
        (("a=x", "a=y"), "Two adapters have the name a"),
    ],
)
def test_adapters_that_cannot_be_meant_so_are_refused(typed: tuple[str, ...], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        opened(*typed)


@pytest.mark.slow
def test_with_several_models_an_adapter_says_whose_it_is(adapters: dict[str, Path], tmp_path: Path) -> None:
    llama = checkpoints.write(tmp_path / "llama", checkpoints.LLAMA)
    models = ("demo", str(llama))
    with pytest.raises(InvalidRequest, match="could stand beside any of demo, llama"):
        opened(f"pirate={adapters['pirate']}", models=models)
    sums = write_sums(tmp_path / "sums", llama, made_sums(llama, ends=("q_proj",)))
    opened(f"demo:pirate={adapters['pirate']}", f"llama:one={sums}", models=models)
    with pytest.raises(InvalidRequest, match="another model"):  # though the first model alone is loaded at the start
        opened(f"llama:one={adapters['pirate']}", models=models)


def test_an_adapter_of_another_base_is_refused_at_the_start(adapters: dict[str, Path], tmp_path: Path) -> None:
    demo = demo_directory()
    sums: dict[str, LowRank] = made_sums(demo, ends=("layers.0.attn.qkv_proj",))
    write_adapter(tmp_path / "a", Written(sums, Base("another", "0" * 64)), config_of(demo))
    errors: list[tuple[Path, type[ElmError], str]] = [
        (tmp_path / "a", InvalidRequest, "other weights"), (tmp_path / "none", NotFound, "no adapter"),
    ]  # fmt: skip
    for path, error, words in errors:
        with pytest.raises(error, match=words):
            opened(str(path))
