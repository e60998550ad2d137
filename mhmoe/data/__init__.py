"""Text: folders of corpora, files of one's own, a seeded generator, a vocabulary, and packed tokens."""

READING_ORDER = (
    "manifest",
    "corpora",
    "own_text",
    "embedded",
    "synthetic",
    "tokenizer",
    "multilingual",
    "partly_synthetic",
    "images",
    "local_images",
    "shapes",
    "multimodal",
    "batches",
    "packing",
    "masking",
    "named",
)
