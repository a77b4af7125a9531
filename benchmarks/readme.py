"""Writes the README's figures from `benchmarks/results/`, between the markers that name them.

python -m benchmarks.readme
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.record import RESULTS
from benchmarks.step_cases import CPU_CASE

README = Path(__file__).parents[1] / "README.md"


def main() -> None:
    text = README.read_text(encoding="utf-8")
    for name, write in _BLOCKS.items():
        result = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        before, opening, rest = text.partition(f"<!-- {name} -->\n")
        _, closing, after = rest.partition(f"<!-- /{name} -->")
        if not closing:
            raise SystemExit(f"{README} has no <!-- {name} --> and <!-- /{name} --> to write between")
        text = before + opening + write(result) + "\n" + closing + after
    README.write_text(text, encoding="utf-8")


def _demo(result: Mapping[str, Any]) -> str:
    figures, hardware = result["figures"], result["hardware"]
    untrained, retrieval = figures["untrained"], figures["retrieval"]
    rows = [
        (
            f"{query} finds {found}, R@1 of {retrieval[kind][way]['gallery']}",
            retrieval[kind][way]["r1"],
            untrained["retrieval"][kind][way]["r1"],
            retrieval[kind][way]["chance_r1"],
        )
        for kind, medium in (("image", "picture"), ("video", "clip"))
        for way, query, found in (("t2v", "text", medium), ("v2t", medium, "text"))
    ]
    chance = figures["qa"]["chance_motion"]
    rows += [
        (said, figures["qa"][key], untrained["qa"][key], chance)
        for said, key in (
            ("questions about motion, held-out clips", "motion"),
            ("the same clips played backwards: the opposite answer", "motion_reversed_opposite"),
            ("one frame of them repeated: the true answer", "motion_single_frame"),
        )
    ]
    right = "attributes_right"
    rows.append(("captions right in color, shape and motion", figures["caption"][right], untrained["caption"][right], None))
    lines = ["| held-out samples, % | trained | untrained | chance |", "|---|---|---|---|"]
    lines += [f"| {said} | {a:.1f} | {b:.1f} | {'' if c is None else f'{c:.1f}'} |" for said, a, b, c in rows]
    made = f"From `benchmarks/results/demo.json`: {figures['minutes']:.1f} minutes on {hardware['cores']} cores ({hardware['cpu']})."
    return "\n".join([*lines, "", made])


def _device_shim(result: Mapping[str, Any]) -> str:
    figures = result["figures"]
    scheduled, everywhere = figures["shim_on_schedule_only_over_no_shim"], figures["shim_on_forward_too_over_no_shim"]
    return (
        f"A step's forward and backward take {scheduled:.2f} times what they take without any shim; around our own forward too it would be "
        f"{everywhere:.2f} times (`benchmarks/results/device_shim.json`)."
    )


def _loader(result: Mapping[str, Any]) -> str:
    figures, case = result["figures"], result["case"]
    ways = {"ours": "this loader", "torch": "torch's DataLoader with PyAV, over files", "webdataset": "webdataset with PyAV"}
    ways["bare_decoding"] = "the limit: decoding alone"
    lines = ["| clips a second | as found | transcoded |", "|---|---|---|"]
    for way, said in ways.items():
        found, small = (figures[material][way]["clips_per_s"]["median"] for material in ("as_found", "transcoded"))
        lines.append(f"| {said} | {found:.1f} | {small:.1f} |")
    made = (
        f"{case['frames']} frames of {case['resolution']} pixels from each H.264 clip of {case['source']['seconds']} s, "
        f"{case['processes']} processes on {result['hardware']['cores']} cores (`benchmarks/results/loader.json`)."
    )
    return "\n".join([*lines, "", made])


def _sampler(result: Mapping[str, Any]) -> str:
    figures = result["figures"]
    ours, table, tars = figures["ours_400M"], figures["randperm_400M"], figures["tars_a_batch"]
    return (
        f"For 400 M samples it starts in {1000 * ours['start_s']:.0f} ms with {ours['resident_mb']:.1f} MB, where `torch.randperm` takes "
        f"{table['start_s']:.0f} s and {table['resident_mb'] / 1000:.1f} GB; a global batch of 1,024 touches {tars['ours']:.0f} tars, of a "
        f"whole shuffle {tars['whole_shuffle']:.0f} (`benchmarks/results/sampler.json`)."
    )


def _shard(result: Mapping[str, Any]) -> str:
    figures = result["figures"]
    two, one, peer, disk = (figures[name]["mb_per_s"] for name in ("ours_2_processes", "ours", "webdataset_shard_writer", "disk_alone"))
    return (
        f"Shards are written at {two:.0f} MB/s by two processes and {one:.0f} by one, with digests, index and manifest; webdataset's "
        f"writer makes {peer:.0f}, the disk alone {disk:.0f} (`benchmarks/results/shard.json`)."
    )


def _contrastive(result: Mapping[str, Any]) -> str:
    figures, case = result["figures"], result["case"]
    return (
        f"At a global batch of {case['global_batch']:,} on {case['ranks']} ranks a rank's loss takes {figures['ours_mb']:.1f} MB beside "
        f"the gathered features ({figures['queue_mb']:.1f} with the queue), open_clip's scheme {figures['open_clip_mb']:.0f} MB, the whole "
        f"matrix {figures['whole_matrix_mb'] / 1000:.1f} GB (`benchmarks/results/contrastive.json`)."
    )


def _checkpoint(result: Mapping[str, Any]) -> str:
    figures = result["figures"]
    return (
        f"A save of {figures['gigabytes']:.2f} GB holds the training loop up for {figures['stall_beside_steps_s']:.2f} s, written within "
        f"the step {figures['stall_within_step_s']:.2f} s (`benchmarks/results/checkpoint.json`)."
    )


def _stage_balance(result: Mapping[str, Any]) -> str:
    figures, cuts = result["figures"], {"least_time": "for the least time", "least_mean_load": "for the least mean load"}
    cuts["even_layers"] = "into as many layers each"
    lines = ["| stages of the base model, cut | predicted at 2 | measured | predicted at 4 | measured |", "|---|---|---|---|---|"]
    for cut, said in cuts.items():
        steps = [
            figures[f"pipeline_{stages}"][cut][f"{kind}_step_over_even_stages"] for stages in (2, 4) for kind in ("predicted", "measured")
        ]
        lines.append(f"| {said} | {' | '.join(f'{step:.2f}' for step in steps)} |")
    made = (
        "Time of a step over that at stages which are even in every task; real modules, forward and backward, on one core of "
        f"{result['hardware']['cpu']} (`benchmarks/results/stage_balance.json`)."
    )
    return "\n".join([*lines, "", made])


def _generation(result: Mapping[str, Any]) -> str:
    case, figures = result["case"], result["figures"]
    return (
        f"At {case['tokens']} tokens, {case['beams']} beams and {case['memory_tokens']:,} memory tokens the decoder's cache makes beam "
        f"search {figures['times_faster']:.1f} times faster (`benchmarks/results/generation.json`)."
    )


def _step(result: Mapping[str, Any]) -> str:
    case = result[CPU_CASE.name]
    figures, hardware = case["figures"], case["hardware"]
    ours, plain = figures["ours"], figures["reference"]
    return (
        f"A training step of base in fp32 (captions of 2 clips of 4 frames) on {hardware['cores']} cores "
        f"({hardware['cpu']}): {figures['times_the_reference']:.2f} times the samples a second of a plain PyTorch model of the same "
        f"shapes, and {100 * ours['share_of_ceiling']:.0f} % of the rate of oneDNN's products of matrices, which ours takes; of "
        f"`torch.mm`, which the plain model takes, it is {100 * ours['share_of_torch_mm']:.0f} % (the plain model: "
        f"{100 * plain['share_of_torch_mm']:.0f} %; `benchmarks/results/step.json`; what made it so: `benchmarks/NOTES.md`)."
    )


def _planner(result: Mapping[str, Any]) -> str:
    layouts = result["figures"]["layouts"]
    within = [one for one in layouts if abs(one["time_error"]) <= 0.2]
    worst = max(layouts, key=lambda one: abs(one["time_error"]))
    return (
        f"Against this machine, after a calibration: {len(within)} of {len(layouts)} layouts within 20 % of their step time, the largest "
        f"error {100 * abs(worst['time_error']):.0f} % ({worst['layout']}); memory within "
        f"{100 * result['figures']['largest_memory_error']:.1f} % (`benchmarks/results/planner.json`)."
    )


def _growth(result: Mapping[str, Any]) -> str:
    figures, said = result["figures"], {"step_by_frames": "a training step's time with its frames"}
    said |= {"step_by_batch": "with its batch", "vlc_memory": "VLC's memory with a rank's samples"}
    said["retrieval"] = "the time of an evaluation of retrieval with its clips"
    lines = []
    for name, cost in said.items():
        fit = figures[name]["growth"]
        lines.append(f"{cost} (R² {fit['r_squared']:.4f}, off by at most {100 * fit['largest_deviation']:.1f} %)")
    sampled = figures["sampler"].values()
    starts, draws = [one["start_s"] for one in sampled], [one["cpu_ns_a_sample"] for one in sampled]
    return (
        f"What grows as a line: {', '.join(lines)}; scores of all pairs are {100 * figures['all_pairs_share_at_the_largest']:.1f} % of the "
        f"largest. From 1 M to 400 M samples the sampler starts in at most {1000 * max(starts):.0f} ms and draws a position in "
        f"{min(draws) / 1000:.2f} to {max(draws) / 1000:.2f} µs (`benchmarks/results/growth.json`)."
    )


def _flops(result: Mapping[str, Any]) -> str:
    passes = [count for case in result["figures"].values() for module in case.values() for count in module.values()]
    ratios = [count["torch_over_formula"] for count in passes if count["formula"]]
    found = "just the operations" if min(ratios) == max(ratios) == 1 else f"{min(ratios):.4f} to {max(ratios):.4f} times the operations"
    return (
        f"Torch's counter finds {found} of the formulas, over the modules and tasks of tiny, base and large, forward and backward "
        "(`benchmarks/results/flops.json`)."
    )


_BLOCKS = {
    "step": _step,
    "growth": _growth,
    "flops": _flops,
    "planner": _planner,
    "generation": _generation,
    "demo": _demo,
    "device_shim": _device_shim,
    "loader": _loader,
    "sampler": _sampler,
    "shard": _shard,
    "contrastive": _contrastive,
    "checkpoint": _checkpoint,
    "stage_balance": _stage_balance,
}


if __name__ == "__main__":
    main()
