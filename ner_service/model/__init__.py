"""tokens -> scores: encoders, heads and the rotary positions they share. Knows no text, no entity, no file."""
