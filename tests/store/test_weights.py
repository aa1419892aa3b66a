"""safetensors: nothing that the format's own library refuses is read, and what is written it reads back."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import safetensors
from hypothesis import given, settings
from hypothesis import strategies as st

from elm_mlx.errors import BadCheckpoint, ElmError, NotFound, Unsupported
from elm_mlx.store.bounded_json import parse_bounded
from elm_mlx.store.weights import (
    DTYPE_NAMES,
    DTYPES,
    Entry,
    Writer,
    check_entries,
    gather,
    read_arrays,
    read_header,
)

each_count = pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.slow)])
TENSORS: dict[str, Any] = {
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
    "none": {"dtype": "U8", "shape": [0, 7], "data_offsets": [32, 32]},
    "c": {"dtype": "I8", "shape": [], "data_offsets": [32, 33]},
}
DATA = bytes(range(33))


def framed(header: bytes | str | object, data: bytes = DATA, length: int | None = None) -> bytes:
    """A file: the header's length, true or not, the header, the data."""
    if not isinstance(header, bytes | str):
        header = json.dumps(header)
    raw = header.encode() if isinstance(header, str) else header
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


VALID = framed({"__metadata__": {"format": "pt"}} | TENSORS)


def changed(name: str, **parts: Any) -> dict[str, Any]:
    """The valid header with parts of one tensor replaced."""
    return TENSORS | {name: TENSORS[name] | parts}


def library_accepts(path: Path) -> bool:
    try:
        with safetensors.safe_open(path, framework="np") as file:
            return isinstance(list(file.keys()), list)
    except safetensors.SafetensorError:
        return False


def accepts(path: Path) -> bool:
    """Whether we read the header; a refusal is one of ours or the test fails."""
    try:
        read_header(path)
    except ElmError:
        return False
    return True


def check_agreement(path: Path) -> None:
    """What we accept the library accepts, and MLX then reads the same bytes from it."""
    if not accepts(path):
        return
    assert library_accepts(path)
    with path.open("rb") as file:
        stored = dict(safetensors.deserialize(file.read()))
    for name, (entry, array) in read_arrays(path).items():
        assert array.shape == entry.shape == tuple(stored[name]["shape"])
        assert array.dtype == entry.dtype == DTYPES[stored[name]["dtype"]]
        assert raw_bytes(array) == bytes(stored[name]["data"])


def raw_bytes(array: mx.array) -> bytes:
    return np.array(array.flatten().view(mx.uint8)).tobytes() if array.size else b""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights") / "model.safetensors"


def test_a_valid_file_is_read(path: Path) -> None:
    path.write_bytes(VALID)
    assert library_accepts(path)
    header = read_header(path)
    assert header["a"] == Entry(mx.float32, (2, 3))
    assert header["c"].nbytes == 1
    assert list(header) == ["a", "b", "none", "c"]
    check_agreement(path)


def test_a_file_without_tensors_or_metadata_is_valid(path: Path) -> None:
    for header in ({}, {"__metadata__": None}):
        path.write_bytes(framed(header, b""))
        assert read_header(path) == {}


def test_tensors_may_lie_in_any_order(path: Path) -> None:
    backwards = dict(reversed(TENSORS.items()))
    path.write_bytes(framed(json.dumps(backwards).replace("}}", "}}  \n\t")))
    assert set(read_header(path)) == set(TENSORS)
    check_agreement(path)


