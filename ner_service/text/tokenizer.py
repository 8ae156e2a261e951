"""Text -> Encoding by any `tokenizer.json`.

Every offset comes from the tokenizer's own alignment to the text as given, never from the spelling of a token, so a
tokenizer may normalise, lower-case and drop characters as it likes. Knows no window, no limit and no tensor.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tokenizers import Tokenizer, decoders

from ner_service.errors import ConfigError, InvalidTextError
from ner_service.types import Encoding, lone_surrogate

if TYPE_CHECKING:
    import tokenizers

_PAD_NAMES = ("[PAD]", "<pad>", "<|pad|>", "[pad]", "<PAD>")
_MASK_NAMES = ("[MASK]", "<mask>", "<|mask|>", "[mask]", "<MASK>")
_NO_SPACE = r"[\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff]"
_SPACES_BESIDE = re.compile(rf"(?<={_NO_SPACE}) +| +(?={_NO_SPACE})|(?<=\d) +(?=\d)")


class TextTokenizer:
    """A `tokenizers.Tokenizer` that neither cuts nor pads and whose offsets can be trusted.

    A special token's name written in a text ("[SEP]") is read as ordinary text. Safe to call from several threads.

    Attributes:
        vocab_size: number of token ids, added tokens included.
        pad_id: the id for padding; 0 if the tokenizer names none, since padding is masked everywhere.
        mask_id: the id that stands for a hidden token; None if the tokenizer names none.
        special_ids: ids that stand for no text: those marked as special, and padding, mask, start and end in any case.
        start_ids, end_ids: what `encode` puts before and after a text.
        num_specials: tokens that `encode` adds around a text.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True
        self.vocab_size: int = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        self.num_specials: int = tokenizer.num_special_tokens_to_add(is_pair=False)
        pad_id = self._first_id(_PAD_NAMES)
        self.pad_id: int = pad_id or 0
        self.mask_id: int | None = self._first_id(_MASK_NAMES)
        framed = tokenizer.encode("a")
        inner = [index for index, special in enumerate(framed.special_tokens_mask) if not special]
        self.start_ids: tuple[int, ...] = tuple(framed.ids[: inner[0]] if inner else framed.ids)
        self.end_ids: tuple[int, ...] = tuple(framed.ids[inner[-1] + 1 :] if inner else ())
        marked = [index for index, token in tokenizer.get_added_tokens_decoder().items() if token.special]
        named = [index for index in (pad_id, self.mask_id) if index is not None]
        self.special_ids: frozenset[int] = frozenset([*marked, *named, *self.start_ids, *self.end_ids])

    @classmethod
    def from_json(cls, json: str) -> TextTokenizer:
        """Read the content of a `tokenizer.json`.

        Raises:
            ConfigError: it is not one, or adds no token to a text: one of no characters would have none at all.
        """
        try:
            tokenizer = Tokenizer.from_str(json)
        except Exception as error:  # the library raises nothing narrower
            raise ConfigError(f"tokenizer.json: found {error}, expected a file of Hugging Face tokenizers") from error
        found = cls(tokenizer)
        if not found.num_specials:
            raise ConfigError(
                "tokenizer.json: found no special token beside a text, expected one or more, such as [CLS] and [SEP]"
            )
        return found

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
        [encoding] = self.encode_batch([text])  # the library lets other threads run in a batch alone
        return encoding

    def encode_batch(self, texts: Sequence[str]) -> list[Encoding]:
        """`encode` of every text, several at a time.

        Raises:
            InvalidTextError: a lone surrogate in any of them.
        """
        for text in texts:
            if found := lone_surrogate(text):
                raise InvalidTextError(f"found {found}, expected Unicode text")
        return [
            _encoding(text, raw) for text, raw in zip(texts, self._tokenizer.encode_batch(list(texts)), strict=True)
        ]

    def decode(self, token_ids: Sequence[int]) -> str:
        """A text of these tokens, special ones left out, without spaces beside Chinese characters or between digits.

        White space of an encoded text is not always given back: a tokenizer may not have kept it.
        """
        kept = [token_id for token_id in token_ids if token_id not in self.special_ids]
        if self._tokenizer.decoder is not None:
            return str(self._tokenizer.decode(kept))
        tokens = [self._tokenizer.id_to_token(token_id) or "" for token_id in kept]
        return _SPACES_BESIDE.sub("", decoders.WordPiece(prefix="##").decode(tokens))

    def _first_id(self, names: Sequence[str]) -> int | None:
        ids = (self._tokenizer.token_to_id(name) for name in names)
        return next((token_id for token_id in ids if token_id is not None), None)


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
