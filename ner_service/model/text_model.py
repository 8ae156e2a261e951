"""TextModel = encoder + the heads it has: a batch of token ids to scores of spans, vectors of texts, codes.

Knows no text, no label's name, no threshold's meaning. Shapes: B rows, L tokens, C labels, E embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from ner_service.model.batch import Batch, PaddingMask, Places, pack, pad
from ner_service.model.config import ModelConfig
from ner_service.model.encoders import Encoder, build_encoder, packs, walked
from ner_service.model.heads import Cells, EfficientGlobalPointer, GlobalPointer, build_head, candidates, scores
from ner_service.model.initialisation import initialise
from ner_service.model.language_model import LanguageModel
from ner_service.model.latent import LatentCodes


class TextModel(nn.Module):
    """An encoder and its heads, each None where the model has none of that name.

    `spans` scores every span of every text for every label, `embedding` turns the state at position 0 into a vector,
    `language_model` names tokens, `latent` turns texts into codes and back.
    """

    spans: GlobalPointer | EfficientGlobalPointer | None
    embedding: nn.Linear | None
    language_model: LanguageModel | None
    latent: LatentCodes | None

    def __init__(self, config: ModelConfig, num_labels: int) -> None:
        super().__init__()
        self.config = config
        self.num_labels = num_labels
        self.encoder = build_encoder(config.encoder)
        encoder, heads = cast(Encoder, self.encoder), config.heads
        width = encoder.hidden_size
        self.spans = build_head(width, num_labels, heads.spans) if heads.spans else None
        self.embedding = nn.Linear(width, heads.embedding.size).apply(initialise) if heads.embedding else None
        self.language_model = LanguageModel(encoder) if heads.language_model else None
        self.latent = LatentCodes(walked(encoder, "heads.latent"), heads.latent) if heads.latent else None

    def forward(self, batch: Batch) -> Tensor:
        """scores_BCLL in fp32 or wider, for training.

        Raises:
            TypeError: the batch is packed; a grid needs one text a row.
        """
        assert self.spans is not None
        if not isinstance(batch.mask, PaddingMask):
            raise TypeError("a grid of scores needs a padded batch")
        projection = self.spans.project(self.encoder(batch), batch.order_BL)
        grid = scores(projection, batch.valid_BL())
        return grid if grid.dtype == torch.float64 else grid.float()

    def embed(self, batch: Batch) -> Tensor:
        """vectors_BE of the texts, of any length; compare them by their cosine."""
        assert self.embedding is not None
        return self.embedding(batch.firsts(self.encoder(batch)))  # type: ignore[no-any-return]

    def candidates(self, batch: Batch, inner: Sequence[Tensor], cutoffs: Tensor) -> list[Cells]:
        """For each text the cells above its cut-offs [B, C], among the token indices `inner[b]` of the text.

        Cells of a text do not depend on its neighbours: the head sees one text at a time.
        """
        texts = batch.texts(self.encoder(batch))
        orders = batch.texts(batch.order_BL)
        return [
            self._candidates_of_text(hidden_LD, order_L, tokens, cutoff_C)
            for hidden_LD, order_L, tokens, cutoff_C in zip(texts, orders, inner, cutoffs, strict=True)
        ]

    def _candidates_of_text(self, hidden_LD: Tensor, order_L: Tensor, tokens: Tensor, cutoff_C: Tensor) -> Cells:
        assert self.spans is not None
        projection = self.spans.project(hidden_LD[None, tokens], order_L[None, tokens])
        cells = candidates(projection, cutoff_C)
        return Cells(cells.label_N, tokens[cells.start_N], tokens[cells.end_N], cells.score_N)

    def pads(self, device: torch.device) -> bool:
        """Whether batches for a device are padded: on a GPU and for a foreign encoder, else they are packed."""
        return device.type != "cpu" or not packs(self.config.encoder)

    def batch(
        self,
        token_ids: Sequence[Sequence[int]],
        pad_id: int,
        device: torch.device,
        positions: Sequence[Places | None] | None = None,
    ) -> Batch:
        """Token ids, and where they stand on pages, in the layout that suits encoder and device."""
        if self.pads(device):
            return pad(token_ids, pad_id, device, positions)
        return pack(token_ids, device, positions)
