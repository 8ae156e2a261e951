"""Pairs of sentences in memory, and an objective around them; and its gradients where it is launched in processes.

python -m tests.training.objectives.similarity.paired OUTPUT
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from ner_service.model.batch import Batch, pad_pairs
from ner_service.model.config import (
    EmbeddingConfig,
    EncoderConfig,
    Heads,
    HuggingFaceConfig,
    LanguageModelConfig,
    ModelConfig,
    RoFormerConfig,
)
from ner_service.model.text_model import TextModel
from ner_service.text.tokenizer import TextTokenizer
from ner_service.types import Document, LabelSet
from training.config import DataConfig, ModelSection, RunConfig, SimilarityConfig
from training.data.pairs import Pair
from training.data.raw import RawCorpus
from training.data.sources import Corpus
from training.data.tokenizer_training import train_tokenizer
from training.objectives.similarity import SimilarityObjective
from training.objectives.similarity.rows import Chunk, Row
from training.preparation import Setup
from training.steps import sum_gradients

PAIRS = (
    Pair("How do I reset my password?", "What can I do when I forgot my password?"),
    Pair("The harbour froze in January.", "In January there was ice all over the harbour, from quay to quay."),
    Pair("我想把灯关掉。", "请关灯。"),
    Pair("这家店几点开门？", "请问你们店早上从几点开始营业？"),
    Pair("She baked bread for her neighbours.", "Her neighbours got fresh bread."),
    Pair("昨天下了很大的雨。", "昨天雨下得很大，街上都是水。"),
    Pair("The train to the north is late.", "There is a delay on the northern line."),
    Pair("去图书馆怎么走？", "图书馆在哪儿？"),
)
LABELLED = (
    *(Pair(pair.first, pair.second, 1.0) for pair in PAIRS),
    *(Pair(pair.first, other.second, 0.0) for pair, other in zip(PAIRS, (*PAIRS[1:], PAIRS[0]), strict=True)),
)
"""The pairs, and as many of sentences that have nothing to do with each other."""
INFERRED = (
    Pair("Two boats left at dawn.", "Some boats left.", "entailment"),
    Pair("她在湖边读书。", "有人在看书。", "entailment"),
    Pair("A boy paints the fence white.", "The fence gets a new colour.", "entailment"),
    Pair("Every shop in the street was shut.", "The baker had gone on holiday.", "neutral"),
    Pair("老人在等公交车。", "老人要去医院。", "neutral"),
    Pair("They carried the piano upstairs.", "It is her birthday.", "neutral"),
    Pair("The lake is frozen over.", "Children swim in the lake.", "contradiction"),
    Pair("商店今天休息。", "商店今天正常营业。", "contradiction"),
    Pair("Nobody answered the telephone.", "She answered the telephone at once.", "contradiction"),
)
TEXTS = tuple(sentence for pair in PAIRS for sentence in (pair.first, pair.second))


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """An objective, the model that it trains, and what both were made from."""

    setup: Setup
    model: TextModel
    objective: SimilarityObjective


def tokenizer_of(texts: Sequence[str] = TEXTS) -> TextTokenizer:
    return train_tokenizer(texts, vocab_size=400, min_frequency=1)


def case(
    config: SimilarityConfig,
    *,
    raw: RawCorpus | None = None,
    dropout: float = 0.0,
    foreign: bool = False,
    dtype: torch.dtype = torch.float64,
) -> Case:
    """One encoder layer of 16, in training mode; from `PAIRS` unless there is other data."""
    tokenizer = tokenizer_of()
    heads = Heads(
        embedding=EmbeddingConfig(size=config.size), language_model=LanguageModelConfig() if config.generation else None
    )
    run = RunConfig(
        name="pairs", data=DataConfig(texts=("in memory",)), model=ModelSection(encoder={"kind": "in memory"})
    )
    # A run with dev documents need hold nothing else out.
    dev = (Document(text="in memory"),)
    corpus = Corpus(labels=LabelSet(()), train=(), dev=dev, sha256="", raw=raw or RawCorpus(all_pairs=PAIRS))
    encoder = foreign_encoder(tokenizer, dropout) if foreign else own_encoder(tokenizer, dropout)
    setup = Setup(
        run=run,
        corpus=corpus,
        tokenizer=tokenizer,
        config=ModelConfig(encoder=encoder, heads=heads),
        weights={},
    )
    model = setup.build_model().to(dtype).train()
    objective = SimilarityObjective(setup, model, Accelerator(cpu=True), config)
    if objective.extra is not None:
        objective.extra.to(dtype)
    return Case(setup=setup, model=model, objective=objective)


def own_encoder(tokenizer: TextTokenizer, dropout: float) -> EncoderConfig:
    return RoFormerConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=16,
        num_layers=2,
        num_heads=2,
        intermediate_size=32,
        dropout=dropout,
        attention_dropout=dropout,
    )


def foreign_encoder(tokenizer: TextTokenizer, dropout: float) -> EncoderConfig:
    """BERT's initial 0.02 is made for a width of 768: at 16 all vectors would be alike."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    rates = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout, "initializer_range": 0.25}
    config = {"vocab_size": tokenizer.vocab_size, **sizes, **rates}
    return HuggingFaceConfig(model_type="bert", config=config)


