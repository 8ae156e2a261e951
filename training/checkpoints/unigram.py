"""Pieces with scores, as SentencePiece has them -> a tokenizer. Knows no file and no weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from training.checkpoints.charsmap import replacing

MARK = "▁"  # stands for the space before a word
_MASK = "<mask>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pieces:
    """A unigram vocabulary: a piece and its log probability an id, the ids of special ones, and what characters become
    before a text is cut.
    """

    pieces: Sequence[str]
    scores: Sequence[float]
    start: int
    end: int
    padding: int
    unknown: int
    replacements: Mapping[str, str]


def unigram_tokenizer(vocabulary: Pieces) -> Tokenizer:
    """A tokenizer that marks the text's beginning and each run of spaces, and frames a text by start and end.

    The name of a special token is never the best reading of a text: its score is less than that of its letters.
    """
    pieces = list(vocabulary.pieces)
    special_ids = {vocabulary.start, vocabulary.end, vocabulary.padding, vocabulary.unknown}
    special_ids |= {pieces.index(_MASK)} if _MASK in pieces else set()
    least = min(vocabulary.scores)
    scored = [
        (piece, least * (len(piece) + 1) if index in special_ids else float(score))
        for index, (piece, score) in enumerate(zip(pieces, vocabulary.scores, strict=True))
    ]
    tokenizer = Tokenizer(models.Unigram(scored, unk_id=vocabulary.unknown, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence(
        [replacing(vocabulary.replacements), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=MARK, prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement=MARK, prepend_scheme="always")
    tokenizer.add_special_tokens(
        [AddedToken(pieces[index], special=True, normalized=False) for index in sorted(special_ids)]
    )
    start, end = pieces[vocabulary.start], pieces[vocabulary.end]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}",
        pair=f"{start} $A {end} {end} $B {end}",
        special_tokens=[(start, vocabulary.start), (end, vocabulary.end)],
    )
    return tokenizer
