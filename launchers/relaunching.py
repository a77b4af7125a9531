"""A run's newest launch once more, on another number of nodes: the same code and config, the layout by `launchers.layout_rules`."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from launchers import launching
from launchers.batch_script import JobSpec
from launchers.launch_folder import CODE, SPEC, Launch, launch_folders, locked, new_folder, read_launch, write_launch
from launchers.layout_rules import layout_overrides
from launchers.queue import RefusedError
from launchers.snapshot import DIFF
from megatron_mplug2.config.load import RESOLVED_NAME, load_config, write_resolved
from megatron_mplug2.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Relaunched:
    folder: Path
    job: str
    changes: tuple[str, ...]
    """Of the config, as `key=value`."""


def relaunch(run_dir: Path, nodes: int) -> Relaunched:
    """Makes a launch of the newest one and submits it. Raises UserError, and leaves nothing, where that cannot be."""
    with locked(run_dir.resolve()) as launches:
        launching.refuse_where_used(launches)
        before = next(reversed(launch_folders(run_dir.resolve())), None)
        if before is None:
            raise UserError(f"{run_dir} was not launched: use `mplug2 launch CONFIG --cluster NAME --nodes {nodes}`")
        spec = _read_spec(before)
        changes = _changes(before, spec, nodes)
        folder = new_folder(launches)
        try:
            launched = _write(before, folder, replace(_moved(spec, folder), nodes=nodes), changes)
            return Relaunched(folder=folder, job=launching.submit(folder, launched), changes=changes)
        except (RefusedError, OSError):
            shutil.rmtree(folder)
            raise


def _read_spec(folder: Path) -> JobSpec:
    try:
        return TypeAdapter(JobSpec).validate_json((folder / SPEC).read_bytes())
    except (OSError, ValidationError) as error:
        raise UserError(f"{folder / SPEC} cannot be read: {' '.join(str(error).split())}; launch the run anew, with --nodes") from None


def _changes(before: Path, spec: JobSpec, nodes: int) -> tuple[str, ...]:
    if not (before / RESOLVED_NAME).exists():
        raise UserError(f"{before} is not a launch of ranks: only these can change their number of nodes")
    launching.check_nodes(nodes, spec.slurm)
    changes = layout_overrides(load_config(before / RESOLVED_NAME), nodes * spec.slurm.tasks_per_node)
    load_config(before / RESOLVED_NAME, changes)
    return changes


def _moved(spec: JobSpec, folder: Path) -> JobSpec:
    """With the new launch's folder in the place of the old one's, in its commands too."""

    def moved(word: str) -> str:
        path = Path(word)
        return str(folder / path.relative_to(spec.folder)) if path.is_relative_to(spec.folder) else word

    check = None if spec.check is None else tuple(map(moved, spec.check))
    return replace(spec, folder=folder, tasks_per_node=spec.slurm.tasks_per_node, command=tuple(map(moved, spec.command)), check=check)


def _write(before: Path, folder: Path, spec: JobSpec, changes: tuple[str, ...]) -> Launch:
    shutil.copytree(before / CODE, folder / CODE)
    if (before / DIFF).exists():
        shutil.copy2(before / DIFF, folder / DIFF)
    write_resolved(load_config(before / RESOLVED_NAME, changes), folder)
    launching.write_job(folder, spec)
    old = read_launch(before)
    launched = old.model_copy(update={"nodes": spec.nodes, "tasks_per_node": spec.tasks_per_node, "jobs": ()})
    write_launch(folder, launched)
    return launched
