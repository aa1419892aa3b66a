"""llm, the command, with elm-mlx installed beside it: our plugin is found by its entry point, and needs no server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from trying import CITIES, PLACE, expected, trying

CHAT, DEMO = "elm-mlx/tests/tiny-llama", "elm-mlx/demo"
COMMIT = "0" * 40
TOOL = "def weather(city: str) -> str:\n    'Tells the weather.'\n    return 'Rain.'\n"
BRIEF = ("-o", "max_tokens", "8", "-o", "temperature", "0")


def llm(*arguments: str, code: int = 0) -> str:
    """What the command prints."""
    command = [Path(sys.executable).with_name("llm"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, stdin=subprocess.DEVNULL)
    assert done.returncode == code, done.stderr
    return (done.stdout if code == 0 else done.stderr).strip()


def set_up() -> str:
    """Puts the tiny Llama where Hugging Face's cache would have it, and has the models listed."""
    place = Path.home() / ".cache/huggingface/hub/models--tests--tiny-llama"
    (place / "snapshots").mkdir(parents=True)
    (place / "snapshots" / COMMIT).symlink_to(os.environ["TINY_LLAMA"], target_is_directory=True)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(COMMIT, encoding="utf-8")
    listed = llm("models")
    return expected(CHAT in listed and DEMO in listed, "both models are listed")


def plain() -> str:
    whole, streamed = llm("-m", CHAT, "Hi", "--no-stream", *BRIEF), llm("-m", CHAT, "Hi", *BRIEF)
    return expected(whole and whole == streamed, whole)


def completed() -> str:
    text = llm("-m", DEMO, "Once upon a time", *BRIEF)
    return expected(text.startswith("there lived a"), text)


def went_on() -> str:
    llm("-m", CHAT, "Hi", *BRIEF)
    first = json.loads(llm("logs", "list", "-n", "1", "--json"))[0]
    llm("-c", "And now?", *BRIEF)
    second = json.loads(llm("logs", "list", "-n", "1", "--json"))[0]
    same = first["conversation_id"] == second["conversation_id"]
    seen = f"{first['input_tokens']} and then {second['input_tokens']} tokens read, {second['output_tokens']} written"
    return expected(same and second["input_tokens"] > first["input_tokens"] + 8 and second["output_tokens"] == 8, seen)


def formed() -> str:
    text = llm("-m", CHAT, "Hi", "--schema", json.dumps(PLACE), "-o", "max_tokens", "100")
    return expected(json.loads(text)["city"] in CITIES, text)


def with_tool() -> str:
    return expected(True, llm("-m", CHAT, "Hi", "--functions", TOOL, *BRIEF))


def refused() -> str:
    sentence = llm("-m", DEMO, "Hi", "-s", "Be kind.", code=1)
    return expected(
        sentence.startswith("Error: This model has no chat template") and "Traceback" not in sentence, sentence
    )


trying("found by its entry point", set_up)
trying("chat, whole and streamed", plain)
trying("completion of the demo", completed)
trying("a conversation, usage", went_on)
trying("schema", formed)
trying("tools offered", with_tool)
trying("a refusal as a sentence", refused)
