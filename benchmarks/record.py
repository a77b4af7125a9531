"""What every benchmark writes beside its figures: where, with what, and from which commit it was measured."""

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import megatron.core
import torch

from launchers.sweep.hosts import processor

RESULTS = Path(os.environ.get("MPLUG2_BENCH_RESULTS") or Path(__file__).parent / "results")
"""`mplug2 bench --out` sets it."""


def on_this_gpu(name: str) -> str:
    """A result's name with the GPU's, so that it stands beside those of machines without one: "step_h200"."""
    return f"{name}_{torch.cuda.get_device_name().split()[1].lower()}" if torch.cuda.is_available() else name


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """Median and quartiles of repeated measurements, in milliseconds."""
    low, middle, high = (1000 * value for value in statistics.quantiles(seconds, n=4))
    return {"median_ms": round(middle, 3), "quartile1_ms": round(low, 3), "quartile3_ms": round(high, 3), "runs": len(seconds)}


def write(name: str, command: str, case: dict[str, Any], figures: dict[str, Any]) -> Path:
    """Writes one JSON object to `NAME.json` in the folder of results, whole or not at all."""
    return _write(name, _with_place(command, case, figures))


def write_part(name: str, part: str, command: str, case: dict[str, Any], figures: dict[str, Any]) -> Path:
    """As `write`, but an object as one of several in the file. The others stay, each with the commit and the machine of its own."""
    path = RESULTS / f"{name}.json"
    others = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return _write(name, others | {part: _with_place(command, case, figures)})


def _with_place(command: str, case: dict[str, Any], figures: dict[str, Any]) -> dict[str, Any]:
    return {"command": command, "commit": _commit(), "hardware": _hardware(), "versions": _versions(), "case": case, "figures": figures}


def _write(name: str, content: dict[str, Any]) -> Path:
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    unfinished.replace(path)
    return path


def _commit() -> str:
    """`-dirty` where the code differs from it; results that were written since do not count."""
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ":(exclude,top)benchmarks/results")
    return (_git("describe", "--always") or "unknown") + ("-dirty" if changed else "")


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _hardware() -> dict[str, Any]:
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"cpu": processor(), "cores": os.cpu_count(), "threads": torch.get_num_threads(), "gpu": gpu}


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), "torch": torch.__version__, "megatron-core": megatron.core.__version__}
