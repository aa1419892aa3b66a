"""A model beside an app: JSON-RPC 2.0 over standard input and output, a message a line."""

from elm_mlx.sidecar.models import Wish
from elm_mlx.sidecar.process import run

__all__ = ["Wish", "run"]
