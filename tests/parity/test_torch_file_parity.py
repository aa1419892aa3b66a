"""What torch saves is read back bit for bit, and the checked-in files are what torch saves today."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")

from parity import torch_fixtures

from elm_mlx.convert.tensor import LazyTensor
from elm_mlx.convert.torch_file import read_torch_file
from elm_mlx.errors import BadCheckpoint, Unsupported

FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
INTEGERS = [torch.int64, torch.int32, torch.int16, torch.int8]
NATURALS = [torch.uint64, torch.uint32, torch.uint16, torch.uint8]
OTHERS = [torch.bool, torch.complex64]


def bits(tensor: torch.Tensor) -> bytes:
    """The elements as elm-mlx is to hold them, row-major."""
    held = tensor.detach().float() if tensor.dtype == torch.float64 else tensor.detach()
    held = held.clone(memory_format=torch.contiguous_format).flatten()
    return held.view(torch.uint8).numpy().tobytes() if held.numel() else b""


def our_bits(tensor: LazyTensor) -> bytes:
    array = tensor.read()
    assert array.shape == tensor.shape
    assert array.dtype == tensor.dtype
    return np.array(array.flatten().view(mx.uint8)).tobytes() if array.size else b""


def assert_same(path: Path, expected: dict[str, torch.Tensor]) -> None:
    found = read_torch_file(path)
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        dtype = "float32" if tensor.dtype == torch.float64 else str(tensor.dtype)[6:]
        assert str(found[name].dtype) == f"mlx.core.{dtype}", name
        assert found[name].shape == tuple(tensor.shape), name
        assert our_bits(found[name]) == bits(tensor), name


def assert_round_trip(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    torch.save(tensors, path)
    assert_same(path, torch.load(path, weights_only=True))


def random_bits(dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    """Every bit pattern is as likely, NaNs and subnormals among them."""
    if dtype == torch.bool:
        return torch.randint(0, 2, shape).bool()
    count = int(np.prod(shape)) * torch.empty(0, dtype=dtype).element_size()
    tensor = torch.randint(0, 256, (count,), dtype=torch.uint8).view(dtype).reshape(shape)
    return torch.nan_to_num(tensor) if dtype == torch.float64 else tensor


@pytest.mark.parametrize("dtype", [*FLOATS, *INTEGERS, *NATURALS, *OTHERS])
def test_every_type_bit_for_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    full = random_bits(dtype, (16, 8, 4))
    tensors = {"full": full, "part": full[3:, ::2].transpose(0, 2), "empty": full[:0], "one": full[1, 2, 3]}
    assert_round_trip(tmp_path / "a.bin", tensors)


@pytest.mark.parametrize("case", torch_fixtures.MAKERS)
def test_cases(tmp_path: Path, case: str) -> None:
    assert_round_trip(tmp_path / f"{case}.bin", torch_fixtures.MAKERS[case]())


@pytest.mark.parametrize("case", torch_fixtures.MAKERS)
def test_checked_in_files(tmp_path: Path, case: str) -> None:
    torch_fixtures.write(tmp_path)
    checked_in = torch_fixtures.HERE / f"{case}.bin"
    assert_same(checked_in, torch.load(tmp_path / f"{case}.bin", weights_only=True))
    assert (tmp_path / f"{case}.json").read_text(encoding="utf-8") == checked_in.with_suffix(".json").read_text(
        encoding="utf-8"
    )


def test_random_views(tmp_path: Path) -> None:
    """Windows of any offset, shape and stride over one storage, overlapping ones among them."""
    generator = np.random.default_rng(0)
    base, tensors = torch.arange(400, dtype=torch.int32), {}
    for number in range(200):
        shape = generator.integers(0, 5, generator.integers(0, 5)).tolist()
        stride = generator.integers(0, 20, len(shape)).tolist()
        tensors[f"t{number}"] = torch.as_strided(base, shape, stride, int(generator.integers(0, 50)))
    assert_round_trip(tmp_path / "views.bin", tensors)


def test_parameters_and_odd_names(tmp_path: Path) -> None:
    weight = torch.nn.Parameter(torch.randn(3, 5))
    weight.note = "an attribute makes it a _rebuild_parameter_with_state"
    tensors = OrderedDict([("größe/ü.weight", weight), ("", torch.nn.Parameter(torch.ones(2), requires_grad=False))])
    assert_round_trip(tmp_path / "a file.with.dots.pth", tensors)


@pytest.mark.parametrize("crc", [True, False])
def test_without_checksums(tmp_path: Path, crc: bool) -> None:
    with torch.utils.serialization.config.patch("save.compute_crc32", crc):
        assert_round_trip(tmp_path / "a.bin", {"a": torch.randn(7)})


def test_long_file(tmp_path: Path) -> None:
    """More memo slots, tensors and storages than a byte counts, and sizes that need more than two."""
    tensors = {f"layers.{number}.weight": torch.full((2, 3), float(number)) for number in range(700)}
    assert_round_trip(tmp_path / "a.bin", {**tensors, "wide": torch.zeros(70_000, dtype=torch.int8)})


def test_a_storage_is_saved_whole(tmp_path: Path) -> None:
    assert_round_trip(tmp_path / "a.bin", {"a": torch.arange(1000)[500:502]})


OTHER_KINDS = {
    "float8_e4m3fn": lambda: {"a": torch.ones(2).to(torch.float8_e4m3fn)},
    "float8_e5m2": lambda: {"a": torch.ones(2).to(torch.float8_e5m2)},
    "ComplexDoubleStorage": lambda: {"a": torch.ones(2, dtype=torch.complex128)},
    "_rebuild_qtensor": lambda: {"a": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)},
    "sparse_tensor": lambda: {"a": torch.eye(2).to_sparse()},
    "meta_tensor": lambda: {"a": torch.empty(2, device="meta")},
    "conjugated or negated": lambda: {"a": torch.ones(2, dtype=torch.complex64).conj()},
    "'epoch', 'model_state_dict'": lambda: {
        "epoch": 3,
        "model_state_dict": torch.nn.Linear(2, 2).state_dict(),
    },
    "no state dict": lambda: [torch.ones(2)],
}


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_other_kinds_are_named(tmp_path: Path, kind: str) -> None:
    torch.save(OTHER_KINDS[kind](), tmp_path / "a.bin")
    with pytest.raises(Unsupported, match=kind):
        read_torch_file(tmp_path / "a.bin")


def test_legacy_format(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "a.bin", _use_new_zipfile_serialization=False)
    with pytest.raises(Unsupported, match="legacy"):
        read_torch_file(tmp_path / "a.bin")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_torch_script(tmp_path: Path) -> None:
    torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)).save(str(tmp_path / "a.pt"))
    with pytest.raises(Unsupported, match="TorchScript"):
        read_torch_file(tmp_path / "a.pt")


def test_optimizer_and_whole_module(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    torch.save({"optimizer": optimizer.state_dict(), "model": model.state_dict()}, tmp_path / "a.bin")
    with pytest.raises(Unsupported, match="'optimizer', 'model'"):
        read_torch_file(tmp_path / "a.bin")
    torch.save(model, tmp_path / "b.bin")
    with pytest.raises(BadCheckpoint, match=r"torch\.nn\.modules\.linear\.Linear"):
        read_torch_file(tmp_path / "b.bin")
