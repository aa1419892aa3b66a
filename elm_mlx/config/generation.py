"""How a model wants to be sampled, and what ends its text: generation_config.json."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from elm_mlx.arguments import real_number, shown, whole_number
from elm_mlx.config.stop_strings import check_stop_strings
from elm_mlx.config.values import MAX_VOCAB, Values
from elm_mlx.errors import BadCheckpoint, InvalidRequest

MIN_TEMPERATURE, MAX_TEMPERATURE = 1e-5, 1e4
MAX_TOP_K = 2**31 - 1
# Logits lie within some tens of zero: larger penalties and biases would change nothing but cost float32 its digits.
MOST_REPETITION, MOST_PENALTY, MOST_BIAS = 100.0, 100.0, 1e4


@dataclass(frozen=True)
class Sampling:
    """How the next id is chosen: temperature 0 is greedy; top_k 0, top_p 1 and min_p 0 switch a filter off.

    What changes the logits first, greedy or not: `logit_bias`, pairs of an id and what is added to its logit;
    `repetition_penalty` (1 is off), by which a logit above 0 is divided, and one below multiplied, if the prompt or
    the answer so far has its id; `presence_penalty` (0 is off), taken off if the answer so far has the id, and
    `frequency_penalty` (0 is off), taken off for each time that it has it; and the `banned` ids, which are never
    chosen. A bias of minus infinity makes a banned id. Both are kept in the order of ids.

    Raises InvalidRequest for values without a meaning.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    banned: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in NUMBER_NAMES:
            real_number(name, getattr(self, name))
        if not 0 <= self.temperature <= MAX_TEMPERATURE:
            raise InvalidRequest(f"temperature is {self.temperature}; it must be 0 (greedy) to {MAX_TEMPERATURE}.")
        if not 0 <= self.top_k <= MAX_TOP_K or self.top_k != int(self.top_k):
            raise InvalidRequest(f"top_k is {self.top_k}; it must be a whole number, 0 (off) to {MAX_TOP_K}.")
        if not 0 < self.top_p <= 1:
            raise InvalidRequest(f"top_p is {self.top_p}; it must be above 0 and at most 1 (off).")
        if not 0 <= self.min_p <= 1:
            raise InvalidRequest(f"min_p is {self.min_p}; it must be 0 (off) to 1.")
        self._check_penalties()
        biases = biases_by_id(self.logit_bias)
        never = {whole_number("An id in banned_ids", id) for id in self.banned}
        never |= {id for id, bias in biases.items() if bias == -math.inf}
        if any(not 0 <= id < MAX_VOCAB for id in (*biases, *never)):
            raise InvalidRequest(f"logit_bias or banned_ids has an id that is not within 0 to {MAX_VOCAB - 1}.")
        kept = tuple(sorted((id, bias) for id, bias in biases.items() if id not in never))
        object.__setattr__(self, "logit_bias", kept)  # in one form, so that equal ones are equal
        object.__setattr__(self, "banned", tuple(sorted(never)))

    def _check_penalties(self) -> None:
        if not 1 / MOST_REPETITION <= self.repetition_penalty <= MOST_REPETITION:
            raise InvalidRequest(f"repetition_penalty is {self.repetition_penalty}; it must be {1 / MOST_REPETITION:g} "
                                 f"to {MOST_REPETITION:g}, 1 to switch it off.")  # fmt: skip
        for name in ("presence_penalty", "frequency_penalty"):
            if not abs(value := getattr(self, name)) <= MOST_PENALTY:
                raise InvalidRequest(f"{name} is {value}; it must be {-MOST_PENALTY:g} to {MOST_PENALTY:g}, 0 to "
                                     "switch it off.")  # fmt: skip

    @property
    def penalizes(self) -> bool:
        """Whether what was said before changes logits."""
        return (self.repetition_penalty, self.presence_penalty, self.frequency_penalty) != (1, 0, 0)

    @property
    def changes_logits(self) -> bool:
        """Whether logits are changed before an id is chosen, greedily or by a draw."""
        return self.penalizes or bool(self.logit_bias or self.banned)

    @property
    def in_effect(self) -> Sampling:
        """What of it makes a difference: greedy decoding has neither a temperature nor filters."""
        if not self.is_greedy:
            return self
        return replace(self, temperature=0.0, **{name: getattr(Sampling, name) for name in FILTER_NAMES})

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest id is always taken: under MIN_TEMPERATURE a draw in float32 would be no different."""
        return self.temperature < MIN_TEMPERATURE

    @property
    def filters(self) -> list[str]:
        """The names of the filters that are switched on."""
        return [name for name in FILTER_NAMES if getattr(self, name) != getattr(Sampling, name)]


# What transformers does besides and elm-mlx does not, by its key in the file; and the value that switches it off.
OTHER_RULES: dict[str, object] = {
    "encoder_repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "num_beams": 1,
    "typical_p": 1.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0, "penalty_alpha": 0.0, "guidance_scale": 1.0,
    "min_length": 0, "min_new_tokens": 0, "begin_suppress_tokens": [],
    "sequence_bias": [], "forced_bos_token_id": [], "forced_eos_token_id": [],
}  # fmt: skip
SAMPLING_NAMES = tuple(field.name for field in fields(Sampling))
FILTER_NAMES = ("top_k", "top_p", "min_p")
NUMBER_NAMES = tuple(name for name in SAMPLING_NAMES if name not in ("logit_bias", "banned"))
DRAW_NAMES = ("temperature", *FILTER_NAMES)  # in a generation_config.json: used where that says to sample
GREEDY_NAMES = ("repetition_penalty",)  # used even where it does not


def biases_by_id(value: Any) -> dict[int, float]:
    """The biases of some ids: from a mapping, or from pairs. Raises InvalidRequest for what is neither, and for a bias
    that has no meaning."""
    pairs = value.items() if isinstance(value, Mapping) else value
    try:
        listed = [(id, bias) for id, bias in pairs]
    except (TypeError, ValueError):
        raise InvalidRequest(f"logit_bias is {shown(value)}; it must give a number for each of some ids.") from None
    found = {whole_number("An id in logit_bias", id): float(real_number("A bias", bias)) for id, bias in listed}
    if len(found) != len(listed):
        raise InvalidRequest("logit_bias names an id twice. Name it once.")
    for id, bias in found.items():
        if not (abs(bias) <= MOST_BIAS or bias == -math.inf):
            raise InvalidRequest(f"logit_bias is {bias} for id {id}; it must be {-MOST_BIAS:g} to {MOST_BIAS:g}, or "
                                 "minus infinity for an id that is never to be chosen.")  # fmt: skip
    return found


@dataclass(frozen=True)
class Generation:
    """What a generation_config.json says: how the model wants to be sampled, the stop ids and stop strings that it
    names, and sentences about what in it has no meaning."""

    sampling: Sampling
    stop_ids: frozenset[int]
    notices: tuple[str, ...] = ()
    stop_strings: tuple[str, ...] = ()


def read_generation(values: Values) -> Generation:
    """Reads a generation_config.json.

    Without `do_sample` in the file sampling is greedy, whatever temperature and filters the file has, and so it is at a
    temperature of 0. Its repetition_penalty and the ids that it bans hold in both cases, as in transformers. A value
    without a meaning is ignored, with a notice, and so is a rule that elm-mlx lacks. The file's length limits are never
    used. Raises BadCheckpoint for stop ids that are none.
    """
    stop_ids = frozenset(values.token_ids("eos_token_id"))
    samples = values.get("do_sample", False)
    notices: list[str] = []
    if not isinstance(samples, bool):
        notices.append(left_aside(values, f"do_sample is {samples!r:.40}; it must be true or false."))
    names = (*DRAW_NAMES, *GREEDY_NAMES) if samples is True else GREEDY_NAMES
    numbers = read_numbers(values, names, notices)
    if samples is True:
        numbers = {"temperature": 1.0} | numbers  # as in transformers, where the file has none
    banned, lacking = read_banned(values, stop_ids, notices)
    sampling = Sampling(**numbers, banned=banned)
    notices += other_rules(values, lacking)
    stop_strings = read_stop_strings(values, notices)
    if samples is True and sampling.is_greedy:
        notices.append(f"{values.where} asks for sampling at temperature {sampling.temperature:g}, which is greedy "
                       "decoding.")  # fmt: skip
    return Generation(sampling, stop_ids, tuple(notices), stop_strings)


def read_numbers(values: Values, names: Iterable[str], notices: list[str]) -> dict[str, Any]:
    """Those of a file's numbers with these names that have a meaning; each other one is added to the notices."""
    kept: dict[str, Any] = {}
    for name in names:
        value = values.get(name)
        try:
            kept |= {} if value is None else {name: getattr(Sampling(**{name: value}), name)}
        except InvalidRequest as error:
            notices.append(left_aside(values, f"{error!s:.200}"))
    return kept


