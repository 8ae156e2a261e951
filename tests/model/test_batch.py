"""The two layouts of a batch."""

from __future__ import annotations

import pytest
import torch

from ner_service.model.batch import PackedMask, PaddingMask, pack, pad

TEXTS = ([7, 8, 9], [5], [3, 4])


def test_padded_rows_are_filled_up_on_the_right() -> None:
    batch = pad(TEXTS, pad_id=1)
    assert batch.token_ids_BL.tolist() == [[7, 8, 9], [5, 1, 1], [3, 4, 1]]
    assert batch.order_BL.tolist() == [[0, 1, 2]] * 3
    assert batch.valid_BL().tolist() == [[True, True, True], [True, False, False], [True, True, False]]
    assert batch.lengths == (3, 1, 2)


def test_rows_of_one_length_need_no_mask() -> None:
    batch = pad([[1, 2], [3, 4]], pad_id=0)
    assert batch.mask == PaddingMask(None)
    assert batch.valid_BL().all()


def test_a_packed_row_counts_positions_from_the_start_of_each_text() -> None:
    batch = pack(TEXTS)
    assert batch.token_ids_BL.tolist() == [[7, 8, 9, 5, 3, 4]]
    assert batch.order_BL.tolist() == [[0, 1, 2, 0, 0, 1]]
    assert batch.mask == PackedMask(((0, 3), (3, 4), (4, 6)))
    assert batch.valid_BL().all()


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_texts_come_back_in_order_without_padding(layout: str) -> None:
    batch = pad(TEXTS, pad_id=0) if layout == "padded" else pack(TEXTS)
    hidden_BLD = torch.stack([batch.token_ids_BL, -batch.token_ids_BL], -1)
    assert [text[:, 0].tolist() for text in batch.texts(hidden_BLD)] == list(TEXTS)


PLACES = ((0.0, 0.0), (1.5, 2.0), (3.0, 2.0))


def test_positions_of_texts_are_their_order() -> None:
    for batch in (pad(TEXTS, pad_id=0), pack(TEXTS)):
        assert torch.equal(batch.position_BLP, batch.order_BL[..., None])
        assert not batch.position_BLP.is_floating_point()


def test_a_page_stands_where_it_says_and_texts_beside_it_on_the_diagonal() -> None:
    texts = ([7, 8, 9], [5, 6])
    padded = pad(texts, pad_id=0, positions=[PLACES, None])
    assert padded.position_BLP.dtype == torch.float64
    assert padded.position_BLP.tolist() == [[[0, 0], [1.5, 2], [3, 2]], [[0, 0], [1, 1], [2, 2]]]
    packed = pack(texts[::-1], positions=[None, PLACES])
    assert packed.position_BLP.tolist() == [[[0, 0], [1, 1], [0, 0], [1.5, 2], [3, 2]]]
    assert packed.order_BL.tolist() == [[0, 1, 0, 1, 2]], "the head's order stays on one axis"
