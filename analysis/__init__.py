"""Measures models and records. Never trains, and knows no system by name: it takes them as arguments.

statistics: intervals and corrections. learning_speed: the cost to reach a loss. claims: their rules and
verdicts; measured_claims: those about measured values. ledger: their page. render: tables. plotting: what figures
share; figures: curves, trends and categories. languages: perplexity language by language.

outputs: whether a file can be written. checkpoints: any causal model.

Routing. routed_text: a text through a model. expert_activation: counts; routing_measures: what follows from
them; heatmaps, activation_figure: their figures. sub_tokens: words; polysemy: which have several senses;
group_comparison: two groups of words; word_figure: their figure; word_in_context: one word in two senses;
word_senses: all of these of one model; known_senses: the same on a generated text. word_list: a command for any
list of words. inspect: one that shows a text's routing.

Zero-shot. answers: what the likelihoods of choices say; zero_shot_tasks: which tasks, and their files; harness:
lm-eval's side of them; prefix_trees: rows that begin alike; length_batched: lm-eval's model, faster; zero_shot: the
scores, and a command; scores: tables of several systems.
"""

READING_ORDER = (
    "statistics",
    "learning_speed",
    "claims",
    "measured_claims",
    "ledger",
    "render",
    "plotting",
    "figures",
    "languages",
    "outputs",
    "checkpoints",
    "routed_text",
    "routing_measures",
    "expert_activation",
    "heatmaps",
    "activation_figure",
    "group_comparison",
    "word_figure",
    "sub_tokens",
    "polysemy",
    "word_in_context",
    "word_senses",
    "known_senses",
    "word_list",
    "inspect",
    "answers",
    "zero_shot_tasks",
    "harness",
    "prefix_trees",
    "length_batched",
    "zero_shot",
    "scores",
)
