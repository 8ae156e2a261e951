"""BERT's weights in our RoFormer: the same layers, rotary positions in place of learnt ones. Knows no file.

What the learnt positions have in common, their mean, stays: it is added to the rows of the token types.
"""

from __future__ import annotations

from transformers import AutoConfig

from ner_service.errors import ConfigError
from ner_service.model.config import HuggingFaceConfig, RoFormerConfig
from training.checkpoints.huggingface import ForeignEncoder, roformer_config, roformer_weights

_POSITIONS = "embeddings.position_embeddings.weight"
_TYPES = "embeddings.token_type_embeddings.weight"


def as_roformer(foreign: ForeignEncoder) -> ForeignEncoder:
    """A BERT as our RoFormer, with its heads as they are; a RoFormer as it is.

    Raises:
        ConfigError: another architecture, or an activation that we do not have.
    """
    config = foreign.config
    if isinstance(config, RoFormerConfig):
        return foreign
    if not isinstance(config, HuggingFaceConfig) or config.model_type != "bert":
        found = config.model_type if isinstance(config, HuggingFaceConfig) else config.kind
        raise ConfigError(f"found an encoder of type {found!r}, expected 'bert' or 'roformer' to make a RoFormer of")
    named = {name.removeprefix("model."): tensor for name, tensor in foreign.weights.items()}
    named[_TYPES] = named[_TYPES] + named.pop(_POSITIONS).mean(dim=0)
    own = {name: tensor for name, tensor in named.items() if not name.startswith("pooler.")}
    bert = AutoConfig.for_model("bert", **config.config)
    bert.update({"embedding_size": bert.hidden_size, "rotary_value": False})
    return ForeignEncoder(config=roformer_config(bert), weights=roformer_weights(own), tokenizer=foreign.tokenizer)