A, SPAN = '"a":{"dtype":"U8","shape":[33],', '"data_offsets":[0,33]'
REFUSED: dict[str, bytes] = {
    "empty": b"",
    "seven bytes": b"\2\0\0\0\0\0\0",
    "no header": framed(b"", b""),
    "a header past the end": framed(TENSORS, length=10_000),
    "a header of 2**63 bytes": framed(TENSORS, length=2**63),
    "a header of 2**64 - 1 bytes": framed(TENSORS, length=2**64 - 1),
    "a header over the format's limit": framed(TENSORS, length=100_000_001),
    "a shorter header": framed(TENSORS, length=40),
    "a longer header": framed(TENSORS, length=len(json.dumps(TENSORS)) + 3),
    "bytes missing": VALID[:-1],
    "bytes added": VALID + b"\0",
    "no data": VALID[:-33],
    "a list": framed([], b""),
    "null": framed("null", b""),
    "a number": framed("7", b""),
    "text": framed('"a"', b""),
    "not JSON": framed("{a}"),
    "two objects": framed("{}{}", b""),
    "NUL padding": framed(json.dumps(TENSORS) + "\0"),
    "a byte-order mark": framed(json.dumps(TENSORS).encode("utf-8-sig")),
    "UTF-16": framed(json.dumps(TENSORS).encode("utf-16-le")),
    "bytes that are no UTF-8": framed(b'{"\xff":' + json.dumps(TENSORS["a"]).encode() + b"}"),
    "half a surrogate pair": framed(json.dumps({"\ud800": TENSORS["a"]}), DATA[:24]),
    "half a surrogate pair in bytes": framed(b'{"\xed\xa0\x80":' + json.dumps(TENSORS["a"]).encode() + b"}", DATA[:24]),
    "half a surrogate pair in the metadata": framed(TENSORS | {"__metadata__": {"a": "\udfff"}}),
    "metadata that is a number": framed(TENSORS | {"__metadata__": {"a": 1}}),
    "metadata that is text": framed(TENSORS | {"__metadata__": "pt"}),
    "metadata that is a list": framed(TENSORS | {"__metadata__": []}),
    "nested metadata": framed(TENSORS | {"__metadata__": {"a": {"b": "c"}}}),
    "metadata twice": framed('{"__metadata__":{},"__metadata__":{},' + A + SPAN + "}}"),
    "a key twice": framed("{" + A + '"dtype":"U8",' + SPAN + "}}"),
    "deep nesting": framed("[" * 100_000),
    "deep nesting that closes": framed("{" + A + SPAN + ',"x":' + "[" * 200 + "]" * 200 + "}}"),
    "deeper nesting that closes": framed('{"a":' * 90_000 + "1" + "}" * 90_000),
    "NaN": framed("{" + A + SPAN + ',"x":NaN}}'),
    "a tensor of null": framed(TENSORS | {"a": None}),
    "a tensor of text": framed(TENSORS | {"a": "dtype"}),
    "no type": framed(TENSORS | {"a": {"shape": [2, 3], "data_offsets": [0, 24]}}),
    "no shape": framed(TENSORS | {"a": {"dtype": "F32", "data_offsets": [0, 24]}}),
    "no place": framed(TENSORS | {"a": {"dtype": "F32", "shape": [2, 3]}}),
    "a shape of text": framed(changed("a", shape="23")),
    "a shape that is a number": framed(changed("a", shape=6)),
    "a negative shape": framed(changed("a", shape=[-2, -3])),
    "minus zero": framed(json.dumps(TENSORS).replace("[0, 7]", "[-0, 7]")),
    "a fraction": framed(changed("a", shape=[2.0, 3])),
    "a boolean": framed(changed("c", shape=[True])),
    "a null dimension": framed(changed("a", shape=[None, 3])),
    "a huge shape": framed(changed("a", shape=[2**62, 2**62])),
    "an endless number": framed(json.dumps(TENSORS).replace("[2, 3]", "[" + "9" * 5000 + "]")),
    "a huge shape of nothing": framed(changed("none", shape=[2**61, 16, 0])),
    "a shape of another size": framed(changed("a", shape=[2, 4])),
    "a transposed place": framed(changed("a", data_offsets=[24, 0])),
    "a negative place": framed(changed("a", data_offsets=[-24, 0])),
    "a huge place": framed(changed("a", data_offsets=[2**64, 2**64 + 24])),
    "a place of three": framed(changed("a", data_offsets=[0, 24, 24])),
    "a place of one": framed(changed("a", data_offsets=[24])),
    "a place as an object": framed(changed("a", data_offsets={"0": 0, "24": 1})),
    "a place of fractions": framed(changed("a", data_offsets=[0.0, 24.0])),
    "an overlap": framed(changed("b", data_offsets=[20, 28])),
    "the same place twice": framed({"a": TENSORS["a"], "b": TENSORS["a"]}, DATA[:24]),
    "a gap": framed(changed("c", data_offsets=[33, 34]), DATA + b"\0"),
    "a gap in front": framed({"c": TENSORS["c"]}),
    "a place past the end": framed(changed("c", shape=[9], data_offsets=[32, 41])),
    "an unknown type": framed(changed("a", dtype="F33")),
    "a lower-case type": framed(changed("a", dtype="f32")),
    "a type of null": framed(changed("a", dtype=None)),
    "a type that is a list": framed(changed("a", dtype=["F32"])),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_library_refuses_is_refused(path: Path, name: str) -> None:
    path.write_bytes(REFUSED[name])
    assert not library_accepts(path)
    with pytest.raises((BadCheckpoint, Unsupported), match=r"model\.safetensors"):
        read_header(path)


STRICTER: dict[str, bytes] = {
    "a name twice": framed("{" + A + SPAN + "}," + A + SPAN + "}}"),
    "a tensor as a list": framed(TENSORS | {"a": ["F32", [2, 3], [0, 24]]}),
    "a key of another format": framed(changed("a", strides=[3, 1])),
    "65 dimensions": framed(changed("c", shape=[1] * 65)),
    "100,000 dimensions": framed(changed("c", shape=[1] * 100_000)),
}


@pytest.mark.parametrize("name", STRICTER)
def test_what_no_writer_writes_is_refused_though_the_library_takes_it(path: Path, name: str) -> None:
    path.write_bytes(STRICTER[name])
    assert library_accepts(path)
    with pytest.raises(BadCheckpoint):
        read_header(path)


@pytest.mark.parametrize("dtype", ["F64", "F8_E4M3"])
def test_a_type_that_mlx_lacks_is_named(path: Path, dtype: str) -> None:
    size = {"F64": 8, "F8_E4M3": 1}[dtype]
    path.write_bytes(framed({"x": {"dtype": dtype, "shape": [1], "data_offsets": [0, size]}}, bytes(size)))
    assert library_accepts(path)
    with pytest.raises(Unsupported, match=rf"tensor x: type '{dtype}'.*BF16"):
        read_header(path)


def test_a_git_lfs_pointer_says_so(path: Path) -> None:
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    with pytest.raises(BadCheckpoint, match=r"Git LFS pointer: run `git lfs pull`"):
        read_header(path)


def test_a_header_cut_short_says_so(path: Path) -> None:
    for length in (0, 7, 8, 50):
        path.write_bytes(VALID[:length])
        with pytest.raises(BadCheckpoint, match=r"is not a safetensors file, or is cut short\."):
            read_header(path)


def test_a_missing_file_or_a_directory_is_not_found(tmp_path: Path) -> None:
    for name in ("absent.safetensors", ""):
        with pytest.raises(NotFound, match="There is no"):
            read_header(tmp_path / name)


edits = st.lists(
    st.tuples(st.sampled_from(["flip", "cut", "insert"]), st.integers(0, len(VALID)), st.binary(max_size=3)),
    min_size=1,
    max_size=3,
)


def mutated(data: bytes, changes: list[tuple[str, int, bytes]]) -> bytes:
    for kind, at, new in changes:
        end = {"flip": at + len(new), "cut": at + 1, "insert": at}[kind]
        data = data[:at] + (b"" if kind == "cut" else new) + data[end:]
    return data


@each_count
def test_a_damaged_file_is_refused_or_means_what_the_library_says(path: Path, count: int) -> None:
    @settings(max_examples=count)
    @given(edits)
    def check(changes: list[tuple[str, int, bytes]]) -> None:
        path.write_bytes(mutated(VALID, changes))
        check_agreement(path)

    check()


@each_count
def test_a_file_cut_short_is_refused(path: Path, count: int) -> None:
    @settings(max_examples=count)
    @given(st.integers(0, len(VALID) - 1), st.binary(max_size=9))
    def check(length: int, more: bytes) -> None:
        path.write_bytes(VALID[:length] + more[: len(VALID) - length - 1])
        assert not accepts(path)

    check()


numbers = st.sampled_from([-1, 0, 1, 2, 3, 4, 24, 32, 33, 2**31, 2**62, 2**64, 1.5, True, None, "1"])
parts: st.SearchStrategy[Any] = st.one_of(
    st.fixed_dictionaries({"shape": st.lists(numbers, max_size=3)}),
    st.fixed_dictionaries({"data_offsets": st.lists(numbers, max_size=3)}),
    st.fixed_dictionaries({"dtype": st.sampled_from([*DTYPES, "F64", "F8_E5M2", "", "BF 16", 7, None])}),
)


@each_count
def test_a_header_that_lies_is_refused_or_means_what_the_library_says(path: Path, count: int) -> None:
    @settings(max_examples=count)
    @given(st.sampled_from([*TENSORS, "new", "__metadata__"]), parts, st.integers(24, 40))
    def check(name: str, part: dict[str, Any], size: int) -> None:
        path.write_bytes(framed(TENSORS | {name: TENSORS.get(name, {}) | part}, bytes(size)))
        check_agreement(path)

    check()


SHAPES: list[tuple[int, ...]] = [(), (1,), (0,), (2, 0, 3), (5,), (2, 3), (3, 1, 7)]


def sample(dtype: mx.Dtype, shape: tuple[int, ...]) -> mx.array:
    """Random values, a view with its axes swapped where there are any: what is written must be in order."""
    values = mx.random.uniform(0, 200, shape[::-1])
    return values.astype(dtype).transpose()


def write(path: Path, arrays: dict[str, mx.array]) -> None:
    with Writer(path, {name: Entry(a.dtype, a.shape) for name, a in arrays.items()}) as writer:
        for name, array in arrays.items():
            writer.write(name, array)


def test_what_is_written_the_library_and_mlx_read(path: Path) -> None:
    arrays = {f"{dtype}{shape}": sample(dtype, shape) for dtype in DTYPES.values() for shape in SHAPES}
    write(path, arrays)
    again = mx.load(str(path))
    assert isinstance(again, dict)
    stored = dict(safetensors.deserialize(path.read_bytes()))
    assert list(read_header(path)) == list(arrays)
    for name, array in arrays.items():
        assert again[name].dtype == array.dtype
        assert again[name].shape == array.shape == tuple(stored[name]["shape"])
        assert raw_bytes(again[name]) == raw_bytes(array) == bytes(stored[name]["data"])
        assert stored[name]["dtype"] == DTYPE_NAMES[array.dtype]


def test_safe_open_gives_what_was_written(path: Path) -> None:
    kinds = {name: dtype for name, dtype in DTYPES.items() if name != "BF16"}  # NumPy has none
    arrays = {f"{name}{shape}": sample(dtype, shape) for name, dtype in kinds.items() for shape in SHAPES}
    write(path, arrays)
    with safetensors.safe_open(path, framework="np") as file:
        assert file.metadata() == {"format": "mlx"}
        for name, array in arrays.items():
            read = file.get_tensor(name)
            assert read.dtype == np.array(array).dtype
            assert np.array_equal(read, np.array(array))


def test_the_data_begins_on_a_multiple_of_eight(path: Path) -> None:
    for name in ("a", "ab", "abc", "é", "😀"):
        write(path, {name: mx.zeros(3)})
        assert int.from_bytes(path.read_bytes()[:8], "little") % 8 == 0
        assert list(read_header(path)) == [name]
        check_agreement(path)


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        (lambda w: w.write("b", mx.zeros(3)), r"b \(3,\) .* is not what the header promises: a"),
        (lambda w: w.write("a", mx.zeros(4)), r"a \(4,\) .* is not what the header promises"),
        (lambda w: w.write("a", mx.zeros(3, mx.float16)), "float16 is not what the header promises"),
        (lambda w: None, "was closed before a was written"),
        (lambda w: w.write("a", mx.zeros(3)), "was closed before b was written"),
    ],
    ids=["order", "shape", "type", "nothing", "half"],
)
def test_a_writer_keeps_what_the_header_promises(
    tmp_path: Path, wrong: Callable[[Writer], None], complaint: str
) -> None:
    entries = {"a": Entry(mx.float32, (3,)), "b": Entry(mx.float32, (3,))}
    with pytest.raises(ValueError, match=complaint), Writer(tmp_path / "x.safetensors", entries) as writer:
        wrong(writer)


