"""What a model is made of, as frozen records that go into the manifest and come from it. Knows no tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class RoFormerConfig:
    """RoFormer: BERT's post-LayerNorm encoder with rotary positions in place of position embeddings.

    With two axes, tokens of a page are turned by their places on it, and texts as with one.

    Source: Su et al., RoFormer (arXiv 2104.09864). Field by field as Hugging Face's `RoFormerConfig`, but for the axes.
    """

    kind: Literal["roformer"] = "roformer"
    vocab_size: int
    embedding_size: int | None = None
    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    activation: Literal["gelu", "relu"] = "gelu"
    dropout: float = 0.1
    attention_dropout: float = 0.1
    num_token_types: int = 2
    layer_norm_eps: float = 1e-12
    rotary_value: bool = False
    num_axes: Literal[1, 2] = 1

    def __post_init__(self) -> None:
        _check_numbers(self)
        _check_heads(self.hidden_size, self.num_heads, self.num_axes)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoFormerV2Config:
    """RoFormerV2: no bias anywhere, RMSNorm without gain, ReLU. Axes as of `RoFormerConfig`.

    Source: kexue.fm/archives/8998.
    """

    kind: Literal["roformer_v2"] = "roformer_v2"
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    dropout: float = 0.1
    attention_dropout: float = 0.1
    num_token_types: int = 2
    layer_norm_eps: float = 1e-12
    num_axes: Literal[1, 2] = 1

    def __post_init__(self) -> None:
        _check_numbers(self)
        _check_heads(self.hidden_size, self.num_heads, self.num_axes)


@dataclass(frozen=True, slots=True, kw_only=True)
class GMLPConfig:
    """gMLP: tokens are mixed by a gate, a convolution of `kernel_size` tokens; `intermediate_size` is split in two.

    With an `attention_size` the gate has a head of attention of that width beside it, which makes it an aMLP.

    Source: Liu et al., Pay Attention to MLPs (arXiv 2105.08050).
    """

    kind: Literal["gmlp"] = "gmlp"
    vocab_size: int
    hidden_size: int
    num_layers: int
    intermediate_size: int
    kernel_size: int = 31
    attention_size: int = 0
    dropout: float = 0.1
    layer_norm_eps: float = 1e-12

    def __post_init__(self) -> None:
        _check_numbers(self)
        if self.intermediate_size % 2 or self.kernel_size % 2 == 0:
            raise ValueError(
                f"intermediate_size {self.intermediate_size}, kernel_size {self.kernel_size}: expected an even number "
                "and an odd one"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class FNetConfig:
    """FNet: tokens are mixed by a Fourier transform.

    Source: Lee-Thorp et al., FNet (arXiv 2105.03824).
    """

    kind: Literal["fnet"] = "fnet"
    vocab_size: int
    hidden_size: int
    num_layers: int
    intermediate_size: int
    dropout: float = 0.1
    layer_norm_eps: float = 1e-12

    def __post_init__(self) -> None:
        _check_numbers(self)
        _check_sinusoids(self.hidden_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class HyperMixerConfig:
    """HyperMixer: tokens are mixed by a network of `mixing_size`, over all heads, which the tokens themselves make.

    Source: Mai et al., HyperMixer (arXiv 2203.03691).
    """

    kind: Literal["hypermixer"] = "hypermixer"
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    mixing_size: int
    intermediate_size: int
    dropout: float = 0.1
    layer_norm_eps: float = 1e-12

    def __post_init__(self) -> None:
        _check_numbers(self)
        _check_sinusoids(self.hidden_size)
        if self.hidden_size % self.num_heads or self.mixing_size % self.num_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} and mixing_size {self.mixing_size} over num_heads {self.num_heads}: "
                "expected heads of one width"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class HuggingFaceConfig:
    """Any encoder that transformers' `AutoModel` can build: its `model_type` and the rest of its `config.json`."""

    kind: Literal["huggingface"] = "huggingface"
    model_type: str
    config: Mapping[str, object] = field(default_factory=dict)


