"""mlx-lm without torch, which it would import where it is installed and which it does not need: two seconds less."""

from __future__ import annotations

import sys

IS_FREE = "torch" not in sys.modules
if IS_FREE:
    sys.modules["torch"] = None  # type: ignore[assignment]
try:
    import mlx_lm
    from mlx_lm.models.cache import make_prompt_cache
    from mlx_lm.utils import load_model
finally:
    if IS_FREE:
        del sys.modules["torch"]

__all__ = ["load_model", "make_prompt_cache", "mlx_lm"]
