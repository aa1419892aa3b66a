"""A training checkpoint gives its model, and whatever lies beside it does nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import torch_craft as craft
from helpers.torch_craft import Read

from elm_mlx.convert.torch_file import tensors as torch_tensors
from elm_mlx.errors import BadCheckpoint, Unsupported

MODEL = craft.dictionary(("weight", craft.TENSOR))
EVIL = craft.call(craft.name("os", "system"), craft.text("touch ran"))
NAMESPACE = craft.name("argparse", "Namespace") + b")\x81" + craft.dictionary(("lr", b"K\1")) + b"b"


def checkpoint(model: bytes, *beside: tuple[str, bytes], key: str = "model_state_dict") -> bytes:
    return craft.dictionary(("epoch", b"K\3"), *beside, (key, model), ("is_interval_ckpt", b"\x89"))


@pytest.mark.parametrize("key", ["model_state_dict", "state_dict", "model"])
def test_the_usual_keys(read_body: Read, key: str) -> None:
    tensors = read_body(checkpoint(MODEL, ("optim_state_dict", MODEL), key=key))
    assert {name: tensor.read().tolist() for name, tensor in tensors.items()} == {"weight": [[0, 1, 2], [3, 4, 5]]}


def test_the_first_key_is_corenets(read_body: Read) -> None:
    other = craft.dictionary(("other", craft.TENSOR))
    for beside in ("state_dict", "model", "ema_state_dict"):
        assert list(read_body(checkpoint(MODEL, (beside, other)))) == ["weight"]
    assert list(read_body(checkpoint(other, ("model", MODEL), key="state_dict"))) == ["other"]


@pytest.mark.parametrize("key", ["model_state_dict", "state_dict", "model"])
def test_a_tensor_may_have_such_a_name(read_body: Read, key: str) -> None:
    assert list(read_body(craft.dictionary((key, craft.TENSOR)))) == [key]


INERT = {
    "a call": EVIL,
    "a call of what a call gave": craft.call(EVIL, EVIL),
    "a name": craft.name("builtins", "eval"),
    "an object": NAMESPACE,
    "an object with a state that is no dictionary": craft.name("a", "B") + b")\x81NN\x86b",
    "a number of NumPy's": craft.call(
        craft.name("numpy.core.multiarray", "scalar"), craft.call(craft.name("numpy", "dtype"), b"U\x02f8"), EVIL
    ),
    "a dictionary with a default, its key a tuple": craft.call(craft.name("collections", "defaultdict"), EVIL)
    + b"K\1K\2\x86Ns(K\1\x85NNNu",
    "a list of a kind": craft.call(craft.name("collections", "deque")) + b"Na(NNe",
    "an odd number of items": EVIL + b"(Nu",
}


@pytest.mark.parametrize("kind", INERT)
def test_what_lies_beside_does_nothing(
    read_body: Read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert list(read_body(checkpoint(MODEL, ("beside", INERT[kind]), ("in a list", b"](" + INERT[kind] + b"e")))) == [
        "weight"
    ]
    assert not Path("ran").exists()


@pytest.mark.parametrize("kind", INERT)
def test_a_state_dict_alone_has_no_such_names(read_body: Read, kind: str) -> None:
    """Wherever they are: as a tensor, in the metadata, in a parameter's attributes."""
    wrap = craft.name("torch._utils", "_rebuild_parameter_with_state")
    places = [
        craft.dictionary(("weight", craft.TENSOR), ("beside", INERT[kind])),
        craft.ORDERED + craft.dictionary(("_metadata", INERT[kind])) + b"b" + MODEL[1:],
        craft.dictionary(("a", craft.call(wrap, craft.TENSOR, b"\x88", craft.ORDERED, INERT[kind]))),
        INERT[kind],
    ]
    for body in places:
        with pytest.raises(BadCheckpoint, match=r"toy\.bin: its pickle names '.*nothing was run"):
            read_body(body)


NEEDED = {
    "the model": EVIL,
    "a tensor": craft.dictionary(("weight", craft.TENSOR), ("bias", EVIL)),
    "every tensor": craft.dictionary(("weight", EVIL)),
    "a module": craft.name("torch.nn.modules.linear", "Linear") + b")\x81" + MODEL + b"b",
}