_POSITIONS_AFTER_PADDING = frozenset(
    (
        *("camembert", "data2vec-text", "ibert", "layoutlmv3", "lilt", "longformer", "luke", "markuplm", "mpnet"),
        *("roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod"),
    )
)
"""RoBERTa and those made after it: the first token stands at position `pad_token_id` + 1."""

EncoderConfig = RoFormerConfig | RoFormerV2Config | GMLPConfig | FNetConfig | HyperMixerConfig | HuggingFaceConfig


def longest_text(config: EncoderConfig) -> int | None:
    """How many tokens an encoder can read at once, special ones among them; None: no limit, or none is given."""
    if not isinstance(config, HuggingFaceConfig):
        return None  # positions that are computed have no end
    positions = config.config.get("max_position_embeddings")
    if not isinstance(positions, int) or positions < 1:  # XLNet writes -1
        return None
    padding = config.config.get("pad_token_id", 1)
    if config.model_type in _POSITIONS_AFTER_PADDING and isinstance(padding, int):
        return positions - padding - 1
    return positions


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadConfig:
    """The pointer head that scores spans. `rotary` off leaves it blind to the distance of start and end."""

    kind: Literal["global_pointer", "efficient_global_pointer"] = "efficient_global_pointer"
    head_size: int = 64
    rotary: bool = True

    def __post_init__(self) -> None:
        if self.head_size < 1 or self.head_size % 2:
            raise ValueError(
                f"head_size is {self.head_size}, expected an even number above 0: rotary positions turn pairs"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingConfig:
    """A vector a text: a linear map of the hidden state at position 0, `size` wide."""

    size: int

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size: found {self.size}, expected 1 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageModelConfig:
    """Logits over the vocabulary from hidden states, by the encoder's own token embeddings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentConfig:
    """The latent codes of UniVAE: one of `size` numbers for each of the last `num_latents` layers.

    `posterior` is what a code is drawn from: von Mises-Fisher of concentration `kappa`, Gaussian, or nothing (UniAE).
    """

    num_latents: int
    size: int = 16
    posterior: Literal["vmf", "gaussian", "none"] = "vmf"
    kappa: float = 32.0

    def __post_init__(self) -> None:
        if self.num_latents < 0 or self.size < 3 or self.kappa <= 0:
            raise ValueError(
                f"num_latents {self.num_latents}, size {self.size}, kappa {self.kappa}: expected 0 or more, 3 or more "
                "and above 0"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Heads:
    """The heads that a model has, by name; its weights carry the same names."""

    spans: HeadConfig | None = None
    embedding: EmbeddingConfig | None = None
    language_model: LanguageModelConfig | None = None
    latent: LatentConfig | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """An encoder and the heads on top of it."""

    encoder: EncoderConfig
    heads: Heads


def _check_numbers(config: EncoderConfig) -> None:
    """What a size, a rate of dropout and an epsilon may be; layers and attention beside a gate may be none at all."""
    for name, value in ((each.name, getattr(config, each.name)) for each in fields(config)):
        if name.endswith("dropout"):
            fits, expected = 0 <= value < 1, "0 or more and less than 1"
        elif isinstance(value, float):
            fits, expected = value > 0, "a number above 0"
        elif name in ("attention_size", "num_layers"):
            fits, expected = value >= 0, "0 or more"
        else:
            fits, expected = not isinstance(value, int) or isinstance(value, bool) or value >= 1, "1 or more"
        if not fits:
            raise ValueError(f"{name}: found {value}, expected {expected}")


def _check_heads(hidden_size: int, num_heads: int, num_axes: int) -> None:
    if hidden_size % num_heads or (hidden_size // num_heads) % 2:
        raise ValueError(
            f"hidden_size {hidden_size} over num_heads {num_heads}: expected heads of one even width, "
            "rotary positions turn pairs of channels"
        )
    if (hidden_size // num_heads) % (2 * num_axes):
        raise ValueError(
            f"hidden_size {hidden_size} over num_heads {num_heads} with num_axes {num_axes}: expected heads of a width "
            f"that {2 * num_axes} divides, as many pairs of channels for each axis"
        )


def _check_sinusoids(hidden_size: int) -> None:
    if hidden_size % 2:
        raise ValueError(f"hidden_size is {hidden_size}, expected an even number: positions are pairs of channels")
