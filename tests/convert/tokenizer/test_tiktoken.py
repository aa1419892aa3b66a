"""Meta's tokenizer.model becomes a tokenizer.json that cuts every text as tiktoken itself does."""

from __future__ import annotations

import json
from base64 import b64encode
from pathlib import Path

import pytest
import tokenizers
from helpers import checkpoints
from helpers import tiktoken_craft as craft

from elm_mlx.config import ModelConfig, config_from_dict
from elm_mlx.convert import convert
from elm_mlx.convert import tokenizer as tokenizer_files
from elm_mlx.convert.tokenizer.tiktoken import MAX_TOKEN, SPECIALS, merges, parse, special_tokens, tokenizer_json
from elm_mlx.errors import BadCheckpoint
from elm_mlx.text.settings import parse_settings
from elm_mlx.text.tokenizer import Tokenizer

SIZE = 600
WHERE = Path("tokenizer.model")
PLAIN, SCALED = checkpoints.LLAMA, checkpoints.CONFIGS["llama-3.1"]
BOS, EOS = "<|begin_of_text|>", "<|end_of_text|>"


def sized(raw: dict[str, object], rows: int = SIZE + SPECIALS) -> ModelConfig:
    return config_from_dict(raw | {"vocab_size": rows})


def rebuilt(tokens: list[bytes]) -> Tokenizer:
    """What our conversion makes of a vocabulary."""
    content = tokenizer_json(tokens, special_tokens(later=True), WHERE)
    return Tokenizer(tokenizer_files.compact(content, WHERE), parse_settings({"bos_token": BOS}), WHERE)


@pytest.fixture(scope="session")
def tokens() -> list[bytes]:
    return craft.trained(SIZE)


@pytest.fixture
def source(tmp_path: Path, tokens: list[bytes]) -> Path:
    """A directory as Meta ships it: no settings beside the tokenizer.model."""
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "tokenizer.model").write_bytes(craft.model_file(tokens))
    return folder


def written(source: Path, config: ModelConfig) -> Path:
    folder = source.parent / "written"
    folder.mkdir(exist_ok=True)
    tokenizer_files.prepare_tokenizer(source, None, config).write(folder)
    return folder


def test_ids_and_texts_are_tiktoken_s_own(tokens: list[bytes]) -> None:
    ours, original = rebuilt(tokens), craft.oracle(tokens)
    for text in craft.texts(3000, craft.UNITS):
        ids = original.encode_ordinary(text)
        assert ours.encode_text(text) == ids, text
        assert ours.decode(ids) == text


def test_vocabularies_that_no_training_gives_agree_too() -> None:
    """Tokens made from parts of higher rank, and tokens that are found as whole words alone."""
    whole_words = 0
    for seed in range(60):
        drawn = craft.drawn(seed)
        ours, original = rebuilt(drawn), craft.oracle(drawn)
        for text in craft.texts(60, ["a", "b", " ", "ab", "ba", "aa"], seed):
            assert ours.encode_text(text) == original.encode_ordinary(text), (seed, text)
        whole_words += len(drawn) - len(craft.SINGLE) - len(merges(drawn))
    assert whole_words > 100


def test_words_end_where_tiktoken_s_end() -> None:
    """With every pair of these bytes a token, the ids show which neighbours lie in one word."""
    characters = "'sSlLrRe a1!-\t\r\né字"
    letters = [bytes([byte]) for byte in sorted(set(characters.encode()))]
    tokens = [*craft.SINGLE, *(a + b for a in letters for b in letters)]
    ours, original = rebuilt(tokens), craft.oracle(tokens)
    for text in craft.texts(5000, list(characters)):
        assert ours.encode_text(text) == original.encode_ordinary(text), text


def test_a_token_has_one_merge_at_most_in_the_order_of_ranks(tokens: list[bytes]) -> None:
    assert [left + right for left, right in merges(tokens)] == [token for token in tokens if len(token) > 1]
    assert merges([*craft.SINGLE, b"bc", b"abc", b"ab"]) == [(b"b", b"c"), (b"a", b"bc"), (b"a", b"b")]


def test_a_token_may_be_made_from_parts_of_higher_rank() -> None:
    assert merges([*craft.SINGLE, b"abc", b"ab"]) == [(b"ab", b"c"), (b"a", b"b")]


def test_a_token_that_joining_never_makes_has_no_merge_and_is_still_found() -> None:
    drawn = [*craft.SINGLE, b"bc", b"ab", b"abcd", b"cd"]
    assert merges(drawn) == [(b"b", b"c"), (b"a", b"b"), (b"c", b"d")]
    assert rebuilt(drawn).encode_text("abcd") == [258]
    assert rebuilt(drawn).encode_text("xabcd") == craft.oracle(drawn).encode_ordinary("xabcd") == [120, 97, 256, 100]


