"""The two taggers that pointer heads are compared with: token ids to a tag a token. Each starts from our encoder.

`TokenClassification` is transformers' `RoFormerForTokenClassification` with our weights under its names.
`LinearChainCRF` is pytorch-crf over a linear map on our own encoder. Both have dropout before that map, as in
transformers. Knows tags as numbers; no label, no text.

Shapes: B texts, L tokens, T tags.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, cast

import torch
from torch import Tensor, nn
from transformers import RoFormerConfig as ForeignConfig
from transformers import RoFormerForTokenClassification

from benchmarks.accuracy.tags import NO_TAG, OUTSIDE
from ner_service.model.batch import Batch
from ner_service.model.config import RoFormerConfig
from ner_service.model.encoders.roformer import RoFormer
from ner_service.model.initialisation import initialise
from training.checkpoints.huggingface import EMBEDDING_NAMES, LAYER_NAMES
from training.config import OptimizerConfig
from training.steps import build_optimizer

TaggerKind = Literal["token_classification", "crf"]

TRANSITIONS_LR = 1e-2
"""Transitions are a few hundred numbers of the size of emissions, begun near 0: at the rate of a linear map a short run
would end before they say what may follow what."""


class TokenClassification(nn.Module):
    """A linear map and a softmax a token; the loss is cross-entropy."""

    def __init__(self, config: RoFormerConfig, num_tags: int, max_tokens: int) -> None:
        super().__init__()
        self.model = RoFormerForTokenClassification(foreign_config(config, num_tags, max_tokens))

    def start_from(self, weights: Mapping[str, Tensor]) -> None:
        """Take over the weights of our encoder.

        Raises:
            ValueError: a weight without a place, or a place without a weight.
        """
        names = foreign_weights(weights)
        missing, unknown = self.model.roformer.load_state_dict(names, strict=False)
        absent = [name for name in missing if not name.endswith("embed_positions.weight")]
        if absent or unknown:
            raise ValueError(f"weights do not fit RoFormerModel: unknown {unknown}, missing {absent}")

    def optimizer(self, config: OptimizerConfig) -> torch.optim.Optimizer:
        return build_optimizer(self.model.roformer, self.model.classifier, config)

    def logits(self, batch: Batch) -> Tensor:
        """logits_BLT."""
        answer = self.model(input_ids=batch.token_ids_BL, attention_mask=_valid(batch).long())
        return cast(Tensor, answer.logits)

    def loss(self, batch: Batch, tags_BL: Tensor) -> Tensor:
        """The mean over the tokens that have a tag."""
        return nn.functional.cross_entropy(self.logits(batch).float().flatten(0, 1), tags_BL.flatten())

    def tags(self, batch: Batch) -> list[list[int]]:
        """The best tag of every token, a list a text."""
        best_BL = self.logits(batch).argmax(-1).tolist()
        return [row[:length] for row, length in zip(best_BL, batch.lengths, strict=True)]


class LinearChainCRF(nn.Module):
    """A linear map to emissions, and a chain of tags over them; the loss is the negative log-likelihood."""

    def __init__(self, config: RoFormerConfig, num_tags: int) -> None:
        super().__init__()
        from torchcrf import CRF  # type: ignore[import-untyped]  # torchcrf has no types

        self.encoder = RoFormer(config)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.hidden_size, num_tags).apply(initialise)
        self.chain = CRF(num_tags, batch_first=True)

    def start_from(self, weights: Mapping[str, Tensor]) -> None:
        """Take over the weights of our encoder."""
        self.encoder.load_state_dict(weights)

    def optimizer(self, config: OptimizerConfig) -> torch.optim.Optimizer:
        optimizer = build_optimizer(self.encoder, self.classifier, config)
        group = {"params": list(self.chain.parameters()), "lr": TRANSITIONS_LR, "peak_lr": TRANSITIONS_LR}
        optimizer.add_param_group({**group, "weight_decay": 0.0})
        return optimizer

    def emissions(self, batch: Batch) -> Tensor:
        """emissions_BLT."""
        return self.classifier(self.dropout(self.encoder(batch)))  # type: ignore[no-any-return]

    def loss(self, batch: Batch, tags_BL: Tensor) -> Tensor:
        """The mean over all tokens; those without a tag of their own are O, for a chain has no gaps."""
        emissions_BLT = self.emissions(batch)
        known_BL = tags_BL.masked_fill(tags_BL == NO_TAG, OUTSIDE)
        with torch.autocast(emissions_BLT.device.type, enabled=False):
            likelihood = self.chain(emissions_BLT.float(), known_BL, mask=_valid(batch), reduction="token_mean")
        return -cast(Tensor, likelihood)

    def tags(self, batch: Batch) -> list[list[int]]:
        """The best sequence of tags of every text."""
        return cast(list[list[int]], self.chain.decode(self.emissions(batch).float(), mask=_valid(batch)))


Tagger = TokenClassification | LinearChainCRF


def build_tagger(kind: TaggerKind, config: RoFormerConfig, num_tags: int, max_tokens: int) -> Tagger:
    """A tagger with random weights; texts have at most `max_tokens` tokens."""
    match kind:
        case "token_classification":
            return TokenClassification(config, num_tags, max_tokens)
        case "crf":
            return LinearChainCRF(config, num_tags)


def foreign_config(config: RoFormerConfig, num_tags: int, max_tokens: int) -> ForeignConfig:
    """Our record as transformers writes it."""
    foreign = ForeignConfig(
        vocab_size=config.vocab_size,
        embedding_size=config.embedding_size,
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        intermediate_size=config.intermediate_size,
        hidden_act=config.activation,
        hidden_dropout_prob=config.dropout,
        attention_probs_dropout_prob=config.attention_dropout,
        type_vocab_size=config.num_token_types,
        layer_norm_eps=config.layer_norm_eps,
        rotary_value=config.rotary_value,
        max_position_embeddings=max_tokens,
    )
    foreign.num_labels = num_tags
    return foreign


def foreign_weights(ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of our `RoFormer` under the names of transformers' `RoFormerModel`.

    Raises:
        KeyError: a weight that `training.checkpoints.huggingface` does not know.
    """
    embeddings = {our: their for their, our in EMBEDDING_NAMES.items()}
    parts = {our: their for their, our in LAYER_NAMES.items()}
    weights: dict[str, Tensor] = {}
    for name, tensor in ours.items():
        if not name.startswith("layers."):
            weights[embeddings[name]] = tensor
            continue
        _, layer, part = name.split(".", 2)
        stem, kind = part.rsplit(".", 1)
        if stem == "attention.query_key_value":
            for own, third in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                weights[f"encoder.layer.{layer}.attention.self.{own}.{kind}"] = third
        else:
            weights[f"encoder.layer.{layer}.{parts[stem]}.{kind}"] = tensor
    return weights


def _valid(batch: Batch) -> Tensor:
    return batch.valid_BL().to(batch.token_ids_BL.device)
