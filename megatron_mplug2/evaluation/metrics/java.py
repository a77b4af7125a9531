"""The programs on Java that caption measures are made with: they come inside pycocoevalcap, and download nothing."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from pycocoevalcap.tokenizer import ptbtokenizer

from megatron_mplug2.errors import UserError

PATIENCE_S = 1800
"""For one call of the tokenizer: 200,000 captions take it 10 seconds."""
_TOKENIZER = ("edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase")


def require_java() -> None:
    """Raises UserError where there is none."""
    if shutil.which("java") is None:
        raise UserError("no java here, on which BLEU, METEOR, ROUGE-L and CIDEr are counted: apt-get install default-jre-headless")


def tokenized(texts: Sequence[str]) -> list[str]:
    """Each text in lower case as Penn Treebank tokens between spaces, without punctuation: pycocoevalcap's tokenizer and list.

    It is called here, since pycocoevalcap's own call writes a file beside its code, where an installation may be read-only. Raises
    UserError without Java.
    """
    require_java()
    jar = Path(ptbtokenizer.__file__).with_name(ptbtokenizer.STANFORD_CORENLP_3_4_1_JAR)
    # One line each, whatever Java takes for the end of a line; and no bars, with which METEOR parts its texts.
    lines = "".join(" ".join(text.replace("|", " ").split()) + "\n" for text in texts)
    command = ["java", "-Dfile.encoding=UTF-8", "-cp", str(jar), *_TOKENIZER, "-encoding", "UTF-8"]
    done = subprocess.run(command, input=lines.encode(errors="replace"), capture_output=True, timeout=PATIENCE_S, check=False)
    found = done.stdout.decode(errors="replace").split("\n")[:-1]
    if done.returncode or len(found) != len(texts):
        reason = (done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"])[-1]
        raise UserError(f"java failed to split captions into words ({reason}): try `java -version`; default-jre-headless of Debian works")
    return [" ".join(word for word in line.split() if word not in ptbtokenizer.PUNCTUATIONS) for line in found]
