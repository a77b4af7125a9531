"""The file of a measured machine."""

import json
from pathlib import Path

import pytest

from megatron_mplug2.errors import UserError
from megatron_mplug2.planner.hardware import GPUS
from megatron_mplug2.planner.profile import gpu_of, profile_tree, read_profile
from tests.planner.machine import PROFILE


def written(folder: Path) -> Path:
    path = folder / "machine.json"
    path.write_text(json.dumps({"figures": profile_tree(PROFILE)}))
    return path


def test_a_profile_comes_back_from_its_file(tmp_path: Path) -> None:
    assert read_profile(written(tmp_path)) == PROFILE
    assert gpu_of(str(written(tmp_path))) == PROFILE.gpu()


def test_the_peak_is_the_quickest_product() -> None:
    assert list(PROFILE.gpu().peak.values()) == [40e9]


def test_a_gpus_name_is_none_of_a_file() -> None:
    assert gpu_of("h200") is GPUS["H200"]


def test_files_that_are_no_profile_are_one_line(tmp_path: Path) -> None:
    path = written(tmp_path)
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2])
    with pytest.raises(
        UserError, match=r"^--gpu .*machine\.json is no profile, or is cut off: write it anew with `mplug2 bench calibrate`$"
    ):
        gpu_of(str(path))
    path.write_text(whole.replace('"memory": 4000000000.0', '"memory": "much"'))
    with pytest.raises(UserError, match=r"^--gpu .*machine\.json is no profile at memory: "):
        gpu_of(str(path))
    with pytest.raises(UserError, match=r"^--gpu .*none\.json: No such file"):
        gpu_of(str(tmp_path / "none.json"))
