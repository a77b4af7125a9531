"""`python -m tests.training.fake_gpu SHIM RANKS CASE`."""

import sys
from pathlib import Path

from tests.training.fake_gpu.shim import load


def main() -> None:
    load(Path(sys.argv[1]))
    from tests.training.fake_gpu.steps import take_steps  # imports torch

    take_steps(int(sys.argv[2]), sys.argv[3])


main()