def read_banned(
    values: Values, stop_ids: frozenset[int], notices: list[str]
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """(the ids that a file bans, the names of its bans that elm-mlx lacks). As in transformers these are
    `suppress_tokens` and the one-id lists of `bad_words_ids`, but for stop ids there. Lists of several ids are lacking.
    What has no meaning is added to the notices."""
    banned: list[int] = []
    lacking = []
    try:
        banned += values.token_ids("suppress_tokens")
    except BadCheckpoint as error:
        notices.append(f"{error!s:.200} So this value is not used.")
    words = values.get("bad_words_ids", []) or []
    if not isinstance(words, list) or not all(isinstance(word, list) and all(map(is_id, word)) for word in words):
        notices.append(left_aside(values, f"bad_words_ids is {words!r:.80}; it must be a list of lists of ids."))
        words = []
    banned += [word[0] for word in words if len(word) == 1 and word[0] not in stop_ids]
    if any(len(word) > 1 for word in words):
        lacking.append("bad_words_ids of several ids")
    return tuple(banned), tuple(lacking)


def is_id(value: object) -> bool:
    """Whether a value of a file can be a token id."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MAX_VOCAB


def read_stop_strings(values: Values, notices: list[str]) -> tuple[str, ...]:
    """The stop strings that a file names. Where they have no meaning, that is added to the notices."""
    try:
        return check_stop_strings(values.get("stop_strings"))
    except InvalidRequest as error:
        notices.append(left_aside(values, f"stop_strings: {error.message:.200}"))
        return ()


def other_rules(values: Values, more: Iterable[str] = ()) -> list[str]:
    """The notice about what a file asks for, `more` included, that elm-mlx lacks, if it asks for any."""
    asked = [*(name for name, off in OTHER_RULES.items() if values.get(name, off) not in (off, False)), *more]
    return [f"{values.where} asks for {', '.join(asked)}, which elm-mlx does not have."] if asked else []


def left_aside(values: Values, why: str) -> str:
    """The notice about a value of a file that is not used."""
    return f"{values.where}: {why} So this value is not used."
