"""The trained vocabulary, and the data commands as a person runs them."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import BertWordPieceTokenizer

from data_tools.vocab import SPECIAL, train_vocab
from megatron_mplug2.cli import main
from megatron_mplug2.errors import UserError

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """`mplug2 data ...` in this process: exit code, stdout, stderr."""

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["mplug2", "data", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main()
        output = capsys.readouterr()
        return int(end.value.code or 0), output.out, output.err

    return call


def test_vocabulary_reads_its_texts(tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("A small Red circle moves left.\nthe small circle is red\n" * 20)
    count = train_vocab([tmp_path / "texts.txt"], tmp_path / "vocab.txt", 200)
    pieces = (tmp_path / "vocab.txt").read_text().splitlines()
    assert len(pieces) == len(set(pieces)) == count <= 200
    assert tuple(pieces[:5]) == SPECIAL
    tokenizer = BertWordPieceTokenizer(str(tmp_path / "vocab.txt"), lowercase=True)
    assert tokenizer.encode("a small RED circle", add_special_tokens=False).tokens == ["a", "small", "red", "circle"]
    assert tokenizer.encode("dixie", add_special_tokens=False).tokens == ["[UNK]"]


def test_small_vocabulary_splits_words(tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("small circle moves left, large triangle turns clockwise\n" * 9)
    assert train_vocab([tmp_path / "texts.txt"], tmp_path / "vocab.txt", 60) == 60
    tokenizer = BertWordPieceTokenizer(str(tmp_path / "vocab.txt"), lowercase=True)
    tokens = tokenizer.encode("clockwise", add_special_tokens=False).tokens
    assert len(tokens) > 1 and "[UNK]" not in tokens


def test_nothing_to_learn_from(tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("")
    with pytest.raises(UserError, match="no texts"):
        train_vocab([tmp_path / "texts.txt"], tmp_path / "vocab.txt", 60)
    with pytest.raises(UserError, match="cannot read"):
        train_vocab([tmp_path / "nowhere.txt"], tmp_path / "vocab.txt", 60)
    assert not list(tmp_path.glob("vocab*"))


def test_same_texts_same_vocabulary(tmp_path: Path) -> None:
    """Many ties, and processes with hash tables of their own."""
    words = ["circle", "square", "cross", "triangle", "left", "right", "up", "down"]
    (tmp_path / "lines.txt").write_text("".join(f"a {a} and a {b} {c}\n" for a in words for b in words for c in words))
    code = "import sys; from pathlib import Path; from data_tools.vocab import train_vocab; train_vocab(*map(eval, sys.argv[1:]))"
    for name in "abc":
        arguments = [repr([tmp_path / "lines.txt"]), repr(tmp_path / name), "70"]
        arguments = [argument.replace("PosixPath", "Path") for argument in arguments]
        subprocess.run([sys.executable, "-c", code, *arguments], check=True, timeout=120)
    assert len({(tmp_path / name).read_bytes() for name in "abc"}) == 1


def test_commands_from_corpus_to_vocabulary(tmp_path: Path, run: Run) -> None:
    (tmp_path / "lines.txt").write_text("a small circle\na large square\n" * 9)
    assert run("shard", "text", tmp_path / "lines.txt", "--out", tmp_path / "shards") == (0, "train/text: 18 samples\n", "")
    assert run("verify", tmp_path / "shards")[0] == 0
    assert run("vocab", tmp_path / "shards", "--out", tmp_path / "vocab.txt", "--size", "60")[0] == 0
    assert "circle" in (tmp_path / "vocab.txt").read_text().splitlines()
    (tmp_path / "shards/train/text/000000.tar").write_bytes(b"")
    code, _, told = run("verify", tmp_path / "shards")
    assert code == 2
    assert "000000.tar: 0 bytes instead of" in told and told.splitlines()[-1].startswith("error: ")


def test_mistakes_are_one_line(tmp_path: Path, run: Run) -> None:
    (tmp_path / "texts.txt").write_text("the quick brown fox jumps over the lazy dog")
    for words, told in (
        (("shard", "cocoa", "x", "--out", tmp_path / "o"), "did you mean 'coco'"),
        (("shard", "coco", tmp_path / "x.json", "--out", tmp_path / "o"), "cannot read the annotation"),
        (("demo", tmp_path), "exists already"),
        (("verify", tmp_path), "holds no manifest.json"),
        (("vocab", tmp_path / "x", "--out", tmp_path / "v"), "cannot read"),
        (("vocab", tmp_path / "texts.txt", "--out", tmp_path / "v", "--size", "32"), "--size 32 is less than"),
        (("vocab", tmp_path / "texts.txt", "--out", tmp_path / ("v" * 300)), "File name too long"),
        (("demo", tmp_path / ("d" * 300)), "File name too long"),
    ):
        code, _, error = run(*words)
        assert code == 2
        assert error.startswith("error: ") and error.count("\n") == 1 and told in error
