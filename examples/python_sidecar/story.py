"""A program with a sidecar: it streams a story, ends one early, and gives memory back.

python examples/python_sidecar/story.py
"""

from __future__ import annotations

import sys

from sidecar import Sidecar, SidecarError

COMMAND = (sys.executable, "-m", "elm_mlx", "serve", "--stdio")


def main() -> None:
    with Sidecar(COMMAND) as sidecar:
        loading = sidecar.begin("model/load", chat_template="zephyr")  # the demo, which only tells stories
        for news in loading:
            print("Loading:", news["params"]["done"], "of", news["params"]["total"], "bytes")
        print("Context:", loading.result()["context_length"], "tokens")

        session = sidecar.call("session/new", instructions="Tell a story of a fox.", prewarm=True)["session"]
        asked = sidecar.begin("session/respond", session=session, prompt="How does it begin?", max_tokens=24)
        for text in asked.texts():
            print(text, end="", flush=True)
        print("\nBecause of:", asked.result()["finish_reason"])

        endless = sidecar.begin("generate", prompt="Once upon a time", max_tokens=1000)
        next(endless.texts())
        endless.cancel()
        try:
            endless.result()
        except SidecarError as error:
            print("Ended early:", error.data["kind"])

        print("Messages:", len(sidecar.call("session/transcript", session=session)["messages"]))
        print("Given back:", sidecar.call("memory/pressure", level="critical")["unloaded"])


if __name__ == "__main__":
    main()
