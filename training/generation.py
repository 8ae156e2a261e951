"""Tokens drawn one after another from a model with a `language_model` head, and sentences similar to a given one.

`decode_tokens` knows not what the keys and values stand for that its tokens attend to: a sentence read before, a code.
Knows no label. Shapes: N rows, D hidden, V vocabulary, E embedding width.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor

from ner_service.errors import ConfigError, TextTooLongError
from ner_service.model.attention import KeyValueCache
from ner_service.model.batch import pad, pad_targets
from ner_service.model.encoders import Encoder, walked
from ner_service.model.text_model import TextModel
from ner_service.recognizer import Recognizer, Vectors
from ner_service.records import structure
from ner_service.text.tokenizer import TextTokenizer
from ner_service.types import Encoding
from training.config import ObjectivesConfig
from training.data.projection import bare

TOP_P = 0.95
"""Share of probability that a token is drawn from, as RoFormer-Sim has it."""


@dataclass(frozen=True, slots=True)
class Similar:
    """A text, and the cosine of its vector with that of the text it was compared with."""

    text: str
    cosine: float


def similar_sentences(
    recognizer: Recognizer,
    text: str,
    *,
    num_samples: int = 100,
    keep: int = 20,
    top_p: float = TOP_P,
    generator: torch.Generator | None = None,
) -> list[Similar]:
    """Sentences drawn from a model trained under UniLM's mask, the most similar first; never the text itself.

    Source: github.com/ZhuiyiTechnology/roformer-sim.

    Raises:
        MissingHeadError: the model has no `language_model` or no `embedding` head.
        ConfigError: the model was not taught to write similar sentences, or its encoder is a foreign one.
        TextTooLongError: the text needs more than one window.
    """
    source = read_source(recognizer, text)
    drawn = generate(recognizer, [source.token_ids] * num_samples, top_p=top_p, generator=generator)
    return rank(recognizer, text, distinct(drawn, besides=(text, "")))[:keep]


def read_source(recognizer: Recognizer, text: str) -> Encoding:
    """A text that similar ones can be drawn for and compared with.

    Raises:
        MissingHeadError: the model has no `language_model` or no `embedding` head.
        ConfigError: its run did not teach it to write similar sentences.
        TextTooLongError: the text needs more than one window.
    """
    _require_writing(recognizer)
    windows = recognizer.encode(text)
    if len(windows) > 1:
        raise TextTooLongError(
            f"found a text of {len(windows)} windows, expected one of at most {recognizer.limits.max_tokens} tokens"
        )
    return windows[0].encoding


def generate(
    recognizer: Recognizer,
    sources: Sequence[tuple[int, ...]],
    *,
    top_p: float = TOP_P,
    generator: torch.Generator | None = None,
) -> list[str]:
    """`generate_each` for one text."""
    return generate_each(recognizer, [sources], top_p=top_p, generators=[generator])[0]


def generate_each(
    recognizer: Recognizer,
    sources: Sequence[Sequence[tuple[int, ...]]],
    *,
    top_p: float = TOP_P,
    generators: Sequence[torch.Generator | None],
) -> list[list[str]]:
    """For each text one drawn for each of its sources, those left out that do not end within twice its length.

    A text's sources are its tokens with the special tokens around it, some of them masked: as many for each text, and
    all of one length. Each text has a generator, so what is drawn for it does not depend on the others. If nothing
    tells all sources apart, they are read once.

    Raises:
        ConfigError: the encoder is a foreign one, or the tokenizer marks no text's end.
    """
    model, tokenizer = recognizer.model, recognizer.tokenizer
    rows = [row for own in sources for row in own]
    num_tokens, num_each = len(rows[0]), len(sources[0])
    encoder = walked(cast(Encoder, model.encoder), "generation")
    sampling = Sampling.of_tokenizer(tokenizer, max_tokens=2 * num_tokens, top_p=top_p)
    read = rows[:1] if len(set(rows)) == 1 else rows
    caches = [KeyValueCache() for _ in range(encoder.num_layers)]
    with torch.inference_mode():
        last_ND = encoder(pad(read, tokenizer.pad_id, recognizer.device), caches)[:, -1]
    if len(read) < len(rows):
        last_ND, caches = last_ND.expand(len(rows), -1), [cache.repeat(len(rows)) for cache in caches]
    drawn = decode_tokens(model, last_ND, caches, sampling, first_position=num_tokens, generators=generators)
    return [
        [tokenizer.decode(row) for row in drawn[start : start + num_each] if row[-1] == sampling.end_id]
        for start in range(0, len(rows), num_each)
    ]


def distinct(candidates: Iterable[str], *, besides: Collection[str]) -> list[str]:
    """The candidates that differ, by more than white space, from those before them and from the texts `besides`."""
    first: dict[str, str] = {}
    for candidate in candidates:
        first.setdefault(bare(candidate), candidate)
    known = {bare(text) for text in besides}
    return [candidate for key, candidate in first.items() if key not in known]


def rank(recognizer: Recognizer, text: str, candidates: Sequence[str]) -> list[Similar]:
    """The candidates by the cosine of their vectors with that of the text, the most similar first.

    Raises:
        MissingHeadError: the model has no `embedding` head.
    """
    source_E, *vectors = recognizer.vectors([text, *candidates])
    found = [
        Similar(candidate, cosine(source_E, vector_E)) for candidate, vector_E in zip(candidates, vectors, strict=True)
    ]
    return sorted(found, key=lambda similar: -similar.cosine)


def cosine(first_E: Vectors, second_E: Vectors) -> float:
    """Of the angle between two vectors of any length; 0 where one of them has no direction."""
    norms = float(np.linalg.norm(first_E)) * float(np.linalg.norm(second_E))
    return float(first_E @ second_E) / norms if norms else 0.0


def _require_writing(recognizer: Recognizer) -> None:
    """Refuse a model that cannot write similar sentences; one that tells nothing of its run is trusted.

    The heads alone do not tell: a masked language model and UniVAE have the same `language_model`.
    """
    recognizer.require_head("language_model")
    recognizer.require_head("embedding")
    run = recognizer.manifest.run
    similarity = structure(ObjectivesConfig, run.get("objectives", {}), "run.objectives").similarity
    if run and not (similarity and similarity.writes):
        found = f"generation {similarity.generation}, stage {similarity.stage!r}" if similarity else "none"
        raise ConfigError(
            f"run.objectives.similarity of {recognizer.manifest.name!r}: found {found}, expected generation above 0 "
            "in the stage 'contrast' or 'distillation': this model was not taught to write similar sentences"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How a row's tokens are drawn: `end_id` ends it, `barred_ids` never stand in it, `max_tokens` is the most it has.

    Each token is drawn from the smallest set of likeliest ones that hold a share `top_p`; 0 takes the likeliest alone.
    """

    end_id: int
    barred_ids: frozenset[int]
    max_tokens: int
    top_p: float

    @classmethod
    def of_tokenizer(cls, tokenizer: TextTokenizer, *, max_tokens: int, top_p: float) -> Sampling:
        """Of the special tokens only the one that ends a text is drawn.

        Raises:
            ConfigError: the tokenizer puts nothing at a text's end, or `top_p` is no probability.
        """
        if not tokenizer.end_ids:
            raise ConfigError("tokenizer: found no token after a text, expected one that ends what is generated")
        if not 0.0 <= top_p <= 1.0:
            raise ConfigError(f"top_p: found {top_p}, expected a probability, 0 to 1")
        end_id = tokenizer.end_ids[0]
        return cls(end_id=end_id, barred_ids=tokenizer.special_ids - {end_id}, max_tokens=max_tokens, top_p=top_p)


