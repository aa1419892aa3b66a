"""How a model wants to be sampled, and what ends its text: generation_config.json."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from elm_mlx.arguments import real_number
from elm_mlx.config.stop_strings import check_stop_strings
from elm_mlx.config.values import Values
from elm_mlx.errors import InvalidRequest

MIN_TEMPERATURE, MAX_TEMPERATURE = 1e-5, 1e4
MAX_TOP_K = 2**31 - 1


@dataclass(frozen=True)
class Sampling:
    """How the next id is chosen: temperature 0 is greedy; top_k 0, top_p 1 and min_p 0 switch a filter off, and so does
    repetition_penalty 1 with the penalty.

    Raises InvalidRequest for values without a meaning.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        for name in SAMPLING_NAMES:
            real_number(name, getattr(self, name))
        if not 0 <= self.temperature <= MAX_TEMPERATURE:
            raise InvalidRequest(f"temperature is {self.temperature}; it must be 0 (greedy) to {MAX_TEMPERATURE}.")
        if not 0 <= self.top_k <= MAX_TOP_K or self.top_k != int(self.top_k):
            raise InvalidRequest(f"top_k is {self.top_k}; it must be a whole number, 0 to switch it off.")
        if not 0 < self.top_p <= 1:
            raise InvalidRequest(f"top_p is {self.top_p}; it must be above 0 and at most 1 (off).")
        if not 0 <= self.min_p <= 1:
            raise InvalidRequest(f"min_p is {self.min_p}; it must be 0 (off) to 1.")
        if not self.repetition_penalty > 0:
            raise InvalidRequest(f"repetition_penalty is {self.repetition_penalty}; it must be above 0, and 1 is off.")

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
    "min_length": 0, "min_new_tokens": 0, "bad_words_ids": [], "suppress_tokens": [], "begin_suppress_tokens": [],
    "sequence_bias": [], "forced_bos_token_id": [], "forced_eos_token_id": [],
}  # fmt: skip
SAMPLING_NAMES = tuple(field.name for field in fields(Sampling))
FILTER_NAMES = ("top_k", "top_p", "min_p")


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

    Without `do_sample` in the file sampling is greedy, whatever other values the file has, and so it is at a
    temperature of 0. A value without a meaning is ignored, with a notice, and so is a rule that elm-mlx lacks. The
    file's length limits are never used. Raises BadCheckpoint for stop ids that are none.
    """
    stop_ids, others = frozenset(values.token_ids("eos_token_id")), other_rules(values)
    stop_strings, meaningless = read_stop_strings(values)
    others = (*others, *meaningless)
    samples = values.get("do_sample", False)
    if not isinstance(samples, bool):
        why = f"do_sample is {samples!r:.40}; it must be true or false."
        return Generation(Sampling(), stop_ids, (left_aside(values, why), *others), stop_strings=stop_strings)
    if not samples:
        return Generation(Sampling(), stop_ids, others, stop_strings=stop_strings)
    sampling, notices = read_sampling(values)
    notices = (*notices, *others)
    if sampling.is_greedy:
        greedy = f"{values.where} asks for sampling at temperature {sampling.temperature:g}, which is greedy decoding."
        notices = (*notices, greedy)
    return Generation(sampling, stop_ids, notices, stop_strings=stop_strings)


def read_sampling(values: Values) -> tuple[Sampling, tuple[str, ...]]:
    """Reads (the sampling of a file that asks for it, a notice for each value without a meaning). The temperature is 1
    where the file has none, as in transformers."""
    kept: dict[str, Any] = {"temperature": 1.0}
    notices = []
    for name in SAMPLING_NAMES:
        value = values.get(name)
        try:
            kept |= {} if value is None else {name: getattr(Sampling(**{name: value}), name)}
        except InvalidRequest as error:
            notices.append(left_aside(values, f"{error!s:.200}"))
    return Sampling(**kept), tuple(notices)


def read_stop_strings(values: Values) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Reads (the stop strings that a file names, a notice where they have no meaning)."""
    try:
        return check_stop_strings(values.get("stop_strings")), ()
    except InvalidRequest as error:
        return (), (left_aside(values, f"stop_strings: {error.message:.200}"),)


def other_rules(values: Values) -> tuple[str, ...]:
    """The notice about what a file asks for beside sampling, if it asks for any."""
    asked = [name for name, off in OTHER_RULES.items() if values.get(name, off) not in (off, False)]
    return (f"{values.where} asks for {', '.join(asked)}, which elm-mlx does not have.",) if asked else ()


def left_aside(values: Values, why: str) -> str:
    """The notice about a value of a file that is not used."""
    return f"{values.where}: {why} So this value is not used."
