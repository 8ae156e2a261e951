"""A labelled document -> more of them: other sentences of the same meaning in which every entity stands as it stood.

Tokens outside entities are masked here and there, sentences drawn for what is left, and those kept that hold every
mention as often as the source, resemble it, and are not it. Knows no file.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from ner_service.errors import ConfigError, TextTooLongError
from ner_service.recognizer import Recognizer
from ner_service.types import Document, Encoding, Entity
from training.data.projection import Mentions, bare
from training.data.sources import AUGMENTED_FROM
from training.data.words import word_groups, word_spans
from training.generation import distinct, generate_each, rank, read_source

MASKED_SHARE = 0.15
"""Of the words outside entities, before sentences are drawn."""

BLOCK = 512
"""How many documents are looked through at a time for such as can be drawn for together."""

ROWS = 128
"""How many candidates are drawn together, at most, unless one document has more: a step reads all weights for each."""

REASONS: Mapping[str, str] = {
    "unfinished": "no end within twice the source's length",
    "same": "the source itself",
    "duplicate": "drawn before",
    "entities": "a mention is missing, one too many, or inside another word",
    "overlap": "entities overlap otherwise than in the source",
    "far": "cosine below the threshold",
    "surplus": "good, but others are more similar",
}
"""Why a candidate is refused, in the order of asking."""

UNFIT: Mapping[str, str] = {
    "page": "a page: no sentence written anew has boxes",
    "no_entity": "no entity, so nothing tells a good candidate",
    "ambiguous": "a mention also stands where it is no entity, or another",
    "too_long": "more than one window",
}
"""Why nothing is drawn for a document."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """At most `per_document` of `num_samples` candidates whose cosine with the source is `threshold` or more."""

    per_document: int = 3
    threshold: float = 0.7
    num_samples: int = 64
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Paraphrased:
    """New documents of one source, and why candidates (`refused`) or the source itself (`unfit`) gave none."""

    documents: tuple[Document, ...] = ()
    refused: Counter[str] = field(default_factory=Counter)
    unfit: str | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """A document that sentences are drawn for."""

    document: Document
    mentions: Mentions
    encoding: Encoding


def paraphrase(recognizer: Recognizer, documents: Sequence[Document], recipe: Recipe) -> Iterator[Paraphrased]:
    """What is made of each document, the most similar first; the same whatever other documents there are.

    Source: the augmentation of kexue.fm/archives/8454, with every mention checked.

    Raises:
        MissingHeadError: the model has no `language_model` or no `embedding` head.
        ConfigError: the model was not taught to write similar sentences, its encoder is a foreign one, or its
            tokenizer has no token for masks.
    """
    for start in range(0, len(documents), BLOCK):
        sources = [_source(recognizer, document) for document in documents[start : start + BLOCK]]
        drawn = _draw_each(recognizer, [source for source in sources if isinstance(source, Source)], recipe)
        for source in sources:
            if isinstance(source, str):
                yield Paraphrased(unfit=source)
            else:
                yield _choose(recognizer, source, next(drawn), recipe)


def _source(recognizer: Recognizer, document: Document) -> Source | str:
    """What is drawn from, or why nothing is."""
    if document.page is not None:
        return "page"
    mentions = Mentions.of(document)
    if mentions is None or not document.entities:
        return "ambiguous" if mentions is None else "no_entity"
    try:
        return Source(document, mentions, read_source(recognizer, document.text))
    except TextTooLongError:
        return "too_long"


def _choose(recognizer: Recognizer, source: Source, drawn: Sequence[str], recipe: Recipe) -> Paraphrased:
    refused = Counter(unfinished=recipe.num_samples - len(drawn))
    text = source.document.text
    labelled = _project(text, source.mentions, drawn, refused)
    ranked = rank(recognizer, text, list(labelled))
    near = [similar for similar in ranked if similar.cosine >= recipe.threshold]
    kept = near[: recipe.per_document]
    refused.update(far=len(ranked) - len(near), surplus=len(near) - len(kept))
    return Paraphrased(
        documents=tuple(_document(source.document, similar.text, labelled[similar.text]) for similar in kept),
        refused=refused,
    )


def mask_outside(
    encoding: Encoding, document: Document, mask_id: int, share: float, generator: random.Random
) -> tuple[int, ...]:
    """The tokens of a document, a share of its words masked; words that touch an entity are left alone."""
    masked = list(encoding.token_ids)
    for group in word_groups(encoding, word_spans(document.text)):
        start, end = encoding.offsets[group[0]][0], encoding.offsets[group[-1]][1]
        apart = all(entity.end <= start or end <= entity.start for entity in document.entities)
        if apart and generator.random() < share:
            for index in group:
                masked[index] = mask_id
    return tuple(masked)


def _draw_each(recognizer: Recognizer, sources: Sequence[Source], recipe: Recipe) -> Iterator[list[str]]:
    """The candidates for each source, in order; those as long as each other are drawn together."""
    num_together = max(1, ROWS // recipe.num_samples)
    by_length: dict[int, list[int]] = defaultdict(list)
    for index, source in enumerate(sources):
        by_length[len(source.encoding)].append(index)
    drawn: dict[int, list[str]] = {}
    for alike in by_length.values():
        for start in range(0, len(alike), num_together):
            group = alike[start : start + num_together]
            found = _draw(recognizer, [sources[index] for index in group], recipe)
            drawn.update(zip(group, found, strict=True))
    return (drawn[index] for index in range(len(sources)))


def _draw(recognizer: Recognizer, group: Sequence[Source], recipe: Recipe) -> list[list[str]]:
    """For each source a candidate for each of as many masked copies; the seed and the text alone decide which."""
    mask_id = recognizer.tokenizer.mask_id
    if mask_id is None:
        raise ConfigError("tokenizer: found no token for masks, expected one")
    generators, masked = [], []
    for source in group:
        choices = random.Random(f"{recipe.seed} {source.document.text}")
        generators.append(torch.Generator().manual_seed(choices.getrandbits(63)))
        masked.append(
            [
                mask_outside(source.encoding, source.document, mask_id, MASKED_SHARE, choices)
                for _ in range(recipe.num_samples)
            ]
        )
    return generate_each(recognizer, masked, generators=generators)


def _project(
    text: str, mentions: Mentions, candidates: Sequence[str], refused: Counter[str]
) -> dict[str, tuple[Entity, ...]]:
    """The candidates that hold the mentions, with their entities; the others are counted."""
    same = sum(bare(candidate) == bare(text) for candidate in candidates)
    others = distinct(candidates, besides=(text,))
    refused.update(same=same, duplicate=len(candidates) - same - len(others))
    labelled: dict[str, tuple[Entity, ...]] = {}
    for candidate in others:
        entities = mentions.project(candidate)
        if isinstance(entities, str):
            refused[entities] += 1
        else:
            labelled[candidate] = entities
    return labelled


def _document(source: Document, text: str, entities: tuple[Entity, ...]) -> Document:
    """A document in the source's place; it names the text that it comes from, so that the two are never parted."""
    metadata = {AUGMENTED_FROM: source.text, **source.metadata}
    return replace(source, text=text, entities=entities, id=None, metadata=metadata)
