"""The objective of UniVAE: its sentences, its loss, its gradient, and what it measures. In fp64."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from tokenizers import Tokenizer, processors
from torch import Tensor

from ner_service.errors import ConfigError
from ner_service.model.batch import pad, pad_targets
from ner_service.model.latent import FIRST_POSITION
from ner_service.model.text_model import TextModel
from ner_service.model.von_mises_fisher import kl_to_uniform
from ner_service.text.tokenizer import TextTokenizer
from ner_service.types import Document
from tests.training.objectives.univae_setups import (
    ENCODERS,
    RAW,
    TEXTS,
    config_of,
    objective_of,
    setup_of,
)
from training.assembly import new_state
from training.config import (
    OptimizerConfig,
)
from training.data.raw import RawCorpus
from training.data.texts import sentences
from training.data.tokenizer_training import train_tokenizer
from training.loop import train
from training.objectives.univae import Tokens, UniVAEObjective, join_singles


def batches_of(objective: UniVAEObjective, epoch: int = 0) -> list[list[Tokens]]:
    return [batch for step in objective.steps(epoch) for batch in step]


def loss_by_hand(model: TextModel, tokens: Sequence[int], num_start: int = 1) -> float:
    """- sum over tokens of log softmax, one text alone and one token after another: the token before each is read."""
    with torch.no_grad():
        latents = model.latent.encode(model.encoder, pad([tokens], 0))
        caches = model.latent.caches(model.encoder, [latent.z_Bd for latent in latents])
        total = 0.0
        for place, (read, target) in enumerate(pairwise(tokens)):
            hidden = model.encoder(pad_targets([[read]], 0, first_position=FIRST_POSITION + place), caches)
            logits_V = model.language_model(hidden[0, 0], model.encoder.token_embedding.weight)
            if place >= num_start - 1:
                total -= float(logits_V[target] - logits_V.logsumexp(0))
    return total


@pytest.mark.parametrize("posterior", ["vmf", "gaussian", "none"])
@pytest.mark.parametrize("kind", ENCODERS)
def test_the_loss_is_the_cross_entropy_of_every_token_and_the_end(kind: str, posterior: str) -> None:
    """Texts of many lengths in one batch: padding is no target (the reference's quirk)."""
    objective, model = objective_of(setup_of(config_of(posterior=posterior, batch_tokens=1000), kind))
    model.eval()
    [batch] = batches_of(objective)
    assert len({len(tokens) for tokens in batch}) > 3
    cross_entropy_N, _ = objective.terms(batch)
    assert cross_entropy_N.sum().item() == pytest.approx(sum(loss_by_hand(model, t) for t in batch), rel=1e-10)
    assert objective.count(batch) == len(cross_entropy_N) == sum(len(tokens) - 1 for tokens in batch)
    assert objective.num_tokens(batch) == sum(map(len, batch))


def test_a_wrong_target_changes_the_loss() -> None:
    """The twin of the test above."""
    objective, model = objective_of(setup_of(config_of()))
    model.eval()
    tokens = batches_of(objective)[0][0]
    changed = tokens[:]
    changed[-2] += 1
    with torch.no_grad():
        before, after = (objective.terms([row])[0] for row in (tokens, changed))
    assert abs(float(after.sum()) - loss_by_hand(model, tokens)) > 1e-3
    assert abs(float(before.sum()) - loss_by_hand(model, tokens)) < 1e-9


def test_of_several_tokens_around_a_text_those_before_it_are_no_targets() -> None:
    framed = Tokenizer.from_str(train_tokenizer(TEXTS, vocab_size=300, min_frequency=1).to_json())
    specials = [(name, framed.token_to_id(name)) for name in ("[CLS]", "[MASK]", "[SEP]", "[UNK]")]
    framed.post_processor = processors.TemplateProcessing(single="[CLS] [MASK] $A [SEP] [UNK]", special_tokens=specials)
    objective, model = objective_of(setup_of(config_of(batch_tokens=1000), tokenizer=TextTokenizer(framed)))
    model.eval()
    [batch] = batches_of(objective)
    assert {(*tokens[:2], *tokens[-2:]) for tokens in batch} == {tuple(index for _, index in specials)}
    with torch.no_grad():
        cross_entropy_N, _ = objective.terms(batch)
    expected = sum(loss_by_hand(model, tokens, num_start=2) for tokens in batch)
    assert float(cross_entropy_N.sum()) == pytest.approx(expected, rel=1e-10)
    assert objective.count(batch) == len(cross_entropy_N) == sum(len(tokens) - 2 for tokens in batch)


def test_bf16_gives_nearly_the_loss_of_fp32() -> None:
    losses = []
    for precision in ("no", "bf16"):
        setup = setup_of(config_of(posterior="gaussian", batch_tokens=1000))
        model = setup.build_model()
        config = setup.run.objectives.univae
        objective = UniVAEObjective(setup, model, Accelerator(cpu=True, mixed_precision=precision), config)
        torch.manual_seed(0)
        total = objective.loss(batches_of(objective)[0])
        total.backward()
        assert total.dtype == torch.float32
        losses.append(total.item())
        AcceleratorState._reset_state(reset_partial_state=True)
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)
    assert losses[0] != losses[1]


