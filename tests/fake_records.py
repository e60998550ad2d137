"""Records of runs that never were: valid ones, with a perplexity, a spread and a curve of one's choosing."""

from collections.abc import Sequence

import numpy as np

from mhmoe.training.record import Record, fingerprint
from mhmoe.training.record_checks import Document, Evaluation, Point, Provenance, summarise_documents

TOKENS = 1_000_000
PROVENANCE: Provenance = {
    "command": "none",
    "commit": "0" * 40,
    "dirty": False,
    "versions": {},
    "device": "cpu",
    "threads": 1,
    "started": "2026-01-01T00:00:00Z",
}


def record(
    system: str,
    seed: int,
    nll: float = 4.5,
    *,
    scale: str = "cpu",
    curve: Sequence[float] = (6.0, 5.0, 4.6),
    flops: int = 100,
    seconds: float = 100.0,
    learning_rate: float = 0.004,
    data: str = "a",
    documents: int = 30,
) -> Record:
    """A run whose test and validation nll per token are about `nll`; `curve` spreads evenly over its tokens.

    Documents differ in difficulty, alike for all systems; seeds differ a little, alike for all systems.
    """
    common = np.random.default_rng(7)
    tokens = common.integers(20, 200, documents)
    hardness = common.normal(0, 0.3, documents)
    own = np.random.default_rng([seed, *system.encode()]).normal(0, 0.01, documents)
    shared = np.random.default_rng(seed).normal(0, 0.05)
    rows: list[Document] = [
        {
            "id": f"document-{i}",
            "nll": float(t * (nll + shared + h + o)),
            "tokens": int(t),
            "bytes": int(4 * t),
        }
        for i, (t, h, o) in enumerate(zip(tokens, hardness, own, strict=True))
    ]
    evaluation: Evaluation = {**summarise_documents(rows), "documents": rows}
    config = {"model": system, "training": {"learning_rate": learning_rate}, "data": {"sha256": data}}
    points: list[Point] = [
        {
            "step": i,
            "tokens": TOKENS * i // len(curve),
            "seconds": seconds * i / len(curve),
            "task_loss": value,
            "balance_loss": 1.0,
            "valid_nll": value,
            "valid_bits_per_byte": value / 4,
        }
        for i, value in enumerate(curve, start=1)
    ]
    return Record(
        name=f"{system}_{seed}",
        fingerprint=fingerprint(config, seed),
        scale=scale,
        task="english",
        system=system,
        seed=seed,
        config=config,
        provenance=PROVENANCE,
        steps=len(curve),
        tokens=TOKENS,
        wall_seconds=seconds,
        peak_memory_bytes=1,
        parameters=2_000_000,
        active_parameters=1_500_000,
        flops_per_token=flops,
        metrics={"valid": evaluation, "test": evaluation},
        curve=points,
    )
