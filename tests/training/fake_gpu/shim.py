"""Builds the shim, and loads it into a process. Nothing here imports torch: it looks for its CUDA when it is imported."""

import ctypes
import importlib.util
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("shim.cpp")


def _torch() -> Path:
    spec = importlib.util.find_spec("torch")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent


def build(compiler: str, out: Path) -> None:
    torch = _torch()
    libraries = ["-L", str(torch / "lib"), "-lc10", "-ltorch_cpu"]
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-std=c++20", "-I", str(torch / "include"), str(SOURCE), "-o", str(out), *libraries], check=True
    )


def load(shim: Path) -> None:
    """Call it before the first import of torch."""
    for name in ("libc10.so", "libtorch_cpu.so"):
        ctypes.CDLL(str(_torch() / "lib" / name), mode=ctypes.RTLD_GLOBAL)
    ctypes.CDLL(str(shim))
