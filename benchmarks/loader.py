"""How fast clips come as batches: our loader, against a plain torch DataLoader with PyAV over files, webdataset's own pipeline with PyAV
over the same tars, and the limit: our decoder alone, in as many processes, without any loader.

    python -m benchmarks.loader [--clips 48] [--rounds 3]

H.264 clips of 5 s that the script draws, as they are found and as `mplug2 data transcode` makes them; 8 frames of 224 pixels from each, one
random crop, 2 processes, batches of 8. All ways take turns, so that whatever else the machine does hits all alike.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.clip_files import CAPTION, RATE, SECONDS, SIZES, Material, make_material
from benchmarks.clip_readers import (
    BATCH,
    EPOCHS,
    FRAMES,
    RESOLUTION,
    WORKERS,
    Read,
    bare_decoding,
    ours,
    run_config,
    torch_loader,
    webdataset_pipeline,
)
from benchmarks.record import write
from data_tools.tokenizer import train_tokenizer

Seconds = dict[str, list[float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=48, help="a multiple of 8")
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        materials = make_material(Path(folder) / "material", asked.clips)
        (Path(folder) / "texts.txt").write_text(CAPTION)
        train_tokenizer([Path(folder) / "texts.txt"], Path(folder) / "vocab.txt", size=200)
        readers = {name: _readers(material, Path(folder) / "vocab.txt") for name, material in materials.items()}
        seconds = _measure(materials, readers, asked.rounds)
        megabytes = {name: round(material.megabytes, 1) for name, material in materials.items()}
    clips = EPOCHS * asked.clips
    figures: dict[str, Any] = {name: _figures(times, clips) for name, times in seconds.items()}
    figures["megabytes"] = megabytes
    figures["transcoding_speeds_ours_up"] = round(_ratio(seconds["as_found"]["ours"], seconds["transcoded"]["ours"]), 3)
    case = {
        "clips": asked.clips,
        "epochs_a_round": EPOCHS,
        "rounds": asked.rounds,
        "source": {"sizes": SIZES, "seconds": SECONDS, "rate": RATE, "codec": "h264"},
        "frames": FRAMES,
        "resolution": RESOLUTION,
        "batch": BATCH,
        "processes": WORKERS,
    }
    path = write("loader", f"python -m benchmarks.loader --clips {asked.clips} --rounds {asked.rounds}", case, figures)
    for name, times in seconds.items():
        for reader in times:
            print(f"{name:11} {reader:14} {figures[name][reader]['clips_per_s']['median']:8.1f} clips/s")
    print(f"written to {path}")


def _readers(material: Material, vocab: Path) -> dict[str, Read]:
    config = run_config(material, vocab)
    return {
        "ours": ours(config),
        "torch": torch_loader(config, material),
        "webdataset": webdataset_pipeline(config, material),
        "bare_decoding": bare_decoding(config, material),
    }


def _measure(materials: dict[str, Material], readers: dict[str, dict[str, Read]], rounds: int) -> dict[str, Seconds]:
    """Of each way to read each material, all clips EPOCHS times, start of the processes and all; a first round is not counted."""
    seconds: dict[str, Seconds] = {name: {reader: [] for reader in readers[name]} for name in materials}
    for number in range(1 + rounds):
        for name, material in materials.items():
            for reader, read in readers[name].items():
                start = time.perf_counter()
                assert read() == EPOCHS * len(material.files)
                if number:
                    seconds[name][reader].append(time.perf_counter() - start)
    return seconds


def _figures(seconds: Seconds, clips: int) -> dict[str, Any]:
    figures: dict[str, Any] = {reader: _rates(times, clips) for reader, times in seconds.items()}
    others = [reader for reader in seconds if reader != "ours"]
    return figures | {f"ours_over_{other}": round(_ratio(seconds[other], seconds["ours"]), 3) for other in others}


def _rates(seconds: list[float], clips: int) -> dict[str, dict[str, float]]:
    low, middle, high = statistics.quantiles([clips / one for one in seconds], n=4)
    rates = {"median": middle, "quartile1": low, "quartile3": high}
    return {
        "clips_per_s": {name: round(rate, 2) for name, rate in rates.items()},
        "frames_per_s": {name: round(rate * FRAMES, 1) for name, rate in rates.items()},
    }


def _ratio(slower: list[float], faster: list[float]) -> float:
    """Median over the rounds: what disturbs a round disturbs both."""
    return statistics.median(one / other for one, other in zip(slower, faster, strict=True))


if __name__ == "__main__":
    main()
