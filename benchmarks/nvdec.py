"""How many frames a second the GPU's video decoders give through our DALI path, and how many PyAV gives on all cores beside it.

    python -m benchmarks.nvdec [--rounds 2]

H.264 clips of two seconds that the script draws, at several sizes; every frame is decoded and becomes a square of 224 pixels on the GPU, as
in training. A DALI pipeline is driven by one thread and decodes a call's clips side by side; 1, 2 and 4 threads drive one each: where more
bring no more frames, all engines are busy. `engines_busy_percent` is what `nvidia-smi` says of that. PyAV decodes the same requests in as
many processes as the machine has cores. A round of each takes SECONDS and is told at once; what was measured is written after each size.
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
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
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

SIZES = {"256p_blocks": (448, 256), "256p": (456, 256), "360p": (640, 360), "720p": (1280, 720), "1080p": (1920, 1080)}
"""The first is one of whole blocks of 16 pixels on both sides, as 720p is and the others are not."""
FRAMES, RATE, KEY_EVERY = 48, 24, 8
CLIPS = 8
"""A call: 2.4 GB of decoded frames at 1080p, before they are resized."""
RESOLUTION = 224
THREADS = (1, 2, 4)
SECONDS = 0.6
"""A thread or process begins no more calls after them."""
CORES = len(os.sched_getaffinity(0))
_SMI = ("nvidia-smi", "--query-gpu=utilization.decoder", "--format=csv,noheader,nounits")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2, help="at least 2")
    rounds = parser.parse_args().rounds
    if lack := _lack():
        raise SystemExit(f"error: NVDEC cannot be measured here: {lack}")
    from benchmarks.record import write  # imports Megatron-Core, which has more to say than the line above

    torch.set_num_threads(1)
    case = {
        "sizes": SIZES,
        "codec": "h264",
        "frames": FRAMES,
        "key_frame_every": KEY_EVERY,
        "clips_a_call": CLIPS,
        "resolution": RESOLUTION,
        "rounds": rounds,
        "seconds_a_round": SECONDS,
        "cores": CORES,
    }
    requests = _requests()
    figures: dict[str, dict[str, Any]] = {
        name: {"pyav": _on_all_cores(name, requests[name], rounds)} for name in SIZES
    }  # before CUDA: it forks
    for name in SIZES:
        nvdec = {threads: _on_the_gpu(name, requests[name], threads, rounds) for threads in THREADS}
        best, beside = max(_median(one) for one in nvdec.values()), _median(figures[name]["pyav"])
        figures[name] |= {"nvdec_by_threads": nvdec, "nvdec_over_pyav": round(best / beside, 2)}
        path = write("nvdec", f"python -m benchmarks.nvdec --rounds {rounds}", case, figures)
        print(f"{name:11} NVDEC {best:8.0f} frames/s   PyAV {beside:8.0f} frames/s", flush=True)
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


def _requests() -> dict[str, list[ClipRequest]]:
    """All frames of a call's clips, by size."""
    drawn = [(name, size, seed) for name, size in SIZES.items() for seed in range(CLIPS)]
    found = defaultdict(list)
    with ProcessPoolExecutor(CORES, mp_context=multiprocessing.get_context("fork")) as pool:
        clips = pool.map(_clip, *zip(*((size, seed) for _, size, seed in drawn), strict=True))
        for (name, _, _), clip in zip(drawn, clips, strict=True):
            found[name].append(_request(clip))
    return found


def _request(clip: bytes) -> ClipRequest:
    """All frames of it."""
    return ClipRequest(data=clip, frames=FRAMES, segment_shares=None, transform=Transform(resolution=RESOLUTION))


def _on_the_gpu(name: str, requests: Sequence[ClipRequest], threads: int, rounds: int) -> dict[str, Any]:
    """Threads that decode side by side; the first call of each, which builds its pipeline, is not counted."""
    decoders, stream = [DaliDecoder(gpu=True) for _ in range(threads)], DecodingStream()

    def call(decoder: DaliDecoder) -> int:
        _decoded(decoder, requests, "cuda")
        stream.finish()
        return len(requests) * FRAMES

    def work(decoder: DaliDecoder, seconds: float) -> float:
        with stream.entered():
            return _rate(lambda: call(decoder), seconds)

    rates, busy = [], []
    with ThreadPoolExecutor(threads) as pool:
        for one in [pool.submit(work, decoder, 0.0) for decoder in decoders]:
            one.result()
        for _ in range(rounds):
            works = [pool.submit(work, decoder, SECONDS) for decoder in decoders]
            busy += _engines_busy(works)
            rates.append(sum(one.result() for one in works))
    percent = round(statistics.median(busy)) if busy else None
    print(f"{name:11} NVDEC, {threads} threads: {statistics.median(rates):8.0f} frames/s, engines busy {percent} %", flush=True)
    return _rates(rates) | {"engines_busy_percent": percent}


def _on_all_cores(name: str, requests: Sequence[ClipRequest], rounds: int) -> dict[str, Any]:
    """A process a core, a clip a call; what starting them costs is not counted."""
    context = multiprocessing.get_context("fork")
    together, found = context.Barrier(CORES, timeout=60), context.SimpleQueue()

    def work() -> None:
        torch.set_num_threads(1)
        clips = itertools.cycle(requests)

        def call() -> int:
            _decoded(PyavDecoder(), [next(clips)], "cpu")
            return FRAMES

        call()
        for number in range(rounds):
            together.wait()
            found.put((number, _rate(call, SECONDS)))

    processes = [context.Process(target=work, daemon=True) for _ in range(CORES)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    rates = [0.0] * rounds
    while not found.empty():
        number, rate = found.get()
        rates[number] += rate
    print(f"{name:11} PyAV, {CORES} processes: {statistics.median(rates):8.0f} frames/s", flush=True)
    return _rates(rates)


def _rate(call: Callable[[], int], seconds: float) -> float:
    """Frames a second of whole calls, at least one."""
    start, frames = time.perf_counter(), 0
    while not frames or time.perf_counter() - start < seconds:
        frames += call()
    return frames / (time.perf_counter() - start)


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


def _rates(rates: Sequence[float]) -> dict[str, Any]:
    low, middle, high = statistics.quantiles(rates, n=4)
    return {"frames_per_s": {"median": round(middle, 1), "quartile1": round(low, 1), "quartile3": round(high, 1)}}


if __name__ == "__main__":
    main()