def test_every_sentence_is_there_as_often_as_it_is_written_and_long_ones_in_pieces() -> None:
    setup = setup_of(config_of(max_tokens=9))
    objective, _ = objective_of(setup)
    tokenizer = setup.tokenizer
    pieces = [tokens for batch in batches_of(objective) for tokens in batch]
    expected: Counter[tuple[int, ...]] = Counter()
    for text in RAW.texts(0):
        for sentence in sentences(text):
            inner = tokenizer.encode(sentence).token_ids[1:-1]
            expected.update(inner[first : first + 7] for first in range(0, len(inner), 7))
    assert Counter(tuple(tokens[1:-1]) for tokens in pieces) == expected
    assert max(expected.values()) >= 2
    assert max(map(len, pieces)) == 9
    assert {(tokens[0], tokens[-1]) for tokens in pieces} == {(*tokenizer.start_ids, *tokenizer.end_ids)}


def test_batches_fit_the_budget_and_follow_from_seed_and_epoch() -> None:
    objective, _ = objective_of(setup_of(config_of(batch_tokens=40)))
    batches = batches_of(objective)
    assert all(len(batch) * max(map(len, batch)) <= 40 for batch in batches)
    assert batches == batches_of(objective)
    assert len({str(batches_of(objective, epoch)) for epoch in range(6)}) > 1
    assert [len(step) for step in objective.steps(0)[:-1]] == [2] * (len(objective.steps(0)) - 1)


def gradients(
    objective: UniVAEObjective, model: TextModel, batches: Sequence[list[Tokens]], *, at_once: bool = False
) -> dict[str, Tensor]:
    model.zero_grad()
    scale = 1.0 / sum(map(objective.count, batches))
    for share in [batches] if at_once else [[batch] for batch in batches]:
        objective.backward(share, scale)
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("posterior", ["vmf", "gaussian", "none"])
@pytest.mark.parametrize("kind", ENCODERS)
def test_accumulated_batches_have_the_gradient_of_one(kind: str, posterior: str) -> None:
    """From the codes' centres, so that noise takes no part."""
    objective, model = objective_of(setup_of(config_of(posterior=posterior, batch_tokens=1000), kind))
    model.eval()
    [batch] = batches_of(objective)
    whole = gradients(objective, model, [batch])
    for at_once in (False, True):
        parts = gradients(objective, model, [batch[:2], batch[2:]], at_once=at_once)
        for name, gradient in whole.items():
            torch.testing.assert_close(parts[name], gradient, rtol=1e-9, atol=1e-12)
    half = gradients(objective, model, [batch[:2]])
    assert float((half["latent.down.0.weight"] - whole["latent.down.0.weight"]).abs().max()) > 1e-4
    assert {name.split(".")[0] for name in whole} == {"encoder", "latent", "language_model"}


