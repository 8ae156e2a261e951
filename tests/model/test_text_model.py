"""The whole model: layouts give one answer, and it learns what it should (GP-5 and GP-18)."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
import torch

from ner_service.model.batch import pack, pad
from ner_service.model.config import HeadConfig, Heads, HuggingFaceConfig, ModelConfig, RoFormerConfig
from ner_service.model.text_model import TextModel
from ner_service.types import Document, Entity, LabelSet, WindowLimits
from training.data.targets import Example, encode_documents
from training.data.tokenizer_training import train_tokenizer
from training.losses import sparse_zlpr

KINDS = ("global_pointer", "efficient_global_pointer")
Cell = tuple[int, int, int]

# [LABEL mention]; mentions nest.
SENTENCES = (
    "[PER Ada Park] lives in [LOC Leeds].",
    "[PER Tom] works for [ORG Bank of [LOC Oslo]].",
    "We met [PER Maria Silva] and [PER João] at the [ORG [LOC Porto] Museum].",
    "Nobody was at home yesterday.",
    "[ORG University of [LOC York]] hired [PER Lin].",
    "The [LOC Seine] flows through [LOC Paris].",
    "[PER Omar] left [ORG Red Harbour] for [ORG Blue Harbour].",
    "It rained all night, and then it snowed.",
    "[LOC North [LOC Korea]] borders [LOC South [LOC Korea]].",
    "[PER Anna] told [PER Otto] about [PER Anna].",
    "[LOC 上海]人喜欢[LOC 外滩]。",
    "[PER 王芳]在[ORG [LOC 南京]大学]教书。",
    "[ORG [LOC 广州]铁路局]的[PER 陈明]退休了。",
    "今天没有下雨。",
    "[PER 李雷]和[PER 韩梅]去了[LOC 西安]。",
    "[ORG [LOC 成都]银行[LOC 重庆]分行]开业。",
    "[PER Zoë] flew from [LOC Köln] to [LOC Łódź].",
    "The [ORG [PER Miller] Foundation] gave prizes.",
    "[LOC New York] and [LOC York] are not one.",
    "[PER J. K. Smith], of [ORG Smith & Sons], smiled.",
)


def read(marked: str) -> Document:
    """The document of a marked sentence."""
    text, entities, opened = "", [], []
    for piece in re.findall(r"\[[A-Z]+ |\]|[^\[\]]+", marked):
        if piece.startswith("["):
            opened.append((len(text), piece[1:-1]))
        elif piece == "]":
            start, label = opened.pop()
            entities.append(Entity(start, len(text), label))
        else:
            text += piece
    return Document(text=text, entities=tuple(entities))


def build(kind: str, vocab_size: int, num_labels: int, *, num_layers: int, rotary: bool = True) -> TextModel:
    torch.manual_seed(0)
    encoder = RoFormerConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        num_layers=num_layers,
        num_heads=2,
        intermediate_size=64,
        dropout=0.0,
        attention_dropout=0.0,
    )
    head = HeadConfig(kind=kind, head_size=16, rotary=rotary)  # type: ignore[arg-type]
    return TextModel(ModelConfig(encoder=encoder, heads=Heads(spans=head)), num_labels)


def fit(model: TextModel, texts: Sequence[Sequence[int]], gold: Sequence[Sequence[Cell]], num_steps: int) -> None:
    """Full-batch Adam."""
    batch = pad(texts, 0)
    length = batch.token_ids_BL.shape[1]
    cells = [[[s * length + e for c, s, e in text if c == label] for label in range(model.num_labels)] for text in gold]
    longest = max(len(row) for text in cells for row in text)
    positive_BCP = torch.tensor([[row + [-1] * (longest - len(row)) for row in text] for text in cells])
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(num_steps):
        optimizer.zero_grad()
        sparse_zlpr(model(batch), positive_BCP).mean().backward()
        optimizer.step()
    model.eval().requires_grad_(False)


def predict(model: TextModel, texts: Sequence[Sequence[int]]) -> list[set[Cell]]:
    inner = [torch.arange(len(text)) for text in texts]
    found = model.candidates(pack(texts), inner, torch.zeros(len(texts), model.num_labels))
    return [set(zip(c.label_N.tolist(), c.start_N.tolist(), c.end_N.tolist(), strict=True)) for c in found]


def f1(predicted: Sequence[set[Cell]], gold: Sequence[set[Cell]]) -> float:
    num_right = sum(len(p & g) for p, g in zip(predicted, gold, strict=True))
    return 2 * num_right / (sum(map(len, predicted)) + sum(map(len, gold)))


@pytest.mark.parametrize("kind", KINDS)
def test_gp18_twenty_sentences_are_learnt_by_heart(kind: str) -> None:
    documents = [read(sentence) for sentence in SENTENCES]
    tokenizer = train_tokenizer([document.text for document in documents], vocab_size=400, min_frequency=1)
    labels = LabelSet(("PER", "ORG", "LOC"))
    examples: list[Example]
    examples, lost = encode_documents(documents, tokenizer, WindowLimits(max_tokens=64, overlap_tokens=8), labels)
    assert not lost
    texts = [example.encoding.token_ids for example in examples]
    gold = [set(example.cells) for example in examples]
    assert sum(map(len, gold)) == sum(sentence.count("[") for sentence in SENTENCES)
    model = build(kind, tokenizer.vocab_size, len(labels), num_layers=1)
    assert f1(predict(model.eval(), texts), gold) < 0.2
    fit(model.train(), texts, [example.cells for example in examples], num_steps=60)
    assert f1(predict(model, texts), gold) == 1.0


@pytest.mark.parametrize("kind", KINDS)
def test_gp18_only_rotation_tells_same_typed_neighbours_apart(kind: str) -> None:
    """Entities are "1 2 3"; no layer mixes the tokens, so every 1 looks alike and so does every 3.

    Without rotation a 1 with any later 3 has one score: of a text's six such pairs three are gold, F1 is at most 2/3.
    """
    texts = [
        [0] * before + [1, 2, 3] + [0] * between + [1, 2, 3] + [0] * (4 - between) + [1, 2, 3]
        for before in range(2)
        for between in range(5)
    ]
    gold = [[(0, start, start + 2) for start, token in enumerate(text) if token == 1] for text in texts]

    def learnt(rotary: bool) -> float:
        model = build(kind, 4, 1, num_layers=0, rotary=rotary)
        fit(model, texts, gold, num_steps=150)
        return f1(predict(model, texts), [set(cells) for cells in gold])

    assert learnt(rotary=True) == 1.0
    assert learnt(rotary=False) <= 2 / 3


@pytest.mark.parametrize("kind", KINDS)
def test_gp5_candidates_do_not_depend_on_layout_or_neighbours(kind: str) -> None:
    model = build(kind, 30, 3, num_layers=2).double().eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    texts = [torch.randint(30, (length,), generator=generator).tolist() for length in (9, 1, 5, 12)]
    inner = [torch.arange(len(text)) for text in texts]
    cutoffs = torch.zeros(4, 3, dtype=torch.float64)
    alone = [
        model.candidates(pad([text], 0), [tokens], cutoffs[:1])[0] for text, tokens in zip(texts, inner, strict=True)
    ]
    assert sum(len(cells.score_N) for cells in alone) > 10
    for batch in (pad(texts, 0), pack(texts)):
        for together, expected in zip(model.candidates(batch, inner, cutoffs), alone, strict=True):
            for name in ("label_N", "start_N", "end_N"):
                assert torch.equal(getattr(together, name), getattr(expected, name))
            torch.testing.assert_close(together.score_N, expected.score_N, rtol=1e-10, atol=1e-10)


def test_a_grid_needs_a_padded_batch() -> None:
    with pytest.raises(TypeError, match="padded"):
        build("global_pointer", 5, 1, num_layers=0)(pack([[1, 2]]))


def test_grids_are_single_precision_under_autocast() -> None:
    model = build("efficient_global_pointer", 5, 2, num_layers=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(pad([[1, 2, 3]], 0)).dtype == torch.float32


def test_the_layout_suits_encoder_and_device() -> None:
    model = build("global_pointer", 5, 1, num_layers=0)
    foreign = TextModel(
        ModelConfig(
            encoder=HuggingFaceConfig(
                model_type="bert",
                config={
                    "vocab_size": 5,
                    "hidden_size": 8,
                    "num_hidden_layers": 1,
                    "num_attention_heads": 2,
                    "intermediate_size": 8,
                },
            ),
            heads=Heads(spans=HeadConfig(head_size=4)),
        ),
        1,
    )
    cpu = torch.device("cpu")
    assert model.batch([[1, 2], [3]], 0, cpu).token_ids_BL.shape == (1, 3)
    assert foreign.batch([[1, 2], [3]], 0, cpu).token_ids_BL.shape == (2, 2)
