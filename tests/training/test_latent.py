"""Texts by way of their codes, with a model that knows six sentences by heart.

Shapes: N texts, S size of a code, T tokens written, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from hypothesis import assume, given
from torch import Tensor

from ner_service.bundle import Bundle
from ner_service.errors import ConfigError, InvalidTextError, MissingHeadError
from ner_service.model.batch import pad_targets
from ner_service.model.config import Heads, LatentConfig, ModelConfig, RoFormerConfig
from ner_service.model.latent import FIRST_POSITION
from ner_service.recognizer import Recognizer
from ner_service.types import Document, LabelSet
from tests.strategies import directions
from training.config import DataConfig, ModelSection, ObjectivesConfig, RunConfig, UniVAEConfig
from training.data.raw import RawCorpus
from training.data.sources import Corpus
from training.data.tokenizer_training import train_tokenizer
from training.latent import Autoencoder, Written, lerp, slerp
from training.objectives.univae import UniVAEObjective
from training.preparation import Setup, heads_of

SENTENCES = (
    "Two boats lay at anchor.",
    "The mill is closed today.",
    "Marta sold her bicycle.",
    "今晚的月亮很圆。",
    "钥匙在花盆下面。",
    "山路上没有人。",
)
STEPS = 120
LAYERS = (2, 3)


def setup_of(config: LatentConfig) -> Setup:
    """Three layers of 32 and the sentences; what is learnt is measured by nothing but reconstruction."""
    run = RunConfig(
        name="by heart",
        data=DataConfig(texts=("in memory",)),
        model=ModelSection(encoder={"kind": "roformer"}),
        objectives=ObjectivesConfig(univae=UniVAEConfig(latent=config)),
    )
    tokenizer = train_tokenizer(SENTENCES, vocab_size=300, min_frequency=1)
    encoder = RoFormerConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        num_layers=3,
        num_heads=2,
        intermediate_size=64,
        dropout=0.0,
        attention_dropout=0.0,
    )
    raw = RawCorpus(fixed=SENTENCES)
    corpus = Corpus(labels=LabelSet(()), train=(), dev=(Document(""),), sha256="", raw=raw)
    model = ModelConfig(encoder=encoder, heads=heads_of(run))
    return Setup(run=run, corpus=corpus, tokenizer=tokenizer, config=model, weights={})


@pytest.fixture(scope="module")
def trained() -> Recognizer:
    """A model that has seen the six sentences often enough."""
    setup = setup_of(LatentConfig(num_latents=len(LAYERS), size=8, kappa=64.0))
    model = setup.build_model().train()
    objective = UniVAEObjective(setup, model, Accelerator(cpu=True), UniVAEConfig(latent=setup.config.heads.latent))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=STEPS, pct_start=0.1)
    [[batch]] = objective.steps(0)
    for _ in range(STEPS):
        optimizer.zero_grad()
        objective.backward([batch], 1.0 / objective.count(batch))
        optimizer.step()
        schedule.step()
    return Recognizer(setup.bundle(model.state_dict(), {}), torch.device("cpu"))


@pytest.fixture(scope="module")
def gaussian() -> Recognizer:
    """Random weights, wide enough that texts have codes of their own."""
    setup = setup_of(LatentConfig(num_latents=len(LAYERS), size=8, posterior="gaussian"))
    weights = setup.build_model().state_dict()
    for name, tensor in weights.items():
        if name.startswith("latent.") and tensor.dim() == 2:
            tensor.normal_(std=0.5)
    return Recognizer(setup.bundle(weights, {}), torch.device("cpu"))


def whole(*texts: str) -> list[Written]:
    return [Written(text, finished=True) for text in texts]


class Recording(Autoencoder):
    """Keeps the codes that it was to write from."""

    codes: list[Tensor]

    def write(self, codes: list[Tensor]) -> list[Written]:
        self.codes = codes
        return super().write(codes)


def test_sentences_known_by_heart_are_written_again(trained: Recognizer) -> None:
    assert Autoencoder(trained).reconstruct(SENTENCES) == whole(*SENTENCES)
    assert Autoencoder(trained).reconstruct([]) == []


def test_u2_from_codes_of_another_text_that_text_is_written(trained: Recognizer) -> None:
    """The twin: what is written hangs on the codes, and on every text's own."""
    model = Autoencoder(trained)
    codes = [code_NS.flip(0) for code_NS in model.encode(SENTENCES)]
    assert model.write(codes) == whole(*reversed(SENTENCES))


