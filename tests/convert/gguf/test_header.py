"""A GGUF header is believed only as far as it lies in the file: everything else is a sentence."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from helpers import gguf_craft as craft

from elm_mlx.convert.gguf.header import parse_header, read_header
from elm_mlx.convert.gguf.stream import MAX_STRINGS
from elm_mlx.convert.sources import open_source
from elm_mlx.errors import BadCheckpoint, ElmError, NotFound, Unsupported

WHERE = Path("model.gguf")
TINY = craft.LLAMA | {"hidden_size": 32, "head_dim": 16, "num_attention_heads": 2, "num_key_value_heads": 1,
                      "intermediate_size": 32, "num_hidden_layers": 1}  # fmt: skip


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def pair(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def entry(name: str = "t", shape: tuple[int, ...] = (32,), kind: int = 0, at: int = 0) -> bytes:
    lengths = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return text(name) + lengths + struct.pack("<IQ", kind, at)


def file(*, pairs: bytes = b"", count: int = 0, table: bytes = b"", tensors: int = 0, data: int = 128) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", 3, tensors, count) + pairs + table
    return head + bytes(-len(head) % 32) + bytes(data)


def add_few_pieces(writer: gguf.GGUFWriter) -> None:
    """A tokenizer that is read in no time."""
    writer.add_tokenizer_model("llama")
    writer.add_token_list(["<unk>", "<s>", "</s>", "\u2581", "a", "b", "ab", "\u2581a"])
    writer.add_token_scores([0.0, 0.0, 0.0, -1.0, -2.0, -3.0, -4.0, -5.0])
    writer.add_token_types([2, 3, 3, 1, 1, 1, 1, 1])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template("{{ messages }}")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = craft.Model(TINY, lambda _: "Q8_0")
    return craft.write(tmp_path_factory.mktemp("gguf") / "model.gguf", model, tokenizer=add_few_pieces)


def test_metadata_and_tensors_are_those_of_the_gguf_package(whole: Path) -> None:
    header, reader = read_header(whole), gguf.GGUFReader(whole)
    assert {each.name: each.shape.tolist()[::-1] for each in reader.tensors} == {
        name: list(tensor.shape) for name, tensor in header.tensors.items()
    }
    for each in reader.tensors:
        assert each.data.tobytes() == bytes(header.tensors[each.name].data)
    fields = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    assert fields.keys() == header.metadata.keys()
    for name, value in fields.items():
        found = header.metadata[name]
        expected = pytest.approx(value, rel=1e-6) if isinstance(value, float) else value
        assert (found.tolist() if isinstance(found, np.ndarray) else found) == expected, name


REFUSED: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "its header is cut short"),
    "another format": (b"PK\x03\x04" + bytes(40), "does not begin with GGUF"),
    "counts of tensors": (b"GGUF" + struct.pack("<IQQ", 3, 2**60, 0) + bytes(99), "counts 1,152,921,504,606,846,976"),
    "counts of keys": (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**63) + bytes(99), "metadata keys, more than fit"),
    "a long string": (file(pairs=struct.pack("<Q", 2**62), count=1), "a string in its header has"),
    "no UTF-8": (file(pairs=struct.pack("<Q", 1) + b"\xff" + bytes(12), count=1), "is not UTF-8"),
    "a key twice": (file(pairs=pair("k", 0, b"\1") * 2, count=2), "the key 'k' twice"),
    "an unknown type": (file(pairs=pair("k", 99, b""), count=1), "unknown type 99"),
    "a truth of 2": (file(pairs=pair("k", 7, b"\2"), count=1), "a truth value in its header is 2"),
    "arrays in arrays": (file(pairs=pair("k", 9, struct.pack("<IQ", 9, 1)), count=1), "values of the type 9"),
    "many numbers": (file(pairs=pair("k", 9, struct.pack("<IQ", 10, 2**61)), count=1), "its header is cut short"),
    "many strings": (file(pairs=pair("k", 9, struct.pack("<IQ", 8, MAX_STRINGS)), count=1), "strings, more than fit"),
    "an odd alignment": (file(pairs=pair("general.alignment", 4, struct.pack("<I", 3)), count=1), "a power of two"),
    "no alignment": (file(pairs=pair("general.alignment", 4, bytes(4)), count=1), "a power of two"),
    "no dimensions": (file(table=entry(shape=()) + bytes(32), tensors=1), "has 0 dimensions"),
    "many dimensions": (file(table=entry(shape=(1,) * 5), tensors=1), "has 5 dimensions"),
    "an empty axis": (file(table=entry(shape=(0, 4)), tensors=1), "has the shape"),
    "a huge axis": (file(table=entry(shape=(2**40,)), tensors=1), "has the shape"),
    "a tensor twice": (file(table=entry() * 2, tensors=2), "the tensor 't' twice"),
    "a part of a block": (file(table=entry(shape=(33,), kind=8), tensors=1), "not made of whole blocks"),
    "between the blocks": (file(table=entry(at=8), tensors=1), "not made of whole blocks, or does not begin at one"),
    "after the file": (file(table=entry(at=32), tensors=1, data=128), "ends 32 bytes after the file"),
    "a type of no number": (file(table=entry(kind=77), tensors=1), "has the unknown type 77"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_right_is_refused(name: str) -> None:
    data, words = REFUSED[name]
    with pytest.raises(BadCheckpoint, match=words):
        parse_header(memoryview(data), WHERE)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"GGUF" + struct.pack("<I", 1) + bytes(99), "GGUF version 1 is not one"),
        (b"GGUF" + struct.pack(">I", 3) + bytes(99), "is a big-endian GGUF file"),
        (file(table=entry(shape=(256,), kind=10), tensors=1), "type of the tensor 't': 'Q2_K' is not one"),
        (file(table=entry(shape=(32,), kind=39), tensors=1), "'MXFP4' is not one .* such as Q4_K_M or Q8_0"),
    ],
)
def test_what_is_right_but_not_read_is_named(data: bytes, words: str) -> None:
    with pytest.raises(Unsupported, match=words):
        parse_header(memoryview(data), WHERE)


def test_a_pointer_of_git_lfs_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(BadCheckpoint, match="git lfs pull"):
        read_header(tmp_path / "model.gguf")
    with pytest.raises(NotFound, match=r"no file .*lost\.gguf"):
        read_header(tmp_path / "lost.gguf")


def flip_bits(data: bytearray, draw: random.Random) -> None:
    for _ in range(draw.randint(1, 8)):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)


def write_words(data: bytearray, draw: random.Random) -> None:
    at = draw.randrange(len(data) - 8)
    extreme = draw.choice([0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63, 2**64 - 1, len(data)])
    data[at : at + 8] = extreme.to_bytes(8, "little")


def cut(data: bytearray, draw: random.Random) -> None:
    del data[draw.randrange(len(data)) :]


def remove(data: bytearray, draw: random.Random) -> None:
    at = draw.randrange(len(data))
    del data[at : at + draw.randint(1, 40)]


def repeat(data: bytearray, draw: random.Random) -> None:
    at = draw.randrange(len(data))
    data[at:at] = data[at : at + draw.randint(1, 60)]


DAMAGES: list[Callable[[bytearray, random.Random], None]] = [flip_bits, write_words, cut, remove, repeat]


def damage(whole: Path, folder: Path, count: int, seed: int) -> int:
    """Opens so many damaged copies of a file, and its tokenizer: each opens, or ends in a sentence. How many end so."""
    file, draw, refused = folder / "damaged.gguf", random.Random(seed), 0
    original = whole.read_bytes()
    end = len(original) - sum(tensor.data.nbytes for tensor in read_header(whole).tensors.values())
    # The keys before the list of tokens, and what comes after the lists, decide most: hit them most often.
    beginning, table = original.index(b"tokenizer.ggml.tokens"), original.index(b"token_embd.weight")
    for _ in range(count):
        begin, stop = draw.choice([(0, beginning), (table - 400, end), (0, end)])
        part = bytearray(original[begin:stop])
        draw.choice(DAMAGES)(part, draw)
        file.write_bytes(original[:begin] + part + original[stop:])
        try:
            source = open_source(file)
            assert source.tokenizer
            source.tokenizer.read()
            for tensor in draw.choices([*source.tensors.values()], k=2):
                tensor.read()
        except ElmError as error:
            refused += str(error).endswith(".")
    return refused


def test_a_damaged_file_is_a_sentence_or_opens(whole: Path, tmp_path: Path) -> None:
    assert damage(whole, tmp_path, 300, seed=1) > 150


@pytest.mark.soak
def test_twenty_thousand_damaged_files_are_sentences(whole: Path, tmp_path: Path) -> None:
    assert damage(whole, tmp_path, 20_000, seed=2) > 10_000
