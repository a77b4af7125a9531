"""Runs on the SLURM of `slurm_cluster`: launched in a folder of their own, waited for, and held against an undisturbed one."""

import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from launchers import queue
from launchers.jobs import JobStatus, status_of
from launchers.launch_folder import launch_folders
from megatron_mplug2.config.load import load_config, resolved_yaml
from megatron_mplug2.data.loader import Loader
from megatron_mplug2.data.split import Split
from megatron_mplug2.observability.job_events import read_events
from tests.training.corpus import demo_config

PROJECT = Path(__file__).parents[2]
PATIENCE_S = 800
STEPS = 12


class Place:
    """A run that can be launched, in a folder whose name a shell would obey."""

    def __init__(self, folder: Path, corpus: Path, *overrides: str) -> None:
        folder = folder / 'it\'s $(touch obeyed) "100%j" # `here`'
        folder.mkdir()
        self.folder, self.run = folder, folder / "my run"
        text_only = ["schedule=[{steps: 12, text: 1, resolution: 32}]", "data.workers=0"]
        config = demo_config(corpus, self.run, [*text_only, *overrides])
        (folder / "run.yaml").write_text(resolved_yaml(config))
        self.profile(sys.executable)

    def profile(self, python: str, **slurm: Any) -> None:
        shape = {"max_nodes": 2, "tasks_per_node": 2, "device": "cpu", "cpus_per_task": 1, "time_limit_min": 10, "health": None}
        environment = {"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": 1}  # names of nodes on one host do not resolve
        (self.folder / "cluster.yaml").write_text(
            yaml.safe_dump({"slurm": {**shape, "python": python, "environment": environment, **slurm}})
        )

    def stand_in(self, script: str) -> str:
        """A program in the place of Python. Its name is plain: proctrack/linuxproc loses processes whose name has a space."""
        path = self.folder / "python"
        path.write_text(script)
        path.chmod(0o755)
        return str(path)

    def mplug2(self, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "megatron_mplug2.cli", *map(str, arguments)]
        environ = {**os.environ, "PYTHONPATH": str(PROJECT)}
        return subprocess.run(command, cwd=self.folder, env=environ, capture_output=True, text=True, timeout=120, check=False)

    def launch(self) -> "subprocess.CompletedProcess[str]":
        return self.mplug2("launch", "run.yaml", "--cluster", "cluster.yaml")

    def status(self) -> JobStatus:
        return status_of(self.run, queue.queued())

    def wait(self, ready: Callable[[JobStatus], bool]) -> JobStatus:
        deadline = time.monotonic() + PATIENCE_S
        while not ready(found := self.status()):
            assert time.monotonic() < deadline, f"{found}\n{self.logs()}"
            time.sleep(0.3)
        return found

    def ended(self) -> JobStatus:
        return self.wait(lambda found: not found.queued)

    def wait_for_state(self, job: str, *states: str) -> None:
        """Of any job."""
        deadline = time.monotonic() + PATIENCE_S
        while (state := queue.ended_state(job)) not in states:
            assert time.monotonic() < deadline, f"job {job} is {state}"
            time.sleep(0.3)

    def logs(self) -> str:
        paths = sorted(self.run.glob("launches/*/logs/*"))
        return "\n".join(f"{path.name}: {path.read_text(errors='replace')[-3000:]}" for path in paths)

    def ends(self) -> list[tuple[int | None, str]]:
        return [(event.code, event.next) for event in read_events(launch_folders(self.run)[-1]) if event.event == "end"]

    def faulty(self, plan: str) -> str:
        """A stand-in that trains, with the faults of a plan of `faulty_rank`."""
        return self.stand_in(f'#!/bin/sh\nexec "{sys.executable}" "{PROJECT}/tests/launchers/faulty_rank.py" {plan} "$@"\n')

    def nodes_of_starts(self) -> list[str]:
        return [event.nodes for event in read_events(launch_folders(self.run)[-1]) if event.event == "start"]

    def history(self, event: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in (self.run / "history.jsonl").read_text().splitlines()]
        return [line for line in lines if line["event"] == event]

    def check_samples(self) -> None:
        """Every step has read what it reads in an undisturbed run, in each start that did it whole."""
        config = load_config(self.folder / "run.yaml", ["layout.data=1", "layout.tensor=1"])
        loader = Loader(config, Split.TRAIN, data_rank=0, data_size=1, needs_media=True, start_step=0, state=None, peers=None, ledger=None)
        expected = {planned.step: [batch.sample_ids.tolist() for batch in batches] for planned, batches in loader}
        done = defaultdict(set)
        for (step, start), batches in self._read_samples().items():
            ids = [number for batch in sorted(batches) for number in batches[batch]]
            if len(ids) == config.training.global_batch:
                assert ids == [number for batch in expected[step] for number in batch], f"step {step} of start {start}"
                done[step].add(start)
        assert sorted(done) == list(range(STEPS))

    def _read_samples(self) -> dict[tuple[int, str], dict[int, list[int]]]:
        """(step, start) -> number of the microbatch in the global batch -> ids, as `faulty_rank` wrote them."""
        found: dict[tuple[int, str], dict[int, list[int]]] = defaultdict(dict)
        for path in self.run.glob("samples/*.jsonl"):
            for line in path.read_text().splitlines():
                record = json.loads(line)
                found[record["step"], record["start"]].update({int(number): ids for number, ids in record["batches"].items()})
        return found
