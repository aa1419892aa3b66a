"""The files in tests/convert/torch_file/fixtures, and their values as JSON.

`python tests/parity/torch_fixtures.py` writes them all again.
"""

from __future__ import annotations

import argparse
import collections
import json
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent.parent / "convert" / "torch_file" / "fixtures"


def elements() -> dict[str, torch.Tensor]:
    """A tensor of each type, with values at the ends of its range."""
    tensors = {}
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        tensors[str(dtype)[6:]] = torch.tensor([0.0, -1.5, 1 / 3, torch.finfo(torch.float16).max], dtype=dtype)
    integers = [torch.int64, torch.int32, torch.int16, torch.int8]
    for dtype in [*integers, torch.uint64, torch.uint32, torch.uint16, torch.uint8]:
        info = torch.iinfo(dtype)
        tensors[str(dtype)[6:]] = torch.tensor([info.min, 0, 1, info.max], dtype=dtype)
    tensors["bool"] = torch.tensor([True, False, True])
    tensors["complex64"] = torch.tensor([1 + 2j, -0.5j])
    return tensors


def views() -> dict[str, torch.Tensor]:
    """Every way for tensors to lie over a storage."""
    base, half = torch.arange(12.0).reshape(3, 4), torch.arange(7).bfloat16()
    return {
        "base": base,
        "tied": base,
        "alias": base.view(3, 4),
        "transposed": base.T,
        "rows": base[1:],
        "columns": base[:, 1:3],
        "every_other": base[::2, ::2],
        "expanded": base[0].expand(5, 4),
        "one": base[2, 3],
        "empty": base[3:, :],
        "scalar": torch.tensor(2.5),
        "nothing": torch.empty(0),
        "cube": torch.arange(24, dtype=torch.int16).reshape(2, 3, 4).permute(2, 0, 1),
        "odd": half[1::3],
    }


class Tied(torch.nn.Module):
    """An embedding that is also the head, a norm with a buffer, a projection."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(5, 4)
        self.norm = torch.nn.BatchNorm1d(4)
        self.head = torch.nn.Linear(4, 5, bias=False)
        self.head.weight = self.embedding.weight


def module() -> dict[str, torch.Tensor]:
    """A state dict as nn.Module makes it: ordered, with versions as metadata, of parameters and buffers."""
    torch.manual_seed(0)
    return Tied().state_dict(keep_vars=True)


MAKERS = {"elements": elements, "views": views, "module": module}
LEGACY = {"_use_new_zipfile_serialization": False}


def training() -> dict[str, object]:
    """A checkpoint as CoreNet saves it, after a step, and objects of all kinds that others put beside a model."""
    torch.manual_seed(0)
    model = Tied()
    optimizer = torch.optim.AdamW(model.parameters())
    model.head(model.norm(model.embedding(torch.arange(5)))).sum().backward()
    optimizer.step()
    return {
        "iterations": 1,
        "epoch": np.int64(3),
        "model_state_dict": module(),
        "optim_state_dict": optimizer.state_dict(),
        "best_metric": np.float32(0.25),
        "is_interval_ckpt": False,
        "gradient_scaler_state_dict": {"scale": 65536.0, "_growth_tracker": 0},
        "ema_state_dict": model.state_dict(),
        "options": argparse.Namespace(lr=1e-3, betas=[0.9, 0.95], folder=Path("runs")),
        "losses": collections.defaultdict(list, {(0, "train"): [1.5]}),
        "seen": [collections.Counter("abc"), collections.deque([1]), {1, 2}, b"\xff", 1j, np.arange(3)],
        "device": [torch.device("cpu"), torch.float32, model.head.weight.size()],
        "random": [torch.get_rng_state(), np.random.RandomState(0).get_state()],
        "optimizer": optimizer,
    }


def described(tensor: torch.Tensor) -> dict[str, object]:
    flat = tensor.detach().flatten()
    values = (flat.float() if flat.dtype == torch.float64 else flat).tolist()
    if flat.is_complex():
        values = [[value.real, value.imag] for value in values]
    return {"dtype": str(tensor.dtype)[6:], "shape": list(tensor.shape), "values": values}


def write(folder: Path) -> None:
    """Saves each case as NAME.bin and NAME-legacy.bin, and the values of its tensors as NAME.json."""
    torch.save(training(), folder / "training.bin")
    for name, make in MAKERS.items():
        tensors = make()
        torch.save(tensors, folder / f"{name}.bin")
        torch.save(tensors, folder / f"{name}-legacy.bin", **LEGACY)
        lines = (f"  {json.dumps(key)}: {json.dumps(described(item))}" for key, item in tensors.items())
        (folder / f"{name}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    HERE.mkdir(exist_ok=True)
    write(HERE)
