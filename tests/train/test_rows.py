"""Rows of each kind become ids, and exactly those count that are to be learned; bad ones are refused by line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from elm_mlx.api.templates import Templates
from elm_mlx.demo import demo_directory
from elm_mlx.errors import InvalidRequest
from elm_mlx.store.load import load_tokenizer, read_config
from elm_mlx.store.text_settings import read_settings
from elm_mlx.train.examples import Example, batch_of
from elm_mlx.train.files import read_rows
from elm_mlx.train.rows import RowReader

END = 2
TALK = [
    {"role": "user", "content": "Who is there?"},
    {"role": "assistant", "content": "A fox."},
    {"role": "user", "content": "Where?"},
    {"role": "assistant", "content": "In the wood."},
]


def reader(template: str | None = None, **options: bool) -> RowReader:
    directory = demo_directory()
    settings = read_settings(directory)
    tokenizer = load_tokenizer(directory, settings, read_config(directory))
    templates = Templates(directory, settings, tokenizer)
    if template:
        templates.give(template)
    return RowReader(tokenizer, templates, END, **options)


def counted(made: RowReader, example: Example) -> str:
    """The text of the ids that count."""
    ids = [id for id, counts in zip(example.ids[1:], example.counts, strict=True) if counts]
    return made.tokenizer.decode(ids)


def test_a_text_has_one_target_a_token_and_ends_with_eos() -> None:
    made = reader()
    example = made.read({"text": "Once upon a time there was a fox."})
    assert example.ids[-1] == END
    assert example.targets == len(example.ids) - 1


def test_padding_is_never_a_target() -> None:
    made = reader()
    rows = [made.read({"text": text}) for text in ("A fox.", "A fox went into the wood and slept.")]
    batch = batch_of(rows, multiple=8)
    assert batch.targets == sum(len(row.ids) - 1 for row in rows) == int(batch.counts.sum().item())
    assert not batch.counts[0, len(rows[0].ids) - 1 :].any().item()


def test_a_base_model_masks_prompts_without_a_chat_template() -> None:
    made = reader(mask_prompt=True)
    example = made.read({"prompt": "Who is there?", "completion": " A fox."})
    assert counted(made, example).strip() == "A fox."
    assert example.counts[-1]  # EOS is learned
    assert example.ids[: len(made.tokenizer.encode("Who is there?"))] == tuple(made.tokenizer.encode("Who is there?"))


def test_without_mask_prompt_prompts_count_too() -> None:
    example = reader().read({"prompt": "Who is there?", "completion": " A fox."})
    assert all(example.counts)


def test_every_turn_of_the_assistant_counts() -> None:
    made = reader("zephyr", mask_prompt=True)
    text = counted(made, made.read({"messages": TALK}))
    assert "A fox." in text
    assert "In the wood." in text
    assert "Where?" not in text


def test_the_last_turn_alone_counts_where_that_is_asked() -> None:
    made = reader("zephyr", mask_prompt=True, last_turn_only=True)
    text = counted(made, made.read({"messages": TALK}))
    assert "In the wood." in text
    assert "A fox." not in text


def test_the_kind_of_each_row_is_judged_alone(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"text": "A fox."}, {"prompt": "Who?", "completion": " A fox."}, {"messages": TALK}]
    path = write(tmp_path, *map(json.dumps, rows))
    assert len(read_rows(path, reader("zephyr"), 512).examples) == 3


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("{", "line 2 is not valid JSON"),
        ("[]", "line 2 holds a list"),
        ("{}", "line 2 has none of them"),
        ('{"text": "a", "prompt": "b"}', "line 2 has text and prompt"),
        ('{"prompt": "a", "chosen": "b", "rejected": "c"}', "line 2 is a pair of answers. Take loss=dpo"),
        ('{"text": 3}', "line 2 has the text 3"),
        ('{"text": ""}', "line 2 has an empty text"),
        ('{"prompt": "a"}', "line 2 has the completion None"),
        ('{"messages": [{"role": "user", "content": "a"}]}', "line 2 is a chat, and this model has no chat template"),
    ],
)
def test_a_bad_row_is_refused_by_its_line(tmp_path: Path, row: str, why: str) -> None:
    path = write(tmp_path, '{"text": "A fox."}', row)
    with pytest.raises(InvalidRequest, match=why):
        read_rows(path, reader(), 512)


def test_a_chat_without_an_assistant_is_refused_where_prompts_are_masked() -> None:
    with pytest.raises(InvalidRequest, match="no turn of the assistant"):
        reader("zephyr", mask_prompt=True).read({"messages": TALK[:1]})


def test_what_is_cut_is_counted_and_said(tmp_path: Path) -> None:
    path = write(tmp_path, '{"text": "A fox."}', json.dumps({"text": "A fox went into the wood. " * 20}))
    rows = read_rows(path, reader(), 16)
    assert (rows.cut, rows.dropped) == (1, 0)
    assert all(len(one.ids) <= 16 for one in rows.examples)
    assert "rows cut at 16 tokens: 1" in rows.notices("train.jsonl", 16)[0]


def test_a_row_whose_answer_is_cut_off_whole_is_left_out_and_said(tmp_path: Path) -> None:
    long = json.dumps({"prompt": "A fox went into the wood. " * 20, "completion": "Yes."})
    rows = read_rows(write(tmp_path, '{"text": "A fox."}', long), reader(mask_prompt=True), 16)
    assert (len(rows.examples), rows.dropped) == (1, 1)


def write(folder: Path, *lines: str) -> Path:
    path = folder / "train.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
