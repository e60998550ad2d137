"""What is appended to a copy of experiments/scales.py, so that commands are quick there.

Four steps, one seed, one learning rate, one trial of a search; smoke reads a generated text.
"""

SMALL_SCALES = """
def _small(scale, corpus=None):
    packing = PackingConfig(
        vocab_size=300, max_train_tokens=4000, tokenizer_characters=20_000, max_valid_tokens=400, max_test_tokens=400
    )
    return dataclasses.replace(
        scale,
        packing=packing,
        training={"steps": 4, "batch_sequences": 4, "length": 16, "evaluations": 2, "evaluation_windows": 8},
        learning_rates=scale.learning_rates[:1],
        corpus=corpus or scale.corpus,
        seeds=(1,),
        stand_in=scale.stand_in and GeneratedFolder(english=_english, multilingual=_languages, items=24),
        trials=1,
        texts={
            task: dataclasses.replace(text, packing=_with_room(packing, task), seeds=(1,))
            for task, text in scale.texts.items()
        },
    )
def _with_room(packing, task):
    return dataclasses.replace(packing, vocab_size=350) if task == MULTIMODAL else packing  # for visual tokens
_sizes = {"documents_per_split": 60, "train_factor": 2, "sentences": 1}
_english = GeneratedCorpus(languages=2, topics=6, headwords=80, most_senses=5, **_sizes)
_languages = GeneratedCorpus(languages=len(XNLI_LANGUAGES), topics=28, headwords=200, **_sizes)
SMOKE = _small(SMOKE, lambda: _english)
CPU, GPU = _small(CPU), _small(GPU)
SCALES |= {scale.name: scale for scale in (SMOKE, CPU, GPU)}
"""
