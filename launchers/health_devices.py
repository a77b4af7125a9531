"""Whether a rank's device is there and computes."""

import torch

from launchers.cluster import Device
from launchers.health_task import Task

SIDE = 1024
"""Of the matrices that are multiplied."""


def look_at_device(task: Task, device: Device) -> torch.device:
    """Where the rank would compute, after it multiplied two matrices right, twice. Raises UnhealthyError."""
    if device is Device.CPU:
        place = torch.device("cpu")
    elif torch.cuda.is_available():
        place = torch.device("cuda", task.local_rank % torch.cuda.device_count())  # as `launchers.ranks` takes it
    else:
        raise task.ill("it has no GPU that CUDA can use")
    # Small whole numbers: in any order and precision their sums are exact.
    left = torch.arange(SIDE * SIDE).remainder(7).view(SIDE, SIDE).float()
    expected = (left.double() @ left.double().T).float()
    try:
        there = left.to(place)
        products = [(there @ there.T).cpu() for _ in range(2)]
    except RuntimeError as error:
        raise task.ill(f"{place} cannot compute: {error}") from None
    if not all(torch.equal(product, expected) for product in products):
        raise task.ill(f"{place} computes wrong")
    return place


def name_of(task: Task, place: torch.device) -> str:
    """What no other device is called, whatever number srun gives it."""
    return str(torch.cuda.get_device_properties(place).uuid) if place.type == "cuda" else f"{task.node}-cpu-{task.local_rank}"
