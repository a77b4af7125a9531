"""The ring of momentum features."""

import torch

from megatron_mplug2.objectives.key_queue import KeyQueue, Keys

BATCH, WIDTH = 4, 3


def batch(number: int) -> Keys:
    """Samples 4n to 4n + 3, each with its number in all that it has."""
    numbers = torch.arange(number * BATCH, (number + 1) * BATCH)
    features = numbers.float()[:, None].expand(-1, WIDTH)
    return Keys(vision=features, text=-features, ids=numbers[:, None].expand(-1, 2))


def test_batches_replace_the_oldest_in_order() -> None:
    queue = KeyQueue(3 * BATCH, WIDTH, torch.device("cpu"))
    contents = []
    for number in range(5):
        queue.enqueue(batch(number))
        filled = queue.filled
        assert torch.equal(filled.vision, filled.ids[:, :1].expand(-1, WIDTH).float()) and torch.equal(filled.text, -filled.vision)
        contents.append(filled.ids[::BATCH, 0].div(BATCH, rounding_mode="floor").tolist())
    assert contents == [[0], [0, 1], [0, 1, 2], [3, 1, 2], [3, 4, 2]]
    assert int(queue.enqueued) == 5 * BATCH


def test_what_is_not_there_yet_is_no_key() -> None:
    queue = KeyQueue(3 * BATCH, WIDTH, torch.device("cpu"))
    assert len(queue.filled.ids) == len(queue.filled.vision) == 0


def test_what_was_enqueued_is_a_copy() -> None:
    queue, keys = KeyQueue(BATCH, WIDTH, torch.device("cpu")), batch(1)
    keys = Keys(vision=keys.vision.clone(), text=keys.text, ids=keys.ids)
    queue.enqueue(keys)
    keys.vision.zero_()
    assert queue.filled.vision.all()
