"""The models of a sidecar: loaded when they are asked for, given back when memory is short and they are idle."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from elm_mlx.arguments import Progress
from elm_mlx.errors import ElmError, InvalidRequest, NotFound, QueueFull
from elm_mlx.shell import command_line
from elm_mlx.sidecar.background import Patience, in_background

if TYPE_CHECKING:
    from elm_mlx.api import LanguageModel

DEMO = "demo"
MOST_MODELS = 8
TELL_S = 0.1  # between two notifications of progress

Tell = Callable[[str, int, int], None]
"""Called in the event loop with (what is done, units done, units in all)."""


@dataclass(frozen=True)
class Wish:
    """How a model is loaded: `model` is a name, OWNER/NAME or a directory, None the built-in demo. It is fetched where
    it is not on this machine only with `pull`. `chat_template` is a file, or "zephyr". `sizes` are the other arguments
    of `elm_mlx.load`. The model is `called` by that name, or by its own."""

    model: str | None = None
    bits: int | None = None
    pull: bool = field(default=False, compare=False)  # it makes no other model
    chat_template: str | None = None
    sizes: dict[str, Any] = field(default_factory=dict)
    called: str | None = field(default=None, compare=False)

    @property
    def name(self) -> str:
        """What the model is called: the name that was given, or else that of `model`."""
        return self.called or self.model or DEMO


@dataclass(eq=False)
class Held:
    """A model that was asked for once: `lm` is None while it is not in memory. `users` are requests under way."""

    name: str
    wish: Wish
    lm: LanguageModel | None = None
    users: int = 0
    door: asyncio.Lock = field(default_factory=asyncio.Lock)  # who has it loads


class Models:
    """The models by name, those of `wishes` from the start. Where a request names none, the first of them is meant,
    else the only one that was loaded, and the demo where none was."""

    def __init__(self, wishes: Sequence[Wish] = (), **sizes: Any) -> None:
        """Loads models with the `sizes` that their wishes do not name. Raises as `want`."""
        self._held: dict[str, Held] = {}
        self._sizes = sizes
        self._given = [wish.name for wish in wishes]
        for wish in wishes:
            self.want(wish)

    @property
    def _first(self) -> str | None:
        return next((name for name in self._given if name in self._held), None)

    def __iter__(self) -> Iterator[Held]:
        return iter(self._held.values())

    def want(self, wish: Wish) -> Held:
        """The model that a wish means, which need not be in memory yet. Raises InvalidRequest where another model has
        the name, QueueFull for more models than are held."""
        name = wish.name
        wish = replace(wish, sizes=self._sizes | wish.sizes)
        if (held := self._held.get(name)) and held.wish != wish:
            raise InvalidRequest(f"The model {name} is held already, with other parameters. Unload it first, or give "
                                 "this one another name.")  # fmt: skip
        if not held and len(self._held) >= MOST_MODELS:
            raise QueueFull(f"{MOST_MODELS} models are held, as many as are taken.", "Unload one of them.")
        return held or self._held.setdefault(name, Held(name, wish))

    def find(self, name: str | None) -> Held:
        """The model of this name, or the one that is meant without a name. Raises NotFound, InvalidRequest where
        several could be meant."""
        if name is None and not self._held:
            return self.want(Wish())
        if name is None and len(self._held) > 1 and not self._first:
            raise InvalidRequest(f"Several models are loaded: {', '.join(self._held)}. Give the model's name.")
        if found := self._held.get(name or self._first or next(iter(self._held), DEMO)):
            return found
        here = ", ".join(self._held) or "none"
        raise NotFound(f"No model is loaded as {name!r:.80}; there are: {here}. Load it by model/load.")

    @asynccontextmanager
    async def use(self, held: Held, tell: Tell) -> AsyncIterator[LanguageModel]:
        """Has a model in memory, loaded where it must be, as long as the block runs; one whose engine has died is
        loaded anew. Raises as `elm_mlx.load`, and NotFound for a model that is not on this machine and may not be
        fetched."""
        held.users += 1
        try:
            async with held.door:
                if held.lm and held.lm.activity.stopped:  # computing failed twice: a new one may do better
                    await free(held)
                if not (lm := held.lm):
                    lm = held.lm = await in_background(partial(load, held.wish, teller(tell)))
            yield lm
        except BaseException:
            if not held.lm and held.users == 1 and held.name not in self._given:
                self._held.pop(held.name, None)  # it was never there
            raise
        finally:
            held.users -= 1

    async def drop(self, held: Held) -> None:
        """Cancels all requests to a model, gives its memory back and forgets it."""
        self._held.pop(held.name, None)
        await free(held)

    async def free_idle(self) -> list[str]:
        """Gives the memory of models back that nobody uses, and returns their names. They are loaded again when they
        are asked for."""
        freed = []
        for held in [*self]:
            if held.lm and not held.users:  # asked when its turn comes: each takes a while
                await free(held)
                freed.append(held.name)
        return freed


async def free(held: Held) -> None:
    """Gives the memory of a model back."""
    lm, held.lm = held.lm, None
    if lm:
        await asyncio.to_thread(lm.close)


def teller(tell: Tell) -> Callable[[str], Progress]:
    """Makes callbacks of progress for another thread, which tell this event loop at most every TELL_S seconds, and at
    the end of each stage."""
    loop, last, ended = asyncio.get_running_loop(), 0.0, ""

    def note(stage: str, done: int, total: int) -> None:
        nonlocal last, ended
        if stage != ended and ((now := time.monotonic()) - last >= TELL_S or done >= total):
            last, ended = now, stage if done >= total else ""
            loop.call_soon_threadsafe(tell, stage, done, total)

    return lambda stage: partial(note, stage)


# In a thread of its own


def load(wish: Wish, progress_of: Callable[[str], Progress], patience: Patience) -> LanguageModel:
    """Loads the model of a wish. Raises as `Models.use`, Cancelled where nobody waits any more."""
    import elm_mlx

    def checked(stage: str) -> Progress:
        tell = progress_of(stage)

        def progress(done: int, total: int) -> None:
            patience.check()
            tell(done, total)

        return progress

    directory = None if wish.model is None else directory_of(wish, wish.model, checked)
    bits = wish.bits if directory is None else None  # which the demo refuses
    lm = elm_mlx.load(directory, bits, progress=checked("loading"), **wish.sizes)
    try:
        patience.check()
        if wish.chat_template:
            lm.use_chat_template(wish.chat_template)
    except BaseException:
        lm.close()
        raise
    return lm


def directory_of(wish: Wish, model: str, progress_of: Callable[[str], Progress]) -> Any:
    """The directory of a model, fetched and converted where that is wished. Raises NotFound, and as `elm_mlx.pull`."""
    import elm_mlx
    from elm_mlx.library.local import locate

    if wish.pull:
        fetching, converting = progress_of("fetching"), progress_of("converting")
        return elm_mlx.pull(model, wish.bits, fetching=fetching, converting=converting).path
    if found := locate(model, wish.bits):
        return found.path
    command = command_line("elm-mlx", "pull", model, *(("--bits", wish.bits) if wish.bits else ()))
    raise NotFound(f"{model} is not on this machine. Fetch it by `{command}`, or load it with pull: true.")


def names_here() -> list[str]:
    """The names of models that are on this machine, as `model/load` takes them: the demo, known models, and others of
    which elm-mlx keeps a copy. Asks no network."""
    from elm_mlx.library.copies import all_copies
    from elm_mlx.library.local import locate
    from elm_mlx.library.names import known_models

    found = [DEMO]
    for model in known_models().values():
        try:
            found += [model.name] if locate(model.name) else []
        except ElmError:  # a damaged copy: who loads it says what is wrong
            continue
    return list(dict.fromkeys([*found, *(copy.repository for copy in all_copies())]))
