"""Small tokenizers of every family that a `tokenizer.json` may hold, trained on or made from a few sentences."""

from __future__ import annotations

from functools import cache

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from ner_service.text.tokenizer import TextTokenizer
from training.data.tokenizer_training import train_tokenizer

SENTENCES = (
    "Ann visited Beijing with Bob. They stayed 3.14 days!",
    "安在北京大学读书，她喜欢苹果。",
    "visiting visitors visit; the visited visitor visits",
    "Zürich, São Paulo and Malmö are cities.",
) * 3


@cache
def trained() -> TextTokenizer:
    """Ours: characters and word pieces."""
    return train_tokenizer(SENTENCES, vocab_size=300)


@cache
def byte_level() -> TextTokenizer:
    """As GPT-2 and RoBERTa: bytes, a space belongs to the word after it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "<pad>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=False)
    return TextTokenizer(tokenizer)


@cache
def word_piece() -> TextTokenizer:
    """As BERT: lower case, accents stripped, an unknown word is one token; truncation and padding left in the file."""
    letters = sorted({character for text in SENTENCES for character in text.lower() if character.isalnum()})
    names = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        *letters,
        *(f"##{letter}" for letter in letters),
        "visit",
        "##ed",
        "ann",
    ]
    vocab = {name: index for index, name in enumerate(names)}
    tokenizer = Tokenizer(models.WordPiece(vocab=vocab, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=32)
    return TextTokenizer(tokenizer)


@cache
def metaspace() -> TextTokenizer:
    """As SentencePiece models: a visible space is put before the text and stands for each space."""
    letters = sorted({character for text in SENTENCES for character in text if not character.isspace()})
    names = ["<pad>", "<unk>", "</s>", "▁", *letters, "▁visit", "visit", "ed", "▁Ann", "▁B"]
    vocab = [(name, 0.0 if index < 3 else -8.0 / len(name)) for index, name in enumerate(names)]
    tokenizer = Tokenizer(models.Unigram(vocab, unk_id=1))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    return TextTokenizer(tokenizer)


ALL = (trained, byte_level, word_piece, metaspace)
