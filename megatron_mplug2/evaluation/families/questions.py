"""Questions about pictures and clips: answered freely by beam search, or by choice from a closed list."""

from collections import Counter
from collections.abc import Callable, Sequence

from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.blank import is_blank
from megatron_mplug2.data.evaluation_batches import EvaluationBatch
from megatron_mplug2.data.manifest import Manifest
from megatron_mplug2.data.record import Question, Record
from megatron_mplug2.data.tokenizer import Tokenizer
from megatron_mplug2.evaluation.answer_list import AnswerList, plain
from megatron_mplug2.evaluation.families.findings import Findings, Kind, Prediction, Score
from megatron_mplug2.evaluation.gather import gather_in_order
from megatron_mplug2.evaluation.generation.answer_ranking import AnswerRanker
from megatron_mplug2.evaluation.generation.speaker import Speaker
from megatron_mplug2.evaluation.inference import EncodedMedia
from megatron_mplug2.evaluation.metrics.exact_match import same
from megatron_mplug2.evaluation.metrics.vqa import vqa_accuracy
from megatron_mplug2.evaluation.progress import EvaluationProgress
from megatron_mplug2.evaluation.questions import Answer

Judge = Callable[[str, Question], float]
"""Percent that an answer to a question is right."""


class QuestionAnswering:
    what = "answer questions"

    def __init__(self, speaker: Speaker, config: RunConfig, manifest: Manifest, answers: AnswerList | None) -> None:
        """`answers`: None lets the model say what it likes."""
        self._speaker, self._manifest, self._list = speaker, manifest, answers
        self._listed = frozenset(answers.answers if answers else ())
        self._ranker: AnswerRanker | None = None
        if answers is not None:
            tokenizer = Tokenizer(config.data.vocab, config.model.text.vocab_size)
            self._ranker = AnswerRanker(speaker.inference, tokenizer, answers, config.data.target_length)
        self._answers: list[Answer] = []

    def fault(self, index: int, record: Record) -> str | None:
        for question in record.questions:
            if is_blank(question.question):
                return "an empty question"
            if is_blank(question.answer):
                return f"the question {question.question!r} has an empty answer"
            if self._list and not {plain(answer) for answer in (question.answer, *question.answers)} & self._listed:
                return f"the answer {question.answer!r} is not among those of {self._list.path}; add it there"
        return None

    def add(self, batch: EvaluationBatch, media: EncodedMedia, records: Sequence[Record]) -> None:
        asked = [(row, question) for row, record in enumerate(records) for question in record.questions]
        if not asked:
            return
        rows, questions = [row for row, _ in asked], [question.question for _, question in asked]
        indices = batch.indices[rows].tolist()
        if self._ranker is None:
            said = self._speaker.answers(media, rows, questions, indices)
        else:
            said = self._speaker.choices(media, rows, questions, self._ranker.best)
        self._answers += [
            Answer(index=index, question=question, said=one) for index, (_, question), one in zip(indices, asked, said, strict=True)
        ]

    def findings(self, progress: EvaluationProgress) -> Findings:
        answers = gather_in_order(self._answers, self._speaker.inference.context.topology.data_group)
        if not answers:
            return Findings(scores=(), predictions=())
        predictions = (self._prediction(answer) for answer in answers)
        return Findings(scores=answer_scores(answers), predictions=tuple(predictions))

    def _prediction(self, answer: Answer) -> Prediction:
        question = answer.question
        return Prediction(
            index=answer.index,
            key=self._manifest.entry(answer.index).key,
            kind=Kind.ANSWER,
            asked=question.question,
            said=answer.said,
            references=question.answers if _several(question) else (question.answer,),
            score=(_by_people if _several(question) else _exact)(answer.said, question),
        )


def answer_scores(answers: Sequence[Answer]) -> tuple[Score, ...]:
    """VQA accuracy over the questions that several people answered, exact match over all, and over each kind where there are kinds."""
    several = [answer for answer in answers if _several(answer.question)]
    kinds = sorted({answer.question.kind for answer in answers} - {""})
    scores = [_score("VQA accuracy", several, _by_people)] if several else []
    scores.append(_score("exact match", answers, _exact))
    if len(kinds) > 1:
        of_kind = {kind: [answer for answer in answers if answer.question.kind == kind] for kind in kinds}
        scores += [_score(f"exact match: {kind}", some, _exact) for kind, some in of_kind.items()]
    return tuple(scores)


def _several(question: Question) -> bool:
    """Whether more than one person answered."""
    return len(question.answers) > 1


def _score(name: str, answers: Sequence[Answer], judge: Judge) -> Score:
    """Chance: whoever always gives the most frequent answer."""
    constant = Counter(plain(answer.question.answer) for answer in answers).most_common(1)[0][0]
    value = sum(judge(answer.said, answer.question) for answer in answers) / len(answers)
    return Score(name=name, value=value, chance=sum(judge(constant, answer.question) for answer in answers) / len(answers))


def _exact(said: str, question: Question) -> float:
    return 100.0 * same(said, question.answer)


def _by_people(said: str, question: Question) -> float:
    return vqa_accuracy(said, question.answers)
