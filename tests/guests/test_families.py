"""Models of other families answer as mlx-lm's own loop and loader do, and go on rightly whatever ended an answer.

docs/guests.md has a table of what this file sees: it writes that into families.json, from which the table is made.
"""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest
from helpers import seen
from helpers.guests import FAMILIES, their_ids, write_guest
from helpers.seen import PROMPT, TOKENS, Make, first_end, ids_of

import elm_mlx
from elm_mlx.config.guest_families import TESTED
from elm_mlx.engine.cache.own_slots import OwnSlots
from elm_mlx.errors import InvalidRequest
from elm_mlx.models.guest import Guest

pytestmark = pytest.mark.slow
CAN_TRIM = [name for name, able in TESTED.items() if able.trims]
TOGETHER = sorted(name for name, able in TESTED.items() if able.rows)


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Writes each tiny checkpoint once."""
    made: dict[tuple[str, int | None], Path] = {}

    def write(family: str, bits: int | None = None) -> Path:
        if (family, bits) not in made:
            folder = tmp_path_factory.mktemp("guests") / f"{family}-{bits}"
            made[family, bits] = write_guest(folder, family, bits)
        return made[family, bits]

    return write


def test_every_promised_family_is_tried() -> None:
    assert set(FAMILIES) == set(TESTED)


def test_what_is_seen_of_each_family_is_what_is_told(make: Make) -> None:
    """Writes families.json anew where it is not: then look at it, and run docs/make_guests.py."""
    before, found = seen.read(), {family: seen.seen(make, family) for family in sorted(FAMILIES)}
    seen.write(found)
    assert found == before


@pytest.mark.parametrize("bits", [None, 4])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_ids_are_those_of_mlx_lm(make: Make, family: str, bits: int | None) -> None:
    folder = make(family, bits)
    theirs = first_end(their_ids(folder, PROMPT, TOKENS))
    assert len(set(theirs)) > 3, "an answer of one id proves little"
    with elm_mlx.load(folder, cpu_policy="plain") as lm:
        assert ids_of(lm, PROMPT) == theirs


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_prompt_is_read_in_as_many_passes_as_by_mlx_lm_and_a_short_one_in_one(
    make: Make, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """mlx-lm's own loop takes two for any: all but the last id, and then a step for that one."""
    with elm_mlx.load(make(family), cpu_policy="plain") as lm:
        assert isinstance(lm._model, Guest)
        kind, passes = type(lm._model.network.module), []
        call = kind.__call__

        def counted(self: Any, ids: Any, **others: Any) -> Any:
            logits = call(self, ids, **others)
            passes.append((ids.shape[1], logits.shape[1]))
            return logits

        monkeypatch.setattr(kind, "__call__", counted)
        ids_of(lm, PROMPT, 1, reuse=False)
        assert [read for read, _ in passes] == [len(PROMPT) - 1, 1]
        passes.clear()
        ids_of(lm, PROMPT[:8], 1, reuse=False)
        assert passes == [(8, 1)]


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_talk_goes_on_rightly_after_an_answer_that_ended_early(make: Make, family: str) -> None:
    folder = make(family)
    with elm_mlx.load(folder) as lm:
        whole = ids_of(lm, PROMPT, reuse=False)
        text = lm.tokenizer.decode(whole[:14])
        begun = lm.generate(PROMPT, TOKENS, temperature=0.0, stop=[text[-6:]])  # a step is under way when it ends
        assert begun.finish_reason == "stop"
        assert len(begun.tokens) < TOKENS
        stream = lm.submit(PROMPT, TOKENS, temperature=0.0)
        next(iter(stream))
        stream.cancel()
        for answer in (list(begun.tokens), whole[:5]):
            following = [*PROMPT, *answer, 9, 17, 33]
            assert ids_of(lm, following) == ids_of(lm, following, reuse=False)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_an_answer_that_ended_early_is_not_read_anew(make: Make, family: str) -> None:
    """A step was under way that rings and states have taken in: they have kept what they held before it."""
    with elm_mlx.load(make(family)) as lm:
        whole = ids_of(lm, PROMPT, reuse=False)
        for end in (6, 14):
            stop = lm.tokenizer.decode(whole[:end])[-6:]
            begun = lm.generate(PROMPT, TOKENS, temperature=0.0, stop=[stop])
            assert begun.finish_reason == "stop"
            following = [*PROMPT, *begun.tokens, 9, 17, 33]
            on = lm.generate(following, TOKENS, temperature=0.0)
            assert on.stats.cached_tokens >= len(PROMPT) + len(begun.tokens) - 1
            assert list(on.tokens) == ids_of(lm, following, reuse=False)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_what_is_kept_of_a_request_is_used_as_far_as_its_caches_can(make: Make, family: str) -> None:
    with elm_mlx.load(make(family)) as lm:
        whole = ids_of(lm, PROMPT)
        following = [*PROMPT, *whole[:-1], 9, 17, 33]  # all that is held, since the answer ended by its length
        on = lm.generate(following, TOKENS, temperature=0.0)
        assert on.stats.cached_tokens == len(following) - 3
        assert list(on.tokens) == ids_of(lm, following, reuse=False)
        other = [*PROMPT[:30], 11, 12, 13, 14]
        again = lm.generate(other, TOKENS, temperature=0.0)
        assert again.stats.cached_tokens == (30 if family in CAN_TRIM else 0)
        assert list(again.tokens) == ids_of(lm, other, reuse=False)


