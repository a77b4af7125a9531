from pathlib import Path

import pytest

from tests.checkpoint.runs import DP2, train_save_train
from tests.ranks import run_ranks


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    run_ranks(2, train_save_train, folder, DP2)
    return folder
