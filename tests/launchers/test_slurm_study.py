"""Arrays of data stages, studies, and ranks that torchrun starts, on a real SLURM of two nodes."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from data_tools.stages.plan import Packing
from data_tools.stages.shard import shard
from data_tools.stages.stage import Effort
from launchers import queue
from launchers.launch_folder import launch_folders, read_launch
from megatron_mplug2.config.load import resolved_yaml
from megatron_mplug2.errors import ExitCode
from megatron_mplug2.observability.job_events import read_events
from tests.data_tools.stages.corpora import listing_corpus, mixed_corpus, probed, tree
from tests.launchers.slurm_cluster import Slurm, needs_slurm
from tests.training.corpus import demo_config, make_corpus

pytestmark = [pytest.mark.long, needs_slurm, pytest.mark.timeout(600)]

PROJECT = Path(__file__).parents[2]
PATIENCE_S = 300
FAILS_ONCE = """#!/bin/sh
if [ "$SLURM_ARRAY_TASK_ID.${SLURM_RESTART_COUNT:-0}" = 2.0 ]; then exit 1; fi
exec "%s" "$@"
"""


class Place:
    """A folder to launch from, whose name a shell would obey; its part 2 of an array fails the first time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / 'it\'s $(touch obeyed) "100%j"'
        self.folder.mkdir()
        self.python = folder / "python"  # a plain name: proctrack/linuxproc loses processes whose name has a space
        self.python.write_text(FAILS_ONCE % sys.executable)
        self.python.chmod(0o755)
        self.profile()

    def profile(self, **slurm: Any) -> None:
        shape = {"max_nodes": 2, "tasks_per_node": 2, "device": "cpu", "cpus_per_task": 1, "time_limit_min": 10, "requeue_limit": 1}
        environment = {"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": 1}  # names of nodes on one host do not resolve
        tree = {"slurm": {**shape, "python": str(self.python), "environment": environment, **slurm}}
        (self.folder / "cluster.yaml").write_text(yaml.safe_dump(tree))

    def mplug2(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "megatron_mplug2.cli", *arguments]
        environ = {**os.environ, "PYTHONPATH": str(PROJECT)}
        return subprocess.run(command, cwd=self.folder, env=environ, capture_output=True, text=True, timeout=120, check=False)

    def queue_empties(self) -> None:
        wait(lambda: not queue.queued(), self.logs)

    def logs(self) -> str:
        paths = sorted(self.folder.rglob("launches/*/logs/*"))
        return "\n".join(f"{path.name}: {path.read_text(errors='replace')[-3000:]}" for path in paths)