def test_many_texts_are_taken_in_turns(trained: Recognizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.latent.TEXTS_AT_ONCE", 4)
    assert Autoencoder(trained).reconstruct([*SENTENCES, SENTENCES[0]]) == whole(*SENTENCES, SENTENCES[0])


def test_u6_the_likeliest_tokens_are_those_of_the_decoder_in_one_pass(trained: Recognizer) -> None:
    """Of a text that the model does not know: token for token what the whole row's logits say."""
    model, tokenizer = trained.model, trained.tokenizer
    auto = Autoencoder(trained, max_tokens=12)
    text = "Marta lay on the mill."
    [written] = auto.reconstruct([text])
    codes = auto.encode([text])
    barred = sorted(auto.sampling.barred_ids)
    ids = list(tokenizer.start_ids)
    for _ in range(auto.sampling.max_tokens):
        batch = pad_targets([ids], tokenizer.pad_id, first_position=FIRST_POSITION)
        hidden_1TD = model.encoder(batch, model.latent.caches(model.encoder, codes))
        logits_TV = model.language_model(hidden_1TD[0], model.encoder.token_embedding.weight)
        logits_TV[:, barred] = -torch.inf
        assert logits_TV[:-1].argmax(-1).tolist() == ids[1:]
        ids.append(int(logits_TV[-1].argmax()))
        if ids[-1] in tokenizer.end_ids:
            break
    assert written == Written(tokenizer.decode(ids), finished=ids[-1] in tokenizer.end_ids)


def test_a_text_has_at_most_so_many_tokens(trained: Recognizer) -> None:
    """Its end among them: a text that is cut says so, one that comes to its end with the last token does not."""
    text, num_tokens = SENTENCES[3], len(SENTENCES[3])
    for max_tokens in (3, num_tokens):
        cut = Written(text[:max_tokens], finished=False)
        assert Autoencoder(trained, max_tokens=max_tokens).reconstruct([text]) == [cut]
    assert Autoencoder(trained, max_tokens=num_tokens + 1).reconstruct([text]) == whole(text)


def test_codes_do_not_depend_on_what_is_read_with_them(trained: Recognizer) -> None:
    model = Autoencoder(trained)
    together, alone = model.encode(SENTENCES), model.encode(SENTENCES[4:5])
    assert [code_NS.shape for code_NS in together] == [(6, 8), (6, 8)]
    for all_NS, one_1S in zip(together, alone, strict=True):
        torch.testing.assert_close(all_NS[4:5], one_1S, rtol=0, atol=1e-6)
        torch.testing.assert_close(all_NS.norm(dim=-1), torch.ones(6), rtol=0, atol=1e-6)


def test_samples_follow_from_the_seed(trained: Recognizer) -> None:
    found = {seed: Autoencoder(trained, seed=seed).sample(8) for seed in (1, 2)}
    assert Autoencoder(trained, seed=1).sample(8) == found[1] != found[2]
    assert all(len(texts) == 8 for texts in found.values())
    assert len(set(found[1])) > 1


def test_codes_are_drawn_from_the_prior(trained: Recognizer, gaussian: Recognizer) -> None:
    """Unit vectors, or numbers of variance 1: the squared length of 8 of them averages 8."""
    on_sphere, in_space = Recording(trained, max_tokens=1), Recording(gaussian, max_tokens=1)
    on_sphere.sample(200)
    in_space.sample(200)
    assert len(on_sphere.codes) == len(in_space.codes) == 2
    for code_NS in on_sphere.codes:
        torch.testing.assert_close(code_NS.norm(dim=-1), torch.ones(200), rtol=0, atol=1e-6)
    for code_NS in in_space.codes:
        # Four standard errors: a sum of 8 squares has variance 16.
        assert abs(float(code_NS.square().sum(-1).mean()) - 8) < 4 * math.sqrt(16 / 200)


@pytest.mark.parametrize("layer", LAYERS)
def test_one_scale_is_drawn_anew_and_the_other_kept(trained: Recognizer, layer: int) -> None:
    model = Recording(trained)
    written = model.resample(SENTENCES[0], [layer], 5)
    assert len(written) == 5
    for number, code_NS, own_1S in zip(LAYERS, model.codes, model.encode(SENTENCES[:1]), strict=True):
        distances_N = (code_NS - own_1S).norm(dim=-1)
        assert (distances_N > 1e-2).all() if number == layer else (distances_N == 0).all()


def test_with_no_scale_or_every_scale_anew(trained: Recognizer) -> None:
    """The text itself; or what is drawn without it."""
    assert Autoencoder(trained).resample(SENTENCES[0], [], 3) == whole(SENTENCES[0]) * 3
    assert Autoencoder(trained, seed=4).resample(SENTENCES[0], LAYERS, 6) == Autoencoder(trained, seed=4).sample(6)


def test_an_interpolation_begins_and_ends_with_its_texts(trained: Recognizer) -> None:
    model = Recording(trained)
    written = model.interpolate(SENTENCES[0], SENTENCES[4], 7)
    assert [written[0], written[-1]] == whole(SENTENCES[0], SENTENCES[4])
    assert len(written) == 7
    for code_NS in model.codes:
        torch.testing.assert_close(code_NS.norm(dim=-1), torch.ones(7), rtol=0, atol=1e-6)


@pytest.mark.parametrize("layer", LAYERS)
def test_one_scale_moves_alone(trained: Recognizer, layer: int) -> None:
    model = Recording(trained)
    assert model.interpolate(SENTENCES[0], SENTENCES[4], 4, [layer])[0] == Written(SENTENCES[0], finished=True)
    ends = model.encode([SENTENCES[0], SENTENCES[4]])
    for number, code_NS, end_2S in zip(LAYERS, model.codes, ends, strict=True):
        last_S = end_2S[1] if number == layer else end_2S[0]
        torch.testing.assert_close(code_NS[-1], last_S, rtol=0, atol=1e-6)
        assert torch.equal(code_NS[1], code_NS[2]) == (number != layer)


def test_a_gaussians_codes_move_in_a_straight_line(gaussian: Recognizer) -> None:
    model = Recording(gaussian, max_tokens=2)
    model.interpolate(SENTENCES[0], SENTENCES[4], 5)
    for code_NS, end_2S in zip(model.codes, model.encode([SENTENCES[0], SENTENCES[4]]), strict=True):
        torch.testing.assert_close(code_NS[[0, 2, 4]], torch.stack([end_2S[0], end_2S.mean(0), end_2S[1]]))
        assert float((end_2S[0] - end_2S[1]).norm()) > 0.1


@given(directions(5), directions(5))
def test_on_the_sphere_equal_shares_are_equal_angles(first_S: Tensor, second_S: Tensor) -> None:
    assume(float((first_S + second_S).norm()) > 1e-3)  # of opposite points every way is the shortest
    share_N = torch.linspace(0, 1, 6, dtype=torch.float64)
    path_NS = slerp(first_S, second_S, share_N)
    torch.testing.assert_close(path_NS.norm(dim=-1), torch.ones(6).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(path_NS[0], first_S, rtol=0, atol=1e-12)
    torch.testing.assert_close(path_NS[-1], second_S, rtol=0, atol=1e-12)
    chord_N = (path_NS[1:] - path_NS[:-1]).norm(dim=-1)
    torch.testing.assert_close(chord_N, chord_N[:1].expand(5), rtol=0, atol=1e-9)


def test_a_straight_line_leaves_the_sphere() -> None:
    """The twin of the test above."""
    first_S, second_S = torch.eye(2)
    share_N = torch.tensor([0.0, 0.25, 0.5])
    assert lerp(first_S, second_S, share_N)[2].norm() == pytest.approx(math.sqrt(0.5))
    expected = [[math.cos(angle), math.sin(angle)] for angle in (0.0, math.pi / 8, math.pi / 4)]
    torch.testing.assert_close(slerp(first_S, second_S, share_N), torch.tensor(expected))


def test_tokens_are_drawn_where_asked(trained: Recognizer) -> None:
    """Of a text that the model is not sure of."""
    text = ["Two 钥匙 sold"] * 20
    drawn = Autoencoder(trained, top_p=1.0).reconstruct(text)
    assert len(set(drawn)) > 1
    assert Autoencoder(trained, top_p=1.0).reconstruct(text) == drawn
    assert len(set(Autoencoder(trained).reconstruct(text))) == 1


@pytest.mark.parametrize("layers", [[1], [2, 4], [0]])
def test_a_layer_without_a_code_is_refused(trained: Recognizer, layers: list[int]) -> None:
    unknown = [layer for layer in layers if layer not in LAYERS]
    message = rf"layer: found {unknown[0]}, expected a latent layer: 2, 3"
    with pytest.raises(ConfigError, match=message):
        Autoencoder(trained).resample(SENTENCES[0], layers, 2)
    with pytest.raises(ConfigError, match=message):
        Autoencoder(trained).interpolate(*SENTENCES[:2], 3, layers)


def test_a_text_that_is_not_unicode_is_refused(trained: Recognizer) -> None:
    with pytest.raises(InvalidTextError):
        Autoencoder(trained).reconstruct(["\ud800"])


def test_a_model_without_codes_is_refused(tiny_bundle: Bundle) -> None:
    with pytest.raises(MissingHeadError, match=r"no 'latent' head; it has: spans"):
        Autoencoder(Recognizer(tiny_bundle, torch.device("cpu")))


def test_a_model_that_does_not_write_is_refused(trained: Recognizer) -> None:
    setup = setup_of(LatentConfig(num_latents=2))
    setup = replace(setup, config=replace(setup.config, heads=Heads(latent=setup.config.heads.latent)))
    recognizer = Recognizer(setup.bundle(setup.build_model().state_dict(), {}), torch.device("cpu"))
    with pytest.raises(MissingHeadError, match=r"no 'language_model' head; it has: latent"):
        Autoencoder(recognizer)


def test_u10_a_model_without_latent_layers_is_refused() -> None:
    setup = setup_of(LatentConfig(num_latents=0))
    recognizer = Recognizer(setup.bundle(setup.build_model().state_dict(), {}), torch.device("cpu"))
    with pytest.raises(ConfigError, match="num_latents: found 0, expected 1 or more"):
        Autoencoder(recognizer)
