"""What the tests on a real SLURM share, each file with one of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launchers.slurm_cluster import Slurm, running_slurm
from tests.training.corpus import make_corpus


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    with running_slurm() as running:
        yield running


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("corpus"))
