"""A choice among a stream of unknown length: in one pass, in bounded memory, the same for the same stream."""

import hashlib
import heapq
from typing import Generic, TypeVar

Item = TypeVar("Item")


class KeyedSample(Generic[Item]):
    """Keeps what fits. Each place in the stream has a random number, a pure function of the name and the place; the largest go first."""

    def __init__(self, name: str, room: int) -> None:
        """`room`: sum of the costs of all that is kept."""
        self._name, self._room = name.encode(), room
        self._kept: list[tuple[int, int, int, Item]] = []
        self._used = 0
        self.seen = 0
        """Items that were offered."""

    def offer(self, item: Item, cost: int = 1) -> None:
        place = self.seen
        self.seen += 1
        digest = hashlib.blake2b(place.to_bytes(8, "little"), digest_size=8, key=self._name).digest()
        heapq.heappush(self._kept, (-int.from_bytes(digest, "little"), place, cost, item))
        self._used += cost
        while self._used > self._room:
            self._used -= heapq.heappop(self._kept)[2]

    def items(self) -> list[Item]:
        """In the order of the stream."""
        return [item for _, _, _, item in sorted(self._kept, key=lambda kept: kept[1])]