@pytest.mark.parametrize("bits", [None, 4])
@pytest.mark.parametrize("family", TOGETHER)
def test_rows_of_any_lengths_that_join_and_leave_answer_as_alone(
    make: Make, family: str, bits: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random cases: prompts of several lengths, which come while others run, end early or late, or are cancelled."""
    random, joined, join = Random(family), [], OwnSlots.join
    monkeypatch.setattr(OwnSlots, "join", lambda *given: joined.append(0) or join(*given))
    with elm_mlx.load(make(family, bits), cpu_policy="plain") as lm:
        for _ in range(2):
            cases = [
                (
                    [1, *(random.randrange(3, 500) for _ in range(random.choice((1, 5, 30, 90))))],
                    random.randrange(1, 40),
                )
                for _ in range(6)
            ]
            alone = [ids_of(lm, prompt, count, reuse=False) for prompt, count in cases]
            lm.forget_prefixes()
            streams = []
            for place, (prompt, count) in enumerate(cases):
                streams.append(lm.submit(prompt, count, temperature=0.0))
                if random.random() < 0.5:
                    next(iter(streams[random.randrange(len(streams))]), None)
                if place == 3:
                    streams[1].cancel()
            found = [list(stream.result().tokens) for number, stream in enumerate(streams) if number != 1]
            assert found == [ids for number, ids in enumerate(alone) if number != 1]
            for (prompt, _), ids in zip(cases, alone, strict=True):
                following = [*prompt, *ids, 9, 17]  # what is kept of a row that was among others
                assert ids_of(lm, following) == ids_of(lm, following, reuse=False)
    assert len(joined) > 4


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_requests_at_the_same_time_change_nothing(make: Make, family: str) -> None:
    prompts = [PROMPT, PROMPT[:17], [1, *PROMPT[20:40]]]
    with elm_mlx.load(make(family)) as lm:
        alone = [ids_of(lm, prompt, reuse=False) for prompt in prompts]
        streams = [lm.submit(prompt, TOKENS, temperature=0.0) for prompt in prompts]
        assert [list(stream.result().tokens) for stream in streams] == alone
        lm.forget_prefixes()  # waits for the step in which the last one ended
        assert lm.activity.running == 0


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_proposals_are_for_caches_that_can_forget_and_change_no_answer(make: Make, family: str) -> None:
    folder = make(family)
    prompt = [1, *[5, 6, 7, 8] * 8]
    with elm_mlx.load(folder) as lm:
        if family in CAN_TRIM:
            assert ids_of(lm, prompt, lookup=True) == ids_of(lm, prompt, reuse=False)
        else:
            with pytest.raises(InvalidRequest, match="cannot forget"):
                lm.generate(prompt, 4, lookup=True)
    if family not in CAN_TRIM:
        with pytest.raises(InvalidRequest, match="cannot forget"):
            elm_mlx.load(folder, draft=folder)


@pytest.mark.parametrize("family", ["qwen3", "recurrent_gemma"])
def test_all_that_a_call_may_ask_for_works_with_a_guest(make: Make, family: str) -> None:
    with elm_mlx.load(make(family)) as lm:
        drawn = lm.generate(PROMPT, 8, temperature=0.8, top_p=0.9, top_k=40, seed=3, logprobs=2)
        assert drawn.tokens == lm.generate(PROMPT, 8, temperature=0.8, top_p=0.9, top_k=40, seed=3).tokens
        assert drawn.logprobs is not None
        scored = lm.prompt_logprobs([*PROMPT, *drawn.tokens])
        ours = [entry.logprob for entry in scored[-len(drawn.tokens) :]]
        assert ours == pytest.approx([entry.logprob for entry in drawn.logprobs], abs=1e-4)
        assert lm.generate(PROMPT, 8, regex="(yes|no)").text in ("yes", "no")
        for name, options in (("window", {"window": 32}), ("kv_bits", {"kv_bits": 8})):
            with pytest.raises(InvalidRequest, match=name):
                lm.generate(PROMPT, 4, **options)  # type: ignore[arg-type]
        with pytest.raises(InvalidRequest, match="Files of keys and values"):
            lm.save_cache(PROMPT, "never.safetensors")
        with pytest.raises(InvalidRequest, match="Adapters are for"):
            lm.load_adapter("a", "nowhere")


def test_a_guest_may_be_the_draft_of_a_guest(make: Make) -> None:
    folder = make("qwen3")
    with elm_mlx.load(folder, draft=folder) as lm, elm_mlx.load(folder) as plain:
        assert ids_of(lm, PROMPT) == ids_of(plain, PROMPT)


def test_an_untested_family_says_so(tmp_path: Path) -> None:
    folder = write_guest(tmp_path / "stablelm", "stablelm", use_qkv_bias=False, partial_rotary_factor=0.5,
                         layer_norm_eps=1e-5)  # fmt: skip
    with elm_mlx.load(folder) as lm:
        assert any("stablelm" in notice and "tests run none" in notice for notice in lm.notices)
        assert ids_of(lm, PROMPT) == first_end(their_ids(folder, PROMPT, TOKENS))
