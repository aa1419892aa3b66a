"""A tokenizer.model becomes a tokenizer.json that cuts every text as SentencePiece itself does."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import tokenizers
from helpers import checkpoints
from sentencepiece import sentencepiece_model_pb2 as proto

from elm_mlx.config import config_from_dict
from elm_mlx.convert import tokenizer as tokenizer_files
from elm_mlx.convert.tokenizer.sentencepiece import BYTE, SPACE, merges, parse, tokenizer_json
from elm_mlx.errors import BadCheckpoint, MissingTokenizer, NotFound, Unsupported
from elm_mlx.text.settings import TokenizerSettings, parse_settings
from elm_mlx.text.tokenizer import Tokenizer

PROSE = "the cat sat on a mat and looked at the moon while small dogs ran home to eat bread with jam"
CONFIG = config_from_dict(checkpoints.OPENELM | {"vocab_size": 1000})
UNITS = [" ", "  ", "   ", "        ", "\t", "\n", "\r\n", "\0", "é", "e\u0301", "ﷺ", "\u00a0", "\u3000", SPACE, "😀",
         "👩‍👩‍👧", "<s>", "</s>", "<unk>", "<0x41>", "the", " cat", "sat", "moon", "bread", "ab", "Zq"]  # fmt: skip


def train(**options: Any) -> bytes:
    """A small model of Llama 2's kind: BPE, byte fallback, no normalisation."""
    choice = random.Random(0).choice
    words = sorted(set(PROSE.split()))
    lines = [" ".join(choice(words) for _ in range(12)) for _ in range(200)] + ["    deep    text\tand  blanks"] * 50
    settings: dict[str, Any] = {
        "model_type": "bpe",
        "vocab_size": 390,
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "allow_whitespace_only_pieces": True,
        "character_coverage": 1.0,
        "minloglevel": 2,
    }
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=out, **settings | options)
    return out.getvalue()


def edited(data: bytes, edit: Callable[[Any], None]) -> bytes:
    """The model after `edit` of its protocol buffer."""
    model = proto.ModelProto()  # type: ignore[attr-defined]
    model.ParseFromString(data)
    edit(model)
    return bytes(model.SerializeToString())


def add_blank_runs(model: Any) -> None:
    """Runs of up to 16 blanks as pieces of the lowest score, as Llama 2 has them."""
    pieces = {piece.piece: piece for piece in model.pieces}
    for text in (SPACE * n for n in range(2, 17)):
        piece = pieces.get(text) or model.pieces.add(piece=text)
        piece.score, piece.type = -1e9, 1


@pytest.fixture(scope="session")
def llama2() -> bytes:
    return edited(train(), add_blank_runs)


def rebuilt(data: bytes, folder: Path, **settings: Any) -> Tokenizer:
    """What our conversion makes of a tokenizer.model."""
    path = folder / "tokenizer.json"
    where = Path("tokenizer.model")
    path.write_bytes(tokenizer_files.compact(tokenizer_json(parse(data, where), where), where))
    return Tokenizer.from_file(path, parse_settings({"bos_token": "<s>", "add_bos_token": False} | settings))


def texts(count: int, units: list[str]) -> list[str]:
    draw = random.Random(1)
    return ["".join(draw.choices(units, k=draw.randint(0, 20))) for _ in range(count)]


@pytest.mark.parametrize("prefix", [True, False])
def test_ids_and_texts_are_sentencepiece_s_own(llama2: bytes, tmp_path: Path, prefix: bool) -> None:
    data = edited(llama2, lambda model: setattr(model.normalizer_spec, "add_dummy_prefix", prefix))
    original = sentencepiece.SentencePieceProcessor(model_proto=data)
    ours = rebuilt(data, tmp_path)
    for text in texts(5000, UNITS):
        ids = original.encode(text)
        assert ours.encode(text) == ids, text
        assert ours.decode(ids) == text.replace(SPACE, " "), text