@pytest.mark.parametrize("place", NEEDED)
@pytest.mark.parametrize("key", ["model_state_dict", "state_dict", "model"])
def test_the_model_is_tensors(read_body: Read, key: str, place: str) -> None:
    with pytest.raises((BadCheckpoint, Unsupported), match=r"os\.system|Linear|'weight' and no tensors"):
        read_body(checkpoint(NEEDED[place], ("optimizer", MODEL), key=key))


# An unknown name where a tensor, or what it is made of, belongs: even beside the model.
INSIDE = {
    "hooks": craft.TENSOR.replace(craft.ORDERED, EVIL),
    "storage": craft.tensor(over=EVIL),
    "offset": craft.TENSOR.replace(craft.integer(0), EVIL, 1),
    "shape": craft.TENSOR.replace(craft.integers((2, 3)), EVIL),
    "size": craft.TENSOR.replace(craft.integers((2, 3)), b"K\2" + EVIL + b"\x86"),
    "requires_grad": craft.TENSOR.replace(b"\x89", EVIL),
    "class of a storage": craft.STORAGE.replace(craft.name("torch", "FloatStorage"), EVIL),
    "key of a storage": craft.STORAGE.replace(craft.text("0"), EVIL),
    "length of a storage": craft.STORAGE.replace(craft.integer(6), EVIL),
    "identity": EVIL + b"Q",
    "parameter": craft.call(craft.name("torch._utils", "_rebuild_parameter"), EVIL, b"\x88", craft.ORDERED),
    "key of a dictionary": b"}" + EVIL + b"Ns",
    "metadata": craft.ORDERED + EVIL + b"b",
    "arguments": craft.name("os", "system") + EVIL + b"R",
    "arguments of a known name": craft.name("torch._utils", "_rebuild_tensor_v2") + EVIL + b"R",
    "arguments of OrderedDict": craft.call(craft.name("collections", "OrderedDict"), EVIL),
    "object of a known name": craft.name("collections", "OrderedDict") + b")\x81",
    "object of a string": craft.text("os.system") + b")\x81",
}


@pytest.mark.parametrize("place", INSIDE)
def test_no_tensor_is_made_of_an_unknown_name(read_body: Read, place: str) -> None:
    with pytest.raises(BadCheckpoint, match=r"toy\.bin: "):
        read_body(checkpoint(MODEL, ("beside", INSIDE[place])))


def test_the_first_key_is_not_passed_over(read_body: Read) -> None:
    with pytest.raises(Unsupported, match=r"holds one os\.system, no state dict"):
        read_body(checkpoint(EVIL, ("state_dict", MODEL)))


def test_one_level_is_opened(read_body: Read) -> None:
    with pytest.raises(Unsupported, match="holds 'epoch', 'model_state_dict'"):
        read_body(checkpoint(checkpoint(MODEL)))


def test_names_are_limited(read_body: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    beside = [("a", craft.name("a", "a")), ("b", craft.name("b", "b")), ("again", craft.name("a", "a"))]
    monkeypatch.setattr(torch_tensors, "MAX_NAMES", 2)
    assert list(read_body(checkpoint(MODEL, *beside))) == ["weight"]
    monkeypatch.setattr(torch_tensors, "MAX_NAMES", 1)
    with pytest.raises(BadCheckpoint, match="more than 1 names"):
        read_body(checkpoint(MODEL, *beside))


def test_room_for_a_3b_model_and_its_optimizer(read_body: Read) -> None:
    """36 layers of 8 weights in model, averages and both moments, with the memo torch keeps of everything."""
    weights = [
        (f"transformer.layers.{n // 8}.{n % 8}.weight", craft.TENSOR + b"r" + n.to_bytes(4, "little"))
        for n in range(290)
    ]
    moments = [(f"{n}", craft.dictionary(("exp_avg", craft.TENSOR), ("exp_avg_sq", craft.TENSOR))) for n in range(290)]
    body = checkpoint(
        craft.dictionary(*weights),
        ("optim_state_dict", craft.dictionary(*moments)),
        ("ema_state_dict", craft.dictionary(*weights)),
    )
    assert len(read_body(body)) == 290
