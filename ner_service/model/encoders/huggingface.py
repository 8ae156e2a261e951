"""Any encoder of transformers' `AutoModel`: BERT, RoBERTa, ModernBERT, ... Padded batches only.

The architecture comes from the manifest, the weights from the bundle; nothing is fetched.
Shapes: B rows, L tokens, D hidden.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from ner_service.errors import ConfigError
from ner_service.model.batch import Batch, PaddingMask
from ner_service.model.config import HuggingFaceConfig


class HuggingFaceEncoder(nn.Module):
    """Token ids to the last hidden states [B, L, D]."""

    walks: bool = False

    def __init__(self, config: HuggingFaceConfig) -> None:
        super().__init__()
        foreign = AutoConfig.for_model(config.model_type, **config.config)
        if foreign.is_encoder_decoder:
            raise ConfigError(f"model.encoder.model_type: found {config.model_type!r}, expected an encoder alone")
        self.model = AutoModel.from_config(foreign)
        self.hidden_size = int(foreign.hidden_size)
        self.num_layers = int(foreign.num_hidden_layers)

    @property
    def token_embedding(self) -> nn.Embedding:
        return self.model.get_input_embeddings()  # type: ignore[no-any-return]

    def forward(self, batch: Batch) -> Tensor:
        return self.model(**_inputs(batch)).last_hidden_state  # type: ignore[no-any-return]

    def states(self, batch: Batch) -> Iterator[Tensor]:
        """Hidden states [B, L, D] that enter each layer, then those that leave the last."""
        answer = self.model(**_inputs(batch), output_hidden_states=True)
        yield from answer.hidden_states[:-1]
        yield answer.last_hidden_state


def _inputs(batch: Batch) -> dict[str, Tensor]:
    if not isinstance(batch.mask, PaddingMask):
        raise TypeError("transformers' encoders read padded batches, not packed ones")
    return {"input_ids": batch.token_ids_BL, "attention_mask": batch.valid_BL().to(batch.token_ids_BL.dtype)}
