"""What torch saves is read back bit for bit, and the checked-in files are what torch saves today."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")

from parity import torch_fixtures
from parity.torch_fixtures import LEGACY

from elm_mlx.convert.tensor import LazyTensor
from elm_mlx.convert.torch_file import read_torch_file
from elm_mlx.errors import BadCheckpoint, Unsupported

FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
INTEGERS = [torch.int64, torch.int32, torch.int16, torch.int8]
NATURALS = [torch.uint64, torch.uint32, torch.uint16, torch.uint8]
OTHERS = [torch.bool, torch.complex64]
UNREADABLE = set(NATURALS[:3])  # types that torch itself saves in the legacy format and cannot load from it

Save = Callable[[object, Path], None]


@pytest.fixture(params=["zip", "legacy"])
def save(request: pytest.FixtureRequest) -> Save:
    """torch.save in either format."""
    return partial(torch.save, **LEGACY if request.param == "legacy" else {})


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


def assert_round_trip(path: Path, tensors: dict[str, torch.Tensor], save: Save = torch.save) -> None:
    save(tensors, path)
    assert_same(path, tensors)
    if not UNREADABLE & {tensor.dtype for tensor in tensors.values()}:
        assert_same(path, torch.load(path, weights_only=True))


def random_bits(dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    """A tensor of random bits: every pattern is equally likely, NaNs and subnormals among them."""
    if dtype == torch.bool:
        return torch.randint(0, 2, shape).bool()
    count = int(np.prod(shape)) * torch.empty(0, dtype=dtype).element_size()
    tensor = torch.randint(0, 256, (count,), dtype=torch.uint8).view(dtype).reshape(shape)
    return torch.nan_to_num(tensor) if dtype == torch.float64 else tensor


@pytest.mark.parametrize("dtype", [*FLOATS, *INTEGERS, *NATURALS, *OTHERS])
def test_every_type_bit_for_bit(tmp_path: Path, dtype: torch.dtype, save: Save) -> None:
    torch.manual_seed(0)
    full = random_bits(dtype, (16, 8, 4))
    tensors = {"full": full, "part": full[3:, ::2].transpose(0, 2), "empty": full[:0], "one": full[1, 2, 3]}
    assert_round_trip(tmp_path / "a.bin", tensors, save)


@pytest.mark.parametrize("case", torch_fixtures.MAKERS)
def test_cases(tmp_path: Path, case: str, save: Save) -> None:
    assert_round_trip(tmp_path / f"{case}.bin", torch_fixtures.MAKERS[case](), save)


@pytest.mark.parametrize("case", torch_fixtures.MAKERS)
def test_checked_in_files(tmp_path: Path, case: str) -> None:
    torch_fixtures.write(tmp_path)
    checked_in = torch_fixtures.HERE / f"{case}.bin"
    expected = torch.load(tmp_path / f"{case}.bin", weights_only=True)
    assert_same(checked_in, expected)
    assert_same(torch_fixtures.HERE / f"{case}-legacy.bin", expected)
    assert (tmp_path / f"{case}.json").read_text(encoding="utf-8") == checked_in.with_suffix(".json").read_text(
        encoding="utf-8"
    )


def test_random_views(tmp_path: Path, save: Save) -> None:
    """Windows of any offset, shape and stride over one storage, overlapping ones among them."""
    generator = np.random.default_rng(0)
    base, tensors = torch.arange(400, dtype=torch.int32), {}
    for number in range(200):
        shape = generator.integers(0, 5, generator.integers(0, 5)).tolist()
        stride = generator.integers(0, 20, len(shape)).tolist()
        tensors[f"t{number}"] = torch.as_strided(base, shape, stride, int(generator.integers(0, 50)))
    assert_round_trip(tmp_path / "views.bin", tensors, save)


@st.composite
def state_dicts(draw: st.DrawFn) -> dict[str, torch.Tensor]:
    """Tensors of any type, shape and stride, several over one storage, some of them one object under two names."""
    tensors: dict[str, torch.Tensor] = {}
    for number in range(draw(st.integers(1, 4))):
        dtype = draw(st.sampled_from([*FLOATS, *INTEGERS, torch.uint8, *OTHERS]))
        base = torch.randint(0, 2, (draw(st.integers(0, 60)),)).to(dtype)
        for view in range(draw(st.integers(1, 4))):
            sizes = draw(st.lists(st.integers(0, 4), max_size=4))
            strides = draw(st.lists(st.integers(0, 4), min_size=len(sizes), max_size=len(sizes)))
            room = len(base) - 1 - sum((n - 1) * step for n, step in zip(sizes, strides, strict=True))
            fits = 0 in sizes or room >= 0
            offset = draw(st.integers(0, max(room, 0)))
            tensors[f"{number}.{view}"] = base.as_strided(sizes, strides, offset) if fits else base
        tensors[f"{number}.tied"] = tensors[f"{number}.0"]
    return tensors


@settings(max_examples=100)
@given(tensors=state_dicts(), options=st.sampled_from([{}, LEGACY]))
def test_anything_torch_saves(
    tmp_path_factory: pytest.TempPathFactory, tensors: dict[str, torch.Tensor], options: dict[str, bool]
) -> None:
    path = tmp_path_factory.getbasetemp() / "anything.bin"
    path.unlink(missing_ok=True)
    assert_round_trip(path, tensors, partial(torch.save, **options))


def test_parameters_and_odd_names(tmp_path: Path, save: Save) -> None:
    weight = torch.nn.Parameter(torch.randn(3, 5))
    weight.note = "an attribute makes it a _rebuild_parameter_with_state"
    tensors = OrderedDict([("größe/ü.weight", weight), ("", torch.nn.Parameter(torch.ones(2), requires_grad=False))])
    assert_round_trip(tmp_path / "a file.with.dots.pth", tensors, save)


@pytest.mark.parametrize("crc", [True, False])
def test_without_checksums(tmp_path: Path, crc: bool) -> None:
    with torch.utils.serialization.config.patch("save.compute_crc32", crc):
        assert_round_trip(tmp_path / "a.bin", {"a": torch.randn(7)})


def test_long_file(tmp_path: Path, save: Save) -> None:
    """More memo slots, tensors and storages than a byte counts, and sizes that need more than two."""
    tensors = {f"layers.{number}.weight": torch.full((2, 3), float(number)) for number in range(700)}
    assert_round_trip(tmp_path / "a.bin", {**tensors, "wide": torch.zeros(70_000, dtype=torch.int8)}, save)


def test_a_storage_is_saved_whole(tmp_path: Path, save: Save) -> None:
    assert_round_trip(tmp_path / "a.bin", {"a": torch.arange(1000)[500:502]}, save)


OTHER_KINDS = {
    "float8_e4m3fn": lambda: {"a": torch.ones(2).to(torch.float8_e4m3fn)},
    "float8_e5m2": lambda: {"a": torch.ones(2).to(torch.float8_e5m2)},
    "ComplexDoubleStorage": lambda: {"a": torch.ones(2, dtype=torch.complex128)},
    "_rebuild_qtensor": lambda: {"a": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)},
    "sparse_tensor": lambda: {"a": torch.eye(2).to_sparse()},
    "meta_tensor": lambda: {"a": torch.empty(2, device="meta")},
    "conjugated or negated": lambda: {"a": torch.ones(2, dtype=torch.complex64).conj()},
    "'epoch', 'network'": lambda: {"epoch": 3, "network": torch.nn.Linear(2, 2).state_dict()},
    "no state dict": lambda: [torch.ones(2)],
}


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_other_kinds_are_named(tmp_path: Path, kind: str, save: Save) -> None:
    save(OTHER_KINDS[kind](), tmp_path / "a.bin")
    with pytest.raises(Unsupported, match=kind):
        read_torch_file(tmp_path / "a.bin")


@pytest.mark.parametrize("protocol", [3, 4])
def test_other_protocols_are_refused(tmp_path: Path, protocol: int, save: Save) -> None:
    save({"a": torch.ones(2)}, tmp_path / "a.bin", pickle_protocol=protocol)
    with pytest.raises(BadCheckpoint, match="protocol 2"):
        read_torch_file(tmp_path / "a.bin")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_torch_script(tmp_path: Path) -> None:
    torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)).save(str(tmp_path / "a.pt"))
    with pytest.raises(Unsupported, match="TorchScript"):
        read_torch_file(tmp_path / "a.pt")


@pytest.mark.parametrize("key", ["model_state_dict", "state_dict", "model"])
def test_training_checkpoint(tmp_path: Path, key: str, save: Save) -> None:
    checkpoint = torch_fixtures.training()
    model = checkpoint.pop("model_state_dict")
    save({**checkpoint, key: model}, tmp_path / "a.bin")
    assert_same(tmp_path / "a.bin", torch.load(tmp_path / "a.bin", weights_only=False)[key])


@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
def test_whole_module(tmp_path: Path, save: Save) -> None:
    model = torch.nn.Linear(2, 2)
    for value in (model, {"model": model}):
        save(value, tmp_path / "a.bin")
        with pytest.raises((BadCheckpoint, Unsupported), match=r"modules\.linear\.Linear|is no storage"):
            read_torch_file(tmp_path / "a.bin")
        (tmp_path / "a.bin").unlink()
