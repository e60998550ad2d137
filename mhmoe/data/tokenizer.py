"""The tokenizer: byte-level BPE, learned from the text that is packed.

Every text of every script is a sequence of its tokens, none of which is "unknown", and decoding gives the
text back. BPE merges within what a pattern takes for a word. GPT-2's, which is the default, counts the
combining marks that Hindi and Thai write vowels with among the signs, and so cuts their words apart: of the
XNLI languages these two then gain next to nothing from a larger vocabulary. WORDS_WITH_MARKS does not.
Where there are no spaces (Chinese, Thai), a word may be as long as a clause.

`given_tokenizer` takes the vocabulary of any tokenizer of Hugging Face instead.
"""

from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from mhmoe.cli import interruptible
from mhmoe.io import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"
END_OF_TEXT_ID = 0
WORDS_WITH_MARKS = r"'s|'t|'re|'ve|'m|'ll|'d| ?[\p{L}\p{M}]+| ?\p{N}+| ?[^\s\p{L}\p{M}\p{N}]+|\s+(?!\S)|\s+"
"""GPT-2's pattern with combining marks among the letters."""


def train_tokenizer(
    texts: Iterable[str], vocab_size: int, word_pattern: str | None = None, symbols: str = ""
) -> Tokenizer:
    """Byte-level BPE; <|endoftext|> is token 0. The same texts give the same tokenizer.

    word_pattern: a regular expression whose matches are the words, within which BPE merges; None is GPT-2's.
    symbols: characters that are no text; each is a token, and they are the last ones, in their order.
    Raises ValueError if vocab_size has no room for the 256 bytes, <|endoftext|> and the symbols.
    """
    check_vocab_size(vocab_size, len(symbols))
    tokenizer = Tokenizer(models.BPE())
    if word_pattern is None:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        words = pre_tokenizers.Split(Regex(word_pattern), "isolated")
        as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, as_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(symbols),
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    without = dict.fromkeys(map(ord, symbols))
    without_symbols = (text.translate(without) for text in texts) if symbols else texts
    interruptible(lambda: tokenizer.train_from_iterator(without_symbols, trainer))
    tokenizer.add_tokens([AddedToken(symbol, normalized=False) for symbol in symbols])
    return as_text_only(tokenizer)


def check_vocab_size(vocab_size: int, symbols: int = 0) -> None:
    """Raises ValueError if the 256 bytes, <|endoftext|> and so many symbols do not fit in."""
    if vocab_size < 257 + symbols:
        what = f"256 bytes, {END_OF_TEXT} and {symbols} symbols" if symbols else f"256 bytes and {END_OF_TEXT}"
        raise ValueError(f"vocab_size={vocab_size} is too small; {what} need at least {257 + symbols}")


def as_text_only(tokenizer: Tokenizer) -> Tokenizer:
    """Let "<|endoftext|>" written in a document be text: only packing may end a document."""
    tokenizer.encode_special_tokens = True
    return tokenizer


def bare(tokenizer: Tokenizer) -> Tokenizer:
    """A copy that turns text into its tokens and does nothing else: it cuts, pads and adds nothing."""
    copied = as_text_only(Tokenizer.from_str(tokenizer.to_str()))
    copied.no_truncation()
    copied.no_padding()
    copied.post_processor = None  # what would add tokens
    return copied


class GivenTokenizer(NamedTuple):
    """A vocabulary that is not learned from the text, the number of its end of text, and how many numbers it has."""

    tokenizer: Tokenizer
    end_of_text: int
    size: int


def given_tokenizer(name: str) -> GivenTokenizer:
    """The Hugging Face tokenizer of a folder or of a name on the hub, as text only: it adds no tokens of its own.

    Raises UserError if there is none, or it has no end of text, or not the form of the library tokenizers.
    """
    from transformers import AutoTokenizer  # slow to import, and packing does not need it

    try:
        found: Any = AutoTokenizer.from_pretrained(name)
    except Exception as error:  # whatever transformers, the hub and the file formats raise
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"tokenizer {name} cannot be loaded ({reason}); name a folder with a tokenizer.json") from None
    inner = getattr(found, "backend_tokenizer", None)
    if not isinstance(inner, Tokenizer):
        raise UserError(f"tokenizer {name} is none of the library tokenizers; name one that has a tokenizer.json")
    if found.eos_token_id is None:
        raise UserError(f"tokenizer {name} has no end of text; set its eos_token and save it again")
    tokenizer = bare(inner)
    return GivenTokenizer(tokenizer, int(found.eos_token_id), vocabulary_size(tokenizer))


def losses(tokenizer: Tokenizer, texts: Iterable[str]) -> str:
    """A sentence on the first 50 texts that their tokens do not give back, "" if they do, but for blanks at the ends: a
    vocabulary may have a sign for all that it does not know, lower case alone, or one blank for every indentation."""
    some = list(islice(texts, 50))
    ids = [encoding.ids for encoding in tokenizer.encode_batch(some, add_special_tokens=False)]
    back = tokenizer.decode_batch(ids, skip_special_tokens=False)
    lost = sum(text.strip() != found.strip() for text, found in zip(some, back, strict=True))
    if not lost:
        return ""
    return (
        f"the tokenizer does not give back {lost} of {len(some)} documents: what it loses need not be predicted, so "
        "bits per byte are too few to be compared with those of another tokenizer"
    )


def vocabulary_size(tokenizer: Tokenizer) -> int:
    """The largest number of a token, and one: some vocabularies leave numbers out."""
    return max(tokenizer.get_vocab().values()) + 1


def as_transformers(
    tokenizer: Tokenizer, end_of_text: int = END_OF_TEXT_ID, length: int | None = None
) -> "PreTrainedTokenizerFast":
    """The tokenizer for `save_pretrained` beside a checkpoint; begins, ends and pads with its end of text.

    length: tokens that the model takes, to which `truncation=True` cuts. It pads on the left, so that a batch is
    generated from the ends of its prompts.
    """
    from transformers import PreTrainedTokenizerFast  # slow to import, and packing does not need it

    sign = tokenizer.id_to_token(end_of_text)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=sign,
        eos_token=sign,
        pad_token=sign,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        **({} if length is None else {"model_max_length": length}),
    )