def test_only_a_batch_norm_ties_the_texts_of_a_batch() -> None:
    """In training a Gaussian's gradients do depend on the batch, as its documentation says."""
    objective, model = objective_of(setup_of(config_of(posterior="gaussian", batch_tokens=1000)))
    [batch] = batches_of(objective)
    torch.manual_seed(0)
    whole = gradients(objective, model, [batch])
    torch.manual_seed(0)
    parts = gradients(objective, model, [batch[:2], batch[2:]])
    assert float((whole["latent.down.0.weight"] - parts["latent.down.0.weight"]).abs().max()) > 1e-4


def test_u11_text_and_codes_get_gradients_through_the_loss() -> None:
    """Every latent layer's way down and up; without latent layers there is no such way."""
    objective, model = objective_of(setup_of(config_of()))
    found = gradients(objective, model, batches_of(objective)[:1])
    for name in ("latent.down.0.weight", "latent.down.1.weight", "latent.up.0.weight", "latent.up.1.weight"):
        assert float(found[name].abs().max()) > 1e-6
    plain, model = objective_of(setup_of(config_of(num_latents=0)))
    assert {name.split(".")[0] for name in gradients(plain, model, batches_of(plain)[:1])} == {
        "encoder",
        "language_model",
    }


def test_the_divergence_of_von_mises_fisher_is_told_and_not_learnt() -> None:
    """It is the closed form for every sentence and latent layer."""
    objective, _ = objective_of(setup_of(config_of(kappa=16.0)))
    batch = batches_of(objective)[0]
    torch.manual_seed(0)
    cross_entropy_N, kl = objective.terms(batch)
    torch.manual_seed(0)
    assert objective.loss(batch).item() == cross_entropy_N.sum().item()
    assert kl.item() == pytest.approx(len(batch) * 2 * kl_to_uniform(4, 16.0), rel=1e-9)


def test_the_divergence_of_a_gaussian_is_learnt() -> None:
    objective, model = objective_of(setup_of(config_of(posterior="gaussian", batch_tokens=1000)))
    [batch] = batches_of(objective)
    torch.manual_seed(0)
    cross_entropy_N, kl = objective.terms(batch)
    torch.manual_seed(0)
    assert objective.loss(batch).item() == pytest.approx((cross_entropy_N.sum() + kl).item(), rel=1e-12)
    # At least gamma_mean^2 / 2 = 0.375 a number at the start, for 2 codes of 4.
    assert kl.item() > len(batch) * 2 * 4 * 0.375
    kl.backward()
    assert model.latent.down[0].weight.grad is not None


def test_a_gaussian_is_never_given_a_batch_of_one_sentence() -> None:
    """A budget of a token would have every sentence stand alone.

    Two that differ are normalised to 1 and -1, so with gamma_deviation^2 = 1/4 a number costs -log(1/4) / 2 nats.
    """
    setup = setup_of(config_of(posterior="gaussian", batch_tokens=1))
    objective = UniVAEObjective(setup, setup.build_model(), Accelerator(cpu=True), setup.run.objectives.univae)
    batches = batches_of(objective)
    assert all(any(tokens != batch[0] for tokens in batch) for batch in batches)
    alone = batches_of(objective_of(setup_of(config_of(batch_tokens=1)))[0])
    assert {len(batch) for batch in alone} == {1}
    whole = Counter(str(tokens) for batch in batches for tokens in batch)
    assert whole == Counter(str(tokens) for batch in alone for tokens in batch)
    # The must-fail twin: by statistics that are not its own yet, a sentence alone costs more.
    assert max(divergence(objective, batch) for batch in alone) > 1.5
    assert [divergence(objective, batch) for batch in batches] == pytest.approx([math.log(2)] * 5, abs=0.02)


def divergence(objective: UniVAEObjective, batch: list[Tokens]) -> float:
    """Nats for each number of a code, of 2 codes of 4."""
    with torch.no_grad():
        return float(objective.terms(batch)[1]) / (len(batch) * 2 * 4)


def rows(*words: str) -> list[Tokens]:
    return [array("i", map(ord, word)) for word in words]


