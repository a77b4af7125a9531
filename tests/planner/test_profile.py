"""The file of a measured machine."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from megatron_mplug2.errors import UserError
from megatron_mplug2.planner.hardware import GPUS
from megatron_mplug2.planner.profile import gpu_of, profile_tree, read_profile
from megatron_mplug2.planner.rates import Curve, Exchange, level
from tests.planner.machine import EXCHANGES, MEASURED, PROFILE, SEQUENCE, TOGETHER


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


LACKS = {
    "it has no rates of one rank alone": replace(MEASURED, rates={2: TOGETHER}),
    "it has no rates of all exchanges between 2 ranks": replace(MEASURED, exchanges={2: {Exchange.MESSAGE: level(1e9)}}),
    "it has no rates of layers that are split while 2 ranks work": replace(MEASURED, sequence={4: SEQUENCE}),
    "it has a rate that is none": replace(MEASURED, exchanges={2: {**EXCHANGES, Exchange.MESSAGE: Curve(())}}),
}


@pytest.mark.parametrize("lack", LACKS)
def test_a_profile_that_lacks_what_a_plan_asks_for_is_one_line(tmp_path: Path, lack: str) -> None:
    path = tmp_path / "machine.json"
    path.write_text(json.dumps({"figures": profile_tree(replace(PROFILE, measured=LACKS[lack]))}))
    with pytest.raises(UserError, match=rf"^--gpu .*machine\.json is no profile, {lack}: write it anew with `mplug2 bench calibrate`$"):
        gpu_of(str(path))


def test_rates_that_are_zero_or_out_of_order_are_none(tmp_path: Path) -> None:
    path = written(tmp_path)
    whole = path.read_text()
    for good, bad in (('"elementwise": 2000000000.0', '"elementwise": 0.0'), ("[1000000.0, 10000000000.0]", "[1e9, 1e10]")):
        assert good in whole
        path.write_text(whole.replace(good, bad))
        with pytest.raises(UserError, match="it has a rate that is none"):
            gpu_of(str(path))
