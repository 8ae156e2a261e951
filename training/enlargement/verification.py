"""Two models held against each other: does the large one compute what the small one does?

What every head gives for random token ids (short and long, padded, of both token types, under every mask that a head
is used with), and the entities and vectors of real texts, as the service would answer. All in single precision.
Knows no way of growing but for the wide hidden state's scale.

Shapes: B texts, L tokens, D hidden.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from torch import Tensor

from ner_service.bundle import Bundle
from ner_service.errors import ConfigError, NerServiceError
from ner_service.model.batch import Batch, PaddingMask, pad, pad_pairs, pad_targets
from ner_service.model.encoders import WalkedEncoder
from ner_service.model.latent import FIRST_POSITION
from ner_service.model.text_model import TextModel
from ner_service.recognizer import Recognizer
from ner_service.types import Recognition
from training.enlargement.width import hidden_scale, known_encoder

TOLERANCE = 5e-5
"""What may differ in single precision: a score, and an output in units of the largest one, if that is above 1."""

LENGTHS = (1, 2, 7, 33)
LONGEST = 256
PAGE = 50.0
"""How far apart random places on a page are at most, on either axis."""

SENTENCES = (
    "Ada Lovelace wrote to Charles Babbage in London on 3 May 1843.",
    "The board of Northern Rail met the mayor of Leeds, Judith Blake, in April.",
    "王小明上个月从南京大学毕业，去了深圳的华星公司工作。",
    "记者昨天在广州采访了女足教练李红和球员张敏。",
    "Müller & Söhne GmbH, Zürich: 3 neue Büros — in Kraków, Łódź und Genève! 🙂",
    "ok",
)
"""Texts that every verification reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How the answers to texts agree.

    `num_differing` entities were found by one model alone or with a score that is off, `num_at_threshold` by one alone
    because their score is the threshold's but for the tolerance; a refused text counts as one. `largest` is the largest
    difference of two scores.
    """

    num_texts: int
    num_entities: int
    num_differing: int
    num_at_threshold: int
    largest: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What was compared: the largest difference by output, in units of the output's largest value if that is above 1,
    and the answers to texts, where the models have a head for spans.
    """

    outputs: Mapping[str, float]
    agreement: Agreement | None

    @property
    def largest(self) -> float:
        """The largest difference of all."""
        return max([*self.outputs.values(), self.agreement.largest if self.agreement else 0.0])


def verify(small: Bundle, large: Bundle, texts: Sequence[str] = (), seed: int = 0) -> Verification:
    """Compare an enlarged bundle with the one it came from, on random token ids and on real texts.

    Raises:
        ConfigError: an output or an answer differs by more than `TOLERANCE`; names it.
    """
    device = torch.device("cpu")
    found = compare(Recognizer(small, device), Recognizer(large, device), [*SENTENCES, *texts], seed)
    for name, difference in found.outputs.items():
        if not difference <= TOLERANCE:  # so that NaN is refused too
            raise ConfigError(f"{name}: found a difference of {difference:.1e}, expected at most {TOLERANCE:.0e}")
    if found.agreement and found.agreement.num_differing:
        raise ConfigError(
            f"found {found.agreement.num_differing} entities that differ on {found.agreement.num_texts} texts, "
            f"expected none; the largest difference of scores is {found.agreement.largest:.1e}"
        )
    return found


def compare(small: Recognizer, large: Recognizer, texts: Sequence[str], seed: int = 0) -> Verification:
    """Everything that two models give, and how far it is apart."""
    outputs = compare_outputs(small, large, seed)
    if small.model.embedding is not None:
        difference = np.abs(small.vectors(texts) - large.vectors(texts)).max()
        outputs["vectors of texts"] = float(difference)
    agreement = compare_answers(small, large, texts) if small.model.spans is not None else None
    return Verification(outputs=outputs, agreement=agreement)


@torch.inference_mode()
def compare_outputs(small: Recognizer, large: Recognizer, seed: int = 0) -> dict[str, float]:
    """The largest difference of each output on random token ids."""
    largest: dict[str, float] = {}
    longest = min(LONGEST, small.limits.max_tokens)
    for batch in random_batches(small, sorted({min(length, longest) for length in (*LENGTHS, longest)}), seed):
        pairs = zip(outputs(small.model, batch), outputs(large.model, batch), strict=True)
        for (name, expected), (_, found) in pairs:
            if found.shape != expected.shape:
                expected, found = copies(expected, found, small, large)
            unit = max(1.0, float(expected.abs().max()))
            difference = float((found - expected).abs().max()) / unit
            largest[name] = float(np.maximum(difference, largest.get(name, 0.0)))  # where NaN stays NaN
    return largest


