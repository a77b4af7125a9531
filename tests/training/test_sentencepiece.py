"""A run whose vocabulary is a sentencepiece model."""

import json
from pathlib import Path

from data_tools.tokenizer import train_tokenizer
from data_tools.tokenizer_kind import TokenizerKind
from tests.training.corpus import demo_config, make_corpus
from tests.training.runs import run_to_the_end


def test_a_run_learns_with_a_sentencepiece_vocabulary(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus")
    train_tokenizer([corpus / "shards"], corpus / "words.model", size=300, kind=TokenizerKind.SENTENCEPIECE)
    config = demo_config(corpus, tmp_path / "run", ["schedule.0.steps=3", f"data.vocab={corpus / 'words.model'}", "layout.data=1"])
    run_to_the_end(config)
    lines = [json.loads(line) for line in (config.run_dir / "metrics.jsonl").read_text().splitlines()]
    losses = [line for line in lines if line["kind"] == "train"]
    assert [line["step"] for line in losses] == [0, 1, 2]
    assert all(0 < line["loss/lm"] < 10 for line in losses)
