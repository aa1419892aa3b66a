"""A chain of LangChain's over a running `elm-mlx serve`: `pip install langchain-openai`.

elm-mlx serve --model llama-3.2-1b-instruct &
python examples/langchain_chat.py [URL] [MODEL]

The chain streams, and then gives an answer as an object, whose form the server enforces.
"""

from __future__ import annotations

import sys
from typing import Literal

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI
from pydantic import BaseModel


class Judgement(BaseModel):
    """What is thought of a text."""

    mood: Literal["happy", "sad", "neutral"]
    needs_an_answer: bool


def main(url: str = "http://127.0.0.1:8080/v1", model: str = "default") -> None:
    chat = ChatOpenAI(base_url=url, model=model, api_key="unused", max_completion_tokens=60, temperature=0)
    asking = ChatPromptTemplate.from_messages([("system", "Answer in one sentence."), ("human", "{question}")])
    chain = asking | chat | StrOutputParser()
    for text in chain.stream({"question": "Why is the sky blue?"}):
        print(text, end="", flush=True)
    print()

    judge = asking | chat.with_structured_output(Judgement)
    judged = judge.invoke({"question": "What is the mood of: I found my keys!"})
    print("Mood:", judged.mood, "and it", "needs an answer." if judged.needs_an_answer else "needs no answer.")


if __name__ == "__main__":
    main(*sys.argv[1:])