def test_runs_of_blanks_join_as_in_the_original(llama2: bytes, tmp_path: Path) -> None:
    original, ours = sentencepiece.SentencePieceProcessor(model_proto=llama2), rebuilt(llama2, tmp_path)
    for length in range(70):
        for text in (" " * length, "the" + " " * length + "cat", "\n" + " " * length):
            assert ours.encode(text) == original.encode(text)


@pytest.mark.parametrize(
    "options",
    [
        {"byte_fallback": False, "vocab_size": 150},
        {"control_symbols": ["<c>", "moon"]},
        {"add_dummy_prefix": False, "user_defined_symbols": ["<u>", "<uv>", "<c> the"]},
        {"add_dummy_prefix": False, "user_defined_symbols": [SPACE * 2, "a" + SPACE, "\n\n", "t"]},
        {"bos_id": 5, "eos_id": 7, "unk_id": 2},
    ],
    ids=["no-bytes", "control", "user-defined", "user-defined-blanks", "other-ids"],
)
def test_other_models_of_the_kind_agree_too(options: dict[str, Any], tmp_path: Path) -> None:
    data = train(**options)
    original, ours = sentencepiece.SentencePieceProcessor(model_proto=data), rebuilt(data, tmp_path)
    for text in texts(1500, [*UNITS, "<c>", "<u>", "<uv>", "<c> the", "\n\n", "字字"]):
        assert ours.encode(text) == original.encode(text), text


def test_control_pieces_are_never_made_from_text(llama2: bytes, tmp_path: Path) -> None:
    def demote(model: Any) -> None:
        for piece in model.pieces:
            if piece.piece in ("at", SPACE + "the", SPACE * 4, "mo"):
                piece.type = 3

    data = edited(llama2, demote)
    original, ours = sentencepiece.SentencePieceProcessor(model_proto=data), rebuilt(data, tmp_path)
    for text in texts(1500, UNITS):
        assert ours.encode(text) == original.encode(text), text


def test_bos_is_the_model_s_and_comes_once(llama2: bytes, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(tokenizer_json(parse(llama2, "x"), "x")), encoding="utf-8")
    assert Tokenizer.from_file(path, parse_settings({"bos_token": "<s>"})).encode("<s>the").count(1) == 1
    assert tokenizers.Tokenizer.from_file(str(path)).encode("the").ids[0] == 1


def test_merges_that_score_alike_rank_the_longer_left_part_first(llama2: bytes) -> None:
    runs = [pair for pair in merges(parse(llama2, "x").pieces) if set(pair[0] + pair[1]) == {SPACE}]
    lengths = [(len(left), len(right)) for left, right in runs]
    assert lengths == sorted(lengths, reverse=True)
    assert len(lengths) == sum(range(1, 16))


@pytest.mark.parametrize("kind", ["unigram", "word", "char"])
def test_other_algorithms_are_refused_by_name(kind: str) -> None:
    data = train(model_type=kind, vocab_size=27, byte_fallback=False)
    with pytest.raises(Unsupported, match=f"tokenizer.model: .*'{kind}'.*bpe"):
        tokenizer_json(parse(data, "tokenizer.model"), "tokenizer.model")


@pytest.mark.parametrize(
    "options",
    [
        {"normalization_rule_name": "nmt_nfkc"},
        {"remove_extra_whitespaces": True},
        {"treat_whitespace_as_suffix": True},
    ],
)
def test_models_that_normalise_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(Unsupported, match=r"normalises text.*Give a tokenizer\.json"):
        tokenizer_json(parse(train(**options), "tokenizer.model"), "tokenizer.model")


def test_user_defined_pieces_behind_a_dummy_blank_are_refused() -> None:
    with pytest.raises(Unsupported, match="user-defined pieces"):
        tokenizer_json(parse(train(user_defined_symbols=["<u>"]), "x"), "x")


def test_unused_pieces_are_refused(llama2: bytes) -> None:
    data = edited(llama2, lambda model: setattr(model.pieces[-1], "type", 5))
    with pytest.raises(Unsupported, match="unused"):
        tokenizer_json(parse(data, "x"), "x")


def varint(value: int) -> bytes:
    low, high = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + varint(high) if high else bytes([low])


