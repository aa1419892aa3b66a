"""What this machine has, and how it computes: its memory, its backend, and the choice of an Execution for a model."""

from __future__ import annotations

from elm_mlx.config import ModelConfig
from elm_mlx.device.execution import Execution
from elm_mlx.errors import InvalidRequest

POLICIES = ("auto", "plain", "compiled")  # for MLX's CPU backend


def check_policy(policy: str) -> None:
    """Raises InvalidRequest for a policy that does not exist."""
    if policy not in POLICIES:
        raise InvalidRequest(f"cpu_policy is {policy!r}; it must be one of {', '.join(POLICIES)}.")


def choose_execution(config: ModelConfig, policy: str = "auto") -> Execution:
    """Decides how to run a model of this configuration on MLX's default device.

    `policy` counts on the CPU backend alone: "auto" chooses what was fastest there (device.cpu), "plain" computes in
    the stored type, and "compiled" does what a GPU would do: the stored type, compiled steps, one stream. Also sets the
    threads of the process's BLAS to match; the first model decides them until all are released, and the notice of a
    later one that would have others says so. Raises InvalidRequest for any other policy.
    """
    check_policy(policy)
    if has_fast_kernels():
        return Execution()
    from elm_mlx.device.cpu import choose_for_cpu  # here, as it imports MLX

    return choose_for_cpu(config, policy)


def has_fast_kernels() -> bool:
    """Whether MLX's default device has kernels for the functions of `mx.fast`. The CPU backend expands each call of
    them into other operations."""
    import mlx.core as mx

    return bool(mx.default_device().type == mx.DeviceType.gpu)


def has_slow_exp() -> bool:
    """Whether MLX computes exponentials slowly on its default device, so that powers take their place
    (device.exponential): only its CPU backend does, on some machines."""
    if has_fast_kernels():
        return False
    from elm_mlx.device.cpu import SLOW_EXP

    return SLOW_EXP


def release(execution: Execution) -> None:
    """Lets go of what a model holds of the whole process, so that a later one may decide it anew: the threads of the
    BLAS. For a model that is closed; one that is merely dropped lets go with its Execution."""
    if execution.threads:
        execution.threads.end()