def test_a_writer_lets_the_first_error_through(tmp_path: Path) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        Writer(tmp_path / "x.safetensors", {"a": Entry(mx.float32, (3,))}),
    ):
        raise KeyboardInterrupt


def test_a_tensor_in_two_files_is_refused(tmp_path: Path) -> None:
    for file in ("x.safetensors", "y.safetensors"):
        (tmp_path / file).write_bytes(VALID)
    with pytest.raises(BadCheckpoint, match=r"holds a.* in two files"):
        gather(tmp_path, ["x.safetensors", "y.safetensors"], read_header)


HOSTILE = {
    "tensors": b"".join(b'"%x":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},' % i for i in range(75_000)),
    "a shape": b'{"a":{"dtype":"F32","shape":[' + b"1," * 500_001 + b'1],"data_offsets":[0,4]}}',
    "metadata": b'{"__metadata__":{' + b",".join(b'"%x":""' % i for i in range(500_001)) + b"}}",
    "lists": b'{"a":[' + b"[],[]," * 300_000 + b"[]]}",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_header_is_refused_before_it_is_read_if_it_would_cost_much(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.safetensors").write_bytes(framed(HOSTILE[kind], b""))
    monkeypatch.setattr(json, "loads", pytest.fail)
    with pytest.raises(BadCheckpoint, match=r"x\.safetensors: its header lists over 60,000 tensors"):
        read_header(tmp_path / "x.safetensors")


@pytest.mark.slow
def test_a_header_may_list_as_many_tensors_as_the_largest_models_have() -> None:
    raw = b",".join(b'"%x":{"dtype":"BF16","shape":[4096,4096],"data_offsets":[0,33554432]}' % i for i in range(30_000))
    assert len(parse_bounded(b"{" + raw + b"}", Path("x"))) == 30_000


def test_entries_are_compared_by_name_shape_and_kind() -> None:
    expected = {"a": Entry(mx.float32, (2, 3)), "b": Entry(mx.uint32, (4,))}
    where = Path("model")
    check_entries(where, expected, {"b": expected["b"], "a": Entry(mx.bfloat16, (2, 3))})
    for found, complaint in (
        ({"a": expected["a"]}, "missing b"),
        (expected | {"c": expected["a"]}, "not expected c"),
        ({"a": expected["a"], "B": expected["b"]}, "missing b; not expected B"),
        (expected | {"a": Entry(mx.float32, (3, 2))}, r"a has shape \(3, 2\), config.json gives \(2, 3\)"),
        (expected | {"a": Entry(mx.int32, (2, 3))}, "a has type I32"),
        (expected | {"b": Entry(mx.float32, (4,))}, r"b has type F32.*\(U32\)"),
        ({}, "missing a, b"),
    ):
        with pytest.raises(BadCheckpoint, match=complaint):
            check_entries(where, expected, found)
    many = {f"t{i}": expected["a"] for i in range(9)}
    with pytest.raises(BadCheckpoint, match="missing t0, t1, t2, t3, t4 and 4 more"):
        check_entries(where, many, {})