def rows_of(batch: Sequence[Chunk]) -> list[Row]:
    return [row for chunk in batch for row in chunk.rows]


def paired_batch(rows: Sequence[Row]) -> Batch:
    return pad_pairs([(row.source, row.target) for row in rows], 0)


def gradient_of(case: Case, batch: Sequence[Chunk], scale: float = 1.0) -> tuple[Tensor, float]:
    """The gradient of all parameters after `backward`, end to end, and the loss it tells."""
    for parameter in parameters(case):
        parameter.grad = None
    told = case.objective.backward(batch, scale)
    return _flat(case), told


def gradient_of_one_graph(case: Case, batch: Sequence[Chunk]) -> tuple[Tensor, float]:
    """The same from the loss of the whole batch."""
    for parameter in parameters(case):
        parameter.grad = None
    loss = case.objective.loss(batch)
    loss.backward()
    return _flat(case), float(loss.detach())


def parameters(case: Case) -> list[torch.nn.Parameter]:
    extra = [] if case.objective.extra is None else list(case.objective.extra.parameters())
    return [*case.model.parameters(), *extra]


def _flat(case: Case) -> Tensor:
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters(case)]
    return torch.cat([grad.flatten() for grad in grads])


def record_gradients(output: Path) -> None:
    """Write the loss and the gradient of the first steps, summed over the processes: `OUTPUT/0.pt`, `OUTPUT/1.pt`."""
    torch.set_num_threads(1)
    found = []
    for config in SHARED:
        shared = case(config)
        accelerator = shared.objective.accelerator
        step = shared.objective.steps(0)[0]
        own = step[accelerator.process_index :: accelerator.num_processes]
        gradient_of(shared, own)
        sum_told = accelerator.reduce(torch.tensor(shared.objective.backward(own, 0.0)), reduction="sum")
        sum_gradients(parameters(shared), accelerator)
        found.append({"chunks": len(own), "loss": float(sum_told), "gradient": _flat(shared)})
    torch.save(found, output / f"{accelerator.process_index}.pt")
    accelerator.end_training()


SHARED = (
    SimilarityConfig(batch_pairs=7, chunk_pairs=32),
    SimilarityConfig(batch_pairs=7, chunk_pairs=3),
    SimilarityConfig(batch_pairs=7, chunk_pairs=2, generation=0.0),
)
"""One chunk for each of two processes; three chunks, two of one process; four, without generation."""

if __name__ == "__main__":
    record_gradients(Path(sys.argv[1]))
