r"""A foreign vocabulary cut down to some scripts. Knows no weight.

What stays, of SentencePiece's unigram pieces or of WordPiece's, in the old order:

- special and added tokens;
- single characters of the wanted scripts, and those of no script: digits, punctuation, symbols, emoji;
- pieces of several letters of one wanted alphabet, or of several ASCII digits: those that occur in the texts at least
  `MIN_COUNT` times, or all of them where no texts are given.

Nothing else has several characters, so no known token runs across the border of a punctuation mark, or from letters to
digits. Scripts that are written without spaces are read character by character, also where a character is unknown, and
a space before such a character is no token: a span may begin and end at each of them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers

from ner_service.errors import ConfigError
from ner_service.text.tokenizer import TextTokenizer
from training.checkpoints.scripts import script_names
from training.checkpoints.unigram import MARK

MIN_COUNT = 3
_TEXTS_AT_ONCE = 1000
_WITHOUT_SPACES = ("Han", "Hiragana", "Katakana", "Bopomofo")
_NO_SCRIPT = ("Common", "Inherited")


@dataclass(frozen=True, slots=True)
class _Vocabulary:
    """A `tokenizer.json`, with its tokens by id and the mark that begins a word's first pieces, or its later ones."""

    content: dict[str, Any]
    tokens: tuple[str, ...]
    specials: frozenset[int]
    mark: str

    @classmethod
    def of(cls, tokenizer: TextTokenizer) -> _Vocabulary:
        content = json.loads(tokenizer.to_json())
        model, raw = content["model"], Tokenizer.from_str(tokenizer.to_json())
        match model["type"]:
            case "Unigram":
                unknown, mark = model["unk_id"], MARK
            case "WordPiece":
                unknown, mark = raw.token_to_id(model["unk_token"]), model["continuing_subword_prefix"]
            case kind:
                raise ConfigError(f"scripts: found a tokenizer of type {kind}, expected Unigram or WordPiece")
        added = {token["id"] for token in content["added_tokens"]}
        tokens = tuple(raw.id_to_token(index) or "" for index in range(tokenizer.vocab_size))
        return cls(content, tokens, frozenset({unknown, *added, *tokenizer.special_ids} - {None}), mark)

    def is_single(self, index: int) -> bool:
        """Whether a token is one character, its mark aside."""
        return len(self.tokens[index].removeprefix(self.mark)) < 2

    def cut_to(self, kept: Sequence[int]) -> TextTokenizer:
        """A tokenizer with these tokens alone, numbered anew, which reads scripts without spaces by the character."""
        places = {index: place for place, index in enumerate(kept)}
        content = json.loads(json.dumps(self.content))
        model = content["model"]
        if model["type"] == "Unigram":
            model["vocab"] = [model["vocab"][index] for index in kept if index < len(model["vocab"])]
            model["unk_id"] = places[model["unk_id"]]
        else:
            model["vocab"] = {token: places[index] for token, index in model["vocab"].items() if index in places}
        for token in content["added_tokens"]:
            token["id"] = places[token["id"]]
        _renumber(content["post_processor"], places)
        tokenizer = Tokenizer.from_str(json.dumps(content))
        alone = "".join(rf"\p{{{script}}}" for script in _WITHOUT_SPACES)
        steps = [] if tokenizer.pre_tokenizer is None else [tokenizer.pre_tokenizer]
        if self.mark == MARK:
            steps.append(pre_tokenizers.Split(Regex(f"{MARK}(?=[{alone}])"), behavior="removed"))
        steps.append(pre_tokenizers.Split(Regex(f"[{alone}]"), behavior="isolated"))
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
        return TextTokenizer(tokenizer)


def prune(
    tokenizer: TextTokenizer, scripts: Sequence[str], texts: Iterable[str] | None
) -> tuple[TextTokenizer, tuple[int, ...]]:
    """A tokenizer with the tokens that the module's rule keeps; their old ids, in the order of the new ones.

    Raises:
        ConfigError: an unknown script, or a tokenizer that is neither unigram nor WordPiece or frames a text in a way
            that is not known.
    """
    vocabulary = _Vocabulary.of(tokenizer)
    unwanted = _unwanted(script_names(scripts), vocabulary.mark)
    kept = [
        index
        for index, token in enumerate(vocabulary.tokens)
        if index in vocabulary.specials or (token and not unwanted.normalize_str(token))
    ]
    pruned = vocabulary.cut_to(kept)
    if texts is not None:
        counts = _counts(pruned, texts)
        kept = [
            index
            for place, index in enumerate(kept)
            if index in vocabulary.specials or vocabulary.is_single(index) or counts[place] >= MIN_COUNT
        ]
        pruned = vocabulary.cut_to(kept)
    return pruned, tuple(kept)


def _unwanted(scripts: Sequence[str], mark: str) -> normalizers.Normalizer:
    """Leaves of a token what is unwanted: nothing, or all of it."""
    alphabets = [script for script in scripts if script not in _WITHOUT_SPACES]
    alone = [script for script in scripts if script in _WITHOUT_SPACES]
    single = "".join(rf"\p{{{script}}}" for script in (*alphabets, *_NO_SCRIPT))
    words = [rf"[\p{{{script}}}\p{{Inherited}}&&[\p{{L}}\p{{M}}]]+" for script in alphabets]
    marked = "|".join([f"[{single}]", *words, "[0-9]+"])
    unmarked = "|".join(rf"\p{{{script}}}" for script in alone) or "(?!)"
    return normalizers.Replace(Regex(rf"\A(?:(?:{mark})?(?:{marked})|{unmarked})\z"), "")


def _renumber(processor: dict[str, Any] | None, places: dict[int, int]) -> None:
    """New ids in what frames a text."""
    match processor:
        case {"type": "TemplateProcessing", "special_tokens": specials}:
            for special in specials.values():
                special["ids"] = [places[index] for index in special["ids"]]
        case {"type": "BertProcessing" | "RobertaProcessing", "sep": sep, "cls": cls}:
            sep[1], cls[1] = places[sep[1]], places[cls[1]]
        case {"type": "Sequence", "processors": parts}:
            for part in parts:
                _renumber(part, places)
        case None | {"type": "ByteLevel"}:
            pass  # frames nothing
        case _:
            raise ConfigError(
                f"scripts: found a post-processor of type {processor['type']}, expected TemplateProcessing, "
                "BertProcessing, RobertaProcessing, ByteLevel or a Sequence of them"
            )


def _counts(tokenizer: TextTokenizer, texts: Iterable[str]) -> Counter[int]:
    """How often each token occurs."""
    counts: Counter[int] = Counter()
    for some in _batches(texts):
        for encoding in tokenizer.encode_batch(some):
            counts.update(encoding.token_ids)
    return counts


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(texts)
    while some := list(islice(rest, _TEXTS_AT_ONCE)):
        yield some
