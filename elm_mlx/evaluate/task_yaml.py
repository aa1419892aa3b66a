"""YAML of a stranger's as plain values: nothing in it is executed, and a small file stays small."""

from __future__ import annotations

from typing import Any

import yaml  # type: ignore[import-untyped]

from elm_mlx.errors import InvalidRequest

EXECUTES = "would execute code, and what stands in a task's file is never executed here"
NESTING = 20


class Loader(yaml.SafeLoader):
    """YAML of plain values, each written once: no tags of its own, no references, few levels."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Reads one value. Raises InvalidRequest for a reference, or one too deep within others."""
        if self.check_event(yaml.AliasEvent):
            raise InvalidRequest("it uses references (*name), which can make a small file a large one. Write it out.")
        self.depth += 1
        if self.depth > NESTING:
            raise InvalidRequest("its lists and objects are nested too deep. Make it flatter.")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def refuse_tag(loader: Loader, node: yaml.Node) -> None:
    """Raises InvalidRequest for a value with a tag of its own, !function above all."""
    if node.tag == "!function":
        raise InvalidRequest(f"!function {getattr(node, 'value', '')!s:.80} {EXECUTES}. Write a template, or the name "
                             "of a column.")  # fmt: skip
    raise InvalidRequest(f"the tag {node.tag:.80} is not one of YAML's own. Leave it out.")


Loader.add_constructor(None, refuse_tag)


def parse_yaml(text: str) -> dict[str, Any]:
    """The object that a YAML text holds. Raises InvalidRequest for anything else, for tags and for references."""
    try:
        raw = yaml.load(text, Loader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        if isinstance(error, InvalidRequest):
            raise
        raise InvalidRequest(f"it is not valid YAML: {' '.join(str(error).split())[:300]}.") from error
    if not isinstance(raw, dict) or not all(isinstance(key, str) for key in raw):
        raise InvalidRequest("it must be an object with names.")
    return raw
