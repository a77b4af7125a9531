"""Memory of the contrastive loss on one rank of many: peak bytes of tensors that are alive, beside the gathered features.

    python -m benchmarks.contrastive

Against a plain loss with the whole matrix on every rank, and against open_clip's scheme (`local_loss` with `gather_with_grad`: each rank's
rows against all columns, both ways, by autograd). All three on the same features; ours and open_clip's gradients are checked against the
whole matrix's at a size where that fits. Peaks are counted on meta tensors, which have sizes and no contents. `queue` is ours against
momentum features, with a queue of 65,536 beside the global batch: it has no peer here, its gradients are the tests' matter.
"""

from collections.abc import Callable

import torch
from torch.nn import functional as F

from benchmarks.live_bytes import LiveBytes
from benchmarks.record import write
from megatron_mplug2.objectives.key_queue import Keys
from megatron_mplug2.objectives.logit_blocks import Columns, row_statistics, weighted_columns
from megatron_mplug2.objectives.queue_contrast import contrast_with_keys

BATCH, RANKS, WIDTH, CHUNK, QUEUE = 32768, 128, 512, 4096, 65536
CHECKED_BATCH, CHECKED_RANKS = 2048, 8
TEMPERATURE = 0.07

Features = tuple[torch.Tensor, torch.Tensor]


def main() -> None:
    schemes: dict[str, Callable[[Features, int], Features]] = {"ours": ours, "open_clip": open_clip, "whole_matrix": whole_matrix}
    figures: dict[str, float] = {f"{name}_mb": round(peak_bytes(scheme, RANKS) / 1e6, 1) for name, scheme in schemes.items()}
    figures["queue_mb"] = queue_peak_mb()
    figures["block_mb"] = BATCH // RANKS * CHUNK * 4 / 1e6
    figures["gathered_features_mb"] = 2 * BATCH * WIDTH * 4 / 1e6
    figures |= {f"{name}_gradient_error": error(scheme) for name, scheme in schemes.items() if name != "whole_matrix"}
    case = {
        "global_batch": BATCH,
        "ranks": RANKS,
        "width": WIDTH,
        "chunk": CHUNK,
        "queue": QUEUE,
        "checked_at": [CHECKED_BATCH, CHECKED_RANKS],
    }
    path = write("contrastive", "python -m benchmarks.contrastive", case, figures)
    for name, value in figures.items():
        print(f"{name:28} {value:12.4g}")
    print(f"written to {path}")


def peak_bytes(scheme: Callable[[Features, int], Features], ranks: int) -> int:
    """Beside the gathered features, on one of so many ranks."""
    with torch.device("meta"):
        features = torch.empty(BATCH, WIDTH), torch.empty(BATCH, WIDTH)
        with LiveBytes() as live:
            scheme(features, ranks)
    return live.peak


def queue_peak_mb() -> float:
    """Beside the gathered momentum features and the queue."""
    with torch.device("meta"):
        batch, queue = (
            Keys(vision=torch.empty(n, WIDTH), text=torch.empty(n, WIDTH), ids=torch.empty(n, 2, dtype=torch.int64)) for n in (BATCH, QUEUE)
        )
        own, log_temperature = batch.rows(0, BATCH // RANKS), torch.empty(())
        with LiveBytes() as live:
            contrast_with_keys(own.vision, own.text, own, (batch, queue), log_temperature, alpha=0.4, batch=BATCH, chunk=CHUNK)
    return round(live.peak / 1e6, 1)


def error(scheme: Callable[[Features, int], Features]) -> float:
    """Largest difference of the first rank's gradient from the whole matrix's, relative to its largest."""
    generator = torch.Generator().manual_seed(0)
    features = tuple(F.normalize(torch.randn(CHECKED_BATCH, WIDTH, generator=generator), dim=1) for _ in range(2))
    local = CHECKED_BATCH // CHECKED_RANKS
    wanted = torch.cat([grad[:local] for grad in whole_matrix((features[0], features[1]), CHECKED_RANKS)])
    got = torch.cat([grad[:local] for grad in scheme((features[0], features[1]), CHECKED_RANKS)])
    return float((got - wanted).abs().max() / wanted.abs().max())


def ours(features: Features, ranks: int) -> Features:
    """What `objectives.contrastive.contrast` does on rank 0 between its collectives; the other ranks' log-sum-exps come from them."""
    vision, text = features
    batch, local = len(vision), len(vision) // ranks
    ids = torch.arange(batch, device=vision.device)[:, None].expand(-1, 2)
    grads = []
    for rows, columns in ((vision, text), (text, vision)):
        scaled = rows[:local] / TEMPERATURE
        statistics = row_statistics(scaled, columns, ids[:local], ids, CHUNK)
        other_lse = _from_other_ranks(columns, rows)
        targets = torch.ones(batch, device=vision.device)
        column_facts = Columns(features=columns, ids=ids, log_sum_exp=other_lse, target=targets)
        grads.append(weighted_columns(scaled, ids[:local], statistics, column_facts, CHUNK) / (2 * batch * TEMPERATURE))
    return grads[0], grads[1]


def _from_other_ranks(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """[B] log-sum-exps as the gather brings them; on meta tensors their memory only."""
    if rows.is_meta:
        return torch.empty(len(rows), device="meta")
    return (rows @ columns.T / TEMPERATURE).logsumexp(dim=1)


def open_clip(features: Features, ranks: int) -> Features:
    """`ClipLoss(local_loss=True, gather_with_grad=True)` on rank 0: two losses over its own rows, then autograd. What the reduce-scatter
    would add to the gathered features' gradient, the other ranks' parts, is made here by the same loss over their rows."""
    vision, text = (side.detach().requires_grad_() for side in features)
    local = len(vision) // ranks
    own = range(1) if vision.is_meta else range(ranks)
    for rank in own:
        rows = slice(rank * local, (rank + 1) * local)
        labels = torch.arange(local, device=vision.device) + rank * local
        logits_per_image = vision[rows] @ text.T / TEMPERATURE
        logits_per_text = text[rows] @ vision.T / TEMPERATURE
        loss = (F.cross_entropy(logits_per_image, labels) + F.cross_entropy(logits_per_text, labels)) / 2 / ranks
        loss.backward()
    assert vision.grad is not None and text.grad is not None
    return vision.grad, text.grad


def whole_matrix(features: Features, ranks: int) -> Features:
    vision, text = (side.detach().requires_grad_() for side in features)
    logits = vision @ text.T / TEMPERATURE
    labels = torch.arange(len(vision), device=vision.device)
    loss = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
    loss.backward()
    assert vision.grad is not None and text.grad is not None
    return vision.grad, text.grad


if __name__ == "__main__":
    main()
