"""Figure 7 on a text whose senses are known: the control that natural words cannot give.

The text is generated. An ambiguous word and a diverse one have as many topics and followers and are as frequent; only
of the former does the topic decide which followers. Whether the model learned that is measured too.
Cost: 10 runs and their grid of rates; an hour on two cores at cpu scale. Run: make figure7 TASK=generated SCALE=cpu
"""

from experiments.figure7 import SYSTEMS
from experiments.kinds.words import EXPERTS, KNOWN_SENSES, SHARE, WordClaim, WordsFigure, word_claims

_SOURCE = "ours, after v1 Section 5.2: senses known"
CLAIMED = (
    WordClaim("senses", "matched", "ambiguous words reach more experts than matched diverse ones", EXPERTS, _SOURCE),
    WordClaim("senses", "change_matched", "training adds more to them than to these", EXPERTS, _SOURCE),
    WordClaim(
        "cognates",
        "matched",
        "false cognates reach more experts than matched true ones",
        EXPERTS,
        "v1 Section 5.2, here with senses known",
    ),
    WordClaim(
        "ambiguous_contexts",
        "raw",
        "another topic changes an ambiguous word's experts more than a diverse word's",
        SHARE,
        _SOURCE,
        beside="diverse_contexts",
    ),
)

PAGE = WordsFigure(
    slug="figure7_known_senses",
    title="Figure 7 on a generated text: different experts of a word's sub-tokens",
    task="generated",
    systems=SYSTEMS,
    headings={
        "senses": "ambiguous words / diverse words",
        "diversity": "diverse words / general words",
        "cognates": "false cognates / true cognates",
        "ambiguous_contexts": "an ambiguous word in two topics / in one",
        "diverse_contexts": "a diverse word in two topics / in one",
        "contexts_beside": "two topics less one: ambiguous / diverse words",
    },
    groups=("ambiguous", "diverse"),
    text="the generated test text, whose words count in the second half of each paragraph",
    explained=(
        "Ambiguous words have another sense in each of their topics, that is other followers; diverse words as many "
        "followers in every topic; general words fewer. Cognates are words of both languages, false ones ambiguous, "
        "and true ones diverse. matched: pairs of words alike in frequency, number of tokens, letters and number of "
        "topics. In topics: the share of a word's sub-tokens that go to another expert in another paragraph; a word's "
        "mean is its value."
    ),
    measurements=(KNOWN_SENSES,),
    claims=word_claims(SYSTEMS, KNOWN_SENSES, CLAIMED),
)
