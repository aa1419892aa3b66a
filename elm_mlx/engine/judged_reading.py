"""Reading a prompt for the log-probabilities of its own ids."""

from __future__ import annotations

import mlx.core as mx

from elm_mlx.device.execution import Execution
from elm_mlx.engine.decodes import Decodes
from elm_mlx.engine.logprobs import Noter
from elm_mlx.engine.prefill import Reading
from elm_mlx.engine.sequence import Sequence


class JudgedReading(Reading):
    """Reads the prompt of a sequence whose request has it `judged`, and notes in its `judged` how likely each id but
    the first is, and the id after them. The logits of one chunk alone are in memory."""

    def __init__(self, model: Decodes, one: Sequence, execution: Execution) -> None:
        super().__init__(model, mx.array([one.request.prompt]), one.cache or (), execution)
        assert one.request.judged
        after, self.most = one.request.judged
        self.following = mx.array([*one.request.prompt[1:], after])
        self.found = one.judged

    def advance(self) -> mx.array | None:
        """Reads one round, as Reading does, and notes what was found."""
        for place, which in self.rounds.popleft():
            self.read = which.stop
            with place:
                logits = self.model.head(self.model.hidden(self.ids[:, which], self.cache))[0]  # [chunk, V]
                count = which.stop - which.start
                noter = Noter([(row, row, self.most) for row in range(count)], count, compiled=False)
                note = noter(logits, self.following[which])
                mx.eval(note.arrays())
            self.found += [entry for _, entry in note.entries()]
        return logits[-1:] if self.read == self.ids.shape[1] else None