def test_what_a_user_writes_out_is_never_a_special_token(tokens: list[bytes]) -> None:
    ours = rebuilt(tokens)
    for text in special_tokens(later=True):
        ids = ours.encode(f"a{text} {text}")
        assert ids[0] == SIZE
        assert max(ids[1:]) < SIZE
        assert ours.decode(ids) == f"a{text} {text}"


def test_the_specials_are_meta_s_by_place() -> None:
    old, later = special_tokens(later=False), special_tokens(later=True)
    assert len(set(old)) == len(set(later)) == SPECIALS
    both = {0: "begin_of_text", 1: "end_of_text", 2: "reserved_special_token_0", 3: "reserved_special_token_1",
            6: "start_header_id", 7: "end_header_id", 9: "eot_id"}  # fmt: skip
    reserved = "reserved_special_token_"
    old_numbers = {4: 2, 5: 3, 8: 4, 10: 5, 11: 6, 255: 250}
    later_numbers = {5: 2, 11: 3, 255: 247}
    for names, numbers in ((old, old_numbers), (later, later_numbers)):
        expected = both | {place: f"{reserved}{number}" for place, number in numbers.items()}
        assert {place: names[place] for place in expected} == {place: f"<|{n}|>" for place, n in expected.items()}
    assert [later[place] for place in (4, 8, 10)] == ["<|finetune_right_pad_id|>", "<|eom_id|>", "<|python_tag|>"]


@pytest.mark.parametrize("raw, later", [(PLAIN, False), (SCALED, True), (checkpoints.CONFIGS["llama-3.2-v5"], True)])
def test_the_model_s_rope_tells_which_specials(source: Path, raw: dict[str, object], later: bool) -> None:
    library = tokenizers.Tokenizer.from_file(str(written(source, sized(raw)) / "tokenizer.json"))
    names = special_tokens(later)
    assert [library.id_to_token(SIZE + place) for place in range(SPECIALS)] == names
    assert library.encode("the", add_special_tokens=True).ids[0] == library.token_to_id(BOS) == SIZE


def test_the_settings_name_bos_and_eos_and_invent_no_template(source: Path) -> None:
    folder = written(source, sized(PLAIN))
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert settings == {
        "bos_token": BOS,
        "eos_token": EOS,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
    }
    tokenizer = Tokenizer.from_file(folder / "tokenizer.json", parse_settings(settings))
    assert tokenizer.encode("").count(SIZE) == 1
    assert tokenizer.eos_token_id == SIZE + 1


def test_settings_beside_the_file_win(source: Path) -> None:
    given = {"eos_token": "<|eot_id|>", "chat_template": "{{ messages }}", "tokenizer_class": "LlamaTokenizer"}
    (source / "tokenizer_config.json").write_text(json.dumps(given), encoding="utf-8")
    settings = tokenizer_files.prepare_tokenizer(source, None, sized(PLAIN)).settings
    assert settings["bos_token"] == BOS
    assert settings["eos_token"] == "<|eot_id|>"
    assert settings["chat_template"] == "{{ messages }}"
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_a_converted_checkpoint_carries_it(tmp_path: Path, tokens: list[bytes]) -> None:
    raw = SCALED | {"vocab_size": SIZE + SPECIALS}
    folder = checkpoints.write(tmp_path / "llama", raw, tokenizer=False)
    (folder / "tokenizer.model").write_bytes(craft.model_file(tokens))
    done = convert(folder, tmp_path / "out")
    settings = json.loads((done.output / "tokenizer_config.json").read_text(encoding="utf-8"))
    tokenizer = Tokenizer.from_file(done.output / "tokenizer.json", parse_settings(settings))
    assert tokenizer.encode("hello world") == [SIZE, *craft.oracle(tokens).encode_ordinary("hello world")]


def test_a_model_without_a_row_for_each_special_is_another_s(source: Path) -> None:
    tokenizer_files.prepare_tokenizer(source, None, sized(PLAIN))
    with pytest.raises(BadCheckpoint, match=rf"ids up to {SIZE + 255} and the model only {SIZE + 255} .*another model"):
        tokenizer_files.prepare_tokenizer(source, None, sized(PLAIN, SIZE + SPECIALS - 1))


def test_the_file_is_compact(source: Path, tokens: list[bytes]) -> None:
    text = (written(source, sized(PLAIN)) / "tokenizer.json").read_text(encoding="utf-8")
    assert all(isinstance(pair, str) for pair in json.loads(text)["model"]["merges"])
    assert text == json.dumps(json.loads(text), ensure_ascii=False, separators=(",", ":"))


def test_a_special_token_that_is_an_ordinary_one_is_refused(tokens: list[bytes]) -> None:
    for later, text in ((True, "<|eom_id|>"), (False, "<|reserved_special_token_250|>")):
        data = craft.model_file([*tokens, text.encode()])
        with pytest.raises(BadCheckpoint, match="special token as an ordinary one"):
            tokenizer_json(parse(data, WHERE), special_tokens(later), WHERE)