def message(number: int, data: bytes) -> bytes:
    """A nested field of a protocol buffer."""
    return varint(number << 3 | 2) + varint(len(data)) + data


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


PIECE = message(1, message(1, b"a"))
WHOLE = PIECE + message(2, number(3, 2)) + message(3, number(4, 0))
DAMAGED = {
    "nothing": b"",
    "text": b"not a protocol buffer at all",
    "zeros": bytes(100_000),
    "a group": b"\x0b" * 100_000,
    "unknown fields": (varint(99 << 3) + b"\0") * 100_000,
    "no pieces": message(2, number(3, 2)),
    "an endless number": b"\xff" * 50,
    "a length past the end": varint(1 << 3 | 2) + varint(2**62),
    "a last piece past the end": WHOLE + varint(1 << 3 | 2) + b"\x09" + message(1, b"b"),
    "half a number": WHOLE + b"\xff",
    "a piece twice": PIECE * 2,
    "an empty piece": PIECE + message(1, b""),
    "a piece that is a number": message(1, number(1, 10**12)),
    "a piece that is a huge number": message(1, number(1, 2**63)),
    "a piece that is no text": message(1, message(1, b"\xff")),
    "a score that is a number": message(1, message(1, b"a") + number(2, 5)),
    "a kind that is text": message(1, message(1, b"a") + message(3, b"a")),
    "a kind of no meaning": message(1, message(1, b"a") + number(3, 7)),
    "a piece of a million characters": message(1, message(1, b"a" * 1_000_000)),
    "a character map that is a number": PIECE + message(3, number(2, 10**12)),
    "an id that is text": PIECE + message(2, message(41, b"a")),
    "a model type that is text": PIECE + message(2, message(3, b"a")),
}


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED)
def test_damaged_models_are_refused(data: bytes) -> None:
    with pytest.raises(BadCheckpoint, match=r"tokenizer\.model is not a SentencePiece model"):
        tokenizer_json(parse(data, "tokenizer.model"), "tokenizer.model")


def test_the_smallest_model_is_whole() -> None:
    assert tokenizer_json(parse(WHOLE, "x"), "x")["model"]["vocab"] == {"a": 0}


def test_a_model_cut_anywhere_is_refused(llama2: bytes) -> None:
    """Cut between two pieces it is a smaller model, but one without its trainer's settings."""
    end = llama2.index(b"identity")  # within the normaliser's settings, which come last
    for length in range(0, end, 41):
        with pytest.raises((BadCheckpoint, Unsupported)):
            tokenizer_json(parse(llama2[:length], "x"), "x")


@pytest.mark.parametrize("count", [150, pytest.param(1000, marks=pytest.mark.slow)])
def test_flipped_bytes_are_refused_or_make_another_model(llama2: bytes, count: int) -> None:
    draw = random.Random(2)
    for _ in range(count):
        data = bytearray(llama2)
        for _ in range(draw.randint(1, 3)):
            data[draw.randrange(len(data))] = draw.randrange(256)
        try:
            content = tokenizer_json(parse(bytes(data), "x"), "x")
        except (BadCheckpoint, Unsupported):
            continue
        assert len(content["model"]["vocab"]) == len(parse(bytes(data), "x").pieces)


@pytest.fixture
def source(tmp_path: Path, llama2: bytes) -> Path:
    """A directory with a tokenizer.model alone."""
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "tokenizer.model").write_bytes(llama2)
    return folder


def written(source: Path, given: Path | None = None) -> Path:
    folder = source.parent / "written"
    folder.mkdir(exist_ok=True)
    tokenizer_files.prepare_tokenizer(source, given, CONFIG).write(folder)
    return folder


def test_a_directory_with_a_tokenizer_model_becomes_a_fast_tokenizer(source: Path) -> None:
    folder = written(source)
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert settings == {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "add_bos_token": True,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
    }
    assert Tokenizer.from_file(folder / "tokenizer.json", parse_settings(settings)).encode("the")[0] == 1


