"""How a model wants to be sampled, and what ends its text: generation_config.json."""

from __future__ import annotations

from dataclasses import dataclass, fields

from elm_mlx.arguments import real_number
from elm_mlx.config.values import Values
from elm_mlx.errors import BadCheckpoint, InvalidRequest

MIN_TEMPERATURE, MAX_TEMPERATURE = 1e-5, 1e4


@dataclass(frozen=True)
class Sampling:
    """How the next id is chosen: temperature 0 is greedy; top_k 0, top_p 1 and min_p 0 switch a filter off.

    Raises InvalidRequest for values without a meaning.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        for name in SAMPLING_NAMES:
            real_number(name, getattr(self, name))
        if not 0 <= self.temperature <= MAX_TEMPERATURE:
            raise InvalidRequest(f"temperature is {self.temperature}; it must be 0 (greedy) to {MAX_TEMPERATURE}.")
        if not 0 <= self.top_k < 2**31 or self.top_k != int(self.top_k):
            raise InvalidRequest(f"top_k is {self.top_k}; it must be a whole number, 0 to switch it off.")
        if not 0 < self.top_p <= 1:
            raise InvalidRequest(f"top_p is {self.top_p}; it must be above 0 and at most 1 (off).")
        if not 0 <= self.min_p <= 1:
            raise InvalidRequest(f"min_p is {self.min_p}; it must be 0 (off) to 1.")

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest id is always taken: under MIN_TEMPERATURE a draw in float32 would be no different."""
        return self.temperature < MIN_TEMPERATURE

    @property
    def filters(self) -> list[str]:
        """The names of the filters that are switched on."""
        return [name for name in FILTER_NAMES if getattr(self, name) != getattr(Sampling, name)]


SAMPLING_NAMES = tuple(field.name for field in fields(Sampling))
FILTER_NAMES = tuple(name for name in SAMPLING_NAMES if name != "temperature")


def read_generation(values: Values) -> tuple[Sampling, frozenset[int]]:
    """Reads (how the model wants to be sampled, the stop ids that it names) from a generation_config.json.

    Without `do_sample` in the file sampling is greedy, whatever other values the file has. Its length limits are never
    used. Raises BadCheckpoint for values without a meaning.
    """
    stop_ids = frozenset(values.token_ids("eos_token_id"))
    if not values.flag("do_sample", False):
        return Sampling(), stop_ids
    options = {name: value for name in SAMPLING_NAMES if (value := values.get(name)) is not None}
    try:
        return Sampling(**({"temperature": 1.0} | options)), stop_ids
    except InvalidRequest as error:
        raise BadCheckpoint(f"{values.where} asks for sampling without a meaning: {error}") from error
