"""How many frames a second the GPU's video decoders give through our DALI path, and how many PyAV gives on all cores beside it.

    python -m benchmarks.nvdec [--rounds 5]

H.264 clips of 48 frames that the script draws, at four sizes; every frame is decoded and becomes a square of 224 pixels on the GPU, as in
training. A DALI pipeline is driven by one thread, so 1, 2, 4 and 8 threads decode side by side, each with a decoder of its own: where more
threads bring no more frames, all engines are busy. `engines_busy_percent` is what `nvidia-smi` says of that. PyAV decodes the same requests
in as many processes as the machine has cores.
"""

import argparse
import ctypes
import importlib
import io
import itertools
import multiprocessing
import os
import statistics
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from fractions import Fraction
from typing import Any

import av
import numpy as np
import torch

from megatron_mplug2.data.decoding.contract import ClipRequest, Decoder, Transform
from megatron_mplug2.data.decoding.dali import DaliDecoder
from megatron_mplug2.data.decoding.pyav import PyavDecoder
from megatron_mplug2.data.decoding_stream import DecodingStream

SIZES = {"1080p": (1920, 1080), "720p": (1280, 720), "360p": (640, 360), "256p": (456, 256)}
FRAMES, RATE, KEY_EVERY = 48, 24, 24
CLIPS = 4
"""A call: 1.2 GB of decoded frames at 1080p, before they are resized."""
RESOLUTION = 224
THREADS = (1, 2, 4, 8)
CALLS = {"1080p": 2, "720p": 4, "360p": 8, "256p": 8}
"""A thread's calls in a round."""
CORES = len(os.sched_getaffinity(0))
_SMI = ("nvidia-smi", "--query-gpu=utilization.decoder", "--format=csv,noheader,nounits")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    if lack := _lack():
        raise SystemExit(f"error: NVDEC cannot be measured here: {lack}")
    from benchmarks.record import write  # imports Megatron-Core, which has more to say than the line above

    torch.set_num_threads(1)
    requests = {name: [_request(_clip(size, seed)) for seed in range(CLIPS)] for name, size in SIZES.items()}
    pyav = {name: _on_all_cores(requests[name], rounds) for name in SIZES}  # first: its processes are forked
    figures: dict[str, Any] = {}
    for name in SIZES:
        nvdec = {threads: _on_the_gpu(requests[name], threads, CALLS[name], rounds) for threads in THREADS}
        best, beside = max(_median(case) for case in nvdec.values()), _median(pyav[name])
        figures[name] = {"nvdec_by_threads": nvdec, "pyav": pyav[name], "nvdec_over_pyav": round(best / beside, 2)}
        print(f"{name:6} NVDEC {best:8.0f} frames/s   PyAV on {CORES} cores {beside:8.0f} frames/s", flush=True)
    case = {
        "sizes": SIZES,
        "codec": "h264",
        "frames": FRAMES,
        "key_frame_every": KEY_EVERY,
        "clips_a_call": CLIPS,
        "resolution": RESOLUTION,
    }
    path = write("nvdec", f"python -m benchmarks.nvdec --rounds {rounds}", case | {"rounds": rounds, "cores": CORES}, figures)
    print(f"written to {path}")


def _lack() -> str | None:
    """What the machine lacks, and what to do about it."""
    if not torch.cuda.is_available():
        return "torch sees no GPU; run it on a machine with one"
    try:
        importlib.import_module("nvidia.dali")
        ctypes.CDLL("libnvcuvid.so.1")
    except ImportError:
        return "NVIDIA DALI is not installed: pip install 'megatron-mplug2[dali]'"
    except OSError:
        return (
            "there is no libnvcuvid.so.1; install the driver's video libraries (in a container: NVIDIA_DRIVER_CAPABILITIES=compute,video)"
        )
    return None


