import io

import pytest
from PIL import Image

from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.bad_media import BadMedia
from megatron_mplug2.data.media_kind import task_of
from tests.data.corpus import clip, picture


def gif(frames: int) -> bytes:
    shown = [Image.open(io.BytesIO(picture(number))) for number in range(frames)]
    file = io.BytesIO()
    shown[0].save(file, "GIF", save_all=True, append_images=shown[1:], duration=100)
    return file.getvalue()


def test_content_says_what_a_file_is() -> None:
    assert [task_of(data) for data in (picture(0), gif(1))] == [Task.IMAGE_TEXT] * 2
    assert [task_of(data) for data in (clip(0), gif(3))] == [Task.VIDEO_TEXT] * 2


@pytest.mark.parametrize("data", [b"", b"not a picture", picture(0)[:50], clip(0)[:50]])
def test_others_are_refused(data: bytes) -> None:
    with pytest.raises(BadMedia, match=r"^neither a picture nor a clip that can be read \(.+\)$"):
        task_of(data)
