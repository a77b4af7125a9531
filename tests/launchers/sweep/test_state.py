"""How far a sweep is, by what its points' folders, its arrays' launches and the queue tell. Nothing is submitted here."""

import shutil
from pathlib import Path

import pytest

from launchers.cluster import Launcher, SlurmConfig, load_cluster
from launchers.launch_folder import LOGS, SCRIPT, Launch, new_folder, write_launch
from launchers.queue import QueuedJob
from launchers.sweep.arrays import SweepArray, plan_arrays, scripts
from launchers.sweep.hosts import HOSTS
from launchers.sweep.points import Sweep
from launchers.sweep.results import RESULTS, read_results
from launchers.sweep.state import Progress, look
from megatron_mplug2.errors import UserError
from megatron_mplug2.observability.job_events import LAUNCHES, append_event, events_name
from tests.launchers.commands import event
from tests.launchers.sweep.sweeps import sweep_of, write_run

FILE = Path("sweep.yaml")


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    """One rank, and two points of two."""
    return sweep_of(tmp_path, tensor=[1, 2], data=[1, 2])


def slurm(**changes: object) -> SlurmConfig:
    found = load_cluster("slurm_8x8").slurm
    assert found is not None
    return found.model_copy(update={"tasks_per_node": 2, **changes})


def launched(array: SweepArray, job: int) -> Path:
    """The folder of a launch, as `launchers.launching` writes it; nothing is submitted."""
    (array.home / LAUNCHES).mkdir(parents=True, exist_ok=True)
    folder = new_folder(array.home / LAUNCHES)
    array.write_inputs(folder)
    (folder / SCRIPT).touch()
    launch = Launch(command=array.command, commit="0" * 40, changed=False, nodes=1, tasks_per_node=2, parts=2, jobs=(str(job),))
    write_launch(folder, launch)
    return folder


def ended(folder: Path, part: int, code: int, said: str = "") -> None:
    append_event(folder, event("end", code=code))
    (folder / events_name(None)).rename(folder / events_name(part))
    (folder / LOGS / f"7_{part}.log").write_text(said)


def no_slurm() -> list[QueuedJob]:
    raise UserError("there is no SLURM here")


def progress(sweep: Sweep, *jobs: QueuedJob) -> list[str]:
    return [state.progress.value for state in look(sweep, lambda: jobs).points]


def test_points_of_one_shape_share_an_array(sweep: Sweep) -> None:
    one, two = plan_arrays(sweep, FILE, list(sweep.points), slurm())
    assert [len(array.points) for array in (one, two)] == [1, 2]
    assert one.home != two.home and two.home.is_relative_to(sweep.folder)
    first, second = scripts([one, two])
    assert "#SBATCH --array=1-1%1\n" in first and "#SBATCH --ntasks-per-node=1\n" in first
    assert "#SBATCH --array=1-2%1\n" in second and "#SBATCH --ntasks-per-node=2\n" in second
    assert "megatron_mplug2.cli sweep point" in second and "launchers.health" not in second
    assert not sweep.folder.exists(), "a dry run writes nothing"


def test_torchrun_starts_a_points_ranks_too(sweep: Sweep) -> None:
    array = plan_arrays(sweep, FILE, sweep.points[1:], slurm(launcher=Launcher.TORCHRUN))[0]
    (script,) = scripts([array])
    assert "--nproc-per-node=2" in script and "sweep point" in script and "#SBATCH --ntasks-per-node=1\n" in script


def test_the_clusters_nodes_are_those_of_the_sweep(tmp_path: Path, sweep: Sweep) -> None:
    with pytest.raises(UserError, match=r"node_ranks=2, and the cluster's nodes have 8 \(tasks_per_node\)"):
        plan_arrays(sweep, FILE, sweep.points, slurm(tasks_per_node=8))
    large = sweep_of(tmp_path, nodes=[9], batch=288)
    with pytest.raises(UserError, match=r"points of 9 nodes are more than the cluster's 8 \(max_nodes\)"):
        plan_arrays(large, FILE, large.points, slurm())


def test_a_sweep_goes_from_nothing_to_its_end(sweep: Sweep) -> None:
    assert {state.progress for state in look(sweep, no_slurm).points} == {Progress.TO_DO}
    (array,) = plan_arrays(sweep, FILE, sweep.points[1:], slurm())
    folder = launched(array, 7)
    job = QueuedJob(job="7", state="RUNNING", reason="", nodes="node1", script=folder / SCRIPT)
    assert progress(sweep, job) == ["to do", "queued", "queued"]
    with pytest.raises(UserError, match="there is no SLURM here"):
        look(sweep, no_slurm)
    write_run(sweep.points[1])
    (sweep.points[1].run.run_dir / "checkpoints").mkdir()
    ended(folder, 1, 0)
    ended(folder, 2, 1, "Traceback\nerror: rank 1 of 2 failed: ValueError: no luck\nsrun: error: killed\n")
    assert progress(sweep, job) == ["to do", "measured", "failed"]
    found = look(sweep, list).points[2]
    assert found.detail == "exit code 1: rank 1 of 2 failed: ValueError: no luck"
    assert not (sweep.points[1].run.run_dir / "checkpoints").exists(), "nobody will go on from it"
    again = launched(plan_arrays(sweep, FILE, sweep.points[2:], slurm())[0], 8)
    assert progress(sweep) == ["to do", "measured", "failed"]
    assert look(sweep, list).points[2].detail == "job 8_1 has told of no end: it said nothing"
    write_run(sweep.points[2])
    ended(again, 1, 0)
    assert progress(sweep) == ["to do", "measured", "measured"]
    (sweep.folder / RESULTS).unlink()
    assert progress(sweep) == ["to do", "measured", "measured"], "rows that were lost are read again"
    assert len(look(sweep, no_slurm).rows()) == 2, "SLURM has no more to say"
    (again / SCRIPT).unlink()
    assert progress(sweep) == ["to do", "measured", "measured"], "half of a launch is none"


