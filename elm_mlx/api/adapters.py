"""Loading adapters beside a model, and unloading them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elm_mlx.api.adapter_names import AdapterNames, LoadedAdapter
from elm_mlx.api.cache_plan import plan_again
from elm_mlx.config import ModelConfig
from elm_mlx.device.backend import mx
from elm_mlx.device.memory import cache_room
from elm_mlx.engine.budget import Budget
from elm_mlx.engine.engine import Engine
from elm_mlx.engine.worker import Worker
from elm_mlx.errors import NotEnoughMemory
from elm_mlx.files import readable_size
from elm_mlx.models.model import Model
from elm_mlx.models.rack import Rack
from elm_mlx.store.adapters.adapter_file import AdapterFile
from elm_mlx.store.adapters.read import check_base, read_adapter


@dataclass(frozen=True)
class AdapterHome:
    """A loaded model, as adapters need it: its files, its arrays, and the worker that answers."""

    directory: Path
    config: ModelConfig
    model: Model
    worker: Worker

    def load(self, names: AdapterNames, name: Any, path: Path, force: bool) -> None:
        """Loads an adapter under a name. Raises as `LanguageModel.load_adapter`."""
        with names.changing:
            checked, number = names.check_new(name), names.next_number()
            facts = self.worker.call(lambda engine: self._load(engine, number, path, force))
            names.add(checked, number, facts)

    def unload(self, names: AdapterNames, name: Any) -> None:
        """Unloads an adapter. Raises as `LanguageModel.unload_adapter`."""
        with names.changing:
            number = names.remove(name)
            self.worker.call(lambda engine: self._unload(engine, number))

    def _unload(self, engine: Engine, number: int) -> None:
        """Unloads it on the device thread."""
        engine.unload_adapter(number)
        plan_again(self.worker.thread)

    def _load(self, engine: Engine, number: int, path: Path, force: bool) -> LoadedAdapter:
        """Loads it on the device thread, and plans the memory of caches anew with what it takes."""
        adapter = read_adapter(path, self.config)
        if not force:
            check_base(adapter, self.directory)
        rack = engine.variants.adapters or Rack(self.model)
        assert isinstance(rack, Rack)
        refuse_large(rack, adapter, engine.limits.budget)
        rack.put(number, adapter.arrays)
        engine.variants.adapters = rack
        try:
            plan_again(self.worker.thread)
        except NotEnoughMemory:
            rack.drop(number)
            plan_again(self.worker.thread)
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
