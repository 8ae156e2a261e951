"""A foreign encoder -> a bundle without heads: read, made ours, cut down, put to scale."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal

from ner_service.bundle import Bundle, Manifest
from ner_service.errors import ConfigError
from ner_service.model.config import Heads, ModelConfig
from training.checkpoints.bert import as_roformer
from training.checkpoints.packages import read_source
from training.checkpoints.parts import keep_layers, keep_rows, num_rows, standardise
from training.checkpoints.scripts import script_names
from training.checkpoints.vocabulary import MIN_COUNT, prune
from training.data.texts import paragraphs, sentences

NUM_SENTENCES = 128
_MAX_CHARACTERS = 200
_MAX_TOKENS = 128

Watch = Callable[[Iterable[str]], Iterable[str]]
"""Passes paragraphs on as they are read, and may tell how many there were."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is made of a source: as our RoFormer or as it is, with some of its layers, for some scripts.

    `texts` are files of raw text, a paragraph a line: the vocabulary keeps pieces that occur in them, and the last
    LayerNorm is put to scale over `NUM_SENTENCES` sentences of them.
    """

    encoder: Literal["roformer", "original"] = "roformer"
    layers: tuple[int, ...] = ()
    scripts: tuple[str, ...] = ()
    texts: tuple[Path, ...] = ()
    licence: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """A bundle, and in sentences what was done to get it."""

    bundle: Bundle
    steps: tuple[str, ...]


def import_encoder(source: Path, wanted: Wanted, watch: Watch = iter) -> Imported:
    """Make a bundle of a source's encoder; each pass over the texts goes through `watch`.

    Raises:
        ConfigError: the source cannot be read, or what is wanted cannot be had of it: then the message begins with the
            field of `Wanted`.
        DataError: the texts cannot be read.
    """
    origin = read_source(source)
    encoder = as_roformer(origin.encoder) if wanted.encoder == "roformer" else origin.encoder
    makers = f" by {origin.makers}" if origin.makers else ""
    steps = [f"Encoder of {origin.name}{makers}, as {wanted.encoder}."]
    if wanted.layers:
        encoder = keep_layers(encoder, wanted.layers)
        steps.append(f"Its layers {', '.join(map(str, wanted.layers))}.")
    if wanted.scripts:
        before = num_rows(encoder)
        texts = _read(wanted.texts, watch) if wanted.texts else None
        tokenizer, token_ids = prune(encoder.tokenizer, wanted.scripts, texts)
        encoder = keep_rows(encoder, tokenizer, token_ids)
        rule = "" if texts is None else f", pieces of several characters where seen {MIN_COUNT} times or more"
        steps.append(
            f"{len(token_ids):,} of {before:,} rows of the vocabulary: {', '.join(script_names(wanted.scripts))}{rule}."
        )
    if wanted.texts:
        sample = sample_sentences(wanted.texts, watch)
        encoder = standardise(encoder, sample, _MAX_TOKENS)
        steps.append(f"Last LayerNorm put to mean 0 and deviation 1 over {len(sample)} sentences.")
    manifest = Manifest(
        name=origin.name,
        description=" ".join(steps),
        licence=wanted.licence or origin.licence,
        labels=(),
        thresholds={},
        model=ModelConfig(encoder=encoder.config, heads=Heads()),
    )
    weights = {f"encoder.{name}": tensor for name, tensor in encoder.weights.items()}
    return Imported(bundle=Bundle(manifest=manifest, tokenizer=encoder.tokenizer, weights=weights), steps=tuple(steps))


def sample_sentences(paths: Sequence[Path], watch: Watch = iter) -> list[str]:
    """`NUM_SENTENCES` sentences from all over files, the same ones each time; as many as there are if there are fewer.

    Of a paragraph the first sentence may be drawn, unless it is longer than 200 characters.

    Raises:
        ConfigError: the files have no such sentence.
    """
    drawn: list[str] = []
    chance = random.Random(0)
    for seen, sentence in enumerate(_first_sentences(_read(paths, watch))):
        if seen < NUM_SENTENCES:
            drawn.append(sentence)
        elif (place := chance.randrange(seen + 1)) < NUM_SENTENCES:
            drawn[place] = sentence
    if not drawn:
        raise ConfigError(f"texts: found no sentence in {', '.join(map(str, paths))}, expected a paragraph a line")
    return drawn


def _first_sentences(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        first = sentences(text)[0]
        if len(first) <= _MAX_CHARACTERS:
            yield first


def _read(paths: Sequence[Path], watch: Watch) -> Iterable[str]:
    return watch(chain.from_iterable(map(paragraphs, paths)))
