"""How DeepSpeed is found and set up."""

import sys
from pathlib import Path

import deepspeed
import pytest

from megatron_mplug2.errors import UserError
from megatron_mplug2.training.deepspeed import library
from tests.training.deepspeed.runs import Case


def test_without_it_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    with pytest.raises(UserError, match=r"training\.engine=deepspeed: .*pip install 'megatron-mplug2\[deepspeed\]'"):
        library.load_deepspeed()


def test_nothing_is_compiled_on_a_cpu() -> None:
    library.load_deepspeed()
    assert not deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"]
    settings = library.settings_of(Case().config(Path("runs/case")))
    assert "optimizer" not in settings and settings["zero_allow_untested_optimizer"]