def test_the_tokens_of_a_fine_tune_keep_their_ids(source: Path, llama2: bytes) -> None:
    first = len(parse(llama2, "x").pieces)
    added = {"</s>": 2, "<unk>": 0, "<|im_end|>": first + 2, "<|im_start|>": first + 1, "[PAD]": first}
    (source / "added_tokens.json").write_text(
        json.dumps(added), encoding="utf-8"
    )  # sorted by name, as transformers writes it
    library = tokenizers.Tokenizer.from_file(str(written(source) / "tokenizer.json"))
    assert {text: library.token_to_id(text) for text in added} == added


@pytest.mark.parametrize("added", [{"<a>": 1}, {"<a>": 0, "<b>": 0}, {"the": 0}, {"": 0}, {"<a>": 0, "<b>": 2}])
def test_tokens_whose_ids_would_move_are_refused(source: Path, llama2: bytes, added: dict[str, int]) -> None:
    first = len(parse(llama2, "x").pieces)
    (source / "added_tokens.json").write_text(
        json.dumps({text: first + i for text, i in added.items()}), encoding="utf-8"
    )
    with pytest.raises(BadCheckpoint, match=rf"added_tokens\.json does not number .*from {first} on"):
        written(source)


def test_a_tokenizer_file_may_lie_anywhere_and_json_comes_first(source: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    checkpoints.add_tokenizer(elsewhere)
    (elsewhere / "tokenizer.model").write_bytes(b"not read")
    sizes = {}
    for given in (None, elsewhere, elsewhere / "tokenizer.json", source / "tokenizer.model"):
        folder = written(source, given)
        sizes[given] = Tokenizer.from_file(folder / "tokenizer.json", TokenizerSettings()).vocab_size
    assert sizes[elsewhere] == sizes[elsewhere / "tokenizer.json"] == checkpoints.VOCAB
    assert sizes[None] == sizes[source / "tokenizer.model"] != checkpoints.VOCAB


@pytest.mark.parametrize("name", ["LlamaTokenizer", "LlamaTokenizerFast"])
def test_a_class_that_would_rebuild_the_tokenizer_is_replaced(tmp_path: Path, name: str) -> None:
    source = tmp_path / "source"
    source.mkdir()
    checkpoints.add_tokenizer(source)
    (source / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": name, "bos_token": "<s>"}), encoding="utf-8"
    )
    settings = json.loads((written(source) / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert settings["bos_token"] == "<s>"


def test_another_class_is_kept(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    checkpoints.add_tokenizer(source)
    (source / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}', encoding="utf-8")
    assert (
        json.loads((written(source) / "tokenizer_config.json").read_text(encoding="utf-8"))["tokenizer_class"]
        == "GPT2Tokenizer"
    )


def test_python_that_a_loader_would_run_is_not_passed_on(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    checkpoints.add_tokenizer(source)
    settings = {"auto_map": {"AutoTokenizer": ["evil.py", None]}, "tokenizer_class": ["x"], "bos_token": "<s>"}
    (source / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    kept = json.loads((written(source) / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert "auto_map" not in kept
    assert kept["tokenizer_class"] == "PreTrainedTokenizerFast"


@pytest.mark.parametrize("token", ["380", 380.0, True, None])
def test_an_added_token_without_a_whole_id_is_refused(source: Path, token: object) -> None:
    (source / "added_tokens.json").write_text(json.dumps({"<x>": token}), encoding="utf-8")
    with pytest.raises(BadCheckpoint, match="no whole number"):
        written(source)


@pytest.mark.parametrize("generation", ["{bad", '{"eos_token_id": "x"}'])
def test_generation_settings_that_could_not_be_loaded_are_refused(tmp_path: Path, generation: str) -> None:
    source = tmp_path / "source"
    source.mkdir()
    checkpoints.add_tokenizer(source)
    (source / "generation_config.json").write_text(generation, encoding="utf-8")
    with pytest.raises(BadCheckpoint, match=r"source/generation_config\.json"):
        written(source)


def test_a_missing_tokenizer_says_what_openelm_uses(tmp_path: Path) -> None:
    with pytest.raises(MissingTokenizer, match=r"Llama 2's.*tokenizer=PATH"):
        tokenizer_files.prepare_tokenizer(tmp_path, None, config_from_dict(checkpoints.OPENELM))
    with pytest.raises(MissingTokenizer, match=r"has no tokenizer\. Give tokenizer"):
        tokenizer_files.prepare_tokenizer(tmp_path, None, config_from_dict(checkpoints.LLAMA))
    (tmp_path / "given").mkdir()
    with pytest.raises(MissingTokenizer, match=r"given has no tokenizer\. Give tokenizer"):
        tokenizer_files.prepare_tokenizer(tmp_path, tmp_path / "given", config_from_dict(checkpoints.OPENELM))
    with pytest.raises(NotFound, match=r"no .*nowhere"):
        tokenizer_files.find_tokenizer(tmp_path / "nowhere")


def test_a_file_too_large_to_be_a_tokenizer_is_not_read(source: Path) -> None:
    with (source / "tokenizer.model").open("wb") as file:
        file.truncate(2**30)
    with pytest.raises(BadCheckpoint, match="too large"):
        written(source)


@pytest.mark.parametrize("extra", [{"far": CONFIG.vocab_size}, {f"<{i}>": 412 + i for i in range(600)}])
def test_a_tokenizer_with_ids_outside_the_model_is_refused(tmp_path: Path, extra: dict[str, int]) -> None:
    source = tmp_path / "source"
    source.mkdir()
    checkpoints.add_tokenizer(source)
    content = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    content["model"]["vocab"] |= extra
    (source / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(BadCheckpoint, match=r"only 1000 of them: it is another model's"):
        written(source)


def compact(path: Path, content: dict[str, Any]) -> list[Any]:
    """The merges as written; the file must mean what `content` says."""
    path.write_bytes(tokenizer_files.compact(content, path))
    text = path.read_text(encoding="utf-8")
    again = tokenizers.Tokenizer.from_file(str(path))
    assert again.to_str() == tokenizers.Tokenizer.from_str(json.dumps(content)).to_str()
    merges: list[Any] = json.loads(text)["model"]["merges"]
    return merges


def test_merges_are_written_as_strings_where_these_can_say_them(llama2: bytes, tmp_path: Path) -> None:
    content = tokenizer_json(parse(llama2, "x"), "x")
    pairs = content["model"]["merges"]
    assert compact(tmp_path / "a.json", content) == [" ".join(pair) for pair in pairs]
    assert content["model"]["merges"] is pairs
    assert len((tmp_path / "a.json").read_bytes()) < len(json.dumps(content)) * 0.9


def test_merges_of_pieces_with_a_blank_stay_pairs(llama2: bytes, tmp_path: Path) -> None:
    content = tokenizer_json(parse(llama2, "x"), "x")
    vocab = content["model"]["vocab"]
    vocab |= {"a b": len(vocab), "a bc": len(vocab) + 1}
    content["model"]["merges"].append(["a b", "c"])
    assert compact(tmp_path / "a.json", content)[-1] == ["a b", "c"]


def test_merges_that_are_strings_already_stay_so(llama2: bytes, tmp_path: Path) -> None:
    content = tokenizer_json(parse(llama2, "x"), "x")
    content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]
    assert compact(tmp_path / "a.json", content) == content["model"]["merges"]


@pytest.mark.parametrize(
    "model", [None, [], "BPE", {"merges": 5}, {"merges": [5]}, {"merges": [["a"]]}, {"vocab": "\ud800"}]
)
def test_a_tokenizer_json_of_another_form_is_refused_when_it_is_loaded(tmp_path: Path, model: object) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "tokenizer.json").write_text(json.dumps({"model": model}), encoding="utf-8")
    with pytest.raises(BadCheckpoint):
        written(source)


def test_byte_pieces_turn_byte_fallback_on(llama2: bytes) -> None:
    model = parse(llama2, "x")
    assert sum(piece.kind == BYTE for piece in model.pieces) == 256
    assert tokenizer_json(model, "x")["model"]["byte_fallback"]
    assert not tokenizer_json(parse(train(byte_fallback=False, vocab_size=150), "x"), "x")["model"]["byte_fallback"]
