"""The door to mlx-lm's classes. Importing them takes seconds and changes the process, so it happens when a guest is
loaded, and never before."""

from __future__ import annotations

import importlib
import resource
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import Any

from elm_mlx.config.guest import GuestConfig
from elm_mlx.errors import BadCheckpoint, Unsupported
from elm_mlx.models.guest_cache import Network

# model_type -> every which layer attends to all positions where config.json says nothing: mlx-lm's classes that read
# no `layer_types`, and a number as `sliding_window_pattern`.
PATTERNS = {"gemma3_text": 6, "cohere2": 4}


def network_for(config: GuestConfig) -> Network:
    """Makes the model that a configuration describes, of mlx-lm's classes. Raises Unsupported where they cannot be
    imported, BadCheckpoint where they refuse the configuration."""
    with no_side_effects():
        classes = imported(config)
        from mlx_lm.models.cache import make_prompt_cache
    raw = with_older_spelling(config.raw)
    raw.pop("model_file", None)  # mlx-lm runs a file that is named here
    try:
        module = classes.Model(classes.ModelArgs.from_dict(numbers_in(raw)))
    except Exception as error:  # whatever their code makes of the values of a file
        raise refused(config, "does not take this config.json", error) from error
    module.eval()
    return Network(module, lambda: make_prompt_cache(module))


def imported(config: GuestConfig) -> Any:
    """The module of mlx-lm with the classes of a family. Raises Unsupported."""
    name = f"mlx_lm.models.{config.guest.module}"
    try:
        with redirect_stdout(sys.stderr):  # some say there what they miss
            found = importlib.import_module(name)
    except (Exception, SystemExit) as error:  # one of them ends the process where a package is missing
        raise Unsupported(f"mlx-lm's class for model_type {config.model_type!r} cannot be imported: {error!r:.300}. "
                          "Install what it asks for, or take a model of another kind.") from error  # fmt: skip
    if not (hasattr(found, "Model") and hasattr(found, "ModelArgs")):
        raise Unsupported(f"mlx-lm's module {config.guest.module} holds no model. Take a model of another kind.")
    return found


@contextmanager
def no_side_effects() -> Iterator[None]:
    """Puts back what an import of mlx-lm changes and what can be put back: how many files may be open at once. It
    lowers the most that a process may ask for, which only a privileged one can raise again."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    try:
        yield
    finally:
        now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = before if most == resource.RLIM_INFINITY else min(before, most)
        if before != resource.RLIM_INFINITY and wanted > now:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def sanitized(config: GuestConfig, module: Any, weights: dict[str, Any]) -> dict[str, Any]:
    """Weights by the names that mlx-lm's class has for them. Raises BadCheckpoint where it cannot use them."""
    if not hasattr(module, "sanitize"):
        return weights
    try:
        return dict(module.sanitize(weights))
    except Exception as error:
        raise refused(config, "cannot use these weights", error) from error


def refused(config: GuestConfig, what: str, error: Exception) -> BadCheckpoint:
    """The error for files that the classes of mlx-lm do not take."""
    return BadCheckpoint(f"mlx-lm's class for model_type {config.model_type!r} {what}: {error!r:.300}. Fetch the "
                         "model again, or take it in mlx-lm's own layout.")  # fmt: skip


def with_older_spelling(raw: Mapping[str, Any]) -> dict[str, Any]:
    """A config.json, and the part about text of one for several media, with what transformers 5 spells anew in the
    older spelling, too. Raises Unsupported for layers that this cannot tell of."""
    older, text = with_older_pattern(with_older_rope(raw)), raw.get("text_config")
    return older | ({"text_config": with_older_spelling(text)} if isinstance(text, Mapping) else {})


def with_older_rope(raw: Mapping[str, Any]) -> dict[str, Any]:
    """A config.json with transformers 5's `rope_parameters` in the older spelling, too: most of mlx-lm's classes read
    that alone, and without it take a base of their own, silently."""
    rope, older = raw.get("rope_parameters"), dict(raw)
    if not isinstance(rope, Mapping):
        return older
    if all(isinstance(value, Mapping) for value in rope.values()) and rope:  # one for each kind of attention
        whole, local = rope.get("full_attention", {}), rope.get("sliding_attention", {})
        found = {"rope_theta": whole.get("rope_theta"), "rope_global_base_freq": whole.get("rope_theta"),
                 "rope_local_base_freq": local.get("rope_theta")}  # fmt: skip
    else:
        whole, found = rope, {key: rope.get(key) for key in ("rope_theta", "partial_rotary_factor")}
    if whole.get("rope_type", "default") != "default":
        found["rope_scaling"] = {key: value for key, value in whole.items() if key != "rope_theta"}
    for key, value in found.items():
        if value is not None and older.get(key) is None:
            older[key] = value
    return older


def with_older_pattern(raw: dict[str, Any]) -> dict[str, Any]:
    """A config.json with transformers' `layer_types` in the older spelling, too, where every so many layers one attends
    to all positions: a few of mlx-lm's classes read that alone. Raises Unsupported where it cannot say the same."""
    name, kinds = raw.get("model_type"), raw.get("layer_types")
    if not isinstance(name, str) or name not in PATTERNS or not isinstance(kinds, list):
        return raw
    own = raw.get("sliding_window_pattern")
    if own is None:
        own = kinds.index("full_attention") + 1 if "full_attention" in kinds else PATTERNS[name]
    if isinstance(own, int) and own > 0:
        computed = [("sliding_attention", "full_attention")[(layer + 1) % own == 0] for layer in range(len(kinds))]
        if kinds != computed:
            raise Unsupported(f"config.json: layer_types has layers that attend to all positions in no regular order, "
                              f"and mlx-lm's class for {name} knows one in every so many alone. Take a model of "
                              "another kind.")  # fmt: skip
    return raw | {"sliding_window_pattern": own}


def numbers_in(value: Any) -> Any:
    """Values of a config.json with the floats in them that JSON does not have, which transformers writes as
    {"__float__": "Infinity"}."""
    if isinstance(value, Mapping):
        if set(value) == {"__float__"} and value["__float__"] in ("Infinity", "-Infinity", "NaN"):
            return float(value["__float__"].replace("Infinity", "inf"))
        return {key: numbers_in(inner) for key, inner in value.items()}
    return [numbers_in(inner) for inner in value] if isinstance(value, list) else value


def expand(module: Any) -> None:
    """Makes a network's quantized matrices plain ones, not evaluated yet."""
    from mlx_lm.utils import dequantize_model

    dequantize_model(module)
