"""The queue of VLC with momentum encoders: the momentum features of the batches before, which a sample is contrasted with (MoCo, ALBEF)."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True)
class Keys:
    """Momentum features of n samples, L2-normalised and in fp32, with what the samples are."""

    vision: torch.Tensor
    """[n, d]."""
    text: torch.Tensor
    """[n, d]."""
    ids: torch.Tensor
    """[n, 2] int64 (`ids.pair_ids`)."""

    def rows(self, start: int, stop: int) -> "Keys":
        """Views."""
        return Keys(vision=self.vision[start:stop], text=self.text[start:stop], ids=self.ids[start:stop])


class KeyQueue:
    """A ring of the last `size` samples, pictures and clips in one. Every rank that has it has the whole of it.

    It begins empty, and what isn't there yet is no key. ALBEF and mPLUG begin with random vectors instead: negatives that are no
    sample's, easier than any, which until they are replaced bend the loss and its soft targets.
    """

    def __init__(self, size: int, width: int, device: torch.device) -> None:
        self.memory = Keys(
            vision=torch.zeros(size, width, device=device),
            text=torch.zeros(size, width, device=device),
            ids=torch.zeros(size, 2, dtype=torch.int64, device=device),
        )
        """Slots in the order of writing: sample number i of all that were ever enqueued is in slot i % size."""
        self.enqueued = torch.zeros((), dtype=torch.int64)
        """Samples so far, those among them that were overwritten. On the CPU: it decides about sizes."""

    @property
    def size(self) -> int:
        return len(self.memory.ids)

    @property
    def filled(self) -> Keys:
        """Those that are there, in order of slots; views."""
        return self.memory.rows(0, min(int(self.enqueued), self.size))

    @torch.no_grad()
    def enqueue(self, batch: Keys) -> None:
        """Puts a global batch, in its order, in place of the oldest one. Batches have one length, which divides `size`."""
        start = int(self.enqueued) % self.size
        place = self.memory.rows(start, start + len(batch.ids))
        place.vision.copy_(batch.vision)
        place.text.copy_(batch.text)
        place.ids.copy_(batch.ids)
        self.enqueued += len(batch.ids)
