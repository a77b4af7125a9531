"""torchrun as what starts ranks: the script, and real agents of two nodes on this host."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from launchers.batch_script import render
from launchers.cluster import Launcher, load_cluster
from launchers.launching import Request, Work, plan
from launchers.torchrun import agent_command
from tests.data_tools.stages.corpora import LIMIT_S, wait_for

GOLDEN = Path(__file__).parent / "golden"
PROJECT = Path(__file__).parents[2]
RANK = """
import os, signal, sys, time
from pathlib import Path
from launchers.exit_notes import write_exit_note
rank = os.environ["RANK"]
came = []
signal.signal(signal.SIGUSR2, lambda *_: came.append(1))
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2})
place = Path(sys.argv[1])
(place / f"{rank}.of.{os.environ['WORLD_SIZE']}").touch()
while not came:
    time.sleep(0.02)
write_exit_note(85, os.environ)
(place / f"{rank}.saved").touch()
sys.exit(85)
"""


def test_golden(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a change that is meant: write what `render` gives into the file, and read the difference."""
    monkeypatch.chdir("/tmp")
    slurm = load_cluster("slurm_8x8").slurm
    assert slurm is not None
    slurm = slurm.model_copy(update={"launcher": Launcher.TORCHRUN, "python": "python3"})
    request = Request(work=Work.PRETRAIN, config=PROJECT / "configs/pretrain/large.yaml", overrides=("run_dir=/shared/runs/large",))
    script = render(plan(request, slurm).spec(Path("/shared/runs/large/launches/0001")))
    assert script == (GOLDEN / "torchrun.sh").read_text()


@pytest.mark.long
def test_ranks_of_two_agents_take_the_cluster_s_signal(tmp_path: Path) -> None:
    """Which comes to the agents too, as SLURM sends it, and does not end them."""
    (tmp_path / "rank.py").write_text(RANK)
    (tmp_path / "notes").mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = agent_command(sys.executable, [str(tmp_path)], nodes=2, ranks_per_node=2)
    command = tuple(re.sub(r"-m megatron_mplug2\.cli", "-m rank", word) for word in command)
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "MPLUG2_EXIT_NOTES": str(tmp_path / "notes")}
    environ = {**os.environ, **meeting, "PYTHONPATH": f"{PROJECT}:{tmp_path}"}
    agents = []
    for node in ("0", "1"):
        own = {"SLURM_NODEID": node, "SLURM_PROCID": node}
        agents.append(subprocess.Popen(command, env=environ | own, stderr=subprocess.PIPE, start_new_session=True))
    try:
        wait_for(lambda: len(list(tmp_path.glob("*.of.4"))) == 4, "ranks")
        for agent in agents:
            os.killpg(agent.pid, signal.SIGUSR2)
        assert [agent.wait(LIMIT_S) for agent in agents] == [1, 1], "torchrun's own status, whatever its ranks said"
    finally:
        for agent in agents:
            agent.kill()
            agent.communicate()
    notes = sorted((tmp_path / "notes").iterdir())
    assert [note.name for note in notes] and {note.read_text() for note in notes} == {"85\n"}
