"""Small runs of the UniVAE objective in fp64."""

from __future__ import annotations

import torch
from accelerate import Accelerator

from ner_service.model.config import (
    LatentConfig,
    ModelConfig,
    RoFormerConfig,
    RoFormerV2Config,
)
from ner_service.model.text_model import TextModel
from ner_service.text.tokenizer import TextTokenizer
from ner_service.types import Document, LabelSet
from training.config import (
    BatchConfig,
    DataConfig,
    ModelSection,
    ObjectivesConfig,
    RunConfig,
    UniVAEConfig,
)
from training.data.raw import RawCorpus
from training.data.sources import Corpus
from training.data.tokenizer_training import train_tokenizer
from training.objectives.univae import UniVAEObjective
from training.preparation import Setup, heads_of

TEXTS = (
    "The ferry leaves at six. The last one is late!",
    "今晚的月亮很圆。我们坐在桥上看了很久，谁也没说话。",
    "Marta sold her bicycle to a neighbour.",
    "Marta sold her bicycle to a neighbour.",
    "钥匙放在门口的花盆下面。",
    "A grey cat slept on the warm stones behind the old mill, and nobody thought of waking it before noon.",
    "Snow.",
)
ENCODERS = {"roformer": RoFormerConfig, "roformer_v2": RoFormerV2Config}
SIZES = {"hidden_size": 16, "num_layers": 3, "num_heads": 2, "intermediate_size": 24}
NO_DROPOUT = {"dropout": 0.0, "attention_dropout": 0.0}
RAW = RawCorpus(fixed=TEXTS, dev_fraction=0.3)


def config_of(**settings: object) -> UniVAEConfig:
    latent = {"num_latents": 2, "size": 4, **{key: settings.pop(key) for key in ("posterior",) if key in settings}}
    latent = {**latent, **{key: settings.pop(key) for key in ("num_latents", "kappa") if key in settings}}
    return UniVAEConfig(**{"latent": LatentConfig(**latent), "batch_tokens": 64, "max_tokens": 16, **settings})


def setup_of(
    config: UniVAEConfig,
    kind: str = "roformer",
    raw: RawCorpus = RAW,
    tokenizer: TextTokenizer | None = None,
    dev: tuple[Document, ...] = (),
) -> Setup:
    tokenizer = tokenizer or train_tokenizer(TEXTS, vocab_size=300, min_frequency=1)
    run = RunConfig(
        name="small",
        data=DataConfig(texts=("in memory",)),
        model=ModelSection(encoder={"kind": kind}),
        objectives=ObjectivesConfig(univae=config),
        batch=BatchConfig(accumulate=2),
    )
    encoder = ENCODERS[kind](vocab_size=tokenizer.vocab_size, **SIZES, **NO_DROPOUT)
    corpus = Corpus(labels=LabelSet(()), train=(), dev=dev, sha256="", raw=raw)
    model = ModelConfig(encoder=encoder, heads=heads_of(run))
    return Setup(run=run, corpus=corpus, tokenizer=tokenizer, config=model, weights={})


def objective_of(setup: Setup) -> tuple[UniVAEObjective, TextModel]:
    """With weights wide enough that codes matter."""
    model = setup.build_model().double()
    for parameter in model.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.4)
    assert setup.run.objectives.univae is not None
    return UniVAEObjective(setup, model, Accelerator(cpu=True), setup.run.objectives.univae), model
