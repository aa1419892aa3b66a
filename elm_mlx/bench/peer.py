"""mlx-lm in a process of its own, both ends of it: each request is a line of JSON, and so is its answer.

    python -m elm_mlx.bench.peer DIRECTORY BLAS

mlx-lm is imported in no other process, since importing it lowers a process's limits for good. torch is kept out of it:
mlx-lm does not need torch, which brings threads of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import elm_mlx
from elm_mlx.bench.cases import Case, Sample
from elm_mlx.bench.loads import Load, Mark, Run
from elm_mlx.errors import ElmError, NotFound


class Peer:
    """Our end: runs mlx-lm on a directory, with this process's BLAS. `facts` is what mlx-lm reports of itself.

    Raises NotFound where mlx-lm is not installed, ElmError where it fails or has another BLAS.
    """

    def __init__(self, directory: Path) -> None:
        if find_spec("mlx_lm") is None:
            raise NotFound("mlx-lm is not installed, so there is nothing to compare with. Install it with its extra: "
                           "pip install 'elm-mlx[mlx-lm]'; from a checkout: pip install -e '.[mlx-lm]'.",
                           "Or leave {compare} out.")  # fmt: skip
        blas, pipe = elm_mlx.fast_blas(), subprocess.PIPE
        command = [sys.executable, "-m", "elm_mlx.bench.peer", str(directory), blas or ""]
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
        try:
            self.facts = self._introduction(blas)
        except BaseException:  # Ctrl-C too: nothing else would end the process yet
            self._end()
            raise

    def __enter__(self) -> Self:
        return self

    def sample(self, case: Case, ids: list[int]) -> Sample:
        """One run of `case` by mlx-lm, timed in its process."""
        return Sample(*self._ask(case=asdict(case), ids=ids))

    def run(self, load: Load) -> Run:
        """One run of `load` by mlx-lm's batch generation, timed in its process."""
        begun, ended, peak = self._ask(**asdict(load))
        return Run(Mark(*begun), Mark(*ended), peak)

    def judge(self, prompt: list[int], tokens: list[int]) -> tuple[list[int], float]:
        """Asks mlx-lm's process for what `Theirs.judge` gives."""
        greedy, below = self._ask(prompt=prompt, tokens=tokens)
        return greedy, below

    def _introduction(self, blas: str | None) -> dict[str, Any]:
        facts: dict[str, Any] = self._answer()
        if facts["blas"] != blas:
            raise ElmError(f"mlx-lm computes with {facts['blas'] or 'the reference BLAS'} and elm-mlx with "
                           f"{blas or 'that'}. Set ELM_MLX_BLAS=reference for both.")  # fmt: skip
        return facts

    def _ask(self, **request: Any) -> Any:
        assert self._process.stdin
        with suppress(BrokenPipeError):  # the process ended, which the missing answer reports
            print(json.dumps(request), file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout
        answer = json.loads(self._process.stdout.readline() or '{"error": "it ended without a word"}')
        if isinstance(answer, dict) and "error" in answer:
            raise ElmError(f"mlx-lm failed: {answer['error']}.", "Leave {compare} out to measure elm-mlx alone.")
        return answer

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end()

    def _end(self) -> None:
        self._process.kill()  # it may be in the middle of a long run, and has nothing to tidy up
        self._process.communicate()


def main() -> None:
    """mlx-lm's end: prints its facts, then an answer to each request until stdin ends."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what other code prints is no answer
    directory, blas = sys.argv[1:]
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        if blas:
            elm_mlx.use_fast_blas()
        from elm_mlx.bench.theirs import Theirs  # here, as it imports MLX, and with it a BLAS

        theirs = Theirs(Path(directory))
        print(json.dumps(theirs.facts), file=answers, flush=True)
        for line in sys.stdin:
            print(json.dumps(theirs.answer(json.loads(line))), file=answers, flush=True)
    except Exception as error:  # mlx-lm may raise anything
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}), file=answers, flush=True)


if __name__ == "__main__":
    main()
