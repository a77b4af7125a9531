"""GLUE's files, each in its task's layout."""

from pathlib import Path

import pytest

from data_tools.sample import Reason
from data_tools.sources.registry import source
from data_tools.splits import Split
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.errors import UserError
from tests.data_tools.test_more_sources import read

MNLI = (
    "index promptID pairID genre sentence1_binary_parse sentence2_binary_parse sentence1_parse sentence2_parse sentence1 sentence2 label1"
)
STS_B = "index genre filename year old_index source1 source2 sentence1 sentence2 score"
FILES = {
    "CoLA": ("gj04\t1\t\tOur friends won't buy.\n", ("Our friends won't buy.", "", "acceptable")),
    "SST-2": ("sentence\tlabel\nhide new \t0\n", ("hide new ", "", "negative")),
    "MRPC": (
        "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t70\t71\tAmrozi said.\tHe said.\n",
        ("Amrozi said.", "He said.", "equivalent"),
    ),
    "QQP": ('id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n1\t2\t3\tHow "so"?\tWhy?\t0\n', ('How "so"?', "Why?", "not duplicate")),
    "STS-B": (
        STS_B.replace(" ", "\t") + "\n0\tm\tM\t2012\t1\tn\tn\tA plane.\tAn air.\t5.000\n",
        ("A plane.", "An air.", "5.000"),
    ),
    "MNLI": (
        MNLI.replace(" ", "\t") + "\tgold_label\n0\t1\t1n\tgov\t(\t(\t(\t(\tCream.\tProduct.\tneutral\tcontradiction\n",
        ("Cream.", "Product.", "contradiction"),
    ),
    "QNLI": ("index\tquestion\tsentence\tlabel\n0\tWhen?\tThen.\tnot_entailment\n", ("When?", "Then.", "not entailment")),
    "RTE": ("index\tsentence1\tsentence2\tlabel\n0\tNo.\tYes.\tentailment\n", ("No.", "Yes.", "entailment")),
    "WNLI": ("index\tsentence1\tsentence2\tlabel\n0\tI stuck.\tIt stuck.\t1\n", ("I stuck.", "It stuck.", "entailment")),
}


@pytest.mark.parametrize("task", FILES)
def test_glue(tmp_path: Path, task: str) -> None:
    contents, texts = FILES[task]
    (tmp_path / task).mkdir()
    (sample,) = read("glue", tmp_path / task / "dev.tsv", contents)
    assert (sample.record.text, sample.record.second_text, sample.record.label) == texts
    assert (sample.stream, sample.split, sample.media) == (Task.TEXT, Split.VALIDATION, None)


def test_a_test_has_no_labels_and_a_row_may_be_short(tmp_path: Path) -> None:
    (tmp_path / "cola").mkdir()
    (sample,) = read("glue", tmp_path / "cola/test.tsv", "index\tsentence\n0\tBill slept.\n")
    assert (sample.key, sample.record.text, sample.record.label) == ("row2", "Bill slept.", None)
    (tmp_path / "QQP").mkdir()
    short, whole = read("glue", tmp_path / "QQP/train.tsv", FILES["QQP"][0].replace("1\t2\t3", "1\t2\n1\t2\t3"))
    assert short.fault is not None and (short.fault.reason, short.fault.detail) == (Reason.NO_TEXT, "2 columns, not 6")
    assert whole.fault is None


@pytest.mark.parametrize("contents", ["a\tb\n0\t1\n", "index\tsentence1\tsentence2\tlabel\n0\ta\tb\tmaybe\n"])
def test_wrong_layout(tmp_path: Path, contents: str) -> None:
    (tmp_path / "RTE").mkdir()
    with pytest.raises(UserError, match=r"RTE/train\.tsv is not in the layout of `glue`"):
        read("glue", tmp_path / "RTE/train.tsv", contents)


def test_unknown_task(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="which is no task of GLUE: name the folder CoLA, SST-2"):
        read("glue", tmp_path / "train.tsv", "a\n")
    (tmp_path / "RTE").mkdir()
    with pytest.raises(UserError, match=r"cannot read .*nowhere"):
        list(source("glue", Split.TRAIN).samples(tmp_path / "RTE/nowhere", tmp_path))
