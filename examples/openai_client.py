"""Asks a running `elm-mlx serve` with OpenAI's package: `pip install openai`.

elm-mlx serve &
python examples/openai_client.py [URL] [MODEL]
"""

from __future__ import annotations

import sys

from openai import BadRequestError, OpenAI


def chat(client: OpenAI, model: str) -> None:
    """Streams the answer to a question, and says how many tokens it took."""
    messages = [{"role": "user", "content": "Name three rivers."}]
    options = {"max_tokens": 40, "stream": True, "stream_options": {"include_usage": True}}
    for chunk in client.chat.completions.create(model=model, messages=messages, **options):
        for choice in chunk.choices:  # the last chunk has none, but the usage
            print(choice.delta.content or "", end="", flush=True)
        if chunk.usage:
            print(f"\nTokens: {chunk.usage.prompt_tokens} + {chunk.usage.completion_tokens}")


def complete(client: OpenAI, model: str) -> None:
    """Streams what follows the beginning of a story."""
    for chunk in client.completions.create(model=model, prompt="Once upon a time", max_tokens=40, stream=True):
        print(chunk.choices[0].text, end="", flush=True)
    print()


def main(url: str = "http://127.0.0.1:8080/v1", model: str | None = None) -> None:
    with OpenAI(base_url=url, api_key="any text, where the server has no key") as client:
        names = [one.id for one in client.models.list()]
        print("Models:", ", ".join(names))
        model = model or names[0]  # the server's first model
        try:
            chat(client, model)
        except BadRequestError as error:
            if error.code != "no_chat_template":  # as the demo's and OpenELM's base models: they complete
                raise
            complete(client, model)


if __name__ == "__main__":
    main(*sys.argv[1:])
