"""A generated data folder with known answers, where no other is given."""

READING_ORDER = (
    "questions",
    "folder",
)
