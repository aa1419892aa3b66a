"""Which files belong to a model's text, and what they say: one answer for loading, converting and pulling."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import chat_templates as written
from helpers import checkpoints

import elm_mlx
from elm_mlx.convert import convert
from elm_mlx.errors import BadCheckpoint, ElmError, NotFound
from elm_mlx.store.side_files import file_names, files_beside, side_files
from elm_mlx.store.text_settings import MAX_TEMPLATES, has_template, read_settings, read_templates
from elm_mlx.text.chat.template import choose
from elm_mlx.text.settings import TokenizerSettings

TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {}}}]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
FLAGS = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False) | {"special": True}
LISTED = {"512": {"content": "<|im_start|>", **FLAGS}, "513": {"content": "<|im_end|>", **FLAGS}}
LLAMA = checkpoints.CONFIGS["llama-3.1"] | {"vocab_size": 520}
EVERY = {
    "tokenizer_config.json": {"bos_token": "<s>", "eos_token": "</s>", "chat_template": "older"},
    "special_tokens_map.json": {"eos_token": "<|im_end|>", "additional_special_tokens": ["<|im_start|>"]},
    "added_tokens.json": {"<|im_start|>": 512, "<|im_end|>": 513},
    "generation_config.json": {"eos_token_id": 7},
    "chat_template.jinja": "{{ bos_token }}" + CHATML,
    "additional_chat_templates/tool_use.jinja": "{{ tools | length }}" + CHATML,
    "additional_chat_templates/rag.jinja": "{{ documents }}",
}


def put(folder: Path, files: dict[str, Any]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / name).write_text(text, encoding="utf-8")


def checkpoint(folder: Path, files: dict[str, Any]) -> Path:
    made = checkpoints.write(folder, LLAMA)
    put(made, files)
    return made


def rendered(folder: Path, tools: object = None) -> str:
    found = choose(read_templates(folder, read_settings(folder)), folder, tools)
    return found.render([written.USER], tools=tools, add_generation_prompt=False)  # type: ignore[arg-type]


# Which there are.


def test_the_side_files_of_a_listing() -> None:
    others = ["model.safetensors", "additional_chat_templates/a/b.jinja", "additional_chat_templates/x.txt", "x.jinja",
              "original/tokenizer.json", "additional_chat_templates/.jinja\n",
              "additional_chat_templates/a\nb.jinja", "additional_chat_templates/../../x.jinja"]  # fmt: skip
    assert side_files([*EVERY, *others]) == list(EVERY)


def test_the_files_of_a_directory_have_their_paths_in_it(tmp_path: Path) -> None:
    put(tmp_path, EVERY)
    assert set(side_files(file_names(tmp_path))) == set(EVERY)


# Which one wins.


def test_a_file_beside_the_model_comes_first(tmp_path: Path) -> None:
    named = [{"name": "default", "template": "d{{ bos_token }}"}, {"name": "tool_use", "template": "t{{ eos_token }}"}]
    tokens = {"bos_token": {"content": "<s>"}, "eos_token": "</s>", "pad_token": None, "add_bos_token": True}
    put(tmp_path, {"tokenizer_config.json": tokens | {"chat_template": "x"}})
    assert rendered(tmp_path) == "x"
    put(tmp_path, {"tokenizer_config.json": tokens | {"chat_template": named}})
    assert rendered(tmp_path) == "d<s>"
    assert rendered(tmp_path, TOOLS) == rendered(tmp_path, []) == "t</s>"
    put(tmp_path, {"chat_template.jinja": "é{{ bos_token }}{{ pad_token }}"})
    assert rendered(tmp_path, TOOLS) == "é<s>"
    put(tmp_path, {"additional_chat_templates/tool_use.jinja": "{{ tools | length }}"})
    assert rendered(tmp_path, TOOLS) == "1"
    assert rendered(tmp_path) == "é<s>"
    put(tmp_path, {"additional_chat_templates/default.jinja": "last"})
    assert rendered(tmp_path) == "last"


def test_no_template_is_not_found(tmp_path: Path) -> None:
    assert not has_template(tmp_path, read_settings(tmp_path))
    with pytest.raises(NotFound, match=r"no chat template in .*plain text"):
        rendered(tmp_path)
    put(tmp_path, {"additional_chat_templates/rag.jinja": "x"})
    with pytest.raises(NotFound, match=r"no chat template in .* but one for rag"):
        rendered(tmp_path)


@pytest.mark.parametrize("setting", [7, True, [], [1], {}, [{"name": "default"}], [{"name": "default", "template": 5}]])
def test_what_is_no_template_is_a_bad_checkpoint(tmp_path: Path, setting: object) -> None:
    put(tmp_path, {"tokenizer_config.json": {"chat_template": setting}})
    if setting != [] and setting != {}:
        assert has_template(tmp_path, read_settings(tmp_path))
    with pytest.raises(BadCheckpoint, match=r"tokenizer_config\.json: chat_template"):
        rendered(tmp_path)


def test_a_template_file_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "chat_template.jinja"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(BadCheckpoint, match="UTF-8"):
        rendered(tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(ElmError, match="cannot be read"):
        rendered(tmp_path)


def test_a_template_that_cannot_be_read_keeps_no_plain_prompt_from_running(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "m", {"tokenizer_config.json": {"chat_template": 5}})
    lm = elm_mlx.load(folder)
    assert lm.stop_ids == {2}
    assert lm.generate("the", max_tokens=2).tokens
    with pytest.raises(BadCheckpoint):
        lm.chat([written.USER])


def test_a_link_to_nothing_is_no_side_file(tmp_path: Path) -> None:
    put(tmp_path, {"tokenizer_config.json": {"chat_template": "older"}, "additional_chat_templates/rag.jinja": "x"})
    for name in ("chat_template.jinja", "special_tokens_map.json", "additional_chat_templates/gone.jinja"):
        (tmp_path / name).symlink_to("nowhere")
    assert files_beside(tmp_path) == ["additional_chat_templates/rag.jinja", "tokenizer_config.json"]
    assert rendered(tmp_path) == "older"


def test_templates_may_stand_under_their_names(tmp_path: Path) -> None:
    put(tmp_path, {"tokenizer_config.json": {"chat_template": {"default": "d", "tool_use": "t"}}})
    assert [rendered(tmp_path), rendered(tmp_path, TOOLS)] == ["d", "t"]


def test_a_template_may_be_given_by_the_file_that_has_it(tmp_path: Path) -> None:
    put(tmp_path, {"tokenizer_config.json": {"chat_template": [{"name": "default", "template": CHATML}]}, "b.json": {}})
    lm = elm_mlx.load(checkpoint(tmp_path / "m", {"chat_template.jinja": CHATML}))
    own = lm.chat_prompt([written.USER])
    lm.use_chat_template(tmp_path / "tokenizer_config.json")
    assert lm.chat_prompt([written.USER]) == own
    with pytest.raises(BadCheckpoint, match=r"b\.json has no chat_template"):
        lm.use_chat_template(tmp_path / "b.json")


def test_a_template_that_writes_nothing_is_blamed_and_not_the_message(tmp_path: Path) -> None:
    template = "{% if messages[0].content == 'hi' %}{{ messages[0].content }}{% endif %}"
    lm = elm_mlx.load(checkpoint(tmp_path / "m", {"chat_template.jinja": template}))
    assert lm.chat_prompt([{"role": "user", "content": "hi"}])
    with pytest.raises(BadCheckpoint, match=r"chat_template\.jinja: the chat template writes nothing"):
        lm.chat_prompt([{"role": "user", "content": "ho"}])


# What ends an answer.


@pytest.mark.parametrize("place", ["settings", "file", "given"])
def test_a_template_brings_its_end_of_a_turn_however_it_is_given(tmp_path: Path, place: str) -> None:
    config: dict[str, Any] = {"added_tokens_decoder": LISTED, "eos_token": "</s>"}
    folder = checkpoint(tmp_path / "m", {"tokenizer_config.json": config})
    put(tmp_path, {"mine.jinja": CHATML})
    if place == "settings":
        put(folder, {"tokenizer_config.json": config | {"chat_template": CHATML}})
    if place == "file":
        put(folder, {"chat_template.jinja": CHATML})
    lm = elm_mlx.load(folder)
    if place == "given":
        assert lm.stop_ids == {2}
        lm.use_chat_template(tmp_path / "mine.jinja")
    assert lm.stop_ids == {2, 513}


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ m.content }} {{ eos_token }}{% endfor %}",
        "{% for m in messages %}{{ m.content }}{% if not loop.last %}{{ eos_token }}{% endif %}{% endfor %}",
        "{% for m in messages %}{{ m.content | trim }}\n</s>{{ bos_token }}{% endfor %}",
    ],
)
def test_a_turn_ends_with_the_token_after_an_answer(tmp_path: Path, template: str) -> None:
    folder = checkpoint(tmp_path / "m", {"chat_template.jinja": template})
    put(folder, {"config.json": LLAMA | {"eos_token_id": 9}, "tokenizer_config.json": {"bos_token": "<s>"}})
    lm = elm_mlx.load(folder)
    named = {9} if "eos_token" in template else {9, 2}
    assert lm.stop_ids == named
    put(folder, {"tokenizer_config.json": {"bos_token": "<s>", "eos_token": "</s>"}})
    assert elm_mlx.load(folder).stop_ids == {9, 2}


@pytest.mark.parametrize("template", ["{{ raise_exception('no') }}", "{{ messages[0].content }}", "{% if %}", "</s>"])
def test_a_template_without_an_answer_ends_nothing(tmp_path: Path, template: str) -> None:
    folder = checkpoint(tmp_path / "m", {"chat_template.jinja": template})
    put(folder, {"config.json": LLAMA | {"eos_token_id": 9}, "tokenizer_config.json": {}})
    assert elm_mlx.load(folder).stop_ids == {9}


# What converting keeps.


def test_a_conversion_reads_as_its_source_with_every_side_file(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "m", EVERY)
    output = convert(source, tmp_path / "out").output
    assert set(side_files(file_names(output))) == {"tokenizer.json", *EVERY}
    before, after = elm_mlx.load(source), elm_mlx.load(output)
    assert before.stop_ids == after.stop_ids == {2, 7, 513}
    for tools in (None, TOOLS):
        ids = before.chat_prompt([written.USER], tools=tools)
        assert after.chat_prompt([written.USER], tools=tools) == ids
        assert ids.count(512) == 2
        assert ids.count(1) == (tools is None)


@pytest.mark.slow
def test_many_added_tokens_are_no_fault(tmp_path: Path) -> None:
    many = {str(512 + i): FLAGS | {"content": f"<custom_token_{i}>"} for i in range(28_672)}
    settings = {"added_tokens_decoder": many, "eos_token": "</s>", "chat_template": CHATML}
    folder = checkpoint(tmp_path / "m", {"tokenizer_config.json": json.dumps(settings, indent=4)})
    put(
        folder,
        {"special_tokens_map.json": {"additional_special_tokens": [token["content"] for token in many.values()]}},
    )
    assert (folder / "tokenizer_config.json").stat().st_size > 5_000_000
    lm = elm_mlx.load(folder)
    assert lm.tokenizer.control_ids["<custom_token_28671>"] == 512 + 28_671
    assert lm.chat_prompt([{"role": "user", "content": "<custom_token_5>"}])


@pytest.mark.slow
def test_many_added_tokens_are_converted(tmp_path: Path) -> None:
    many = {str(512 + i): FLAGS | {"content": f"<custom_token_{i}>"} for i in range(28_672)}
    folder = checkpoint(tmp_path / "m", {"tokenizer_config.json": {"added_tokens_decoder": many}})
    converted = convert(folder, tmp_path / "out").output
    assert elm_mlx.load(converted).tokenizer.control_ids == elm_mlx.load(folder).tokenizer.control_ids


def test_a_list_of_tokens_beyond_all_measure_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "tokenizer_config.json").open("wb") as file:
        file.truncate(65 * 2**20)
    with pytest.raises(BadCheckpoint, match="over 64 MB"):
        read_settings(tmp_path)


@pytest.mark.parametrize("special", [True, False])
def test_an_added_token_beyond_the_model_is_allowed_and_its_use_is_refused(tmp_path: Path, special: bool) -> None:
    beyond = {"512": FLAGS | {"content": "<pad>", "special": special}}
    folder = checkpoints.write(tmp_path / "m", checkpoints.CONFIGS["llama-3.1"])
    put(folder, {"tokenizer_config.json": {"added_tokens_decoder": beyond, "eos_token": "</s>"}})
    for place in (folder, convert(folder, tmp_path / "out").output):
        lm = elm_mlx.load(place)
        assert lm.generate("the cat", max_tokens=2).tokens
        if not special:
            with pytest.raises(
                elm_mlx.errors.InvalidRequest, match=r"tokenizer\.json, .* gives '<pad>' the id 512, .* 0 to 511"
            ):
                lm.generate("the <pad>")
        template = tmp_path / "pad.jinja"
        template.write_text("<pad>{{ messages[0].content }}", encoding="utf-8")
        lm.use_chat_template(template)
        with pytest.raises(elm_mlx.errors.InvalidRequest, match="gives '<pad>' the id 512"):
            lm.chat([{"role": "user", "content": "the cat"}])
        with pytest.raises(elm_mlx.errors.InvalidRequest, match=r"513 is not a token id .*; its ids go from 0 to 511"):
            lm.generate([1, 513])


def test_an_entry_of_the_vocabulary_beyond_the_model_is_refused_by_all(tmp_path: Path) -> None:
    folder = checkpoints.write(tmp_path / "m", checkpoints.CONFIGS["llama-3.1"])
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    content["model"]["vocab"]["far"] = 600
    put(folder, {"tokenizer.json": content})
    for use in (elm_mlx.load, convert):
        with pytest.raises(BadCheckpoint, match="another model's tokenizer"):
            use(folder)


def test_only_templates_that_can_be_chosen_are_asked_how_a_turn_ends(tmp_path: Path) -> None:
    other = {"additional_chat_templates/rag.jinja": "{% for m in messages %}{{ m.content }}<|eot_id|>{% endfor %}"}
    folder = checkpoint(tmp_path, {"chat_template.jinja": CHATML} | other)
    model = elm_mlx.load(folder)
    assert model.stop_ids
    asked = {name for name, one in model._templates._own.items() if one._turn_ends is not None}
    assert asked == {"default"}


def test_more_templates_than_any_model_has_are_refused(tmp_path: Path) -> None:
    put(tmp_path, {f"additional_chat_templates/{i}.jinja": "x" for i in range(MAX_TEMPLATES + 1)})
    with pytest.raises(BadCheckpoint, match="over 100 chat templates"):
        read_templates(tmp_path, TokenizerSettings())
