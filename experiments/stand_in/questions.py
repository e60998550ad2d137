"""Questions about a generated text, in the schemas of lm-eval's data sets; whoever knows the text's rules answers all.

Every question begins with pairs of one topic, among them a word of this topic alone, so that the topic is known. Then
comes a head, and what is asked is which word may follow it there: right is a follower of the sense that the head has
in the topic, wrong are those of its other senses, or of other words.

    arc_challenge, arc_easy, openbookqa     a follower, four choices; in arc_challenge the head is ambiguous and the
                                            wrong answers are of its other senses
    piqa, hellaswag                         a follower and one more pair, two and four choices
    truthfulqa                              the same followers, one right (mc1) or two (mc2)
    winogrande                              which of two heads may stand before a follower
    boolq, rte                              whether a pair may stand in the topic
    xnli_*                                  a pair of the premise (entailment), one that may stand in its topic
                                            (neutral), one that may not, of a head of the premise (contradiction)

Where the right answer stands is dealt out evenly, so that whoever knows nothing is right as often as chance.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from mhmoe.data.synthetic import GeneratedCorpus, Kind

Documents = list[dict[str, Any]]
_BEFORE = 3  # pairs before the head that is asked about


class _Lesson(NamedTuple):
    """Pairs of one topic; then a head, two words that may follow it there, and three that may not; a rival, another
    head, which the first of the right words may not follow; and one more pair. No head stands twice."""

    before: Sequence[str]
    head: str
    right: Sequence[str]
    wrong: Sequence[str]
    rival: str
    after: str

    @property
    def text(self) -> str:
        return " ".join([*self.before, self.head])


def english(corpus: GeneratedCorpus, language: int, items: int) -> dict[str, Documents]:
    """Folder of the task -> documents, for all English tasks."""
    draw = np.random.RandomState([corpus.seed, language, *b"questions"])
    made: dict[str, Documents] = {}
    for i in range(items):
        for name, ask in _ENGLISH.items():
            kind: Kind | None = "ambiguous" if name == "arc_challenge" else None
            made.setdefault(name, []).append(ask(_lesson(corpus, language, draw, kind), i))
    return made


def xnli(corpus: GeneratedCorpus, language: int, items: int) -> Documents:
    """Of one language."""
    draw = np.random.RandomState([corpus.seed, language, *b"questions"])
    made: Documents = []
    for i in range(items):
        lesson, label = _lesson(corpus, language, draw), i % 3
        stated = f"{lesson.head} {lesson.right[0]}"
        premise = " ".join([*lesson.before, stated])
        hypothesis = (stated, lesson.after, f"{lesson.head} {lesson.wrong[0]}")[label]
        made.append({"premise": premise, "hypothesis": hypothesis, "label": label})
    return made


def _lesson(corpus: GeneratedCorpus, language: int, draw: np.random.RandomState, kind: Kind | None = None) -> _Lesson:
    """kind: of the head that is asked about; None takes any. Raises ValueError where no topic tells itself."""
    kinds, all_followers = corpus.kinds(), corpus.followers()
    several = [corpus.followers_in(topic) for topic in corpus.topics_in(language)]
    telling = [heads for heads in several if any(kinds[head] == "local" for head in heads)]
    if not telling:
        raise ValueError(f"no topic of language {language} has a word of its own; generate more heads")
    followers = telling[int(draw.randint(len(telling)))]
    sign = _one(draw, [word for word in followers if kinds[word] == "local"])
    head = _one(draw, [word for word in followers if word != sign and kind in (None, kinds[word])])
    others = draw.permutation([word for word in followers if word not in (head, sign)])[:_BEFORE].tolist()
    pairs = [f"{word} {_one(draw, followers[word])}" for word in (sign, *others)]
    right = draw.permutation(list(followers[head])).tolist()
    of_head = {word for sense in all_followers[head] for word in sense} - set(right)
    pool = sorted(of_head) if len(of_head) >= _BEFORE else sorted(set(kinds) - set(all_followers) - set(right))
    wrong = draw.permutation(pool)[:_BEFORE].tolist()
    rivals = [word for word in followers if word not in (head, sign, *others) and right[0] not in followers[word]]
    return _Lesson(draw.permutation(pairs[:-1]).tolist(), head, right[:2], wrong, _one(draw, rivals), pairs[-1])


def _one(draw: np.random.RandomState, words: Sequence[str]) -> str:
    return words[int(draw.randint(len(words)))]


def _placed(right: str, wrong: Sequence[str], place: int) -> list[str]:
    return [*wrong[:place], right, *wrong[place:]]


def _arc(lesson: _Lesson, i: int, stem: str = "question") -> dict[str, Any]:
    labels = "ABCD"
    choices = {"text": _placed(lesson.right[0], lesson.wrong, i % 4), "label": list(labels)}
    return {"id": str(i), stem: lesson.text, "choices": choices, "answerKey": labels[i % 4]}


def _continued(lesson: _Lesson, number: int, place: int) -> list[str]:
    answers = _placed(lesson.right[0], lesson.wrong[: number - 1], place)
    return [f"{answer} {lesson.after}." for answer in answers]


def _piqa(lesson: _Lesson, i: int) -> dict[str, Any]:
    first, second = _continued(lesson, 2, i % 2)
    return {"goal": lesson.text, "sol1": first, "sol2": second, "label": i % 2}


def _hellaswag(lesson: _Lesson, i: int) -> dict[str, Any]:
    label = lesson.before[0].split()[0]
    begin = {"ind": i, "activity_label": label, "ctx": lesson.text, "ctx_a": lesson.text, "ctx_b": "", "split": "val"}
    return begin | {"endings": _continued(lesson, 4, i % 4), "label": str(i % 4)}


def _truthfulqa(lesson: _Lesson, i: int) -> dict[str, Any]:
    right, wrong = list(lesson.right), list(lesson.wrong)
    return {
        "question": lesson.text,
        "mc1_targets": {"choices": [right[0], *wrong], "labels": [1, 0, 0, 0]},
        "mc2_targets": {"choices": [*right, *wrong], "labels": [1, 1, 0, 0, 0]},
    }


def _winogrande(lesson: _Lesson, i: int) -> dict[str, Any]:
    sentence = " ".join([*lesson.before, "_", lesson.right[0], lesson.after])
    first, second = _placed(lesson.head, [lesson.rival], i % 2)
    return {"sentence": f"{sentence}.", "option1": first, "option2": second, "answer": "12"[i % 2]}


def _boolq(lesson: _Lesson, i: int) -> dict[str, Any]:
    follower = lesson.right[0] if i % 2 else lesson.wrong[0]
    passage = f"{' '.join([*lesson.before, lesson.after])}."
    return {"question": f"{lesson.head} {follower}", "passage": passage, "idx": i, "label": i % 2}


def _rte(lesson: _Lesson, i: int) -> dict[str, Any]:
    follower = lesson.wrong[0] if i % 2 else lesson.right[0]
    text = f"{' '.join([*lesson.before, lesson.after])}."
    return {"sentence1": text, "sentence2": f"{lesson.head} {follower}.", "label": i % 2, "idx": i}


_ENGLISH = {
    "arc_challenge": _arc,
    "arc_easy": _arc,
    "rte": _rte,
    "openbookqa": partial(_arc, stem="question_stem"),
    "winogrande": _winogrande,
    "piqa": _piqa,
    "boolq": _boolq,
    "hellaswag": _hellaswag,
    "truthfulqa": _truthfulqa,
}
