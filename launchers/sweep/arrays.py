"""A sweep on SLURM: points of one shape are the tasks of one job array, with a bound on how many run at the same time."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from launchers.array import Array
from launchers.batch_script import JobSpec
from launchers.cluster import Launcher, SlurmConfig
from launchers.launchable import Shape
from launchers.launching import check_path, launch, mplug2, python, script_of
from launchers.sweep.points import Point, Sweep
from launchers.torchrun import agent_command
from megatron_mplug2.config.load import write_resolved
from megatron_mplug2.errors import UserError

ARRAYS = "arrays"
"""Folder in the sweep's: a folder for each array that was submitted, which `mplug2 jobs` takes like a run's."""
_CONFIGS, _DIGESTS = "points", "points.json"
"""In a launch's folder: a folder with the config of each part, and the points' digests in the order of parts."""
_DIGEST_LIST = TypeAdapter(list[str])


@dataclass(frozen=True, kw_only=True)
class SweepArray:
    """See `launchers.launchable.Launchable`.

    A point that dies is not requeued, and its nodes are not looked at first: it is written down, and the next `mplug2 sweep run` submits
    it again.
    """

    command: tuple[str, ...]
    points: tuple[Point, ...]
    slurm: SlurmConfig
    home: Path
    shape: Shape
    array: Array
    folder: Path
    """The sweep's."""
    run_dir: None = None

    def spec(self, folder: Path) -> JobSpec:
        command, ranks = ("sweep", "point", str(folder / _CONFIGS)), self.shape.tasks_per_node
        torchrun = self.slurm.launcher is Launcher.TORCHRUN
        agent = agent_command(python(self.slurm), command, self.shape.nodes, ranks)
        return JobSpec(
            name=self.folder.name,
            command=agent if torchrun else (*mplug2(self.slurm), *command),
            python=python(self.slurm),
            folder=folder,
            work_dir=Path.cwd(),
            run_dir=self.folder,
            nodes=self.shape.nodes,
            tasks_per_node=1 if torchrun else ranks,
            ranks_per_task=ranks if torchrun else 1,
            slurm=self.slurm,
            array=self.array,
        )

    def write_inputs(self, folder: Path) -> None:
        for part, point in enumerate(self.points, 1):
            write_resolved(point.run, folder / _CONFIGS / str(part))
        (folder / _DIGESTS).write_text(json.dumps([point.digest for point in self.points]), encoding="utf-8")


def parts_of(folder: Path) -> dict[str, int]:
    """Which part of a launch is which point, by digest. Raises UserError where that cannot be read."""
    try:
        digests = _DIGEST_LIST.validate_json((folder / _DIGESTS).read_bytes())
    except (OSError, ValidationError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no list of digests"
        raise UserError(f"{folder / _DIGESTS} cannot be read ({reason}): delete {folder}, whose points are then measured again") from None
    return {digest: part for part, digest in enumerate(digests, 1)}


def plan_arrays(sweep: Sweep, file: Path, points: Sequence[Point], slurm: SlurmConfig) -> list[SweepArray]:
    """One for each shape of the points, small ones first. Raises UserError where the cluster's nodes are not those of the sweep."""
    if slurm.tasks_per_node != sweep.config.node_ranks:
        raise UserError(
            f"{file}: node_ranks={sweep.config.node_ranks}, and the cluster's nodes have {slurm.tasks_per_node} (tasks_per_node): "
            "set one to the other"
        )
    if (most := max(point.layout.nodes for point in points)) > slurm.max_nodes:
        raise UserError(f"{file}: points of {most} nodes are more than the cluster's {slurm.max_nodes} (max_nodes): take them out")
    check_path("the sweep's folder", sweep.folder, slurm)
    profile = slurm.model_copy(update={"requeue_limit": 0, "health": None})
    shapes = sorted({_shape(point) for point in points}, key=lambda shape: (shape.nodes, shape.tasks_per_node))
    first = len(list((sweep.folder / ARRAYS).glob("*"))) + 1
    homes = [sweep.folder / ARRAYS / f"{number:04d}-{shape.nodes}x{shape.tasks_per_node}" for number, shape in enumerate(shapes, first)]
    alike = [tuple(point for point in points if _shape(point) == shape) for shape in shapes]
    return [
        SweepArray(
            command=("sweep", "run", str(file)),
            points=own,
            slurm=profile,
            home=home,
            shape=shape,
            array=Array(parts=len(own), at_once=sweep.config.at_once),
            folder=sweep.folder,
        )
        for own, home, shape in zip(alike, homes, shapes, strict=True)
    ]


def _shape(point: Point) -> Shape:
    return Shape(nodes=point.layout.nodes, tasks_per_node=point.layout.ranks // point.layout.nodes)


def submit_arrays(arrays: Sequence[SweepArray], tell: Callable[[str], None]) -> None:
    """Raises UserError where SLURM refuses one; those before it stay."""
    if len(arrays) > 1:
        tell(f"the points have {len(arrays)} shapes, and a job array has one: {len(arrays)} arrays, each with at_once of its own")
    for array in arrays:
        for point in array.points:  # what an earlier attempt has left does not count
            shutil.rmtree(point.run.run_dir, ignore_errors=True)
        folder, job = launch(array)
        tell(f"job {job}: {len(array.points)} points of {array.shape.nodes} x {array.shape.tasks_per_node} ranks, {folder}")


def scripts(arrays: Sequence[SweepArray]) -> list[str]:
    """What would be submitted."""
    return [f"# {', '.join(point.layout.name for point in array.points)}\n{script_of(array)}" for array in arrays]
