"""What the caches of a model can do, as one value that all who ask a model look at."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Abilities:
    """Whether several rows decode together (`rows`); whether a cache can forget its last positions exactly (`trims`):
    without that nothing is proposed for a row, and what is kept of a request serves only a prompt that goes on from its
    end; whether there are windows and quantized caches (`kinds`), files of caches (`files`), and adapters (`adapters`).
    Our own architectures can do all of it."""

    rows: bool = True
    trims: bool = True
    kinds: bool = True
    files: bool = True
    adapters: bool = True


OURS = Abilities()
ONE_ROW = Abilities(rows=False, trims=False, kinds=False, files=False, adapters=False)  # where nothing else was shown
