"""How many ids are proposed in a round: decided by how many were right before, and by what a round costs here.

A round of k proposals gives 1 + p + p^2 + ... + p^k ids where each is right with probability p if all before it are. It
takes longer than a step of plain decoding, and how much longer depends on the machine: so it is measured. The best k
gives the most ids for its time; where no k beats plain decoding there are no proposals.
"""

from __future__ import annotations

from collections.abc import Mapping

MARGIN = 1.1  # times that a round must be better than plain steps, as costs that were measured are off by as much
KEEP = 0.9  # of the evidence, from one round to the next; chosen: about ten rounds count
PRIOR = 0.7, 2.0  # acceptance that a request begins with, and as how many judged proposals it counts; chosen
PROBE_PRIOR = 0.5, 1.0  # the same where a probe asks anew
PROBE_AFTER, PROBE_LATEST = 24, 400  # plain steps before the first probe; they double up to the second number
PROBE = 3  # the most proposals of a probe
CONFIRM = 4  # free proposals that must be right in a row before rounds begin; chosen, as are the next two
CONFIRMED = 0.9, 3.0  # the acceptance that is expected then, and its weight
NARROW = 2  # the most proposals of the first round


def expected_ids(acceptance: float, proposals: int) -> float:
    """The mean number of ids that a round gives: the model's own one, and the proposals that are right."""
    return sum(acceptance**place for place in range(proposals + 1))


def best_count(acceptance: float, costs: Mapping[int, float]) -> int:
    """The number of proposals that gives the most ids for its time, 0 where plain decoding does. `costs` are the times
    of a round by its number of proposals, in plain steps."""
    gains = {count: expected_ids(acceptance, count) / cost for count, cost in costs.items()}
    best = max(gains, key=gains.__getitem__, default=0)
    return best if best and gains[best] > MARGIN else 0


class Acceptance:
    """The share of proposals that are right, of which old ones count less and less."""

    def __init__(self, share: float, weight: float) -> None:
        self.right, self.judged = share * weight, weight

    @property
    def share(self) -> float:
        """The share now."""
        return self.right / self.judged

    def note(self, proposed: int, accepted: int, keep: float = KEEP) -> None:
        """Takes down a round. Those after the first wrong proposal were not judged."""
        self.right = self.right * keep + accepted
        self.judged = self.judged * keep + min(accepted + 1, proposed)


class Gate:
    """Says how many ids are proposed in the next round of one request.

    After a while without proposals it probes: one round decides whether they begin again. As long as probes fail, the
    time between them doubles, so that proposals that are never right cost almost nothing.
    """

    def __init__(self, costs: Mapping[int, float]) -> None:
        """`costs` are the times of rounds by their number of proposals, in plain steps."""
        self.costs = costs
        self.acceptance = Acceptance(*PRIOR)
        self.wait, self.plain = PROBE_AFTER, 0
        self.probe = 0  # the proposals of a probe that was decided and has not been made
        self.can_pay = best_count(1.0, costs) > 0

    def choose(self) -> int:
        """How many ids to propose now; asked once a step. A probe is asked for until it has been made."""
        if self.probe:
            return self.probe
        if best := best_count(self.acceptance.share, self.costs):
            self.wait, self.plain = PROBE_AFTER, 0
            return best
        self.plain += 1
        if self.plain <= self.wait or not self.can_pay:
            return 0
        self.acceptance = Acceptance(*PROBE_PRIOR)
        self.wait, self.plain = min(2 * self.wait, PROBE_LATEST), 0
        self.probe = min(best_count(1.0, self.costs), PROBE)
        return self.probe

    def note(self, proposed: int, accepted: int) -> None:
        """Takes down how a round ended."""
        self.probe = 0
        self.acceptance.note(proposed, accepted)


class WatchingGate(Gate):
    """The Gate of proposals that cost nothing until they are judged: in plain steps they are compared with what came.

    Rounds begin when a few in a row would have been right, first with few proposals, then with more as long as all are
    right; a round in which none was right ends them. So a text that copies nothing has almost no rounds.
    """

    def __init__(self, costs: Mapping[int, float]) -> None:
        super().__init__(costs)
        self.in_a_row, self.width = 0, NARROW

    def choose(self) -> int:
        """How many ids to propose now."""
        if self.in_a_row < CONFIRM:
            return 0
        return min(self.width, best_count(self.acceptance.share, self.costs))

    def watch(self, was_right: bool) -> None:
        """Takes down whether an id of a plain step was the one that would have been proposed."""
        self.in_a_row = self.in_a_row + 1 if was_right else 0
        if self.in_a_row == CONFIRM:
            self.acceptance, self.width = Acceptance(*CONFIRMED), NARROW

    def note(self, proposed: int, accepted: int) -> None:
        """Takes down how a round ended."""
        super().note(proposed, accepted)
        self.width = 2 * self.width if accepted == proposed else NARROW
        if not accepted:
            self.in_a_row = 0
