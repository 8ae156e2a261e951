"""Text -> Encoding by any `tokenizer.json`.

Every offset comes from the tokenizer's own alignment to the text as given, never from the spelling of a token, so a
tokenizer may normalise, lower-case and drop characters as it likes. Knows no window, no limit and no tensor.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tokenizers import Tokenizer

from ner_service.errors import ConfigError, InvalidTextError
from ner_service.types import Encoding

if TYPE_CHECKING:
    import tokenizers

_PAD_NAMES = ("[PAD]", "<pad>", "<|pad|>", "[pad]", "<PAD>")


class TextTokenizer:
    """A `tokenizers.Tokenizer` that neither cuts nor pads and whose offsets can be trusted.

    A special token's name written in a text ("[SEP]") is read as ordinary text. Safe to call from several threads.

    Attributes:
        vocab_size: number of token ids, added tokens included.
        pad_id: the id for padding; 0 if the tokenizer names none, since padding is masked everywhere.
        num_specials: tokens that `encode` adds around a text.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True
        self.vocab_size: int = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        self.num_specials: int = tokenizer.num_special_tokens_to_add(is_pair=False)
        pad_ids = (tokenizer.token_to_id(name) for name in _PAD_NAMES)
        self.pad_id: int = next((pad_id for pad_id in pad_ids if pad_id is not None), 0)

    @classmethod
    def from_json(cls, json: str) -> TextTokenizer:
        """Read the content of a `tokenizer.json`.

        Raises:
            ConfigError: it is not one.
        """
        try:
            tokenizer = Tokenizer.from_str(json)
        except Exception as error:  # the library raises nothing narrower
            raise ConfigError(f"tokenizer.json: found {error}, expected a file of Hugging Face tokenizers") from error
        return cls(tokenizer)

    def to_json(self) -> str:
        """What `from_json` reads."""
        return str(self._tokenizer.to_str())

    def encode(self, text: str) -> Encoding:
        """Tokens of a text with the special tokens around it; offsets in code points of `text`.

        A token's range has no whitespace at its ends unless it holds nothing else; tokens that share one character
        (bytes of an emoji) each have the whole character.

        Raises:
            InvalidTextError: a lone surrogate.
        """
        _refuse_surrogates(text)
        return _encoding(text, self._tokenizer.encode(text))

    def encode_batch(self, texts: Sequence[str]) -> list[Encoding]:
        """`encode` of every text, several at a time.

        Raises:
            InvalidTextError: a lone surrogate in any of them.
        """
        for text in texts:
            _refuse_surrogates(text)
        return [
            _encoding(text, raw) for text, raw in zip(texts, self._tokenizer.encode_batch(list(texts)), strict=True)
        ]


def _refuse_surrogates(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        found = f"U+{ord(text[error.start]):04X}"
        raise InvalidTextError(
            f"found a lone surrogate {found} at character {error.start}, expected Unicode text"
        ) from None


def _encoding(text: str, raw: tokenizers.Encoding) -> Encoding:
    offsets: Sequence[tuple[int, int]] = raw.offsets
    characters = set(text)
    if any(unicodedata.category(character)[0] == "M" for character in characters):
        offsets = _past_marks(text, offsets)
    spaces = {character for character in characters if character.isspace()}
    if spaces:
        offsets = [
            _trimmed(text, start, end)
            if start < end and (text[start] in spaces or text[end - 1] in spaces)
            else (start, end)
            for start, end in offsets
        ]
    return Encoding(token_ids=tuple(raw.ids), offsets=tuple(offsets))


def _past_marks(text: str, offsets: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The ranges, each with the combining marks after it that no token covers.

    A normaliser that composes or drops an accent reports the base character alone.
    """
    starts = {start for start, _ in offsets}
    longer = []
    for start, end in offsets:
        while start < end < len(text) and end not in starts and unicodedata.category(text[end])[0] == "M":
            end += 1
        longer.append((start, end))
    return longer


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """The range without whitespace at its ends; a range of whitespace only stays as it is."""
    mention = text[start:end]
    if mention.isspace():
        return start, end
    return end - len(mention.lstrip()), start + len(mention.rstrip())
