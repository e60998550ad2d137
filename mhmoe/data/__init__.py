"""Text: folders of corpora, a seeded generator, a vocabulary of one's own, and packed tokens."""

READING_ORDER = (
    "manifest",
    "corpora",
    "embedded",
    "synthetic",
    "tokenizer",
    "multilingual",
    "partly_synthetic",
    "batches",
    "packing",
)
