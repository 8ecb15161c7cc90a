"""Joins the processes of a multi-host run before any device is touched."""

import os

import jax

from training.errors import RunError, first_line

# One of these says that a launcher started several processes that JAX can detect.
_LAUNCHERS = {
    "SLURM_NTASKS": 1,
    "OMPI_COMM_WORLD_SIZE": 1,
    "MEGASCALE_NUM_SLICES": 1,
}


def configured() -> bool:
    """Whether the environment describes a run of several processes."""
    if os.environ.get("JAX_COORDINATOR_ADDRESS"):
        return True
    if len(os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",")) > 1:
        return True
    for name, alone in _LAUNCHERS.items():
        value = os.environ.get(name, "")
        if value.isdigit() and int(value) > alone:
            return True
    return False


def initialize(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """`jax.distributed.initialize` if flags or the environment ask for it, else nothing.

    Args:
        coordinator: host:port of process 0; also JAX_COORDINATOR_ADDRESS.
        num_processes: how many; also JAX_NUM_PROCESSES. Launchers that JAX knows (Slurm,
            Open MPI, TPU pods) need none of the three.
        process_id: which one this is; also JAX_PROCESS_ID.

    Raises:
        RunError: the processes did not find each other.
    """
    if num_processes is None and os.environ.get("JAX_NUM_PROCESSES"):
        num_processes = int(os.environ["JAX_NUM_PROCESSES"])
    if process_id is None and os.environ.get("JAX_PROCESS_ID"):
        process_id = int(os.environ["JAX_PROCESS_ID"])
    if coordinator is None and not configured():
        return
    try:
        jax.distributed.initialize(
            coordinator_address=coordinator,
            num_processes=num_processes,
            process_id=process_id,
        )
    except (ValueError, RuntimeError) as error:
        raise RunError(
            f"the processes of this run did not meet (coordinator {coordinator}, "
            f"num_processes {num_processes}, process_id {process_id}): "
            f"{first_line(error)}"
        ) from error
