"""Measures models and records. Never trains, and knows no system by name: it takes them as arguments.

statistics: intervals and corrections. learning_speed: the cost to reach a loss. claims: their rules and
verdicts. ledger: their page. render: tables. figures: pictures with their points.
"""

READING_ORDER = ("statistics", "learning_speed", "claims", "ledger", "render", "figures")
