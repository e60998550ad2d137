"""The embedded prose and a generated text by turns: English that is always there, of which questions can be asked.

Nobody knows which questions the prose answers, and which of its words have several senses. Of a generated text all
that is known; a model that has read it can be asked about it, as models of natural text are about theirs.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from mhmoe.data.corpora import Document
from mhmoe.data.embedded import EmbeddedCorpus
from mhmoe.data.multilingual import in_turn
from mhmoe.data.synthetic import GeneratedCorpus

LANGUAGE = 0  # of the generated text, the one that stands for English


@dataclass(frozen=True, kw_only=True)
class PartlyGeneratedCorpus:
    """As many characters of each, up to a document, until one of them ends. generated: of its documents, those in the
    first language; those in others are not English."""

    kind: ClassVar[str] = "embedded_and_generated"
    embedded: EmbeddedCorpus
    generated: GeneratedCorpus

    def documents(self, split: str) -> Iterator[Document]:
        """Raises ValueError on an unknown split."""
        prose = self.embedded.documents(split)
        made = (d for d in self.generated.documents(split) if d.source == f"language{LANGUAGE}")
        yield from in_turn({"embedded": prose, "generated": made})

    def fingerprint(self) -> dict[str, Any]:
        """Those of the two, each under the name of its field."""
        return {"kind": self.kind} | {f.name: getattr(self, f.name).fingerprint() for f in dataclasses.fields(self)}