def test_a_point_whose_node_was_lost_is_no_failure_while_slurm_has_it(sweep: Sweep) -> None:
    """SLURM starts it again by itself."""
    folder = launched(plan_arrays(sweep, FILE, sweep.points[:1], slurm())[0], 7)
    job = QueuedJob(job="7", state="PENDING", reason="BeginTime", nodes="", script=folder / SCRIPT)
    append_event(folder, event("end", code=143).model_copy(update={"next": "taken"}))
    (folder / events_name(None)).rename(folder / events_name(1))
    assert progress(sweep, job) == ["queued", "to do", "to do"]
    assert look(sweep, lambda: [job]).points[0].detail == "job 7_1 waits (BeginTime)"
    assert not read_results(sweep.folder).rows
    assert progress(sweep) == ["failed", "to do", "to do"], "nor has SLURM"


IMPORTS = "Traceback\nModuleNotFoundError: No module named 'a'\nslurmstepd-node1: error: *** STEP 1.0 ON node1 CANCELLED ***\n"


@pytest.mark.parametrize(
    ("code", "why", "printed", "said"),
    [
        (143, "node1: task 0: Killed (out of memory?)", "step 1\n", "exit code 143: node1: task 0: Killed (out of memory?)"),
        (143, "node1: task 1: Exited with exit code 1", IMPORTS, "exit code 143: ModuleNotFoundError: No module named 'a'"),
        (143, "node1: task 1: Exited with exit code 1", "error: no luck\nbye\n", "exit code 143: no luck"),
        (143, "node1: task 1: Exited with exit code 1", "", "exit code 143: node1: task 1: Exited with exit code 1"),
        (1, "", "", "exit code 1: started 0 times again"),
        (85, "", "", "exit code 85: it was asked to stop before its end, by its time limit or a preemption: a longer time_limit_min"),
    ],
    ids=["killed", "it printed why", "it printed an error", "it printed nothing", "the job's script", "stopped"],
)
def test_what_its_job_wrote_down_tells_most(sweep: Sweep, code: int, why: str, printed: str, said: str) -> None:
    """But that a rank exited is less than what the rank printed."""
    folder = launched(plan_arrays(sweep, FILE, sweep.points[:1], slurm())[0], 7)
    append_event(folder, event("end", code=code).model_copy(update={"why": why}))
    (folder / events_name(None)).rename(folder / events_name(1))
    (folder / LOGS / "7_1.log").write_text(printed)
    (folder / LOGS / "7_1_batch.log").write_text("error: started 0 times again, which is requeue_limit: not requeued\n")
    assert look(sweep, no_slurm).points[0].detail.startswith(said)


def test_a_measured_point_needs_no_folder(sweep: Sweep) -> None:
    for point in sweep.points:
        write_run(point)
    assert progress(sweep) == ["measured"] * 3
    shutil.rmtree(sweep.folder / "points")
    assert progress(sweep) == ["measured"] * 3


def test_a_run_whose_ranks_have_not_told_yet_is_no_failure(sweep: Sweep) -> None:
    """Somebody looks between a run's end and what its ranks write after it."""
    write_run(sweep.points[0])
    shutil.rmtree(sweep.points[0].run.run_dir / HOSTS)
    assert progress(sweep) == ["to do"] * 3 and not read_results(sweep.folder).rows


@pytest.mark.parametrize("content", ["null", "[1, 2", '{"0": 1}'])
def test_a_launch_without_its_digests_is_one_line(sweep: Sweep, content: str) -> None:
    folder = launched(plan_arrays(sweep, FILE, sweep.points[1:], slurm())[0], 7)
    (folder / "points.json").write_text(content)
    with pytest.raises(UserError, match=rf"^{folder}/points\.json cannot be read \(it is no list of digests\): delete {folder}, ") as error:
        look(sweep, list)
    assert "\n" not in str(error.value)


def test_a_row_that_is_cut_in_half_is_measured_again(sweep: Sweep) -> None:
    for point in sweep.points:
        write_run(point)
    look(sweep, list)
    shutil.rmtree(sweep.points[1].run.run_dir)
    path = sweep.folder / RESULTS
    rows = path.read_text().splitlines()
    path.write_text("\n".join([rows[0], rows[1][:40], rows[2]]))
    found = look(sweep, list)
    assert found.doubts == (f"{path}: row 2 is cut off or spoilt and is left out: `mplug2 sweep run` measures its point again",)
    assert [state.progress for state in found.points] == [Progress.MEASURED, Progress.TO_DO, Progress.MEASURED]


def test_rows_of_another_config_are_kept_and_not_taken(tmp_path: Path, sweep: Sweep) -> None:
    for point in sweep.points:
        write_run(point)
    look(sweep, list)
    other = sweep_of(tmp_path, tensor=[1, 2], data=[1, 2], steps=8)
    found = look(other, list)
    assert [state.progress for state in found.points] == [Progress.TO_DO] * 3
    assert found.doubts[0].startswith("3 rows of the results are of points that this sweep")
    assert len(read_results(sweep.folder).rows) == 3
