"""Text to ids: one BOS, user text that is never control, and files that fail as a sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from helpers import checkpoints

from elm_mlx.errors import BadCheckpoint, InvalidRequest, MissingTokenizer, Unsupported
from elm_mlx.text.settings import parse_settings
from elm_mlx.text.tokenizer import Tokenizer, call_guarded

BOS, EOS, EOT = 1, 2, 512
SMALL: dict[str, Any] = json.loads((checkpoints.TOKENIZER / "tokenizer.json").read_text(encoding="utf-8"))
NAMES = {"bos_token": "<s>", "eos_token": "</s>"}
# Each panics in the tokenizers library: a merge shorter than its prefix, a table of no characters, a post-processor
# naming a token that it does not define, a regular expression that never ends, a decoder cutting a blank twice.
PREFIXED_MERGE = {"model": SMALL["model"] | {"continuing_subword_prefix": "##" * 50}}
NO_CHARSMAP = {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}}
UNDEFINED_BOS = {"post_processor": SMALL["post_processor"] | {"special_tokens": {}}}
ENDLESS: dict[str, Any] = {
    "pre_tokenizer": {
        "type": "Split",
        "pattern": {"Regex": "(x+x+)+y"},
        "behavior": "Isolated",
        "invert": False,
    }
}
DOUBLE_STRIP: dict[str, Any] = {"decoder": {"type": "Strip", "content": "a", "start": 1, "stop": 1}}


def added(token: int, text: str, *, special: bool = True) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token, "content": text, **flags, "special": special}


def make(folder: Path, settings: dict[str, Any], bos: int | None = None, **changes: Any) -> Tokenizer:
    """The small tokenizer with some parts of its tokenizer.json replaced."""
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(SMALL | changes), encoding="utf-8")
    return Tokenizer.from_file(path, parse_settings(settings), bos)


@pytest.fixture(scope="module")
def small() -> Tokenizer:
    return Tokenizer.from_file(
        checkpoints.TOKENIZER / "tokenizer.json", parse_settings(NAMES | {"add_bos_token": True})
    )


def test_bos_comes_once_and_first(small: Tokenizer) -> None:
    for text in ("", "the cat", "<s>", "<s><s> the <s>", " <s>"):
        ids = small.encode(text)
        assert ids[0] == BOS
        assert ids.count(BOS) == 1


@pytest.mark.parametrize("template", [True, False])
@pytest.mark.parametrize("setting", [True, False, None])
def test_the_setting_decides_on_bos_and_else_the_post_processor(
    tmp_path: Path, setting: bool | None, template: bool
) -> None:
    named = {} if setting is None else {"add_bos_token": setting}
    changes = {} if template else {"post_processor": None}
    ids = make(tmp_path, NAMES | named, **changes).encode("<s> the cat")
    wanted = template if setting is None else setting
    assert ids.count(BOS) == int(wanted)
    assert (ids[0] == BOS) is wanted


@pytest.mark.parametrize("bos", [None, EOS])
def test_what_the_post_processor_puts_in_front_needs_no_name(tmp_path: Path, bos: int | None) -> None:
    assert make(tmp_path, {}, bos).encode("the")[0] == BOS
    single = [{"SpecialToken": {"id": token, "type_id": 0}} for token in ("<s>", "</s>")]
    processor = SMALL["post_processor"] | {
        "single": [single[1], single[0], {"Sequence": {"id": "A", "type_id": 0}}, single[1]],
        "special_tokens": {t: {"id": t, "ids": [i], "tokens": [t]} for t, i in (("<s>", BOS), ("</s>", EOS))},
    }
    plain = make(tmp_path, {}, post_processor=None).encode("the")
    # Not the EOS at the end, after which there is nothing to continue.
    assert make(tmp_path, NAMES, bos, post_processor=processor).encode("the") == [EOS, BOS, *plain]


def test_merges_left_out_by_chance_are_of_the_training(tmp_path: Path) -> None:
    text = "the cat sat on the mat and looked at the moon"
    assert make(tmp_path, NAMES, model=SMALL["model"] | {"dropout": 1.0}).encode(text) == make(tmp_path, NAMES).encode(
        text
    )


def test_a_setting_of_null_is_none(tmp_path: Path) -> None:
    assert make(tmp_path, NAMES | {"add_bos_token": None}).encode("a")[0] == BOS
    assert BOS not in make(tmp_path, NAMES | {"add_bos_token": None}, post_processor=None).encode("a")


@pytest.mark.parametrize("token", ["<s>", {"content": "<s>", "special": True}])
def test_a_token_is_named_by_text_or_by_an_object(tmp_path: Path, token: object) -> None:
    assert make(tmp_path, {"bos_token": token}).bos_token_id == BOS


@pytest.mark.parametrize("token", [None, "<nobody>", "", ["<s>"], 1])
def test_the_model_s_bos_stands_in_where_the_settings_name_none(tmp_path: Path, token: object) -> None:
    assert make(tmp_path, {"bos_token": token, "add_bos_token": True}, bos=BOS).encode("a")[0] == BOS


def test_a_token_s_name_that_is_no_unicode_is_a_bad_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint):
        make(tmp_path, {"bos_token": "\ud800"}, bos=BOS)


def test_without_any_bos_none_is_added(tmp_path: Path) -> None:
    tokenizer = make(tmp_path, {"add_bos_token": True})
    assert tokenizer.bos_token_id is None
    assert tokenizer.encode("a") == make(tmp_path, NAMES | {"add_bos_token": False}).encode("a")


@pytest.mark.parametrize("text", ["<s>", "</s>", "<unk>", "a</s><s>b", "<0x41>", "the <s> cat </s>"])
def test_special_tokens_in_user_text_are_text(small: Tokenizer, text: str) -> None:
    ids = small.encode(text)
    assert not {0, BOS, EOS, 3 + 0x41} & set(ids[1:])
    assert small.decode(ids) == text


def test_tokens_that_are_not_special_are_cut_from_text(tmp_path: Path) -> None:
    extra = [*SMALL["added_tokens"], added(512, "<tab>", special=False), added(513, "<end>")]
    tokenizer = make(tmp_path, NAMES, added_tokens=extra)
    ids = tokenizer.encode("a<tab><end>")
    assert 512 in ids
    assert 513 not in ids
    assert tokenizer.decode(ids) == "a<tab> <end>"


def test_truncation_and_padding_of_the_file_are_ignored(tmp_path: Path) -> None:
    truncation = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    padding = {"strategy": {"Fixed": 64}, "direction": "Left", "pad_to_multiple_of": None, "pad_id": 0,
               "pad_type_id": 0, "pad_token": "<unk>"}  # fmt: skip
    tokenizer = make(tmp_path, NAMES, truncation=truncation, padding=padding)
    for text in ("a", "the cat sat on the mat and looked at the moon"):
        assert tokenizer.encode(text) == make(tmp_path, NAMES).encode(text)


def test_decoding_drops_special_tokens_and_ids_outside_the_vocabulary(small: Tokenizer) -> None:
    ids = small.encode("the cat")
    assert small.decode([*ids[:2], EOS, 9999, 0, *ids[2:], 512, EOS]) == "the cat"
    assert small.decode([]) == ""


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", "\ud83d\ude00", b"caf\xe9".decode(errors="surrogateescape")])
def test_text_that_is_no_unicode_is_the_caller_s_mistake(small: Tokenizer, text: str) -> None:
    with pytest.raises(InvalidRequest, match="UTF-8"):
        small.encode(text)


@pytest.mark.parametrize("text", ["\0", "\ufffd", "\U0010ffff", "\ue000", "e\u0301", "\ufeffa", "\r\n\t"])
def test_text_survives_the_round_trip(small: Tokenizer, text: str) -> None:
    assert small.decode(small.encode(text)) == text


def test_a_missing_tokenizer_says_how_to_give_one(tmp_path: Path) -> None:
    with pytest.raises(MissingTokenizer, match=r"no tokenizer\.json in .*tokenizer=PATH.*tokenizer\.model"):
        Tokenizer.from_file(tmp_path / "tokenizer.json", {})
    (tmp_path / "tokenizer.json").mkdir()
    with pytest.raises(BadCheckpoint, match="a folder"):
        Tokenizer.from_file(tmp_path / "tokenizer.json", {})


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff\xfe", b"{" * 100_000, b"[" * 100_000, b'{"model":7}'])
def test_what_is_no_tokenizer_is_a_bad_checkpoint(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(BadCheckpoint, match=r"tokenizer\.json is not a tokenizer"):
        Tokenizer.from_file(path, {})


def panics(call: Callable[[], object]) -> bool:
    """Whether this raises what `except Exception` does not catch."""
    try:
        call()
    except Exception:
        return False
    except BaseException:
        return True
    return False


def test_a_file_that_aborts_the_library_is_refused_before_it_sees_it(tmp_path: Path) -> None:
    """tokenizers 0.23.3 ends the process on this one: no exception of any kind."""
    model = SMALL["model"] | {"continuing_subword_prefix": "#", "vocab": {"a": 0, "é": 1, "aé": 2}, "merges": ["a é"]}
    with pytest.raises(Unsupported, match="insides of words"):
        make(tmp_path, NAMES, model=model)


@pytest.mark.parametrize("changes", [PREFIXED_MERGE, NO_CHARSMAP])
def test_a_file_that_panics_the_library_is_a_bad_checkpoint(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert panics(lambda: tokenizers.Tokenizer.from_str(json.dumps(SMALL | changes)))
    with pytest.raises((BadCheckpoint, Unsupported)):
        make(tmp_path, NAMES, **changes)


def test_a_post_processor_that_panics_is_a_bad_checkpoint(tmp_path: Path) -> None:
    library = tokenizers.Tokenizer.from_str(json.dumps(SMALL | UNDEFINED_BOS))
    assert panics(lambda: library.encode("a"))
    with pytest.raises(BadCheckpoint):
        make(tmp_path, NAMES, **UNDEFINED_BOS)


def test_a_prompt_that_panics_the_library_is_the_file_s_fault(tmp_path: Path) -> None:
    tokenizer = make(tmp_path, NAMES, **ENDLESS)
    assert tokenizer.encode("the cat")
    prompt = "x" * 40
    assert panics(lambda: tokenizers.Tokenizer.from_str(json.dumps(SMALL | ENDLESS)).encode(prompt))
    with pytest.raises(BadCheckpoint):
        tokenizer.encode(prompt)


def test_a_decoding_that_panics_is_the_file_s_fault(tmp_path: Path) -> None:
    tokenizer = make(tmp_path, NAMES, **DOUBLE_STRIP)
    token = [SMALL["model"]["vocab"]["a"]]
    assert panics(lambda: tokenizers.Tokenizer.from_str(json.dumps(SMALL | DOUBLE_STRIP)).decode(token))
    with pytest.raises(BadCheckpoint):
        tokenizer.decode(token)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, MemoryError])
def test_an_interrupt_is_nobody_s_fault(stop: type[BaseException]) -> None:
    def interrupted() -> None:
        raise stop

    with pytest.raises(stop):
        call_guarded(interrupted, BadCheckpoint("damaged"))


def test_the_vocabulary_s_size_is_what_its_highest_id_needs(tmp_path: Path, small: Tokenizer) -> None:
    assert small.vocab_size == checkpoints.VOCAB
    more = [*SMALL["added_tokens"], added(512, "<x>"), added(513, "<y>", special=False)]
    assert make(tmp_path, NAMES, added_tokens=more).vocab_size == checkpoints.VOCAB
    shifted = {text: checkpoints.VOCAB if i == 400 else i for text, i in SMALL["model"]["vocab"].items()}
    assert make(tmp_path, NAMES, model=SMALL["model"] | {"vocab": shifted}).vocab_size == checkpoints.VOCAB + 1
    gap = SMALL["model"] | {"vocab": SMALL["model"]["vocab"] | {"far off": 9000}}
    assert make(tmp_path, NAMES, model=gap).vocab_size == 9001


@pytest.mark.parametrize("text", [5, None, b"the", ["the"]])
def test_what_is_no_text_is_the_caller_s_fault(small: Tokenizer, text: Any) -> None:
    with pytest.raises(InvalidRequest, match="it must be text"):
        small.encode(text)


@pytest.mark.parametrize("ids", [[-1], [10**9], [5, 600], ["a"], [True], [1.5]])
def test_what_is_no_id_is_the_caller_s_fault(ids: list[Any]) -> None:
    path = checkpoints.TOKENIZER / "tokenizer.json"
    tokenizer = Tokenizer.from_file(path, parse_settings(NAMES), entries=600)
    assert tokenizer.decode([599]) == ""  # the model has a row for it, the tokenizer no text
    with pytest.raises(InvalidRequest, match="token id"):
        tokenizer.decode(ids)
