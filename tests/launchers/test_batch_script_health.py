"""What the batch script makes of its nodes' health check."""

from pathlib import Path

import pytest

from megatron_mplug2.errors import ExitCode
from megatron_mplug2.observability.job_events import read_events
from tests.launchers.batch_jobs import PLAIN, run


def mark(*lines: str) -> str:
    return "a library's line\n" + "".join(f"mplug2-health {line}\n" for line in lines)


@pytest.mark.parametrize(
    ("nodes", "bad", "said"),
    [
        (mark("well node1", "ill node2 it has no GPU", "misses node1 not there"), "node2", "it has no GPU"),
        (mark("misses node2 not there", "misses node2 not there", "misses node1 no way"), "node2", "not there"),
        (mark("misses node2 not there", "misses node1 no way"), None, "not there"),
        (mark("vain node1 nccl cannot sum", "well node2 "), None, "nccl cannot sum"),
        ("", None, "no node has answered"),
    ],
    ids=["it says so itself", "most miss it", "each the other", "all together", "silence"],
)
def test_a_bad_node_is_left_out_of_the_next_start(tmp_path: Path, nodes: str, bad: str | None, said: str) -> None:
    (tmp_path / "excluded").write_text("node9")
    assert run(tmp_path, PLAIN, code=0, nodes=nodes) == ExitCode.BAD_NODE
    assert not (tmp_path / "srun.args").exists(), "the ranks are not started"
    told = (tmp_path / "scontrol.args").read_text().splitlines()
    assert told == ["requeue 7", *([f"update JobId=7 ExcNodeList=node9,{bad}"] if bad else [])]
    health, end = read_events(tmp_path)[-2:]
    assert (health.event, health.next, health.why) == ("unhealthy", "exclude" if bad else "requeue", said)
    assert bad is None or health.nodes == bad
    assert (end.event, end.code, end.next) == ("end", ExitCode.BAD_NODE, "requeue")


def test_a_check_that_fails_on_every_node_would_fail_again(tmp_path: Path) -> None:
    assert run(tmp_path, PLAIN, code=0, nodes=mark("ill node1 no room", "ill node2 no room")) == ExitCode.BAD_NODE
    assert not (tmp_path / "scontrol.args").exists()
    assert [(event.event, event.next) for event in read_events(tmp_path)[-2:]] == [("unhealthy", "end"), ("end", "end")]


def test_bad_nodes_come_to_an_end_too(tmp_path: Path) -> None:
    run(tmp_path, PLAIN, code=0, nodes=mark("ill node2 no room"), restarts=20)
    assert not (tmp_path / "scontrol.args").exists() and read_events(tmp_path)[-1].next == "limit"


def test_a_profile_may_want_no_check(tmp_path: Path) -> None:
    assert run(tmp_path, PLAIN.model_copy(update={"health": None}), code=0, nodes="") == 0
    assert (tmp_path / "srun.args").exists()
