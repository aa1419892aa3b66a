"""Has a small draft propose tokens: the answers stay the same, and may come sooner.

python examples/speculation.py

How many are proposed depends on what pays on this machine. For answers that copy from their prompt, `lookup=True` in a
call needs no draft.
"""

from __future__ import annotations

import elm_mlx

PROMPT = "Once upon a time"


def main() -> None:
    with elm_mlx.load() as lm:
        plain = lm.generate(PROMPT, max_tokens=100)
    with elm_mlx.load(draft="auto") as lm:  # the demo brings a draft; for others "auto" takes one that is here
        for notice in lm.notices:
            print(notice)
        done = lm.generate(PROMPT, max_tokens=100)
        print(done.text)
        print("The same as without a draft:", done.tokens == plain.tokens)
        print(f"Proposals: {done.stats.accepted} of {done.stats.proposed} were right")
    for what, stats in (("plain", plain.stats), ("with the draft", done.stats)):
        print(f"Tokens per second, {what}: {stats.decode_tokens_per_s or 0:.0f}")


if __name__ == "__main__":
    main()
