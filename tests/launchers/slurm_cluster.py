"""A real SLURM of two nodes on this host, for a test session: munged, slurmctld and two slurmd, in a folder and on ports of its own."""

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

needs_slurm = pytest.mark.skipif(
    any(shutil.which(program) is None for program in PROGRAMS),
    reason="no SLURM here: apt-get install --no-install-recommends slurm-wlm slurm-wlm-basic-plugins munge",
)

CONF = """
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={ports[0]}
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
SlurmdTimeout=60
JobRequeue=1
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
NodeName=node1 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[1]} CPUs={cpus} State=UNKNOWN
NodeName=node2 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[2]} CPUs={cpus} State=UNKNOWN
PartitionName=main Nodes=node1,node2 Default=YES MaxTime=INFINITE State=UP
"""


@contextmanager
def running_slurm() -> Iterator[None]:
    """Both nodes are idle inside, and SLURM_CONF says where they are. All that was started is ended, jobs too."""
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True)))
        stack.enter_context(_environment("SLURM_CONF", str(place / "slurm.conf")))
        stack.callback(_end_leftovers, place)
        (place / "state").mkdir()
        ports = _free_ports(3)
        (place / "slurm.conf").write_text(CONF.format(ports=ports, place=place, user=getpass.getuser(), cpus=CPUS))
        (place / "key").write_bytes(os.urandom(128))
        (place / "key").chmod(0o400)
        munge = {"key-file": "key", "socket": "munge.socket", "pid-file": "munged.pid", "log-file": "munged.log", "seed-file": "seed"}
        _start(stack, place, "munged", "--foreground", "--force", *(f"--{name}={place / file}" for name, file in munge.items()))
        _wait(lambda: (place / "munge.socket").exists(), "munged", place)
        _start(stack, place, "slurmctld", "-D")
        for node in ("node1", "node2"):
            _start(stack, place, "slurmd", "-D", "-N", node)
        _wait(lambda: _output("sinfo", "--noheader", "--format=%D %t") == "2 idle", "two idle nodes", place)
        stack.callback(_cancel_all)
        yield


def _start(stack: ExitStack, place: Path, program: str, *arguments: str) -> None:
    log = stack.enter_context((place / f"{program}.out").open("a"))
    process = subprocess.Popen([program, *arguments], stdout=log, stderr=log)
    stack.callback(_end, process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _end_leftovers(place: Path) -> None:
    """Steps of jobs, and their tasks, outlive slurmd."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("SLURM_CONF") == str(place / "slurm.conf"):
                process.kill()


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


def _free_ports(count: int) -> list[int]:
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