@torch.inference_mode()
def decode_tokens(
    model: TextModel,
    hidden_ND: Tensor,
    caches: Sequence[KeyValueCache],
    sampling: Sampling,
    *,
    first_position: int,
    generators: Sequence[torch.Generator | None] = (None,),
) -> list[tuple[int, ...]]:
    """The token ids of N rows; the end id stands last in a row that came to it.

    Args:
        model: in evaluation mode, with a `language_model` head and an encoder that is walked.
        hidden_ND: the last state of each row so far, from which its first token is drawn.
        caches: what each layer's tokens attend to besides their own past, of N rows; extended.
        sampling: how tokens are drawn.
        first_position: where the first drawn token stands.
        generators: of the CPU, whatever the device; each draws for its share of the rows, as many for each, in order.

    Raises:
        ConfigError: the encoder is a foreign one.
    """
    assert model.language_model is not None
    encoder = walked(cast(Encoder, model.encoder), "generation")
    barred = torch.tensor(sorted(sampling.barred_ids), dtype=torch.long, device=hidden_ND.device)
    running_N = torch.ones(len(hidden_ND), dtype=torch.bool)
    drawn: list[Tensor] = []
    for position in range(first_position, first_position + sampling.max_tokens):
        logits_NV = model.language_model(hidden_ND, encoder.token_embedding.weight).float()
        logits_NV = logits_NV.index_fill(-1, barred, -torch.inf)
        shares = [torch.rand(len(hidden_ND) // len(generators), generator=generator) for generator in generators]
        uniform_N = torch.cat(shares)
        token_N = nucleus_tokens(logits_NV, sampling.top_p, uniform_N.to(hidden_ND.device)).cpu()
        drawn.append(token_N.where(running_N, torch.tensor(sampling.end_id)))
        running_N &= token_N != sampling.end_id
        if not running_N.any():
            break
        batch = pad_targets(drawn[-1][:, None].tolist(), sampling.end_id, hidden_ND.device, first_position=position)
        hidden_ND = encoder(batch, caches)[:, -1]
    return [_ended(row, sampling.end_id) for row in torch.stack(drawn, dim=-1).tolist()]


def nucleus_tokens(logits_NV: Tensor, top_p: float, uniform_N: Tensor) -> Tensor:
    """A token of each row by inverse transform of a number from 0 to below 1.

    It comes from the nucleus: the smallest set of likeliest tokens whose probabilities add up to `top_p` or more, the
    likeliest one always among them.

    Source: Holtzman et al., The Curious Case of Neural Text Degeneration (arXiv 1904.09751).
    """
    probability_NV, token_NV = _likeliest(logits_NV.softmax(-1), top_p)
    total_NV = probability_NV.cumsum(-1)
    inside_NV = (total_NV - probability_NV < top_p) & (probability_NV > 0)
    last_N1 = inside_NV.sum(-1, keepdim=True).clamp(min=1) - 1
    height_N1 = uniform_N[:, None] * total_NV.gather(-1, last_N1)
    rank_N1 = torch.searchsorted(total_NV, height_N1, right=True).minimum(last_N1)
    return token_NV.gather(-1, rank_N1)[:, 0]


def _likeliest(probability_NV: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """Probabilities in falling order and their tokens: as many as hold every row's nucleus, all if need be.

    To sort a vocabulary takes as long as to run the model; a nucleus is nearly always small.
    """
    for count in (1024, probability_NV.shape[-1]):
        found = probability_NV.topk(min(count, probability_NV.shape[-1]))
        if (found.values.sum(-1) >= top_p).all():
            break
    return found.values, found.indices


def _ended(row: Sequence[int], end_id: int) -> tuple[int, ...]:
    """The row up to its first end."""
    return tuple(row[: row.index(end_id) + 1] if end_id in row else row)