def _clip(size: tuple[int, int], seed: int) -> bytes:
    """A coloured texture that moves under noise, 8-bit 4:2:0 as cameras give it."""
    rng = np.random.default_rng(seed)
    width, height = size
    texture = rng.integers(0, 256, (height // 16 + 40, width // 16 + 40, 3), dtype=np.uint8).repeat(16, 0).repeat(16, 1)
    noise = rng.integers(0, 24, (4, height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"preset": "veryfast", "crf": "23", "g": str(KEY_EVERY)})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for time_ in range(FRAMES):
            left, upper = 4 * time_, 3 * time_
            pixels = texture[upper : upper + height, left : left + width] // 2 + noise[time_ % len(noise)]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = time_, Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


def _request(clip: bytes) -> ClipRequest:
    """All frames of it."""
    return ClipRequest(data=clip, frames=FRAMES, segment_shares=None, transform=Transform(resolution=RESOLUTION))


def _on_the_gpu(requests: Sequence[ClipRequest], threads: int, calls: int, rounds: int) -> dict[str, Any]:
    """Threads that begin together and end when the last has its frames; a first round, which builds the pipelines, is not counted."""
    decoders, stream = [DaliDecoder(gpu=True) for _ in range(threads)], DecodingStream()

    def work(decoder: DaliDecoder) -> float:
        """When it is done."""
        with stream.entered():
            for _ in range(calls):
                _decoded(decoder, requests, "cuda")
                stream.finish()
        return time.perf_counter()

    seconds, busy = [], []
    with ThreadPoolExecutor(threads) as pool:
        for number in range(1 + rounds):
            start = time.perf_counter()
            works = [pool.submit(work, decoder) for decoder in decoders]
            shares = _engines_busy(works)
            ends = [one.result() for one in works]
            if number:
                seconds.append(max(ends) - start)
                busy += shares
    percent = round(statistics.median(busy)) if busy else None
    return _rates(seconds, threads * calls * len(requests) * FRAMES) | {"engines_busy_percent": percent}


def _on_all_cores(requests: Sequence[ClipRequest], rounds: int) -> dict[str, Any]:
    """A process a core, each with all requests; what starting them costs is not counted."""
    context = multiprocessing.get_context("fork")
    ready, go = context.Semaphore(0), context.Semaphore(0)

    def work() -> None:
        torch.set_num_threads(1)
        for _ in range(1 + rounds):
            ready.release()
            go.acquire()
            _decoded(PyavDecoder(), requests, "cpu")

    processes = [context.Process(target=work, daemon=True) for _ in range(CORES)]
    for process in processes:
        process.start()
    moments = []
    for _ in range(1 + rounds):
        for _ in processes:
            ready.acquire()
        moments.append(time.perf_counter())
        for _ in processes:
            go.release()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    moments.append(time.perf_counter())
    seconds = [later - earlier for earlier, later in itertools.pairwise(moments)]
    return _rates(seconds[1:], CORES * len(requests) * FRAMES)


def _decoded(decoder: Decoder, requests: Sequence[ClipRequest], device: str) -> None:
    """Ends the benchmark where a clip was decoded elsewhere: what DALI refuses PyAV decodes, without a word."""
    for answer in decoder.clips(requests):
        if not isinstance(answer, torch.Tensor) or answer.device.type != device:
            raise SystemExit(f"error: the decoder gave {answer if not isinstance(answer, torch.Tensor) else answer.device}, not {device}")
        assert answer.shape == (3, FRAMES, RESOLUTION, RESOLUTION)


def _engines_busy(works: Sequence[Future[float]]) -> list[float]:
    """Percent, asked again and again while they run; nothing where the driver does not tell."""
    found: list[float] = []
    while not all(work.done() for work in works):
        with suppress(OSError, ValueError, subprocess.SubprocessError):
            said = subprocess.run(_SMI, capture_output=True, text=True, check=True, timeout=10).stdout.splitlines()
            found.append(float(said[torch.cuda.current_device()]))
        time.sleep(0.1)
    return found


def _median(case: dict[str, Any]) -> float:
    rate: float = case["frames_per_s"]["median"]
    return rate


def _rates(seconds: Sequence[float], frames: int) -> dict[str, dict[str, float]]:
    low, middle, high = statistics.quantiles([frames / one for one in seconds], n=4)
    return {"frames_per_s": {"median": round(middle, 1), "quartile1": round(low, 1), "quartile3": round(high, 1)}}


if __name__ == "__main__":
    main()
