"""Text and pages to tokens and back: tokenizer, windows, places, reading order, offsets, budget. Knows no tensor."""
