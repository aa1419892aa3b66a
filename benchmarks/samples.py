"""The file in which a script keeps the samples of its experiments."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

JSON_HELP = "a file for all samples; experiments that it has already stay in it"


class Samples:
    """What was found, beside what an earlier run has left in the same file, if there is one. Two results are of one
    experiment where they are equal in these `keys`: then the later one counts."""

    def __init__(self, schema: str, path: Path | None, *keys: str) -> None:
        self.schema, self.path, self.keys = schema, path, keys
        self.results = json.loads(path.read_text(encoding="utf-8"))["results"] if path and path.exists() else []

    def add(self, found: dict[str, Any]) -> None:
        """Takes the result of an experiment, and writes the file."""
        from elm_mlx.bench.facts import machine_facts, software_facts  # here, after the BLAS was chosen

        self.results = [one for one in self.results if any(one[key] != found[key] for key in self.keys)] + [found]
        if self.path:
            facts = {"schema": self.schema, "machine": machine_facts(), "software": software_facts()}
            self.path.write_text(json.dumps(facts | {"results": self.results}, indent=1) + "\n", encoding="utf-8")
