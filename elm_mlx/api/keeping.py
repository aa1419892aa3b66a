"""Keys and values of prompts that are kept for later: in a file, or in memory until they are forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Unpack, cast

from elm_mlx.api.completing import Completes
from elm_mlx.api.options import Options
from elm_mlx.api.pieces import AnswerPieces
from elm_mlx.api.prompt_caches import PromptCaches, refuse_short
from elm_mlx.api.stream import Stream
from elm_mlx.api.structure import without_form
from elm_mlx.api.unable import refuse_files, refuse_on_ranks
from elm_mlx.arguments import Progress, file_to_write, named_path
from elm_mlx.store.prompt_cache import refuse_other_file


class KeepsPrompts(Completes):
    """An open model whose keys and values of a prompt can be kept in a file."""

    def forget_prefixes(self) -> int:
        """Gives back the memory of keys and values that are kept of earlier requests, or were read by `load_cache`, and
        returns its bytes. For a program that is told that memory is short. Raises EngineStopped after `close`,
        Forked."""
        return self._worker.call(lambda engine: engine.forget_prefixes())

    def save_cache(
        self, prompt: str | Sequence[int], path: str | Path, *, progress: Progress | None = None,
        **options: Unpack[Options],
    ) -> int:  # fmt: skip
        """Reads `prompt` and writes its keys and values into a file, so that another process need not read it; returns
        how many tokens it has. Of the `options` `window` and `kv_bits` count: they say how keys and values are held,
        and the calls that are to use the file must have equal ones; `adapter`, too, which the file records.

        The file, a safetensors one, is whole or not there, and replaces an earlier one of saved keys and values; Ctrl-C
        ends the reading. `progress` is called with (tokens read, in all). Raises as `submit`; InvalidRequest for fewer
        tokens than are ever reused; TargetExists where another file has the name; NotFound without the file's
        directory; DiskFull.
        """
        refuse_on_ranks(self._is_shared, "Saving keys and values")
        place = file_to_write("path", path)
        refuse_other_file(place)
        request = self.request(prompt, 1, **cast(Options, without_form(options)))
        request = replace(request, stop_ids=frozenset(), stopper=None, logprobs=None, hold=True)
        refuse_short(request.prompt)
        files = self._prompt_caches(options.get("adapter"))
        handle = self._worker.submit(request)
        answer = Stream(handle, self._worker, AnswerPieces(request, self.tokenizer), self, progress)
        return files.save(place, handle, answer)

    def load_cache(self, path: str | Path, *, adapter: str | None = None) -> int:
        """Reads keys and values that `save_cache` has written with this `adapter`, and returns how many tokens they are
        of. Calls whose prompts begin with these tokens, with the same `window`, `kv_bits` and `adapter`, need not read
        them again: `stats.cached_tokens` says how many. They stay in memory until `forget_prefixes`, or until requests
        need all of it.

        Raises NotFound; BadCheckpoint for a file that is damaged, or another one; InvalidRequest where it was saved
        with another model, adapter, tokenizer or type of numbers; NotEnoughMemory, with the numbers; EngineStopped,
        Forked."""
        return self._prompt_caches(adapter).load(named_path("path", path))

    def _prompt_caches(self, adapter: str | None) -> PromptCaches:
        refuse_files(self.config)
        refuse_on_ranks(self._is_shared, "A file of keys and values")
        names = self._maker.adapters
        used = names.number(adapter), names.fingerprint(adapter)
        return PromptCaches(self.directory, self.config, self.model.dtype, self._worker, used)
