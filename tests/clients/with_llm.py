"""llm, the command, as its users have it: models in extra-openai-models.yaml."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from trying import CHAT, CITIES, DEMO, PLACE, URL, expected, trying

MODELS = f"""\
- model_id: elm-chat
  model_name: {CHAT}
  api_base: {URL}
  supports_schema: true
  supports_tools: true
- model_id: elm-demo
  model_name: {DEMO}
  api_base: {URL}
  completion: true
"""
TOOL = "def weather(city: str) -> str:\n    'Tells the weather.'\n    return 'Rain.'\n"


def llm(*arguments: str) -> str:
    """What the command prints."""
    command = [Path(sys.executable).with_name("llm"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def set_up() -> str:
    folder = Path(os.environ["LLM_USER_PATH"])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "extra-openai-models.yaml").write_text(MODELS, encoding="utf-8")
    return expected("elm-chat" in llm("models"), "both models are listed")


def plain() -> str:
    whole = llm("-m", "elm-chat", "Hi", "--no-stream", "-o", "max_tokens", "8", "-o", "temperature", "0")
    streamed = llm("-m", "elm-chat", "Hi", "-o", "max_tokens", "8", "-o", "temperature", "0")
    return expected(whole and whole == streamed, whole)


def used() -> str:
    told = json.loads(llm("logs", "list", "-n", "1", "--json"))[0]
    return expected(told["output_tokens"] == 8, f"{told['input_tokens']} + {told['output_tokens']} tokens")


def formed() -> str:
    text = llm("-m", "elm-chat", "Hi", "--schema", json.dumps(PLACE), "-o", "max_tokens", "100")
    return expected(json.loads(text)["city"] in CITIES, text)


def with_tool() -> str:
    return expected(True, llm("-m", "elm-chat", "Hi", "--functions", TOOL, "-o", "max_tokens", "8"))


def completed() -> str:
    return expected(text := llm("-m", "elm-demo", "Once upon a time", "-o", "max_tokens", "8"), text)


trying("extra-openai-models.yaml", set_up)
trying("chat, whole and streamed", plain)
trying("usage in its log", used)
trying("schema", formed)
trying("tools offered", with_tool)
trying("completion", completed)
