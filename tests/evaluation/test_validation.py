from pathlib import Path

import pytest
import torch

from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.evaluation_batches import evaluation_batches
from megatron_mplug2.data.split import Split
from megatron_mplug2.evaluation import model
from megatron_mplug2.evaluation.ranking import Identities
from megatron_mplug2.evaluation.validation import validation_retrieval
from tests.data.corpus import make_config, write_corpus
from tests.ranks import run_ranks

SAMPLES = 17


def found(config: RunConfig, samples: int) -> dict[str, float]:
    inference, _ = model.built(config)
    return validation_retrieval(inference, config, Task.IMAGE_TEXT, samples)


def by_hand(config: RunConfig) -> dict[str, float]:
    """Of the first SAMPLES pictures, one by one."""
    inference, _ = model.built(config)
    batches = list(evaluation_batches(config, Split.VALIDATION, Task.IMAGE_TEXT, data_rank=0, data_size=1, batch=1))[:SAMPLES]
    vision = torch.cat([inference.vision_features(inference.encode_media(batch.media, Task.IMAGE_TEXT)) for batch in batches])
    text = torch.cat([inference.text_features(inference.encode_text(batch.captions)) for batch in batches])
    media, meaning = torch.cat([batch.media_ids for batch in batches]), torch.cat([batch.meaning_ids for batch in batches])
    hits, similarity = Identities(media=media, meaning=meaning).hits(), text @ vision.T
    best = {"t2v_r1": (similarity, hits), "v2t_r1": (similarity.T, hits.T)}
    return {name: 100 * float(right[torch.arange(SAMPLES), scores.argmax(1)].double().mean()) for name, (scores, right) in best.items()}


def test_it_takes_the_first_samples_on_any_layout(tmp_path: Path) -> None:
    write_corpus(tmp_path)
    config = make_config(tmp_path, tmp_path / "run", model__init_std=0.2, training__seed=3)
    expected = run_ranks(1, by_hand, config)[0]
    assert any(0 < value < 100 for value in expected.values())
    assert run_ranks(1, found, config, SAMPLES)[0] == pytest.approx(expected)
    for layout in ({"layout__data": 2}, {"layout__tensor": 2, "layout__sequence_parallel": True}):
        changed = make_config(tmp_path, tmp_path / "run", model__init_std=0.2, training__seed=3, **layout)
        for values in run_ranks(2, found, changed, SAMPLES):
            assert values == pytest.approx(expected)
    # One sample for two ranks: the second has none.
    shared = make_config(tmp_path, tmp_path / "run", layout__data=2)
    assert run_ranks(2, found, shared, 1)[1] == {"t2v_r1": 100.0, "v2t_r1": 100.0}
