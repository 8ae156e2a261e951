"""Where the tokens of a long text are cut for what learns from raw text. Knows no objective."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ner_service.errors import ConfigError
from ner_service.text.tokenizer import TextTokenizer


def inner_slices(length: int, tokenizer: TextTokenizer, max_tokens: int) -> Iterator[slice]:
    """A text's tokens between its special ones, `length` with them, as slices of about one length.

    Each has room for the special tokens within `max_tokens`, so a piece may be framed as a text of its own.
    """
    first, end = len(tokenizer.start_ids), length - len(tokenizer.end_ids)
    num_pieces = max(1, math.ceil((end - first) / (max_tokens - tokenizer.num_specials)))
    bounds = [first + (end - first) * number // num_pieces for number in range(num_pieces + 1)]
    return map(slice, bounds[:-1], bounds[1:])


def check_room(max_tokens: int, tokenizer: TextTokenizer, wanted_by: str) -> None:
    """Refuse pieces without room for a token.

    Raises:
        ConfigError: names what wanted them.
    """
    if max_tokens <= tokenizer.num_specials:
        raise ConfigError(
            f"{wanted_by}.max_tokens: found {max_tokens}, expected more than the {tokenizer.num_specials} special "
            "tokens of a text"
        )
