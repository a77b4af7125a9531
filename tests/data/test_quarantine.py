from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.ledger import LEDGER, Ledger
from megatron_mplug2.data.quarantine import ATTEMPTS, candidates, check_limit, retried
from megatron_mplug2.data.sampler import Sampler
from megatron_mplug2.data.split import Split
from megatron_mplug2.data.substitution import Fault, Substitution, settled
from megatron_mplug2.errors import UserError


def find(size: int, start: int, position: int, seed: int = 0) -> list[int]:
    order = Sampler(seed=seed, task=Task.TEXT, size=size)
    return list(candidates(order, seed=seed, task=Task.TEXT, start=start, global_batch=16, position=position))


def event(position: int, attempt: int = 1, fault: Fault = Fault.CONTENT, reason: str = "empty") -> Substitution:
    return Substitution(
        split=Split.TRAIN,
        task=Task.TEXT,
        corpus="c0ffee",
        dataset="texts",
        shard="00000.tar",
        position=position,
        index=3,
        key="three",
        fault=fault,
        reason=reason,
        attempt=attempt,
        substitute=7,
    )


@pytest.mark.parametrize("size", [20, 100, 5000])
def test_substitutes_are_not_in_the_batch_while_others_are_left(size: int) -> None:
    for start in (0, 16, size - 5):  # the last reaches over the end of an epoch
        batch = set(Sampler(seed=0, task=Task.TEXT, size=size).at(np.arange(start, start + 16)).indices.tolist())
        for position in range(start, start + 16):
            found = find(size, start, position)
            outside = [one not in batch for one in found]
            assert outside == sorted(outside, reverse=True) and set(found) - batch, "those of the batch come last"
            assert all(outside) or len(set(found) - batch) == size - len(batch) < ATTEMPTS


def test_positions_of_a_batch_get_different_substitutes() -> None:
    found = [find(5000, 32, position) for position in range(32, 48)]
    assert len({one for row in found for one in row}) == 16 * ATTEMPTS


def test_small_streams_try_all_that_is_left_and_then_the_batch() -> None:
    batch = Sampler(seed=0, task=Task.TEXT, size=20).at(np.arange(16)).indices.tolist()
    left = set(range(20)) - set(batch)
    for position in range(16):
        found = find(20, 0, position)
        tried = len(found) - 15
        assert set(found[:tried]) == left
        assert found[tried:] == batch[position + 1 :] + batch[:position], "the batch's next, and never the bad one itself"
    assert len({find(16, 0, position)[0] for position in range(16)}) == 16
    assert find(1, 0, 3) == []


def test_the_candidates_of_the_rest_are_kept() -> None:
    """Recorded substitutions are repeated by their number among the candidates."""
    assert find(5000, 32, 40)[:4] == [1044, 2815, 1869, 4223]
    assert find(20, 0, 3)[:6] == [5, 5, 13, 19, 10, 5]


def test_substitutes_are_a_function_of_seed_and_position() -> None:
    assert find(5000, 32, 40) == find(5000, 32, 40)
    assert find(5000, 32, 40) != find(5000, 32, 41) and find(5000, 32, 40) != find(5000, 32, 40, seed=1)


def test_candidates_are_lazy() -> None:
    """Nothing is computed for a good sample."""
    order = Sampler(seed=0, task=Task.TEXT, size=10**12)
    found = candidates(order, seed=0, task=Task.TEXT, start=0, global_batch=16, position=3)
    assert len(list(islice(found, 2))) == 2


def test_ranks_settle_on_the_last_candidate() -> None:
    one, two, other = event(5), event(5, attempt=2, fault=Fault.STORAGE), event(4)
    assert settled((one, other, two, one)) == settled((two, one, other)) == (other, two)


class Failing:
    """Reads that fail some times, then don't."""

    def __init__(self, failures: int, error: Callable[[str], Exception] = OSError) -> None:
        self.reads = 0
        self._failures = failures
        self._error = error

    def __call__(self) -> str:
        self.reads += 1
        if self.reads <= self._failures:
            raise self._error("again")
        return "read"


def test_reads_are_tried_again() -> None:
    assert retried(Failing(2)) == "read"
    failing = Failing(9)
    with pytest.raises(OSError, match="again"):
        retried(failing)
    assert failing.reads == 3


def test_other_errors_are_not_tried_again() -> None:
    failing = Failing(1, ValueError)
    with pytest.raises(ValueError, match="again"):
        retried(failing)
    assert failing.reads == 1


def test_ledger_holds_each_event_once_over_resumes(tmp_path: Path) -> None:
    Ledger(tmp_path / "run").write((event(1), event(2)))
    ledger = Ledger(tmp_path / "run")
    ledger.write((event(2), event(3)))
    ledger.write((event(3),))
    assert ledger.events == Ledger(tmp_path / "run").events == (event(1), event(2), event(3))
    assert len((tmp_path / "run" / LEDGER).read_text().splitlines()) == 3


def test_a_run_without_bad_samples_has_no_ledger(tmp_path: Path) -> None:
    Ledger(tmp_path).write(())
    assert not (tmp_path / LEDGER).exists()


def test_a_torn_last_line_counts_for_nothing(tmp_path: Path) -> None:
    Ledger(tmp_path).write((event(1), event(2)))
    path = tmp_path / LEDGER
    path.write_bytes(path.read_bytes()[:-20])
    ledger = Ledger(tmp_path)
    assert ledger.events == (event(1),)
    ledger.write((event(3, reason="brü"),))
    assert Ledger(tmp_path).events == (event(1), event(3, reason="brü"))


def test_limit(tmp_path: Path) -> None:
    check_limit(Split.TRAIN, substituted=50, seen=99, limit=0.1, run_dir=tmp_path)
    check_limit(Split.TRAIN, substituted=10, seen=100, limit=0.1, run_dir=tmp_path)
    with pytest.raises(UserError, match=r"11 of 100 samples of data.train .*bad_sample_limit=0.1.*quarantine.jsonl"):
        check_limit(Split.TRAIN, substituted=11, seen=100, limit=0.1, run_dir=tmp_path)
