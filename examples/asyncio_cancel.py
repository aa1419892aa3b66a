"""Streams answers in asyncio, several at once, and cancels them: by a limit of time, and by leaving the loop.

python examples/asyncio_cancel.py
"""

from __future__ import annotations

import asyncio

import elm_mlx

OPENINGS = ("Once upon a time", "In a small village", "The old sailor")


async def tell(lm: elm_mlx.LanguageModel, opening: str) -> str:
    """The first sentence of a story: leaving the loop cancels the rest."""
    text = opening + " "
    async for piece in lm.astream(opening, max_tokens=200, temperature=0.8, seed=1):
        text += piece.text
        if "." in text:
            break
    return text


async def tell_in_time(lm: elm_mlx.LanguageModel, opening: str, seconds: float) -> str | None:
    """A whole story if it comes in so many seconds, else None: the task's end cancels the request."""
    try:
        async with asyncio.timeout(seconds):
            return (await lm.agenerate(opening, max_tokens=None)).text
    except TimeoutError:
        return None


async def main() -> None:
    with elm_mlx.load() as lm:
        for text in await asyncio.gather(*(tell(lm, opening) for opening in OPENINGS)):
            print(text)
        print("A whole story in 10 ms:", await tell_in_time(lm, OPENINGS[0], 0.01))


if __name__ == "__main__":
    asyncio.run(main())
