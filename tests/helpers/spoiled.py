"""JSON values that are good but for one place."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st


@st.composite
def spoiled(draw: st.DrawFn, value: Any, others: st.SearchStrategy[Any]) -> Any:
    """A value with one place in it replaced by one of the others."""
    if not value or not isinstance(value, list | dict) or draw(st.booleans()):
        return draw(others)
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = draw(st.sampled_from(keys))
    made = value.copy()
    made[key] = draw(spoiled(value[key], others))
    return made