def random_batches(recognizer: Recognizer, lengths: Sequence[int], seed: int) -> Iterator[Batch]:
    """Texts of random tokens, as every head reads them: of type 0, of both types, to be written, in pairs; and, where
    the encoder has two axes, pages.
    """
    generator = torch.Generator().manual_seed(seed)
    vocab_size, pad_id = recognizer.tokenizer.vocab_size, recognizer.tokenizer.pad_id
    texts = [torch.randint(vocab_size, (length,), generator=generator).tolist() for length in lengths]
    plain = pad(texts, pad_id)
    yield plain
    encoder = cast(WalkedEncoder, recognizer.model.encoder)
    if known_encoder(recognizer.manifest.model.encoder).num_axes > 1:
        places = [(torch.rand(len(text), 2, generator=generator) * PAGE).tolist() for text in texts]
        yield pad(texts, pad_id, positions=places)
    if encoder.num_token_types > 1:
        yield replace(plain, segment_BL=torch.randint(2, plain.token_ids_BL.shape, generator=generator))
        yield pad_targets(texts, pad_id)
        yield pad_pairs([(text, text[::-1]) for text in texts], pad_id)


def outputs(model: TextModel, batch: Batch) -> Iterator[tuple[str, Tensor]]:
    """Everything that a model gives for a batch: hidden states, and what its heads make of them."""
    encoder = cast(WalkedEncoder, model.encoder)
    hidden_BLD = encoder(batch)
    valid_BL = batch.valid_BL()
    yield "hidden", hidden_BLD[valid_BL]
    if model.embedding is not None:
        yield "embedding", model.embedding(batch.firsts(hidden_BLD))
    if model.language_model is not None:
        yield "language_model", model.language_model(hidden_BLD[valid_BL], encoder.token_embedding.weight)
    if model.spans is not None and isinstance(batch.mask, PaddingMask):
        grid_BCLL = model(batch)
        yield "spans", grid_BCLL.masked_fill(grid_BCLL.isneginf(), 0.0)
    if model.latent is not None and isinstance(batch.mask, PaddingMask):
        yield from codes(model, batch)


def codes(model: TextModel, batch: Batch) -> Iterator[tuple[str, Tensor]]:
    """The latent codes of a batch's texts, and hidden states of the texts as they are written again from them."""
    assert model.latent is not None
    encoder = cast(WalkedEncoder, model.encoder)
    latents = model.latent.encode(encoder, batch)
    for latent in latents:
        yield "latent", latent.z_Bd
        yield "latent", latent.kl_B
    texts = [token_ids_L.tolist() for token_ids_L in batch.texts(batch.token_ids_BL)]
    written = pad_targets(texts, pad_id=0, first_position=FIRST_POSITION)  # what fills up is not read
    hidden_BLD = encoder(written, model.latent.caches(encoder, [latent.z_Bd for latent in latents]))
    yield "written", hidden_BLD[batch.valid_BL()]


def copies(expected: Tensor, found: Tensor, small: Recognizer, large: Recognizer) -> tuple[Tensor, Tensor]:
    """Hidden states [N, D] and all copies of them in wide ones, [N, k, D] both, in the small model's scale."""
    factor = found.shape[-1] // expected.shape[-1]
    scale = hidden_scale(known_encoder(small.manifest.model.encoder), factor)
    return expected[:, None].expand(-1, factor, -1), found.unflatten(-1, (factor, -1)) / scale


def compare_answers(small: Recognizer, large: Recognizer, texts: Sequence[str]) -> Agreement:
    """The entities of two models in the same texts, at their own thresholds."""
    num_entities = num_differing = num_at_threshold = 0
    largest = 0.0
    for expected, found in zip(small.recognize(texts), large.recognize(texts), strict=True):
        if isinstance(expected, NerServiceError) or isinstance(found, NerServiceError):
            num_differing += str(expected) != str(found)
            continue
        before, after = scores_of(expected), scores_of(found)
        both = before.keys() & after.keys()
        differences = [abs(before[key] - after[key]) for key in both]
        alone = [(key, {**before, **after}[key]) for key in before.keys() ^ after.keys()]
        tied = sum(abs(score - small.manifest.thresholds[label]) <= TOLERANCE for (_, _, label), score in alone)
        num_entities += len(before)
        num_at_threshold += tied
        num_differing += len(alone) - tied + sum(difference > TOLERANCE for difference in differences)
        largest = max([largest, *differences])
    return Agreement(
        num_texts=len(texts),
        num_entities=num_entities,
        num_differing=num_differing,
        num_at_threshold=num_at_threshold,
        largest=largest,
    )


def scores_of(recognition: Recognition) -> dict[tuple[int, int, str], float]:
    """The score of each entity, by its place and label."""
    return {(entity.start, entity.end, entity.label): entity.score or 0.0 for entity in recognition.entities}