WHOLE = craft.model_file(craft.SINGLE)
LONGEST = b64encode(b"x" * MAX_TOKEN)
LONGER = b64encode(b"x" * (MAX_TOKEN + 1))
DAMAGED = {
    "nothing": b"",
    "nothing but a line end": b"\n",
    "a byte missing": craft.model_file(craft.SINGLE[:-1]),
    "a byte missing among many": craft.model_file([*craft.SINGLE[:-1], b"ab", b"cd"]),
    "a token twice": WHOLE + b"YQ== 256\n",
    "a token twice in another spelling": WHOLE + b"YR== 256\n",
    "a rank twice": WHOLE + b"YWI= 255\n",
    "a rank left out": WHOLE + b"YWI= 257\n",
    "ranks in another order": b"\n".join(reversed(WHOLE.splitlines())),
    "a rank of a thousand digits": WHOLE + b"YWI= " + b"9" * 1000 + b"\n",
    "a rank of a million digits": WHOLE + b"YWI= " + b"9" * 1_000_000 + b"\n",
    "a rank below nothing": WHOLE + b"YWI= -1\n",
    "a rank in other digits": WHOLE + "YWI= ٢٥٦\n".encode(),
    "a rank with a fraction": WHOLE + b"YWI= 256.0\n",
    "a rank with a zero before it": WHOLE + b"YWI= 0256\n",
    "no rank": WHOLE + b"YWI=\n",
    "no token": WHOLE + b" 256\n",
    "an empty token": WHOLE + b"== 256\n",
    "half a group": WHOLE + b"YWI 256\n",
    "a letter that base64 lacks": WHOLE + b"Y*WI= 256\n",
    "the alphabet for addresses": WHOLE + b"_YW-I= 256\n",
    "padding inside": WHOLE + b"YWI=YWI= 256\n",
    "a token in other letters": WHOLE + "YЯWI= 256\n".encode(),
    "a third word": WHOLE + b"YWI= 256 x\n",
    "a token over the bound": WHOLE + LONGER + b" 256\n",
    "a token of megabytes": WHOLE + b64encode(bytes(6_000_000)) + b" 256\n",
    "a line of megabytes": WHOLE + b" " * 8_000_000 + b"\n",
    "a million lines of nothing": WHOLE + b"\n" * 1_000_000,
    "an empty line at the end": WHOLE + b"\n",
    "more after the end": WHOLE + b"\0\0\0\0",
    "zeros": bytes(100_000),
}


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED)
def test_damaged_vocabularies_are_refused(data: bytes) -> None:
    with pytest.raises(BadCheckpoint, match=r"tokenizer\.model is not a tiktoken vocabulary .*Fetch it again"):
        parse(data, WHERE)


@pytest.mark.parametrize("name", ["a token twice", "a byte missing", "a line of megabytes", "more after the end"])
def test_a_damaged_file_is_named_with_its_place(source: Path, name: str) -> None:
    (source / "tokenizer.model").write_bytes(DAMAGED[name])
    with pytest.raises(BadCheckpoint, match=r"source/tokenizer\.model is not a tiktoken"):
        tokenizer_files.prepare_tokenizer(source, None, sized(PLAIN))


def test_what_looks_damaged_and_is_not() -> None:
    assert parse(WHOLE, WHERE) == craft.SINGLE
    assert parse(WHOLE.rstrip(), WHERE) == parse(WHOLE.replace(b"\n", b"\r\n"), WHERE) == craft.SINGLE
    assert parse(WHOLE + LONGEST + b" 256\n", WHERE)[-1] == b"x" * MAX_TOKEN


def test_a_file_too_large_to_be_a_vocabulary_is_not_read(source: Path) -> None:
    with (source / "tokenizer.model").open("r+b") as file:
        file.truncate(tokenizer_files.MAX_MODEL_BYTES + 1)
    with pytest.raises(BadCheckpoint, match="too large"):
        tokenizer_files.prepare_tokenizer(source, None, sized(PLAIN))


def test_a_vocabulary_cut_anywhere_is_refused_or_a_smaller_one(tokens: list[bytes]) -> None:
    data = craft.model_file(tokens)
    for length in range(0, len(data), 7):
        try:
            found = parse(data[:length], WHERE)
        except BadCheckpoint:
            continue
        assert found == tokens[: len(found)]


def test_runs_of_one_letter_join_from_the_left() -> None:
    drawn = [*craft.SINGLE, b"aaa", b"aa", b"aaaa", b"aaaaa"]
    ours, original = rebuilt(drawn), craft.oracle(drawn)
    for length in range(70):
        text = "1" + "a" * length + " "
        assert ours.encode_text(text) == original.encode_ordinary(text)
