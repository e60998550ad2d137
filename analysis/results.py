"""What every measurement of a model says."""

from dataclasses import dataclass

from mhmoe.data.manifest import GENERATED


@dataclass(frozen=True, kw_only=True)
class Source:
    """Data that a measurement read beside the packed text: of which kind they are, and each file's sha256.

    Of the hub, the names of data sets and their fingerprints.
    """

    kind: str
    files: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Result:
    """Base of the results; each stands beside the function that makes it. Fields are plain values, as JSON has them.

    data: what was read beside the packed text, if anything was.
    """

    data: Source | None = None

    @property
    def is_generated(self) -> bool:
        return self.data is not None and self.data.kind == GENERATED

    def conditions(self) -> dict[str, object]:
        """What must be equal in two results that are compared, by its name."""
        return {"data": self.data}
