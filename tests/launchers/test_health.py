"""The check of a job's nodes: real tasks that meet, and what each kind of bad node makes them say."""

import os
import subprocess
import sys
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch._C._distributed_c10d import HashStore

from launchers import health_meeting
from launchers.cluster import Device, load_cluster
from launchers.health import command, look_at_node, say
from launchers.health_devices import look_at_device, name_of
from launchers.health_task import Task, UnhealthyError, Verdict
from megatron_mplug2.errors import UserError
from megatron_mplug2.observability.job_events import LAUNCH
from tests.launchers.slurm_cluster import free_ports

PROJECT = Path(__file__).parents[2]


def task(rank: int, world_size: int = 2, *, port: int = 1, nodes: tuple[str, ...] = ("node1", "node2")) -> Task:
    on_each = world_size // len(nodes)
    return Task(
        node=nodes[rank // on_each],
        rank=rank,
        local_rank=rank % on_each,
        world_size=world_size,
        nodes=nodes,
        address="127.0.0.1",
        port=port,
    )


def start(rank: int, launch: Path, port: int) -> "subprocess.Popen[str]":
    """As srun does."""
    place = {"SLURMD_NODENAME": f"node{rank + 1}", "SLURM_PROCID": str(rank), "SLURM_LOCALID": "0", "SLURM_STEP_NUM_TASKS": "2"}
    environ = {**os.environ, **place, "MPLUG2_NODES": "node1 node2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, "-m", "launchers.health", str(launch), "--device=cpu", "--free-gb=0", "--timeout-s=60"]
    return subprocess.Popen(command, cwd=PROJECT, env=environ, stdout=subprocess.PIPE, text=True)


def test_two_nodes_that_are_well(tmp_path: Path) -> None:
    (tmp_path / LAUNCH).touch()
    (port,) = free_ports(1)
    with ExitStack() as stack:
        tasks = [stack.enter_context(start(rank, tmp_path, port)) for rank in range(2)]
        said = [each.communicate(timeout=100)[0] for each in tasks]
    assert said == ["mplug2-health well node1 \n", "mplug2-health well node2 \n"]


def test_a_node_without_the_run_s_folder(tmp_path: Path) -> None:
    look_at_node(task(0), _launch(tmp_path), free_gb=0)
    with pytest.raises(UnhealthyError, match=r"it does not see .*gone/launch\.json") as error:
        look_at_node(task(1), tmp_path / "gone", free_gb=0)
    assert (error.value.verdict, error.value.nodes) == (Verdict.ILL, ["node2"])


def test_a_node_without_room(tmp_path: Path) -> None:
    with pytest.raises(UnhealthyError, match=r"GB free, health\.free_gb asks for 1e\+09"):
        look_at_node(task(0), _launch(tmp_path), free_gb=1e9)


def test_a_node_that_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "health").write_text("in the way")
    with pytest.raises(UnhealthyError, match="it cannot write into") as error:
        health_meeting.leave_probe(task(0), tmp_path / "health", "gpu")
    assert error.value.verdict is Verdict.ILL


def test_a_node_without_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UnhealthyError, match="has no GPU that CUDA can use"):
        look_at_device(task(0), Device.GPU)


def test_a_device_that_computes_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    assert look_at_device(task(0), Device.CPU) == torch.device("cpu")
    cpu = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: cpu(tensor).index_fill(0, torch.tensor([5]), 1.0))
    with pytest.raises(UnhealthyError, match="cpu computes wrong"):
        look_at_device(task(0), Device.CPU)


def test_a_node_that_does_not_come_is_missed(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    with pytest.raises(UnhealthyError, match="node1 waited 1 s for it") as error:
        health_meeting.meet(task(0, port=port), torch.device("cpu"), tmp_path, timeout_s=1)
    assert (error.value.verdict, error.value.nodes) == (Verdict.MISSES, ["node2"])


def test_a_node_that_came_half_is_missed() -> None:
    """One of its two tasks."""
    first = task(0, 4)
    store = HashStore()
    for rank, node in ((0, "node1"), (1, "node1"), (2, "node2")):
        store.set(f"come/{rank}", node)
    with pytest.raises(UnhealthyError) as error:
        health_meeting.wait_for_all(first, store, timedelta(seconds=0.1))
    assert (error.value.verdict, error.value.nodes) == (Verdict.MISSES, ["node2"])


def test_the_first_node_cannot_be_reached(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    with pytest.raises(UnhealthyError, match="node2 cannot meet at 127") as error:
        health_meeting.meet(task(1, port=port), torch.device("cpu"), tmp_path, timeout_s=1)
    assert (error.value.verdict, error.value.nodes) == (Verdict.MISSES, ("node1",))


def test_what_another_node_wrote_is_not_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_meeting, "SEEN_WITHIN_S", 0.0)
    for rank in (0, 1, 2):
        health_meeting.leave_probe(task(rank, 4), tmp_path, f"gpu{rank}")
    with pytest.raises(UnhealthyError, match="node1 does not see what it wrote") as error:
        health_meeting.read_probes(task(0, 4), tmp_path)
    assert (error.value.verdict, error.value.nodes) == (Verdict.MISSES, ["node2"])


def test_ranks_that_share_a_gpu(tmp_path: Path) -> None:
    for rank, device in enumerate(("gpu0", "gpu1", "gpu2", "gpu2")):
        health_meeting.leave_probe(task(rank, 4), tmp_path, device)
    health_meeting.read_probes(task(0, 4), tmp_path)
    with pytest.raises(UnhealthyError, match="its 2 ranks have 1 GPUs"):
        health_meeting.read_probes(task(2, 4), tmp_path)
    assert name_of(task(2, 4), torch.device("cpu")) != name_of(task(3, 4), torch.device("cpu"))


@pytest.mark.parametrize(
    ("body", "said", "code"),
    [
        (None, "mplug2-health ill node2 its check ended with 127 and gave no verdict, see the log of the batch script\n", 127),
        ("exit 1", "mplug2-health ill node2 its check ended with 1 and gave no verdict, see the log of the batch script\n", 1),
        ("echo a library; echo mplug2-health well node2; exit 1", "a library\nmplug2-health well node2\n", 1),
        ("kill -KILL $$", "", 137),
    ],
    ids=["no such interpreter", "it crashes", "it has spoken", "it was killed while it waited"],
)
def test_a_task_that_cannot_speak_is_spoken_for(tmp_path: Path, body: str | None, said: str, code: int) -> None:
    python = tmp_path / "python"
    if body is not None:
        python.write_text(f"#!/bin/sh\n{body}\n")
        python.chmod(0o755)
    slurm = load_cluster("slurm_8x8").slurm
    assert slurm is not None
    asked = command(str(python), tmp_path, slurm)
    assert asked is not None
    environ = {**os.environ, "SLURMD_NODENAME": "node2"}
    done = subprocess.run(asked, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.returncode) == (said, code), done


def test_a_reason_is_one_plain_line(capsys: pytest.CaptureFixture[str]) -> None:
    say(Verdict.ILL, ["node1"], 'a "b"\n\\c \x1b[31m' + "d" * 1000)
    said = capsys.readouterr().out
    assert said.startswith("mplug2-health ill node1 a 'b' /c [31md") and said.count("\n") == 1 and len(said) < 400


def test_a_person_who_tries_it_is_told() -> None:
    with pytest.raises(UserError, match="SLURMD_NODENAME is not set: a job's script runs this under srun"):
        Task.of({})


def _launch(folder: Path) -> Path:
    (folder / LAUNCH).touch()
    return folder
