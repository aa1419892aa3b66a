"""Adapters beside a model: loading them, and unloading."""

from __future__ import annotations

from pathlib import Path

from elm_mlx.api.adapter_names import AdapterNames, LoadedAdapter
from elm_mlx.api.cache_plan import plan_again
from elm_mlx.api.open_model import OpenModel
from elm_mlx.api.unable import refuse_adapters, refuse_on_ranks
from elm_mlx.arguments import named_path
from elm_mlx.device.backend import mx
from elm_mlx.device.memory import cache_room
from elm_mlx.engine.budget import Budget
from elm_mlx.engine.engine import Engine
from elm_mlx.errors import NotEnoughMemory
from elm_mlx.files import readable_size
from elm_mlx.models.model import Model
from elm_mlx.models.rack import Rack
from elm_mlx.store.adapters.adapter_file import AdapterFile
from elm_mlx.store.adapters.read import check_base, read_adapter


class TakesAdapters(OpenModel):
    """An open model that has adapters beside it, each for the calls that name it."""

    def load_adapter(self, name: str, path: str | Path, *, force: bool = False) -> None:
        """Loads an adapter, LoRA or DoRA, for calls with `adapter=name`: the directory that mlx-lm or PEFT has written
        (adapter_config.json, and a file of safetensors). The model itself stays as it is, and answers as before.

        Adapters take memory beside the model, so caches get less. Raises InvalidRequest for a name that is taken, and
        for an adapter of another model: one whose matrices this one lacks or, unless `force`, one that knows that it
        was made for other weights. Raises NotFound; BadCheckpoint for damaged files; Unsupported for what is no LoRA or
        DoRA; NotEnoughMemory, with the numbers; EngineStopped after `close`, Forked.
        """
        names, place = self._adapter_names(), named_path("path", path)
        with names.changing:
            checked, number = names.check_new(name), names.next_number()
            facts = self._worker.call(lambda engine: self._load_adapter(engine, number, place, force))
            names.add(checked, number, facts)

    def unload_adapter(self, name: str) -> None:
        """Unloads an adapter: calls cannot name it any more, and its memory is given back when the last request is
        answered that uses it. Raises InvalidRequest where none has the name, EngineStopped after `close`, Forked."""
        names = self._adapter_names()
        with names.changing:
            number = names.remove(name)
            self._worker.call(lambda engine: self._unload_adapter(engine, number))

    @property
    def adapters(self) -> dict[str, LoadedAdapter]:
        """The adapters that are loaded, by name."""
        return self._maker.adapters.loaded

    def _adapter_names(self) -> AdapterNames:
        """The names of the adapters, to be changed. Raises InvalidRequest for a model that takes none, EngineStopped,
        Forked."""
        self._worker.check()
        refuse_adapters(self.config)
        refuse_on_ranks(self._is_shared, "An adapter", "Merge it into the model first: `elm-mlx merge` does that.")
        return self._maker.adapters

    # On the device thread

    def _unload_adapter(self, engine: Engine, number: int) -> None:
        engine.unload_adapter(number)
        plan_again(self._worker.thread)

    def _load_adapter(self, engine: Engine, number: int, path: Path, force: bool) -> LoadedAdapter:
        """Loads an adapter, and plans the memory of caches anew with what it takes."""
        adapter = read_adapter(path, self.config)
        if not force:
            check_base(adapter, self.directory)
        model = self.model
        assert isinstance(model, Model)
        rack = engine.variants.adapters or Rack(model)
        assert isinstance(rack, Rack)
        refuse_large(rack, adapter, engine.limits.budget)
        rack.put(number, adapter.arrays)
        engine.variants.adapters = rack
        try:
            plan_again(self._worker.thread)
        except NotEnoughMemory:
            rack.drop(number)
            plan_again(self._worker.thread)
            raise
        facts = (adapter.kind, adapter.rank, adapter.parameters, adapter.base.name, adapter.fingerprint)
        return LoadedAdapter(path, *facts)


def refuse_large(rack: Rack, adapter: AdapterFile, budget: Budget) -> None:
    """Raises NotEnoughMemory, with the numbers, for an adapter that this machine has no room for beside what it has
    loaded and what requests have reserved."""
    held = budget.reserved + budget.stored
    room = cache_room(max(0, mx.get_active_memory() - held), held) - budget.reserved
    needed = rack.bytes_with(adapter.arrays) - rack.nbytes
    if needed > room:
        raise NotEnoughMemory(f"The adapter {adapter.path} needs {readable_size(needed)} of memory, and "
                              f"{readable_size(max(0, room))} are left.",
                              "Unload other adapters, or load a smaller model.", needed, room)  # fmt: skip
