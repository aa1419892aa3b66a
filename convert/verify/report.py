"""What a comparison found, and whether the converted model passes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from elm_mlx.store.weight_files import some


class Failure(NamedTuple):
    """Why a converted model does not pass, in words, and of which kind that is.

    "altered": weights are not the source's, rounded; "source": what it is compared with is not finite; "broken": the
    model itself is not; "diverged": it differs by more than the bound.
    """

    kind: str
    what: str


@dataclass(frozen=True)
class Report:
    """How far `converted` is from `source` at `tokens` positions of text.

    `max_difference` is the largest between logits, `relative_difference` that difference over the source's largest
    logit; `kl_divergence` the mean of KL(source || converted) in nats; `same_top` the share of positions with the same
    likeliest token; `bound` the divergence allowed for weights `stored` this way; `altered` names the weights that are
    not, bit for bit, the source's rounded that way: a conversion of ours has none, learned quantization many, and
    `must_match` says that there may be none but those that were `calibrated`. `not_finite` and `source_not_finite`
    name the weights of either with NaN or infinity in them.
    """

    converted: Path
    source: Path
    tokens: int
    max_difference: float
    relative_difference: float
    kl_divergence: float
    same_top: float
    perplexity: float
    source_perplexity: float
    stored: str
    bound: float
    altered: list[str]
    not_finite: list[str]
    source_not_finite: list[str]
    must_match: bool
    calibrated: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether the divergence is within the bound, and no weight altered that must match."""
        return self.failure is None

    @property
    def failure(self) -> Failure | None:
        """Why the converted model does not pass; None where it does."""
        wrong = [name for name in self.altered if name not in self.calibrated] if self.must_match else []
        if unlike := [name for name in wrong if name not in self.source_not_finite]:
            return Failure("altered", f"weights are not the source's, rounded as conversion.json says: {some(unlike)}")
        if wrong or math.isnan(self.kl_divergence):
            return self._not_finite()
        if self.kl_divergence > self.bound:
            return Failure("diverged", f"it differs by {self.kl_divergence:.3g} nats per token, more than the "
                                       f"{self.bound:g} allowed for {self.stored} weights")  # fmt: skip
        return None

    @property
    def weights(self) -> str:
        """What was found of the weights, in words."""
        altered = [name for name in self.altered if name not in self.calibrated]
        found = {
            "not the source's as they round": altered,
            "NaN or infinite": self.not_finite,
            "NaN or infinite in the source": self.source_not_finite,
        }
        told = [f"{what}: {some(names)}" for what, names in found.items() if names]
        each = f"{len(self.calibrated)} are calibrated, each other" if self.calibrated else "each"
        return "; ".join([*[f"{each} is the source's, rounded as it is stored, bit for bit"] * (not altered), *told])

    def _not_finite(self) -> Failure:
        """Which of the two models has numbers that are no numbers."""
        if self.source_not_finite:
            return Failure("source", f"the source's own weights are NaN or infinite: {some(self.source_not_finite)}")
        if math.isnan(self.source_perplexity):
            return Failure("source", "the source's own logits are NaN or infinite, though its weights are not")
        if self.not_finite:
            named = some(self.not_finite)
            return Failure("broken", f"its weights are NaN or infinite, and the source's are not: {named}")
        return Failure("broken", "its logits are NaN or infinite, and the source's are not")
