"""Keeps what `make demo` has found, with the machine that it ran on: the source of the figures in the README.

make demo && python -m benchmarks.demo
"""

import json
from pathlib import Path

from benchmarks.record import write

SUMMARY = Path(__file__).parents[1] / "runs" / "demo" / "summary.json"


def main() -> None:
    figures = json.loads(SUMMARY.read_text(encoding="utf-8"))
    path = write("demo", "make demo && python -m benchmarks.demo", {"config": "configs/pretrain/demo.yaml"}, figures)
    print(f"written to {path}")


if __name__ == "__main__":
    main()
