"""A real SLURM of three nodes on this host, for a test session: munged, slurmctld and three slurmd, in a folder and on ports of its own."""

import getpass
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil
import pytest

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel", "sinfo")
PATIENCE_S = 60
CPUS = 4
"""That a node pretends to have."""
NODES = ("node1", "node2", "node3")
URGENT = "urgent"
"""A partition whose jobs take the nodes of others."""

needs_slurm = pytest.mark.skipif(
    any(shutil.which(program) is None for program in PROGRAMS),
    reason="no SLURM here: apt-get install --no-install-recommends slurm-wlm slurm-wlm-basic-plugins munge",
)

CONF = """
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={place}/munge.socket,cred_expire=5
CryptoType=crypto/munge
StateSaveLocation={place}/state
SlurmdSpoolDir={place}/spool-%n
SlurmctldPidFile={place}/slurmctld.pid
SlurmdPidFile={place}/slurmd-%n.pid
SlurmctldLogFile={place}/slurmctld.log
SlurmdLogFile={place}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=bf_interval=1,sched_interval=2,batch_sched_delay=0
KillWait=5
SlurmdTimeout={slurmd_timeout_s}
JobRequeue=1
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
{nodes}
PartitionName=main Nodes={all} Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=120
PartitionName={urgent} Nodes={all} MaxTime=INFINITE State=UP PriorityTier=2 PreemptMode=OFF
"""


NODE = "NodeName={name} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port} CPUs={cpus} State=UNKNOWN"


class Slurm:
    """The running one."""

    def __init__(self, place: Path, nodes: dict[str, "subprocess.Popen[bytes]"]) -> None:
        self._place, self._nodes = place, nodes

    def kill_node(self, name: str) -> None:
        """All of its processes, its daemon first, as a power cut does."""
        self._nodes[name].kill()
        self._nodes[name].wait()
        for process in _own_processes(self._place):
            with suppress(psutil.Error):
                if process.environ().get("SLURMD_NODENAME") == name or _serves(process, self._place / f"spool-{name}"):
                    process.kill()


@contextmanager
def set_down(name: str) -> Iterator[None]:
    """A node, as those who run a cluster do it: what runs there is ended. It comes back afterwards, and not by itself before."""
    for state in ("down", "drain"):
        _control(name, state)
    try:
        yield
    finally:
        _control(name, "resume")


def _control(node: str, state: str) -> None:
    subprocess.run(["scontrol", "update", f"nodename={node}", f"state={state}", "reason=test"], check=True, timeout=PATIENCE_S)


@contextmanager
def running_slurm(*, slurmd_timeout_s: int = 60) -> Iterator[Slurm]:
    """All nodes are idle inside, and SLURM_CONF says where they are. All that was started is ended, jobs too.

    `slurmd_timeout_s`: how long a node may be silent before it is taken for dead.
    """
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True)))
        stack.enter_context(_environment("SLURM_CONF", str(place / "slurm.conf")))
        stack.callback(_end_leftovers, place)
        (place / "state").mkdir()
        first, *others = free_ports(1 + len(NODES))
        nodes = "\n".join(NODE.format(name=name, port=port, cpus=CPUS) for name, port in zip(NODES, others, strict=True))
        shape = {"port": first, "nodes": nodes, "all": ",".join(NODES), "urgent": URGENT, "slurmd_timeout_s": slurmd_timeout_s}
        (place / "slurm.conf").write_text(CONF.format(place=place, user=getpass.getuser(), **shape))
        (place / "key").write_bytes(os.urandom(128))
        (place / "key").chmod(0o400)
        munge = {"key-file": "key", "socket": "munge.socket", "pid-file": "munged.pid", "log-file": "munged.log", "seed-file": "seed"}
        _start(stack, place, "munged", "--foreground", "--force", *(f"--{name}={place / file}" for name, file in munge.items()))
        _wait(lambda: (place / "munge.socket").exists(), "munged", place)
        _start(stack, place, "slurmctld", "-D")
        daemons = {node: _start(stack, place, "slurmd", "-D", "-N", node) for node in NODES}
        idle = f"{len(NODES)} idle"
        _wait(lambda: _output("sinfo", "--noheader", "--partition=main", "--format=%D %t") == idle, "idle nodes", place)
        stack.callback(_cancel_all)
        yield Slurm(place, daemons)


def _start(stack: ExitStack, place: Path, program: str, *arguments: str) -> "subprocess.Popen[bytes]":
    log = stack.enter_context((place / f"{program}.out").open("a"))
    process = subprocess.Popen([program, *arguments], stdout=log, stderr=log)
    stack.callback(_end, process)
    return process


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _end_leftovers(place: Path) -> None:
    """Steps of jobs, and their tasks, outlive slurmd."""
    for process in _own_processes(place):
        with suppress(psutil.Error):
            process.kill()


def _own_processes(place: Path) -> list[psutil.Process]:
    """Daemons, steps and tasks of this SLURM, and what the tests started in it."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("SLURM_CONF") == str(place / "slurm.conf"):
                found.append(process)
    return found


def _serves(process: psutil.Process, spool: Path) -> bool:
    """Whether it listens there as the step of a job does."""
    return any(str(connection.laddr).startswith(f"{spool}/") for connection in process.net_connections(kind="unix"))


def _cancel_all() -> None:
    subprocess.run(["scancel", "--me"], check=False, timeout=PATIENCE_S)
    deadline = time.monotonic() + PATIENCE_S
    while _output("squeue", "--noheader", "--format=%A") and time.monotonic() < deadline:
        time.sleep(0.2)


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    return done.stdout.strip()


def _wait(ready: Callable[[], bool], what: str, place: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not ready():
        logs = "\n".join(f"{path.name}: {path.read_text(errors='replace')[-2000:]}" for path in sorted(place.glob("*.log")))
        assert time.monotonic() < deadline, f"no {what}\n{logs}"
        time.sleep(0.1)
