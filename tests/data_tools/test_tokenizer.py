"""The trained tokenizers, and the data commands as a person runs them."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import sentencepiece
from tokenizers import BertWordPieceTokenizer

from data_tools.texts import corpus_texts, sampled
from data_tools.tokenizer import train_tokenizer
from data_tools.tokenizer_kind import TokenizerKind
from megatron_mplug2.cli import main
from megatron_mplug2.config.objectives import LMConfig
from megatron_mplug2.data.subwords import SPECIALS
from megatron_mplug2.data.tokenizer import Tokenizer
from megatron_mplug2.errors import UserError
from tests.data.corpus import picture

SENTENCEPIECE = TokenizerKind.SENTENCEPIECE

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


def wordpiece(file: Path) -> BertWordPieceTokenizer:
    return BertWordPieceTokenizer(str(file), lowercase=True)


def test_vocabulary_reads_its_texts(tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("A small Red circle moves left.\nthe small circle is red\n" * 20)
    count = train_tokenizer([tmp_path / "texts.txt"], tmp_path / "vocab.txt", size=200)
    pieces = (tmp_path / "vocab.txt").read_text().splitlines()
    assert len(pieces) == len(set(pieces)) == count <= 200
    assert tuple(pieces[:5]) == SPECIALS
    tokenizer = wordpiece(tmp_path / "vocab.txt")
    assert tokenizer.encode("a small RED circle", add_special_tokens=False).tokens == ["a", "small", "red", "circle"]
    assert tokenizer.encode("dixie", add_special_tokens=False).tokens == ["[UNK]"]


def test_small_vocabulary_splits_words(tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("small circle moves left, large triangle turns clockwise\n" * 9)
    assert train_tokenizer([tmp_path / "texts.txt"], tmp_path / "vocab.txt", size=60) == 60
    tokens = wordpiece(tmp_path / "vocab.txt").encode("clockwise", add_special_tokens=False).tokens
    assert len(tokens) > 1 and "[UNK]" not in tokens


def test_sentencepiece_has_the_same_special_tokens(tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("A small Red circle moves left.\nthe small circle is red\n" * 20)
    count = train_tokenizer([tmp_path / "texts.txt"], tmp_path / "words.model", size=40, kind=SENTENCEPIECE)
    model = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "words.model"))
    assert tuple(model.id_to_piece(number) for number in range(5)) == SPECIALS
    assert model.get_piece_size() == count <= 40
    assert "".join(model.encode("A small RED circle", out_type=str)) == "▁a▁small▁red▁circle"
    assert list(tmp_path.glob("*.partial")) == []


@pytest.mark.parametrize("kind", TokenizerKind)
def test_nothing_to_learn_from(tmp_path: Path, kind: TokenizerKind) -> None:
    (tmp_path / "texts.txt").write_text("\n")
    with pytest.raises(UserError, match="no texts"):
        train_tokenizer([tmp_path / "texts.txt"], tmp_path / "vocab", size=60, kind=kind)
    with pytest.raises(UserError, match="cannot read"):
        train_tokenizer([tmp_path / "nowhere.txt"], tmp_path / "vocab", size=60, kind=kind)
    (tmp_path / "texts.txt").write_text("the quick brown fox")
    with pytest.raises(UserError, match=r"--size 6 is less than the \d+ letters") as error:
        train_tokenizer([tmp_path / "texts.txt"], tmp_path / "vocab", size=6, kind=kind)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("vocab*"))


def test_same_texts_same_vocabulary(tmp_path: Path) -> None:
    """Many ties, and processes with hash tables of their own."""
    words = ["circle", "square", "cross", "triangle", "left", "right", "up", "down"]
    (tmp_path / "lines.txt").write_text("".join(f"a {a} and a {b} {c}\n" for a in words for b in words for c in words))
    code = (
        "import sys; from pathlib import Path; from data_tools.tokenizer import TokenizerKind, train_tokenizer\n"
        "for kind in TokenizerKind: train_tokenizer([Path(sys.argv[1])], Path(sys.argv[2] + kind), size=70, kind=kind)"
    )
    for name in "ab":
        subprocess.run([sys.executable, "-c", code, tmp_path / "lines.txt", tmp_path / name], check=True, timeout=120)
    for kind in TokenizerKind:
        assert (tmp_path / f"a{kind}").read_bytes() == (tmp_path / f"b{kind}").read_bytes()


def test_a_large_corpus_is_sampled_by_places() -> None:
    """A pure function of the texts that does not go by where they stand, and cuts long ones between words."""
    texts = [f"text {number}" for number in range(3000)]
    chosen = sampled(texts, room=300 * 209)
    assert 250 < len(chosen) < 350
    assert chosen == sampled(iter(texts), room=300 * 209)
    numbers = [int(text.split()[1]) for text in chosen]
    assert numbers == sorted(numbers)
    assert 1200 < sum(numbers) / len(numbers) < 1800
    assert sampled(texts) == texts
    passages = sampled(["", "word " * 1000, "x" * 2500, "half \ud800"])
    assert max(map(len, passages)) <= 1000
    assert " ".join(passages[:-4]) == ("word " * 1000).strip()
    assert passages[-4:] == ["x" * 1000, "x" * 1000, "x" * 500, "half ?"]


def test_texts_of_a_listing_are_those_of_its_kept_samples(tmp_path: Path, run: Run) -> None:
    (tmp_path / "good.jpg").write_bytes(picture(0))
    annotation = [{"image": f"{name}.jpg", "caption": f"a {name} circle"} for name in ("good", "missing")]
    (tmp_path / "list.json").write_text(json.dumps(annotation))
    assert run("probe", "albef", tmp_path / "list.json", "--media", tmp_path, "--out", tmp_path / "listing", "--workers", 1)[0] == 0
    texts = [text for text in corpus_texts([tmp_path / "listing"]) if text]
    assert texts == ["a good circle", LMConfig().image_instruction]


def test_commands_from_corpus_to_vocabulary(tmp_path: Path, run: Run) -> None:
    (tmp_path / "lines.txt").write_text("a small circle\na large square\n" * 9)
    assert run("shard", "text", tmp_path / "lines.txt", "--out", tmp_path / "shards") == (0, "train/text: 18 samples\n", "")
    assert run("verify", tmp_path / "shards")[0] == 0
    assert run("tokenizer", tmp_path / "shards", "--out", tmp_path / "vocab.txt", "--size", "60")[0] == 0
    assert "circle" in (tmp_path / "vocab.txt").read_text().splitlines()
    code, told, _ = run("tokenizer", tmp_path / "shards", "--kind", "sentencepiece", "--out", tmp_path / "v.model", "--size", "60")
    assert (code, told) == (0, f"{tmp_path / 'v.model'}: {Tokenizer(tmp_path / 'v.model', 60).ordinary[-1] + 1} pieces\n")
    (tmp_path / "shards/train/text/000000.tar").write_bytes(b"")
    code, _, told = run("verify", tmp_path / "shards")
    assert code == 2
    assert "000000.tar has 0 bytes instead of" in told and told.splitlines()[-1].startswith("error: ")


def test_mistakes_are_one_line(tmp_path: Path, run: Run) -> None:
    (tmp_path / "texts.txt").write_text("the quick brown fox jumps over the lazy dog")
    for words, told in (
        (("shard", "cocoa", "x", "--out", tmp_path / "o"), "did you mean 'coco'"),
        (("shard", "coco", tmp_path / "x.json", "--out", tmp_path / "o"), "cannot read the annotation"),
        (("demo", tmp_path), "exists already"),
        (("verify", tmp_path), "holds no manifest.json"),
        (("tokenizer", tmp_path / "x", "--out", tmp_path / "v"), "cannot read"),
        (("tokenizer", tmp_path / "texts.txt", "--out", tmp_path / "v", "--size", "32"), "--size 32 is less than"),
        (("tokenizer", tmp_path / "texts.txt", "--out", tmp_path / ("v" * 300)), "File name too long"),
        (("demo", tmp_path / ("d" * 300)), "File name too long"),
    ):
        code, _, error = run(*words)
        assert code == 2
        assert error.startswith("error: ") and error.count("\n") == 1 and told in error
