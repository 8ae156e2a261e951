"""What the objective of UniVAE refuses, and what it says."""

from __future__ import annotations

from dataclasses import replace

import pytest
from accelerate import Accelerator
from tokenizers import Tokenizer, models, pre_tokenizers

from ner_service.errors import ConfigError
from ner_service.model.config import (
    Heads,
    HuggingFaceConfig,
    LanguageModelConfig,
    ModelConfig,
)
from ner_service.text.tokenizer import TextTokenizer
from ner_service.types import Document
from tests.training.objectives.univae_setups import (
    TEXTS,
    config_of,
    objective_of,
    setup_of,
)
from training.data.raw import RawCorpus
from training.objectives.univae import UniVAEObjective


def test_nothing_held_out_is_refused_unless_documents_are() -> None:
    nothing = RawCorpus(fixed=TEXTS)
    with pytest.raises(ConfigError, match=r"data\.dev_fraction: found no sentence held out"):
        objective_of(setup_of(config_of(), raw=nothing))
    objective, _ = objective_of(setup_of(config_of(), raw=nothing, dev=(Document(TEXTS[0]),)))
    assert objective.steps(0)
    with pytest.raises(ConfigError, match=r"data\.dev_fraction: found no sentence held out"):
        objective.dev_loss()


def test_an_epoch_without_a_sentence_is_refused() -> None:
    objective, _ = objective_of(setup_of(config_of(), raw=RawCorpus(fixed=(" ",)), dev=(Document(TEXTS[0]),)))
    with pytest.raises(ConfigError, match=r"data\.texts: found no sentence in the texts of epoch 1"):
        objective.steps(0)


def test_a_tokenizer_without_start_or_end_is_refused() -> None:
    bare = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1, "[PAD]": 2}, unk_token="[UNK]"))
    bare.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(ConfigError, match="puts 0 tokens before a text and 0 after it, expected at least one each"):
        objective_of(setup_of(config_of(), tokenizer=TextTokenizer(bare)))


@pytest.mark.parametrize("max_tokens", [1, 2])
def test_max_tokens_without_room_is_refused(max_tokens: int) -> None:
    with pytest.raises(ConfigError, match=rf"max_tokens: found {max_tokens}, expected more than the 2 special tokens"):
        objective_of(setup_of(config_of(max_tokens=max_tokens)))


def test_a_foreign_encoder_is_refused() -> None:
    setup = setup_of(config_of())
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 30}
    foreign = HuggingFaceConfig(model_type="bert", config=sizes)
    config = ModelConfig(encoder=foreign, heads=Heads(language_model=LanguageModelConfig()))
    model = replace(setup, config=config).build_model()
    with pytest.raises(ConfigError, match=r"objectives\.univae: found the encoder HuggingFaceEncoder"):
        UniVAEObjective(setup, model, Accelerator(cpu=True), config_of())
    with pytest.raises(ConfigError, match=r"heads\.latent: found the encoder HuggingFaceEncoder"):
        replace(setup, config=replace(config, heads=setup.config.heads)).build_model()
