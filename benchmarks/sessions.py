"""How soon the first token of turn ten of a session comes, over that of a fresh prompt of the same transcript.

    python benchmarks/sessions.py [--shapes demo,openelm-270m] [--runs 3] [--turns 10] [--prewarm] [--json]

Each run is a session of its own. At its last turn the session and the fresh prompt, which reuses nothing, are asked for
the same, one after the other; which of them comes first takes turns. Between the turns another session, told the same,
has a turn of its own. With --prewarm the session reads what its last turn begins with before that is asked for, as a
program does while somebody types. The ratio is of times from the call to the first token; the bar is 0.2. Every sample
is kept.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import elm_mlx

# As real ones do, it writes before an earlier answer what it asks for one with, so that an answer is not read again.
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ 'So: ' if m['role'] == 'assistant' else '' }}{{ m['content'] + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'So:' }}{% endif %}"
)
TOLD = "One day a fox met a bear who lived in a small house by the river. They were good friends and liked stories."
ASKED = "The bear told a story of day {number}, and the fox asked for one more."
ANSWER, LAST = 8, 1  # tokens of an answer, and of those whose text is not needed
BAR = 0.2
TYPING_S = 1.0  # while which a session that was prewarmed reads what it holds already


@dataclass(frozen=True)
class Sample:
    """The last turn of a session: tokens of its prompt, those that were held, and seconds to the first token, of the
    session and of a fresh prompt."""

    shape: str
    prompt_tokens: int
    cached_tokens: int
    session_s: float
    fresh_s: float

    @property
    def ratio(self) -> float:
        """The session's time over the fresh prompt's."""
        return self.session_s / self.fresh_s


@contextmanager
def loaded(shape: str) -> Iterator[elm_mlx.LanguageModel]:
    """The demo, or a model of random weights in this shape, with a template of few tokens."""
    from elm_mlx.bench.random_model import random_model
    from elm_mlx.demo import demo_directory

    with tempfile.TemporaryDirectory() as place:
        template = Path(place) / "short.jinja"
        template.write_text(TEMPLATE, encoding="utf-8")
        if shape == "demo":
            with elm_mlx.load(demo_directory()) as lm:
                lm.use_chat_template(template)
                yield lm
            return
        with random_model(shape) as folder, elm_mlx.load(folder) as lm:
            lm.use_chat_template(template)
            yield lm


def sample(lm: elm_mlx.LanguageModel, shape: str, turns: int, *, session_first: bool, prewarm: bool) -> Sample:
    """Talks for so many turns, and measures the last one."""
    session, other = lm.session(TOLD, temperature=0.0), lm.session(TOLD, temperature=0.0)
    for number in range(1, turns):
        session.respond(ASKED.format(number=number), ANSWER)
        other.respond(ASKED.format(number=-number), LAST)
    if prewarm:
        session.prewarm()
        time.sleep(TYPING_S)
    asked = ASKED.format(number=turns)
    messages = [*session.transcript, {"role": "user", "content": asked}]

    def fresh() -> elm_mlx.Stats:
        return lm.chat(messages, LAST, temperature=0.0, reuse=False).stats

    first = None if session_first else fresh()
    done = session.respond(asked, LAST).stats
    anew = first or fresh()
    times = done.time_to_first_token_s, anew.time_to_first_token_s
    return Sample(shape, done.prompt_tokens, done.cached_tokens, *times)


def main() -> None:
    """Prints a line a shape, or all samples as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="demo,openelm-270m")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--prewarm", action="store_true")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    elm_mlx.use_fast_blas()
    samples: list[Sample] = []
    for shape in given.shapes.split(","):
        with loaded(shape) as lm:
            turns, how = given.turns, {"prewarm": given.prewarm}
            runs = [sample(lm, shape, turns, session_first=number % 2 == 0, **how) for number in range(given.runs)]
        samples += runs
        if not given.json:
            middle = statistics.median(run.ratio for run in runs)
            print(f"{shape}: turn {given.turns}, {runs[0].prompt_tokens} tokens, {runs[0].cached_tokens} held: "
                  f"first token after {middle:.3f} of a fresh prompt's time (bar {BAR}); "
                  f"all runs {', '.join(f'{run.ratio:.3f}' for run in runs)}")  # fmt: skip
    if given.json:
        from elm_mlx.bench.facts import machine_facts, software_facts

        report = {"schema": "elm-mlx sessions 1", "machine": machine_facts(), "software": software_facts()}
        print(json.dumps(report | {"samples": [asdict(one) for one in samples]}, indent=2))


if __name__ == "__main__":
    main()
