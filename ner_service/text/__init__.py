"""Text to tokens and back: tokenizer, windows, offset units, groups within a token budget. Knows no tensor."""
