"""A model that is open: what it is, what computes it, and giving its memory back."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Self
from weakref import finalize

from elm_mlx.api.cache_plan import plan_again
from elm_mlx.api.request_maker import RequestMaker
from elm_mlx.api.templates import Templates
from elm_mlx.config import ModelConfig
from elm_mlx.device.execution import Execution
from elm_mlx.device.thread import is_forked, let_go
from elm_mlx.distributed.leader import LeadingEngine
from elm_mlx.engine.engine import Engine
from elm_mlx.engine.speculate import Speculation
from elm_mlx.engine.variants import Variants
from elm_mlx.engine.worker import Activity, Worker, closed, give_back
from elm_mlx.store.load import LoadedModel, Runs
from elm_mlx.text.tokenizer import Tokenizer


class OpenModel:
    """A loaded model that answers until it is closed: what it is, what computes it, and giving its memory back."""

    def __init__(
        self, loaded: LoadedModel, worker: Worker, holder: object, rows: int, draft: Path | None = None
    ) -> None:
        """Takes what `load` has made: `worker` answers requests, `rows` at a time, and `holder` keeps its thread.
        `draft` is the directory of the model that proposes ids, if one does."""
        self.directory: Path = loaded.directory
        self.draft: Path | None = draft
        self.config: ModelConfig = loaded.config
        self.tokenizer: Tokenizer = loaded.tokenizer
        self.execution: Execution = loaded.execution
        self._model: Runs | None = loaded.runs
        self._file_notices = loaded.notices
        self._templates = Templates(loaded.directory, loaded.settings, loaded.tokenizer)
        self._is_shared = isinstance(worker.engine, LeadingEngine)  # several ranks hold the model together
        self._maker = RequestMaker(loaded, self._templates, self._is_shared)
        self._worker, self._holder, self._rows = worker, holder, rows
        self._give_back = finalize(self, give_back, worker, holder)
        self._give_back.atexit = False

    @property
    def model(self) -> Runs:
        """The model itself, ids to logits. Compute with it by `elm_mlx.device.thread.on_device`. Raises EngineStopped
        after `close`."""
        if not self._model:
            raise closed()
        return self._model

    @property
    def speculation(self) -> Speculation:
        """What proposes ids, and what that costs here: for a program that runs an engine of its own."""
        return self._worker.engine.speculation

    @property
    def engine(self) -> Engine:
        """The engine that answers, for a program on the device thread. Raises EngineStopped after `close`."""
        return self._worker.engine

    @property
    def variants(self) -> Variants:
        """The model without and with its adapters: for a program that runs an engine of its own."""
        return self._worker.engine.variants

    @property
    def notice(self) -> str | None:
        """A sentence about the device that a program may show to its user, or None."""
        return self.execution.notice

    @property
    def notices(self) -> tuple[str, ...]:
        """Sentences that a program may show to its user: about the device, and about what in the model's files has no
        meaning."""
        return (*((self.notice,) if self.notice else ()), *self._file_notices)

    @property
    def activity(self) -> Activity:
        """What the model does at this moment, for any thread; this waits for nothing, even where the device hangs."""
        return self._worker.activity

    @property
    def stop_ids(self) -> frozenset[int]:
        """Every id that ends an answer: those that config.json, generation_config.json and the tokenizer's files name,
        and those that end a turn in the chat templates, the model's own and one from `use_chat_template`."""
        return self._maker.stop_ids

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """The texts that end every answer, which generation_config.json names; `stop` in a call adds to them."""
        return self._maker.stop_strings

    @property
    def is_greedy(self) -> bool:
        """Whether a call that names no temperature takes the likeliest id each time."""
        return self._maker.sampling.is_greedy

    def close(self) -> None:
        """Cancels all requests and gives the model's memory back. Any later call raises EngineStopped. The last model
        that is closed ends the device thread. Closing twice does nothing, nor does closing in a forked process."""
        if not self._give_back.alive or is_forked():
            return
        self._model = None
        try:
            self._worker.close()
        except BaseException:
            self._worker.close_from_finalizer()  # the wait was interrupted (Ctrl-C), perhaps before the closing began
            raise
        finally:
            if self._give_back.detach():
                self._worker.order(partial(plan_again, self._worker.thread))
                let_go(self._holder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
