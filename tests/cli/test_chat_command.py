"""`chat`: what is typed, what is answered where, and a Ctrl-C that stops the answer alone."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import pexpect
import pytest
from helpers import checkpoints
from helpers.command_line import PATIENCE_S, PROGRAM, Result, answer, run
from helpers.scripted import Script, call

import elm_mlx
from elm_mlx import files
from elm_mlx.api.session import Session
from elm_mlx.api.session_stream import SessionStream
from elm_mlx.cli.chat import Chat, read_entries
from elm_mlx.cli.pieces import print_texts
from elm_mlx.errors import DiskFull

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
    assert done.code == 2  # of /nonsense
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


def test_an_error_amid_an_answer_begins_a_line(instruct: Path, tmp_path: Path) -> None:
    spoken = elm_mlx.load(instruct).chat([{"role": "user", "content": "Hi"}], 3)
    model = Path(shutil.copytree(instruct, tmp_path / "model"))
    arrays = mx.load(str(model / "model.safetensors"))
    assert isinstance(arrays, dict)
    arrays["model.embed_tokens.weight"][spoken.tokens[2]] = float("nan")
    checkpoints.save(model, arrays)
    done = chat(model, "Hi\n")
    assert (done.code, done.out) == (65, spoken.text + "\n")
    assert "logits are NaN at token 4 of the answer" in done.err


def test_a_base_model_completes_and_goes_on(base: Path, tmp_path: Path) -> None:
    conversation = saved(base, "the cat\n and the dog\n", tmp_path)
    messages = conversation["messages"]
    assert isinstance(messages, list)
    assert [message["role"] for message in messages] == ["user", "assistant"] * 2
    assert "so it completes what you type" in chat(base, "").err
    assert "can be given no system message" in chat(base, "/system Be brief.\n").err


def test_an_answer_of_a_conversation_ends_before_a_stop_string(base: Path, instruct: Path, tmp_path: Path) -> None:
    for model in (base, instruct):
        whole = chat(model, "the cat\n").out.removesuffix("\n")
        stop = whole[2:5]
        assert chat(model, "the cat\n", "--stop", stop).out == whole[: whole.index(stop)] + "\n"
        messages = saved(model, "the cat\n", tmp_path, "--stop", stop)["messages"]
        assert isinstance(messages, list)
        assert messages[-1]["content"].lstrip() == whole[: whole.index(stop)].lstrip()


@pytest.mark.parametrize(
    "content", ["no json", "[" * 100_000, "[]", '{"messages": [1]}', '{"messages": [{"role": "user"}]}']
)
def test_a_file_that_is_no_conversation_is_refused(instruct: Path, tmp_path: Path, content: str) -> None:
    (tmp_path / "other.json").write_text(content, encoding="utf-8")
    for command in ("/load", "/save"):
        done = chat(instruct, f"{command} {tmp_path / 'other.json'}\n")
        assert (done.code, "is no file with a transcript" in done.err) == (2, True)
        assert (tmp_path / "other.json").read_text(encoding="utf-8") == content


def test_save_replaces_a_conversation_and_an_empty_file_and_nothing_else(
    instruct: Path, tmp_path: Path, pipe: Path
) -> None:
    (tmp_path / "chat.json").touch()
    assert contents(saved(instruct, "one\n", tmp_path)) == ["one"]
    assert contents(saved(instruct, "two\n", tmp_path)) == ["two"]
    for other in (tmp_path, pipe, "/dev/null"):
        done = chat(instruct, f"/save {other}\n")
        assert (done.code, "is a directory" in done.err or "Name another file." in done.err) == (2, True)
    assert [path.name for path in tmp_path.iterdir()] == ["chat.json"]


def test_a_full_disk_leaves_the_earlier_conversation_and_its_advice_is_chats_own(
    instruct: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    earlier = saved(instruct, "one\n", tmp_path)
    monkeypatch.setattr(files.os, "fsync", full)
    done = chat(instruct, f"two\n/save {tmp_path / 'chat.json'}\n")
    assert done.code == DiskFull.exit_code
    assert "the disk is full. Free some space, or name another file." in done.err
    assert json.loads((tmp_path / "chat.json").read_text(encoding="utf-8")) == earlier
    assert [path.name for path in tmp_path.iterdir()] == ["chat.json"]


def test_a_file_that_none_can_be_is_a_sentence(instruct: Path) -> None:
    done = chat(instruct, f"/save a\0b\n/load a\0b\n/save {'x' * 300}\n/load {'x' * 300}\n")
    assert (done.code, done.err.count("no path holds a NUL")) == (2, 2)
    assert done.err.count("File name too long.") == 2


def test_a_conversation_is_read_from_no_pipe_or_device(instruct: Path, pipe: Path) -> None:
    done = chat(instruct, f"/load {pipe}\n/load nowhere\n")
    assert (done.code, done.err.count("it is a folder, a pipe or a device")) == (65, 1)
    assert "nowhere cannot be read: No such file" in done.err


def test_ctrl_c_stops_the_answer_and_not_the_program(instruct: Path) -> None:
    program, *arguments = [*PROGRAM, "chat", "--model", str(instruct), "--max-tokens", "50000"]
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
    assert failed.code == 2
    assert failed.err.count("elm-mlx: ") == 4
    refusing = (
        "{% for m in messages %}{% if m['content'] == 'no' %}{{ raise_exception('never') }}{% endif %}"
        "{{ m['content'] }}{% endfor %}"
    )
    (tmp_path / "t.jinja").write_text(refusing, encoding="utf-8")
    typed, place = "yes\nno\nyes\n", tmp_path / "chat.json"
    assert chat(instruct, f"{typed}/save {place}\n", "--chat-template", str(tmp_path / "t.jinja")).code == 2
    assert contents(json.loads(place.read_text(encoding="utf-8"))) == ["yes", "yes"]


def test_the_next_turn_is_begun_while_somebody_types(instruct: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[int] = []
    monkeypatch.setattr(Session, "prewarm", lambda session: begun.append(len(session.transcript)))
    for options, times in (({}, [2, 4]), ({"kv_bits": 8}, [])):
        Chat(elm_mlx.load(instruct), None, {"max_tokens": 2, **options}).run(iter(["one", "two"]))
        assert begun == times
        begun.clear()


def test_ctrl_c_before_the_answer_stops_that_alone(instruct: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    talk = Chat(elm_mlx.load(instruct), None, {"max_tokens": 2})
    prompts = iter([KeyboardInterrupt])

    def chat_prompt(_: object, **__: object) -> list[int]:
        step = next(prompts, None)
        if step is KeyboardInterrupt:
            raise KeyboardInterrupt
        return [1, 2]

    monkeypatch.setattr(talk.lm, "chat_prompt", chat_prompt)
    talk.run(iter(["one", "two"]))
    assert [message["content"] for message in talk.messages if message["role"] == "user"] == ["two"]


class Interrupted:
    """A stream of a model's that Ctrl-C stops after so many pieces."""

    def __init__(self, stream: SessionStream, pieces: int) -> None:
        self.stream, self.pieces = stream, pieces

    def __iter__(self) -> Iterator[elm_mlx.Piece]:
        for _ in range(self.pieces):
            yield next(self.stream)
        raise KeyboardInterrupt

    def __getattr__(self, name: str) -> object:
        return getattr(self.stream, name)