def wait(ready: Callable[[], bool], told: Callable[[], str]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not ready():
        assert time.monotonic() < deadline, told()
        time.sleep(0.3)


def test_an_array_gives_the_bytes_of_one_process(slurm: Slurm, tmp_path: Path) -> None:
    place = Place(tmp_path)
    listing = probed(mixed_corpus(tmp_path / "corpus"), tmp_path / "probed")
    shard(listing_corpus(listing), tmp_path / "undisturbed", Packing(shard_samples=2), Effort())
    stage = ("data", "shard", "listing", str(listing), "--out", "the $(touch obeyed) shards", "--shard-samples", "2")
    command = ("launch", "--cluster", "cluster.yaml", "--parts", "3", "--at-once", "2", "--", *stage)
    launched = place.mplug2(*command)
    assert launched.returncode == 0 and ": 3 parts, " in launched.stdout, launched.stderr
    again = place.mplug2(*command)
    assert again.returncode == ExitCode.MISTAKE and "is using" in again.stderr and again.stderr.count("\n") == 1
    place.queue_empties()
    assert tree(place.folder / "the $(touch obeyed) shards") == tree(tmp_path / "undisturbed"), place.logs()
    (home,) = (place.folder / "runs/jobs").iterdir()
    (folder,) = launch_folders(home)
    ends = sorted((event.code, event.next) for event in read_events(folder) if event.event == "end")
    assert ends == [(0, "end")] * 3 + [(1, "requeue")], "the part that failed, alone, is started again"
    job = read_launch(folder).jobs[0]
    assert {f"{job}_{part}.log" for part in (1, 2, 3)} <= {path.name for path in (folder / "logs").iterdir()}
    assert "COMPLETED" in place.mplug2("jobs", "status", str(home)).stdout
    assert "nothing is left to do" in place.mplug2("jobs", "resume", str(home)).stderr
    assert not list(tmp_path.rglob("obeyed")) and not (PROJECT / "obeyed").exists()


def test_a_study_goes_on_where_it_failed(slurm: Slurm, tmp_path: Path) -> None:
    """The step in the middle fails for good: what comes after it does not run, until the study is run again."""
    place = Place(tmp_path)
    mixed_corpus(tmp_path / "corpus")
    steps = [
        {"name": "probe", "run": f"data probe listing '{tmp_path}/corpus/listing' --out 'the $(touch obeyed) listing'", "parts": 2},
        {"name": "shards", "run": "data shard listing 'the $(touch obeyed) listing' --out shards", "after": ["probe"]},
        {"name": "vocabulary", "run": "data tokenizer shards --out vocab.txt --size 64", "after": ["shards"]},
        {"name": "page", "run": "data report shards --out page.html", "after": ["shards", "probe"]},
    ]
    (place.folder / "study.yaml").write_text(yaml.safe_dump({"folder": "state", "steps": steps}))
    (place.folder / "shards").mkdir()
    (place.folder / "shards/mine").touch()
    run = ("study", "run", "study.yaml", "--cluster", "cluster.yaml")
    launched = place.mplug2(*run)
    assert launched.returncode == 0 and launched.stdout.count(" after ") == 3, launched.stderr
    again = place.mplug2(*run)
    assert again.returncode == 0 and ": job " not in again.stdout, "nothing is submitted twice"
    place.queue_empties()
    assert states(place) == {"probe": "finished", "shards": "not finished", "vocabulary": "not finished", "page": "not finished"}, (
        place.logs()
    )
    assert "shards exists already" in place.mplug2("jobs", "logs", "state/shards").stdout
    assert not (place.folder / "vocab.txt").exists() and not list(place.folder.glob("state/*/launches/0002"))
    (place.folder / "shards/mine").unlink()
    resumed = place.mplug2(*run)
    assert resumed.stdout.startswith("probe: finished\nshards: job "), resumed
    place.queue_empties()
    assert set(states(place).values()) == {"finished"}, place.logs()
    assert (place.folder / "vocab.txt").exists() and (place.folder / "page.html").exists()
    assert [folder.name for folder in launch_folders(place.folder / "state/probe")] == ["0001"]
    assert not list(tmp_path.rglob("obeyed"))


def states(place: Place) -> dict[str, str]:
    """By step, as a person is told."""
    told = place.mplug2("study", "status", "study.yaml").stdout.splitlines()
    return {line.split()[0]: line[12:28].strip() for line in told}


def test_ranks_of_torchrun_save_when_asked_and_go_on(slurm: Slurm, tmp_path: Path) -> None:
    """2 nodes x 2 ranks. The signal is one that SLURM sends, to the agents too."""
    place, run = Place(tmp_path), tmp_path / "run"
    place.profile(launcher="torchrun")
    text_only = ["schedule=[{steps: 60, text: 1, resolution: 32}]", "data.workers=0", "layout.data=4", "training.checkpoint_every=1000"]
    (place.folder / "run.yaml").write_text(resolved_yaml(demo_config(make_corpus(tmp_path / "corpus"), run, text_only)))
    launched = place.mplug2("launch", "run.yaml", "--cluster", "cluster.yaml")
    assert launched.returncode == 0, launched.stderr
    wait(lambda: bool(steps_of(run)), place.logs)
    (folder,) = launch_folders(run)
    subprocess.run(["scancel", "--signal=USR2", *read_launch(folder).jobs], check=True, timeout=60)
    place.queue_empties()
    ends = [(event.code, event.next) for event in read_events(folder) if event.event == "end"]
    assert ends == [(ExitCode.STOPPED, "requeue"), (ExitCode.FINISHED, "end")], place.logs()
    assert steps_of(run) == list(range(60)), "no step is lost, none done twice"


def steps_of(run: Path) -> list[int]:
    metrics = run / "metrics.jsonl"
    lines = [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.exists() else []
    return [line["step"] for line in lines if line["kind"] == "train"]
