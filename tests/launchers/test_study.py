"""Studies as files, and how far they are by what their steps' launches have left. Nothing is submitted here."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from launchers.cluster import SlurmConfig, load_cluster
from launchers.launch_folder import SCRIPT, Launch, new_folder, write_launch
from launchers.queue import QueuedJob
from launchers.study import Study, load_study
from launchers.study_slurm import Profiles, plan_study, scripts
from launchers.study_state import Progress, StepState, states
from megatron_mplug2.errors import UserError
from megatron_mplug2.observability.job_events import LAUNCHES, append_event, events_name
from tests.launchers.commands import event, read

PROJECT = Path(__file__).parents[2]
A, B, C = (
    {"name": "probe", "run": "data probe demo corpus --out listing", "parts": 2},
    {"name": "shards", "run": "data shard listing listing --out 'my shards'", "after": ["probe"]},
    {"name": "vocabulary", "run": "data tokenizer 'my shards' --out vocab.txt", "after": ["shards"]},
)


def load(folder: Path, *steps: Mapping[str, Any], **keys: Any) -> Study:
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({"folder": str(folder / "state"), "steps": [dict(step) for step in steps], **keys}))
    return load_study(path, read)


def test_the_example_is_a_study_whose_commands_are_real(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    study = load_study(Path("configs/study/demo.yaml"), read)
    assert [step.name for step in study.steps][:5] == ["corpus", "probe", "shards", "vocabulary", "pretrain"]
    planned = plan_study(states(study, []), _profiles("slurm_8x8"))
    run = next(each.planned for each in planned if each.step.name == "pretrain")
    assert run.shape.tasks_per_node == 2 and run.home == PROJECT / "runs/study/steps/pretrain"


def test_steps_come_in_an_order_that_works(tmp_path: Path) -> None:
    assert [step.name for step in load(tmp_path, C, B, A).steps] == ["probe", "shards", "vocabulary"]


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ([{**A, "after": ["vocabulary"]}, B, C], "steps wait for one another: probe -> "),
        ([{**A, "after": ["probe"]}], "steps wait for one another: probe -> probe"),
        ([A, {**B, "after": ["prob"]}], "step shards comes after prob, which is no step: there are probe, shards"),
        ([A, {**B, "aftr": ["probe"]}], "steps.1.aftr: unknown key; did you mean steps.1.after?"),
        ([A, {**A}], "two steps are called probe"),
        ([{**B, "after": [], "at_once": 2}], "at_once bounds an array"),
        ([{**A, "name": "a/../b"}], "steps.0.name: string should match pattern"),
        ([{**A, "run": "data prob demo corpus"}], "step probe: `mplug2 data prob demo corpus`: no such command: 'prob' is unknown"),
        ([{**A, "run": "data probe demo corpus"}], "step probe: `mplug2 data probe demo corpus`: Missing option '--out'"),
        ([{**A, "run": "data probe 'demo"}], "step probe: no closing quotation"),
        ([A, B, {**C, "parts": 2}], "step vocabulary: `mplug2 data tokenizer 'my shards' --out vocab.txt` has no --part"),
        ([], "steps: tuple should have at least 1 item"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, steps: Sequence[Mapping[str, Any]], said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)) as error:
        load(tmp_path, *steps)
    assert str(error.value).startswith(str(tmp_path / "study.yaml")) and "\n" not in str(error.value)
    assert not (tmp_path / "state").exists()


def test_a_study_that_is_not_there() -> None:
    with pytest.raises(UserError, match=r"study nowhere\.yaml: cannot read nowhere\.yaml \(No such file"):
        load_study(Path("nowhere.yaml"), read)


class Launched:
    """A study whose steps are launched by writing what a launch and its job's script write."""

    def __init__(self, folder: Path) -> None:
        self.study, self.jobs = load(folder, A, B, C), list[QueuedJob]()

    def launch(self, name: str, *, after: Sequence[str] = (), parts: int | None = None, code: int | None = None) -> None:
        step = next(step for step in self.study.steps if step.name == name)
        launches = step.home / LAUNCHES
        launches.mkdir(parents=True, exist_ok=True)
        folder = new_folder(launches)
        words = step.command.words
        write_launch(folder, Launch(command=words, commit=None, changed=False, nodes=1, tasks_per_node=1, parts=parts, after=tuple(after)))
        if code is None:
            number = str(len(self.jobs) + 7)
            self.jobs.append(QueuedJob(job=number, state="PENDING", reason="Dependency", nodes="", script=folder / SCRIPT))
            return
        for part in [None] if parts is None else range(1, parts + 1):
            append_event(folder, event("end", code=code))
            if part is not None:
                (folder / events_name(None)).rename(folder / events_name(part))

    def states(self) -> dict[str, StepState]:
        return states(self.study, self.jobs)

    def progress(self) -> list[Progress]:
        return [state.progress for state in self.states().values()]


