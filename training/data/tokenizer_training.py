"""Texts -> a tokenizer: characters for Chinese and Japanese, word pieces for alphabetic scripts.

Text is normalised to NFKC without control and zero-width characters, case kept. Every Chinese or Japanese character,
digit, punctuation mark, symbol and emoji code point is a token; words are split into pieces by byte-pair encoding
with the pieces inside a word marked "##". An unknown character is one [UNK]; it never takes its word with it.
Knows no file and no label.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from ner_service.errors import ConfigError
from ner_service.text.tokenizer import TextTokenizer

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_PREFIX = "##"
_ASCII = tuple(chr(code) for code in range(0x21, 0x7F))
# Control, format and variation-selector characters that are no whitespace: they have no width of their own.
_INVISIBLE = r"(?!\s)[\p{Cc}\p{Cf}\x{034F}\x{FE00}-\x{FE0F}\x{E0100}-\x{E01EF}]"
_ALONE = r"[^\p{L}\p{M}]|[\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\x{30FC}]"


def train_tokenizer(texts: Iterable[str], *, vocab_size: int, min_frequency: int = 2) -> TextTokenizer:
    """Learn a tokenizer of at most `vocab_size` tokens; the same texts give the same tokenizer.

    Characters come first (printable ASCII always, others by frequency if seen at least `min_frequency` times); what
    room is left goes to word pieces seen as often. The larger the corpus, the higher `min_frequency` should be, or
    characters seen by chance leave no room for pieces.

    Raises:
        ConfigError: `vocab_size` has no room for the special tokens and ASCII.
    """
    normalizer = _normalizer()
    normal_texts = [normalizer.normalize_str(text) for text in texts]
    seen: Counter[str] = Counter()
    for text in normal_texts:
        seen.update(text)
    characters = _choose_characters(seen, vocab_size, min_frequency)
    tokens = list(dict.fromkeys([*SPECIALS, *characters]))
    merges = _learn_merges(normal_texts, seen, max(vocab_size - len(tokens), 0), min_frequency)
    return TextTokenizer(_assemble(tokens, merges, vocab_size))


def _normalizer() -> normalizers.Normalizer:
    return normalizers.Sequence([normalizers.Replace(Regex(_INVISIBLE), ""), normalizers.NFKC()])


def _pre_tokenizer() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(_ALONE), behavior="isolated")]
    )


def _choose_characters(seen: Counter[str], vocab_size: int, min_frequency: int) -> list[str]:
    """Single characters, and where they occur in words also their form inside a word, as many as there is room for."""
    frequent = sorted((-count, character) for character, count in seen.items() if count >= min_frequency)
    others = (character for _, character in frequent if not character.isspace())
    splitter = _pre_tokenizer()
    chosen: list[str] = []
    for character in dict.fromkeys([*_ASCII, *others]):
        in_words = len(splitter.pre_tokenize_str(character * 2)) == 1
        forms = [character, _PREFIX + character] if in_words else [character]
        if len(SPECIALS) + len(chosen) + len(forms) > vocab_size:
            break
        chosen += forms
    if not set(_ASCII) <= set(chosen):
        raise ConfigError(f"vocab_size: found {vocab_size}, expected room for the special tokens and printable ASCII")
    return chosen


def _learn_merges(texts: Sequence[str], seen: Counter[str], limit: int, min_frequency: int) -> list[tuple[str, str]]:
    """The pairs to merge, most frequent first; at least `limit` of them if the texts have so many.

    The trainer numbers "##" pieces in the order of a hash map and breaks ties by number: naming them beforehand, as
    if they were special tokens, makes it deterministic.
    """
    if not limit:
        return []
    inner = sorted(_PREFIX + character for character in seen if not character.isspace())
    learner = Tokenizer(models.BPE(continuing_subword_prefix=_PREFIX))
    learner.pre_tokenizer = _pre_tokenizer()
    trainer = trainers.BpeTrainer(
        vocab_size=len(seen) + len(inner) + limit,
        min_frequency=min_frequency,
        special_tokens=inner,
        continuing_subword_prefix=_PREFIX,
        show_progress=False,
    )
    learner.train_from_iterator(texts, trainer)
    return [(first, second) for first, second in json.loads(learner.to_str())["model"]["merges"]]


def _assemble(tokens: Sequence[str], merges: Iterable[tuple[str, str]], vocab_size: int) -> Tokenizer:
    vocab = {token: index for index, token in enumerate(tokens)}
    kept: list[tuple[str, str]] = []
    for first, second in merges:
        merged = first + second.removeprefix(_PREFIX)
        if first not in vocab or second not in vocab or (merged not in vocab and len(vocab) >= vocab_size):
            continue
        vocab.setdefault(merged, len(vocab))
        kept.append((first, second))
    tokenizer = Tokenizer(
        models.BPE(vocab=vocab, merges=kept, unk_token="[UNK]", continuing_subword_prefix=_PREFIX, fuse_unk=False)
    )
    tokenizer.normalizer = _normalizer()
    tokenizer.pre_tokenizer = _pre_tokenizer()
    tokenizer.add_special_tokens([AddedToken(special, special=True, normalized=False) for special in SPECIALS])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])],
    )
    return tokenizer