def test_ctrl_c_pressed_twice_does_not_end_the_conversation(instruct: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    typed = iter([interrupted, lambda: "one", interrupted])
    monkeypatch.setattr("elm_mlx.cli.chat.read_entry", lambda: next(typed, end_of_input)())
    monkeypatch.setattr("elm_mlx.cli.chat.tell", interrupted)  # the second one comes while the first ends the line
    talk = Chat(elm_mlx.load(instruct), None, {"max_tokens": 2})
    monkeypatch.setattr(talk.lm, "chat_prompt", interrupted)
    talk.run(read_entries())
    assert talk.messages == []


def end_of_input() -> str:
    raise EOFError


def test_a_turn_reads_only_what_is_new_and_stats_say_so(instruct: Path) -> None:
    done = chat(instruct, f"{'word ' * 20}\n/stats\nand more\n/stats\n")
    first, second = [line for line in done.err.splitlines() if " tokens: the first after " in line]
    assert "cached" not in first
    prompt, cached = map(int, re.match(r"(\d+) \((\d+) cached\) \+ ", second).groups())  # type: ignore[union-attr]
    assert cached > prompt / 2


def interrupt_after(pieces: int, talk: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = talk.session.stream
    monkeypatch.setattr(talk.session, "stream", lambda *given, **options: Interrupted(whole(*given, **options), pieces))


def test_ctrl_c_before_the_first_token_leaves_everything_as_it_was(
    instruct: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    talk = Chat(elm_mlx.load(instruct), None, {"max_tokens": 2})
    interrupt_after(0, talk, monkeypatch)
    talk.run(iter(["one"]))
    assert (talk.messages, talk.last, talk.failure) == ([], None, None)
    monkeypatch.undo()
    talk.run(iter(["two"]))
    before, last = list(talk.messages), talk.last
    capsys.readouterr()
    interrupt_after(0, talk, monkeypatch)
    talk.run(iter(["three", "/regen"]))
    assert (talk.messages, talk.last) == (before, last)  # what /stats shows is the last answer's
    assert "--max-tokens" not in capsys.readouterr().err


def test_ctrl_c_amid_an_answer_keeps_what_came_and_blames_no_length(
    instruct: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    talk = Chat(elm_mlx.load(instruct), None, {"max_tokens": 9})
    talk.run(iter(["one"]))
    assert "--max-tokens" in capsys.readouterr().err
    whole = talk.messages[-1]["content"]
    interrupt_after(4, talk, monkeypatch)
    talk.run(iter(["/regen", "/stats"]))
    shown = capsys.readouterr()
    assert [message["role"] for message in talk.messages] == ["user", "assistant"]
    assert whole.startswith(talk.messages[-1]["content"])
    assert shown.out == talk.messages[-1]["content"] + "\n"
    assert " + 4 tokens: the first after " in shown.err
    assert "--max-tokens" not in shown.err


def test_a_full_context_says_how_to_begin_anew(base: Path) -> None:
    done = chat(base, "word " * 3000 + "\n")
    assert (done.code, "/reset" in done.err) == (2, True)


def test_a_pipes_exit_code_is_that_of_the_first_entry_that_failed_and_a_terminals_0(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert chat(base, "the cat\n/load nowhere\n/nonsense\n and the dog\n").code == 1
    assert chat(base, "the cat\n").code == 0
    monkeypatch.setattr(sys.modules["elm_mlx.cli.chat"], "read_entries", lambda: terminal_entries(monkeypatch))
    assert chat(base, "").code == 0


def terminal_entries(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An entry that fails, from a standard input that is a terminal's."""
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    yield "/nonsense"


def test_a_text_that_the_end_of_input_ends_is_answered(instruct: Path) -> None:
    for typed in ('"""one\ntwo', "one \\"):
        assert chat(instruct, typed).out.strip()


LOOK = {"name": "look", "description": "Looks.", "parameters": {"type": "object", "properties": {}}}


def test_the_result_of_a_call_is_typed(
    instruct: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tools.json").write_text(json.dumps([LOOK]), encoding="utf-8")
    talk = Chat(elm_mlx.load(instruct), None, {"max_tokens": 2})
    (tmp_path / "tools.jinja").write_text(TEMPLATE + "{{ tools }}", encoding="utf-8")
    talk.lm.use_chat_template(tmp_path / "tools.jinja")
    script = Script([[call("look", 1, where="here"), call("look", 2)], "A tree."])
    monkeypatch.setattr(talk.lm, "chat_stream", script)
    talk.run(iter([f"/tools {tmp_path / 'tools.json'}", "What is there?", "a trunk", "leaves", "/tools off"]))
    shown = capsys.readouterr()
    said = [message["content"] for message in talk.messages]
    assert said == ["What is there?", "", "a trunk", "leaves", "A tree."]
    assert 'The model calls look with {"where": "here"}. Type the result.\n' in shown.err
    assert shown.err.count("Type the result.") == 2
    assert (shown.out.strip(), talk.failure) == ("A tree.", None)
    assert ("1 tools.\n" in shown.err, "0 tools.\n" in shown.err) == (True, True)
    talk.run(iter(["/regen"]))
    assert [message["role"] for message in talk.messages] == ["user", "assistant"]


def test_a_schema_is_for_the_next_answers(instruct: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "schema.json").write_text('{"type": "object"}', encoding="utf-8")
    talk = Chat(elm_mlx.load(instruct), None, {"max_tokens": 2})
    script = Script(["{}"])
    monkeypatch.setattr(talk.lm, "chat_stream", script)
    talk.run(iter([f"/schema {tmp_path / 'schema.json'}", "one", "two", "/schema off", "three"]))
    assert [options.get("schema") for _, options in script.asked] == [{"type": "object"}, {"type": "object"}, None]


def test_files_that_hold_no_tools_or_schema_are_refused(instruct: Path, base: Path, tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text("[1]", encoding="utf-8")
    (tmp_path / "torn.json").write_text("[" * 50_000, encoding="utf-8")
    for command in ("/tools", "/schema"):
        names = "", tmp_path / "list.json", tmp_path / "torn.json", "nowhere"
        typed = "".join(f"{command} {name}\n" for name in names)
        done = chat(instruct, f"{typed}Hi\n")
        assert (done.code, done.err.count("elm-mlx: ")) == (2, 4)
        assert f"Give a file: {command} FILE." in done.err
        assert "torn.json is not valid JSON" in done.err
        assert done.out.strip()
    assert "can be given no tools" in chat(base, "/tools off\n").err


def test_a_base_model_is_held_to_a_schema_too(base: Path, tmp_path: Path) -> None:
    pytest.importorskip("llguidance")
    (tmp_path / "schema.json").write_text('{"type": "boolean"}', encoding="utf-8")
    done = chat(base, f"/schema {tmp_path / 'schema.json'}\nIs it so?\n")
    assert (done.code, done.out.strip() in ("true", "false")) == (0, True)


def test_a_conversation_that_a_base_model_cannot_have_is_not_loaded(base: Path, tmp_path: Path) -> None:
    told = {"system": "Be brief.", "messages": []}
    (tmp_path / "talk.json").write_text(json.dumps(told), encoding="utf-8")
    done = chat(base, f"the cat\n/load {tmp_path / 'talk.json'}\n and the dog\n/save {tmp_path / 'kept.json'}\n")
    assert (done.code, done.err.count("can be given no system message")) == (2, 1)
    kept = json.loads((tmp_path / "kept.json").read_text(encoding="utf-8"))
    assert contents(kept) == ["the cat", " and the dog"]


def test_a_loaded_call_that_waits_is_shown(instruct: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    calls = [{"id": "1", "type": "function", "function": {"name": "look", "arguments": {"where": "here"}}}]
    talk = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "tool_calls": calls}]}
    (tmp_path / "talk.json").write_text(json.dumps(talk), encoding="utf-8")
    Chat(elm_mlx.load(instruct), None, {"max_tokens": 2}).run(iter([f"/load {tmp_path / 'talk.json'}"]))
    assert 'The model calls look with {"where": "here"}. Type the result.' in capsys.readouterr().err


def test_reasoning_and_answer_are_set_apart_and_calls_are_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    said = [
        ("reasoning", "Let me "),
        ("reasoning", "see."),
        ("text", ""),
        ("text", "Yes"),
        ("tool", "{}"),
        ("text", "!"),
    ]
    print_texts(elm_mlx.Piece(text, 1, None, kind=kind) for kind, text in said)
    assert capsys.readouterr().out == "Let me see.\n\nYes!"