@pytest.fixture
def launched(tmp_path: Path) -> Launched:
    return Launched(tmp_path)


def test_a_study_goes_from_nothing_to_its_end(launched: Launched) -> None:
    assert launched.progress() == [Progress.TO_DO] * 3
    assert launched.states()["vocabulary"].detail == "after shards"
    launched.launch("probe", parts=2, code=0)
    launched.launch("shards", after=["probe/0001"], code=2)
    launched.launch("vocabulary", after=["shards/0001"])
    assert launched.progress() == [Progress.FINISHED, Progress.ENDED, Progress.QUEUED]
    assert launched.states()["shards"].detail == "job 7 start 0 ended with 2 (mistake), not requeued"
    with pytest.raises(UserError, match=r"step vocabulary \(job 7 PENDING Dependency\) was queued .* `mplug2 jobs cancel"):
        plan_study(launched.states(), _profiles("slurm_8x8"))
    launched.jobs.clear()
    assert launched.progress() == [Progress.FINISHED, Progress.ENDED, Progress.ENDED]
    assert [each.waits_for for each in plan_study(launched.states(), _profiles("slurm_8x8"))] == [(), ("shards",)]
    launched.launch("shards", after=["probe/0001"], code=0)
    launched.launch("vocabulary", after=["shards/0002"], code=0)
    assert launched.progress() == [Progress.FINISHED] * 3


def test_queued_steps_are_left_alone(launched: Launched) -> None:
    launched.launch("probe", parts=2)
    launched.launch("shards", after=["probe/0001"])
    (left,) = plan_study(launched.states(), _profiles("slurm_8x8"))
    assert (left.step.name, left.waits_for) == ("vocabulary", ("shards",))


def test_what_was_made_of_other_things_is_made_again(launched: Launched, tmp_path: Path) -> None:
    launched.launch("probe", parts=2, code=0)
    launched.launch("shards", after=["probe/0001"], code=0)
    launched.launch("vocabulary", after=["shards/0001"], code=0)
    launched.study = load(tmp_path, A, {**B, "run": f"{B['run']} --seed 1"}, C)
    assert launched.progress() == [Progress.FINISHED, Progress.OUTDATED, Progress.OUTDATED]
    launched.launch("shards", after=["probe/0001"], code=0)
    assert launched.progress() == [Progress.FINISHED, Progress.FINISHED, Progress.OUTDATED], "its shards are older ones"


def test_a_step_that_does_not_fit_the_cluster_is_told_before_anything_is_submitted(tmp_path: Path) -> None:
    study = load(tmp_path, A, {"name": "pretrain", "run": f"pretrain {PROJECT}/configs/pretrain/demo.yaml layout.data=1024"})
    with pytest.raises(UserError, match=r"^step pretrain: "):
        plan_study(states(study, []), _profiles("slurm_8x8"))


def test_scripts_of_a_dry_run(tmp_path: Path) -> None:
    study = load(tmp_path, A, B, C)
    probe, shards, _ = scripts(plan_study(states(study, []), _profiles("slurm_8x8")))
    assert probe.startswith("# step probe\n#!/bin/bash\n#SBATCH --job-name=probe\n#SBATCH --array=1-2\n")
    assert shards.startswith("# step shards, after the jobs of probe\n") and "data shard listing listing --out 'my shards'" in shards
    assert not (tmp_path / "state").exists()


def _profiles(name: str) -> Profiles:
    slurm = load_cluster(name).slurm
    assert isinstance(slurm, SlurmConfig)
    return Profiles(ranks=slurm, tools=slurm)
