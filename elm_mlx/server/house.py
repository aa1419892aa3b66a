"""What all routes of the server share: the models."""

from __future__ import annotations

import asyncio

from elm_mlx.server.settings import Settings


class House:
    """What the routes of one server share. `fatal` is set, and `why` says why, where the server cannot go on."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.fatal, self.why = asyncio.Event(), ""

    async def open(self) -> None:
        """Loads the first model."""
        import elm_mlx

        models = self.settings.models
        self._lm = await asyncio.to_thread(elm_mlx.load, models[0] if models else None)

    async def close(self) -> None:
        """Closes all models."""
        await asyncio.to_thread(self._lm.close)
