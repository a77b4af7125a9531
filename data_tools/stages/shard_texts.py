"""What `key.json` of a tar holds: the fields of the record, `stream`, and `meaning` where the corpus knows it.

So a tar alone says all that the index has.
"""

import json
from dataclasses import asdict, dataclass

from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.manifest import MediaKind
from megatron_mplug2.data.record import Record, json_of

KINDS = {Task.TEXT: MediaKind.TEXT, Task.IMAGE_TEXT: MediaKind.IMAGE, Task.VIDEO_TEXT: MediaKind.VIDEO}
STREAMS = {kind: stream for stream, kind in KINDS.items()}


@dataclass(frozen=True, kw_only=True)
class ShardTexts:
    record: Record
    stream: Task
    meaning: str | None

    def to_json(self) -> bytes:
        """The same bytes for the same texts."""
        meaning = {} if self.meaning is None else {"meaning": self.meaning}
        return json.dumps(asdict(self.record) | {"stream": self.stream} | meaning, ensure_ascii=False, sort_keys=True).encode()

    @staticmethod
    def from_json(data: bytes) -> "ShardTexts":
        """Raises ValueError, KeyError, TypeError or AttributeError where the data is nothing that `to_json` gave."""
        fields = json_of(data)
        meaning = fields.get("meaning")
        if not isinstance(meaning, str | None):
            raise TypeError("a meaning that is no text")
        return ShardTexts(record=Record.from_fields(fields), stream=Task(fields["stream"]), meaning=meaning)
