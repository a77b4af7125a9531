"""A run's newest launch once more, on another number of nodes: the same code and config, the layout by `launchers.layout_rules`."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from launchers import launching
from launchers.batch_script import JobSpec, render
from launchers.launch_folder import CODE, SCRIPT, launch_folders, locked, new_folder, read_launch, unwritten, write_launch
from launchers.launching import Request, Work
from launchers.layout_rules import layout_overrides
from launchers.origin import Origin, read_origin, write_origin
from launchers.queue import RefusedError
from launchers.snapshot import DIFF
from megatron_mplug2.config.load import RESOLVED_NAME, load_config, write_resolved
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.errors import UserError
from megatron_mplug2.observability.job_events import LAUNCHES


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
        origin, config, launched = read_origin(before), before / RESOLVED_NAME, read_launch(before)
        used = launched.run_dir or run_dir.resolve()  # a study's launches lie elsewhere
        launching.refuse_where_used(used / LAUNCHES)
        launching.check_nodes(nodes, origin.slurm)
        changes = layout_overrides(load_config(config), nodes * origin.slurm.tasks_per_node)
        request = Request(work=Work(launched.command[0]), config=config, overrides=changes, options=origin.options)
        planned = launching.plan(request, origin.slurm)
        folder = new_folder(launches)
        try:
            _write(before, folder, replace(planned.spec(folder), work_dir=origin.work_dir, run_dir=used), planned.run, origin)
            shape = {"nodes": planned.shape.nodes, "tasks_per_node": planned.shape.tasks_per_node}
            again = launched.model_copy(update={**shape, "jobs": ()})
            write_launch(folder, again)
        except OSError as error:
            shutil.rmtree(folder)
            raise unwritten(folder, error) from None
        try:
            return Relaunched(folder=folder, job=launching.submit(folder, again), changes=changes)
        except RefusedError:
            shutil.rmtree(folder)
            raise


def _write(before: Path, folder: Path, spec: JobSpec, run: RunConfig, origin: Origin) -> None:
    shutil.copytree(before / CODE, folder / CODE)
    if (before / DIFF).exists():
        shutil.copy2(before / DIFF, folder / DIFF)
    write_resolved(run, folder)
    write_origin(folder, origin)
    (folder / SCRIPT).write_text(render(spec), encoding="utf-8")
