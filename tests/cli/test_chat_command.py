"""`chat`: what is typed, what is answered where, and a Ctrl-C that stops the answer alone."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import mlx.core as mx
import pexpect
import pytest
from helpers import checkpoints
from helpers.command_line import INTERRUPTIBLE, PATIENCE_S, Result, answer, run

import elm_mlx
from elm_mlx.cli.chat import Chat

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<{{ m['role'] }}>{{ m['content'] | trim }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model without a template."""
    return checkpoints.write(tmp_path_factory.mktemp("chat") / "base", checkpoints.CONFIGS["llama-3"])


@pytest.fixture(scope="module")
def instruct(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One with a template, which never stops by itself."""
    raw = checkpoints.LLAMA | {"eos_token_id": None, "max_position_embeddings": 100_000}
    folder = checkpoints.write(tmp_path_factory.mktemp("chat") / "instruct", raw)
    settings = {"bos_token": "<s>", "add_bos_token": True, "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def chat(model: Path, typed: str, *options: object) -> Result:
    return run("chat", "--model", model, "--max-tokens", 6, *options, stdin=typed.encode())


def saved(model: Path, typed: str, folder: Path, *options: object) -> dict[str, object]:
    """The conversation after what was typed."""
    done = chat(model, f"{typed}/save {folder / 'chat.json'}\n", *options)
    assert done.code == 0, done.err
    found: dict[str, object] = json.loads((folder / "chat.json").read_text(encoding="utf-8"))
    return found


def contents(conversation: dict[str, object]) -> list[str]:
    messages = conversation["messages"]
    assert isinstance(messages, list)
    return [message["content"] for message in messages if message["role"] == "user"]


def test_answers_go_to_stdout_and_nothing_else_does(instruct: Path) -> None:
    done = chat(instruct, "Hi\n/stats\n/nonsense\n/help\n")
    assert done.code == 0
    assert done.out.endswith("\n")
    assert not any(word in done.out for word in ("/regen", "command", "the first after"))
    assert "tokens" in done.err
    assert "/regen" in done.err
    assert "There is no such command" in done.err


def test_lines_are_joined_by_backslashes_and_quotes(instruct: Path, tmp_path: Path) -> None:
    typed = 'one \\\ntwo\n"""three\nfour\n"""\n'
    assert contents(saved(instruct, typed, tmp_path)) == ["one \ntwo", "three\nfour\n"]


def test_a_conversation_is_forgotten_saved_and_loaded(instruct: Path, tmp_path: Path) -> None:
    first = saved(instruct, "one\n/reset\ntwo\n", tmp_path, "--system", "Be brief.")
    assert (first["system"], contents(first)) == ("Be brief.", ["two"])
    again = saved(instruct, f"/load {tmp_path / 'chat.json'}\nthree\n", tmp_path)
    assert (again["system"], contents(again)) == ("Be brief.", ["two", "three"])


def test_an_answer_is_made_again_the_same(instruct: Path) -> None:
    answers = chat(instruct, "Hi\n/regen\n").out
    assert answers[: len(answers) // 2] == answers[len(answers) // 2 :]


def test_the_template_is_what_the_model_reads(instruct: Path) -> None:
    sampled = ("--temperature", "1", "--seed", "3")
    plain, told = (chat(instruct, "Hi\n", *sampled, *more).out for more in ((), ("--system", "Be brief.")))
    assert plain != told


def test_a_damaged_model_answers_with_a_sentence_and_the_message_is_dropped(instruct: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(instruct, tmp_path / "model"))
    arrays = mx.load(str(model / "model.safetensors"))
    assert isinstance(arrays, dict)
    arrays["model.norm.weight"][3] = float("nan")
    checkpoints.save(model, arrays)
    done = chat(model, f"Hi\n/save {tmp_path / 'chat.json'}\n")
    assert "elm-mlx: The model's logits are NaN at token 1 of the answer" in done.err
    assert json.loads((tmp_path / "chat.json").read_text(encoding="utf-8"))["messages"] == []


def test_a_base_model_completes_and_goes_on(base: Path, tmp_path: Path) -> None:
    conversation = saved(base, "the cat\n and the dog\n", tmp_path)
    messages = conversation["messages"]
    assert isinstance(messages, list)
    assert [message["role"] for message in messages] == ["user", "assistant"] * 2
    assert "so it completes what you type" in chat(base, "").err
    assert "can be given no system message" in chat(base, "/system Be brief.\n").err


@pytest.mark.parametrize(
    "content", ["no json", "[" * 100_000, "[]", '{"messages": [1]}', '{"messages": [{"role": "user"}]}']
)
def test_a_file_that_is_no_conversation_is_refused(instruct: Path, tmp_path: Path, content: str) -> None:
    (tmp_path / "other.json").write_text(content, encoding="utf-8")
    done = chat(instruct, f"/load {tmp_path / 'other.json'}\n")
    assert done.code == 0
    assert "no conversation that /save wrote" in done.err


def test_a_conversation_is_read_from_no_pipe_or_device(instruct: Path, pipe: Path) -> None:
    done = chat(instruct, f"/load {pipe}\n/load nowhere\n")
    assert (done.code, done.err.count("it is a folder, a pipe or a device")) == (0, 1)
    assert "nowhere cannot be read: No such file" in done.err


def test_ctrl_c_stops_the_answer_and_not_the_program(instruct: Path) -> None:
    program, *arguments = [*INTERRUPTIBLE, "chat", "--model", str(instruct), "--max-tokens", "50000"]
    environment = os.environ | {"TERM": "xterm"}
    child = pexpect.spawn(
        program, arguments, env=environment, timeout=PATIENCE_S, encoding="utf-8", codec_errors="replace"
    )
    child.expect("> ")
    child.sendline("Hi")
    child.expect(".{40}")
    child.sendintr()
    child.expect("\r\n> ")
    child.sendline("/stats")
    child.expect(r"\d+ \+ \d+ tokens[^>]*> ")
    child.sendintr()
    child.expect("\r\n> ")
    child.sendeof()
    child.expect("\r\n")  # the shell's prompt begins a line
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


def test_generate_uses_the_template_unless_raw(instruct: Path) -> None:
    def tokens(*more: str) -> int:
        done = run("generate", "--model", instruct, "--prompt", "Hi", "--max-tokens", 2, "--json", *more)
        return int(answer(done)["stats"]["prompt_tokens"])

    assert tokens() > tokens("--raw") > 1


def test_an_unconfirmed_template_is_used_when_asked_for_and_said_to_be_one(base: Path, tmp_path: Path) -> None:
    done = chat(base, "Hi\n", "--chat-template", "zephyr", "--system", "Be brief.")
    assert done.code == 0
    assert "nobody has confirmed it" in done.err
    (tmp_path / "mine.jinja").write_text(TEMPLATE, encoding="utf-8")
    own = chat(base, "Hi\n", "--chat-template", str(tmp_path / "mine.jinja"))
    assert (own.code, "confirmed" in own.err) == (0, False)
    assert own.out != chat(base, "Hi\n").out
    assert chat(base, "Hi\n", "--chat-template", "nowhere").code == 66


def test_what_cannot_be_answered_leaves_the_conversation_as_it_was(instruct: Path, tmp_path: Path) -> None:
    failed = chat(instruct, "/regen\n/stats\n/load nowhere\n/save\n")
    assert failed.code == 0
    assert failed.err.count("elm-mlx: ") == 4
    refusing = (
        "{% for m in messages %}{% if m['content'] == 'no' %}{{ raise_exception('never') }}{% endif %}"
        "{{ m['content'] }}{% endfor %}"
    )
    (tmp_path / "t.jinja").write_text(refusing, encoding="utf-8")
    kept = saved(instruct, "yes\nno\nyes\n", tmp_path, "--chat-template", str(tmp_path / "t.jinja"))
    assert contents(kept) == ["yes", "yes"]


def test_ctrl_c_before_the_answer_stops_that_alone(instruct: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    talk = Chat(elm_mlx.load(instruct), None, {"max_tokens": 2})
    prompts = iter([KeyboardInterrupt, [1, 2]])

    def chat_prompt(_: object) -> list[int]:
        step = next(prompts)
        if step is KeyboardInterrupt:
            raise KeyboardInterrupt
        return [1, 2]

    monkeypatch.setattr(talk.lm, "chat_prompt", chat_prompt)
    talk.run(iter(["one", "two"]))
    assert [message["content"] for message in talk.messages if message["role"] == "user"] == ["two"]


def test_a_full_context_says_how_to_begin_anew(base: Path) -> None:
    done = chat(base, "word " * 3000 + "\n")
    assert (done.code, "/reset" in done.err) == (0, True)


def test_a_text_that_the_end_of_input_ends_is_answered(instruct: Path) -> None:
    for typed in ('"""one\ntwo', "one \\"):
        assert chat(instruct, typed).out.strip()