def test_a_single_sentence_joins_the_next_longer_batch_and_the_longest_the_one_before() -> None:
    batches = [rows("abcdefgh"), rows("abc", "abd"), rows("ab"), rows("abcde", "abcdf")]
    assert join_singles(batches) == [rows("ab", "abc", "abd"), rows("abcde", "abcdf", "abcdefgh")]


def test_a_sentence_twice_is_a_single_one() -> None:
    assert join_singles([rows("abc", "abc"), rows("ab")]) == [rows("ab", "abc", "abc")]
    assert join_singles([rows("abc", "abc"), rows("abc")]) == []
    assert join_singles([]) == []
    raw = RawCorpus(fixed=("Snow.", "Snow."))
    objective, _ = objective_of(setup_of(config_of(posterior="gaussian"), raw=raw, dev=(Document(TEXTS[0]),)))
    with pytest.raises(ConfigError, match="found a single sentence in the texts of epoch 1, expected two that differ"):
        objective.steps(0)


def test_what_is_held_out_is_measured_from_the_centres() -> None:
    objective, model = objective_of(setup_of(config_of()))
    model.eval()
    held_out = [tokens for batch in objective.dev_batches for tokens in batch]
    assert {sentence for text in RAW.dev_texts() for sentence in sentences(text)}
    assert not {str(tokens) for tokens in held_out} & {str(t) for batch in batches_of(objective) for t in batch}
    num_targets = sum(len(tokens) - 1 for tokens in held_out)
    expected = sum(loss_by_hand(model, tokens) for tokens in held_out) / num_targets
    assert objective.dev_loss() == pytest.approx(expected, rel=1e-10)
    evidence = objective.dev_evidence(sampled=False)
    assert evidence.kl == pytest.approx(len(held_out) * 2 * kl_to_uniform(4, 32.0) / num_targets, rel=1e-9)
    assert evidence.lower_bound == -(evidence.cross_entropy + evidence.kl)


@pytest.mark.parametrize("posterior", ["vmf", "gaussian"])
def test_and_from_samples_which_leave_the_model_as_it_was(posterior: str) -> None:
    objective, model = objective_of(setup_of(config_of(posterior=posterior)))
    objective.terms(batches_of(objective)[0])
    model.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    centre = objective.dev_loss()
    torch.manual_seed(3)
    sampled = objective.dev_evidence(sampled=True)
    torch.manual_seed(3)
    assert objective.dev_evidence(sampled=True) == sampled
    assert abs(sampled.cross_entropy - centre) > 1e-3
    assert not any(module.training for module in model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert objective.dev_loss() == centre


def test_without_noise_samples_are_the_centres() -> None:
    """The twin of the test above."""
    objective, model = objective_of(setup_of(config_of(posterior="none")))
    model.eval()
    evidence = objective.dev_evidence(sampled=True)
    assert (evidence.cross_entropy, evidence.kl) == (objective.dev_loss(), 0.0)


@pytest.mark.parametrize("posterior", ["vmf", "gaussian", "none"])
def test_a_run_learns_to_write_sentences_again(posterior: str) -> None:
    """By the loop, from what assembly makes of a run; the weights it leaves are a bundle's."""
    setup = setup_of(config_of(posterior=posterior, batch_tokens=1000))
    setup = replace(setup, run=replace(setup.run, epochs=12, optimizer=OptimizerConfig(lr=1e-2, head_lr=1e-2)))
    accelerator = Accelerator(cpu=True)
    state = new_state(setup, accelerator)
    assert [weighted.name for weighted in state.objectives] == ["univae"]
    finished = [progress.finished for progress in train(setup, state, accelerator) if progress.finished]
    assert finished[-1].losses["univae"] < finished[0].losses["univae"] - 0.5
    assert set(finished[-1].dev) == {"univae"}
    assert state.best_weights is not None
    assert setup.recognizer(state.model).manifest.model.heads.latent == setup.config.heads.latent
    assert set(state.best_weights) == set(state.model.state_dict())
