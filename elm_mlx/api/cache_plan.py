"""The bytes that the caches of all loaded models share, planned anew when a model comes or goes."""

from __future__ import annotations

from elm_mlx.device.backend import mx
from elm_mlx.device.memory import CacheWish, cache_room, plan_caches, wire
from elm_mlx.device.thread import DeviceThread
from elm_mlx.engine.budget import Budget
from elm_mlx.engine.worker import Worker


def plan_budget(budget: Budget, wishes: list[CacheWish]) -> None:
    """Gives caches the least that is asked for, or what the loaded models leave, and wires memory for what they are
    expected to fill. Raises NotEnoughMemory where more is asked for than there is. On the device thread."""
    held = budget.reserved + budget.stored
    room = cache_room(max(0, mx.get_active_memory() - held), held)
    asked = min((wish.most for wish in wishes if wish.most is not None), default=None)
    plan = plan_caches(asked, room, sum(wish.usual for wish in wishes))
    budget.limit, budget.kept = plan.total, plan.prefixes
    wire(plan.expected)


def workers_of(thread: DeviceThread) -> list[Worker]:
    """The loaded models that are answered by a device thread."""
    return [turn for turn in thread.turns if isinstance(turn, Worker)]


def plan_again(thread: DeviceThread) -> None:
    """Plans for the models that are left where one was closed. On the device thread."""
    if workers := workers_of(thread):
        plan_budget(workers[0].engine.limits.budget, [worker.wish for worker in workers])
