"""Posteriors of latent codes: samples against the moments of their distributions, divergences against closed forms.

The oracles are numbered F1 to F11; those about numbers alone stand with the von Mises-Fisher distribution.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from ner_service.model.config import LatentConfig
from ner_service.model.posteriors import (
    VARIANCE_FLOOR,
    GaussianPosterior,
    Latent,
    PointPosterior,
    Posterior,
    VonMisesFisherPosterior,
    build_posterior,
    gaussian_kl,
    vmf_sample,
)
from ner_service.model.von_mises_fisher import kl_to_uniform, mean_resultant_length, quantile_table

SIZE, KAPPA = 16, 32.0
LENGTH = 0.789895224580
"""A_16(32), from 30 digits of mpmath, as are the variance of w and the divergence in nats."""
VARIANCE, DIVERGENCE = 0.005802147663, 7.58214437642
NUM_SAMPLES = 400_000

KINDS = ("vmf", "gaussian", "none")


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def built(kind: str, size: int = SIZE) -> Posterior:
    return build_posterior(LatentConfig(num_latents=1, size=size, posterior=kind, kappa=KAPPA))  # type: ignore[arg-type]


def unit(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    vectors = torch.randn(*shape, dtype=dtype)
    directions: Tensor = vectors / vectors.norm(dim=-1, keepdim=True)
    return directions


@pytest.fixture(scope="module")
def mu() -> Tensor:
    torch.manual_seed(2)
    return unit(SIZE, dtype=torch.float32)


def samples_of(mu: Tensor, kappa: float) -> Tensor:
    """`NUM_SAMPLES` codes [M, d] of one posterior, in double precision."""
    torch.manual_seed(1)
    latent: Latent = VonMisesFisherPosterior(SIZE, kappa)(5 * mu.expand(NUM_SAMPLES, -1))
    return latent.z_Bd.double()


@pytest.fixture(scope="module")
def samples(mu: Tensor) -> Tensor:
    return samples_of(mu, KAPPA)


def wood_cosines(size: int, kappa: float, num: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """Samples of w by rejection (Ulrich 1984, Wood 1994): the table's twin, which holds for any kappa."""
    b = (size - 1) / (math.sqrt(4 * kappa**2 + (size - 1) ** 2) + 2 * kappa)
    x0 = (1 - b) / (1 + b)
    c = kappa * x0 + (size - 1) * math.log(1 - x0**2)
    zeta = generator.beta((size - 1) / 2, (size - 1) / 2, size=2 * num)
    w = (1 - (1 + b) * zeta) / (1 - (1 - b) * zeta)
    accepted = kappa * w + (size - 1) * np.log(1 - x0 * w) - c >= np.log(generator.random(2 * num))
    drawn: NDArray[np.float64] = w[accepted][:num]
    return drawn


def same_distribution(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """The two-sample Kolmogorov-Smirnov test's p, from the statistic's limit distribution."""
    both = np.sort(np.concatenate([first, second]))
    shares = [np.searchsorted(np.sort(sample), both, side="right") / len(sample) for sample in (first, second)]
    statistic = np.abs(shares[0] - shares[1]).max()
    scaled = statistic * math.sqrt(len(first) * len(second) / (len(first) + len(second)))
    k = np.arange(1, 101)
    return float(2 * ((-1.0) ** (k - 1) * np.exp(-2 * (k * scaled) ** 2)).sum())


def test_f1_samples_have_the_mean_resultant_length(mu: Tensor, samples: Tensor) -> None:
    found = float(samples.mean(0) @ mu.double())
    tolerance = 4 * math.sqrt(VARIANCE / NUM_SAMPLES)
    assert found == pytest.approx(LENGTH, rel=0, abs=tolerance)
    assert found != pytest.approx(mean_resultant_length(SIZE, 1.01 * KAPPA), rel=0, abs=tolerance)


def test_f2_samples_point_along_mu_on_average(mu: Tensor, samples: Tensor) -> None:
    def cosine(mean: Tensor) -> float:
        return float(torch.cosine_similarity(mean, mu.double(), dim=0))

    assert cosine(samples.mean(0)) > 1 - 1e-4
    assert cosine(samples[:100].mean(0)) < 1 - 1e-4


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-14)])
def test_f3_samples_lie_on_the_sphere_and_tangents_at_right_angles(dtype: torch.dtype, tolerance: float) -> None:
    mu, noise = unit(1000, SIZE, dtype=dtype), torch.randn(1000, SIZE, dtype=dtype)
    cosine = torch.from_numpy(quantile_table(SIZE, KAPPA, num=1000)).to(dtype)
    sample = vmf_sample(mu, cosine, noise)
    assert (sample.norm(dim=-1) - 1).abs().max() < tolerance
    assert ((sample * mu).sum(-1) - cosine).abs().max() < tolerance
    tangent = vmf_sample(mu, torch.zeros(1000, dtype=dtype), noise)
    assert (tangent * mu).sum(-1).abs().max() < tolerance
    oblique = cosine[:, None] * mu + (1 - cosine[:, None] ** 2).sqrt() * torch.nn.functional.normalize(noise, dim=-1)
    assert (oblique.norm(dim=-1) - 1).abs().max() > 0.1


def variances(samples: Tensor, mu: Tensor) -> list[float]:
    """Along mu, then along every axis of a basis across it."""
    basis, _ = torch.linalg.qr(torch.cat([mu[:, None].double(), torch.randn(SIZE, SIZE - 1).double()], 1))
    found: list[float] = (samples @ basis).var(0).tolist()
    return found


def test_f4_variances_along_and_across_mu(mu: Tensor, samples: Tensor) -> None:
    """Across mu every coordinate has variance A / kappa."""
    along, *across = variances(samples, mu)
    assert along == pytest.approx(VARIANCE, rel=0.02)
    assert across == pytest.approx([LENGTH / KAPPA] * (SIZE - 1), rel=0.02)
    assert along + sum(across) == pytest.approx(1 - LENGTH**2, rel=0.005)


def test_f4_must_fail_with_another_kappa(mu: Tensor) -> None:
    along, *across = variances(samples_of(mu, 1.05 * KAPPA), mu)
    assert along != pytest.approx(VARIANCE, rel=0.02)
    assert all(variance != pytest.approx(LENGTH / KAPPA, rel=0.02) for variance in across)
    assert along + sum(across) != pytest.approx(1 - LENGTH**2, rel=0.005)


@pytest.mark.parametrize(("size", "kappa"), [(3, 5.0), (16, 32.0), (64, 32.0)])
def test_f5_the_table_and_rejection_draw_from_one_distribution(size: int, kappa: float) -> None:
    generator = np.random.default_rng(0)
    posterior = VonMisesFisherPosterior(size, kappa)
    pole = torch.eye(size)[0]
    drawn = posterior(pole.expand(100_000, -1)).z_Bd[:, 0].double().numpy()
    assert same_distribution(drawn, wood_cosines(size, kappa, 100_000, generator)) > 1e-3
    assert same_distribution(drawn, wood_cosines(size, 1.03 * kappa, 100_000, generator)) < 1e-3
    assert same_distribution(drawn, wood_cosines(size + 1, kappa, 100_000, generator)) < 1e-3


def test_f7_the_divergence_is_that_of_the_samples(mu: Tensor, samples: Tensor) -> None:
    """The mean of log p(z) - log uniform(z): kappa w, less the integral of A from 0 to kappa."""
    step = KAPPA / 400
    log_normaliser = step * sum(mean_resultant_length(SIZE, step * (cell + 0.5)) for cell in range(400))
    by_samples = KAPPA * float((samples @ mu.double()).mean()) - log_normaliser
    (reported,) = VonMisesFisherPosterior(SIZE, KAPPA)(mu[None]).kl_B.tolist()
    assert reported == pytest.approx(DIVERGENCE, rel=1e-6)
    assert by_samples == pytest.approx(reported, rel=0.01)
    assert by_samples != pytest.approx(kl_to_uniform(SIZE + 2, KAPPA), rel=0.01)


def test_f8_without_concentration_samples_are_uniform() -> None:
    pole = torch.eye(SIZE)[0].expand(100_000, -1)

    def second_moments(kappa: float) -> Tensor:
        sample: Tensor = VonMisesFisherPosterior(SIZE, kappa)(pole).z_Bd
        return sample.T @ sample / len(sample)

    uniform = torch.eye(SIZE) / SIZE
    # Tolerances are seven standard errors.
    torch.testing.assert_close(second_moments(0.0), uniform, rtol=0, atol=2e-3)
    assert (second_moments(4.0) - uniform).abs().max() > 1e-2


def test_f9_a_rotation_of_mu_and_noise_rotates_the_sample() -> None:
    mu, noise, cosine = unit(50, SIZE), torch.randn(50, SIZE).double(), 2 * torch.rand(50).double() - 1
    rotation, _ = torch.linalg.qr(torch.randn(SIZE, SIZE).double())
    rotated = vmf_sample(mu @ rotation.T, cosine, noise @ rotation.T)
    torch.testing.assert_close(rotated, vmf_sample(mu, cosine, noise) @ rotation.T, rtol=0, atol=1e-12)
    assert not torch.allclose(vmf_sample(mu @ rotation.T, cosine, noise), rotated, atol=1e-2)


def test_f10_the_gradient_is_that_of_finite_differences() -> None:
    """Of a scalar of z with respect to the vector before it is normalised, the noise held fixed."""
    raw, noise = torch.randn(5, SIZE).double().requires_grad_(True), torch.randn(5, SIZE).double()
    cosine, weight = torch.rand(5).double(), torch.randn(SIZE).double()

    def scalar(raw: Tensor, *, tangent_follows: bool = True) -> Tensor:
        mu = torch.nn.functional.normalize(raw, dim=-1)
        if tangent_follows:
            return (vmf_sample(mu, cosine, noise) @ weight).tanh().sum()
        tangent = vmf_sample(mu, torch.zeros(5).double(), noise).detach()
        return ((cosine[:, None] * mu + (1 - cosine[:, None] ** 2).sqrt() * tangent) @ weight).tanh().sum()

    assert torch.autograd.gradcheck(scalar, raw, rtol=1e-4, atol=1e-6)
    (gradient,) = torch.autograd.grad(scalar(raw), raw)
    (detached,) = torch.autograd.grad(scalar(raw, tangent_follows=False), raw)
    assert (gradient - detached).abs().max() > 1e-2
    # Length is normalised away: what is left of the gradient is tangential.
    assert (gradient * raw).sum(-1).abs().max() < 1e-14


def test_vmf_axes_before_the_last_are_texts() -> None:
    raw = torch.randn(3, 4, SIZE)
    latent = VonMisesFisherPosterior(SIZE, KAPPA)(raw)
    assert latent.kl_B.shape == (3, 4)
    torch.testing.assert_close(latent.z_Bd.norm(dim=-1), torch.ones(3, 4))
    mean = VonMisesFisherPosterior(SIZE, 1e4)(raw).z_Bd
    torch.testing.assert_close(mean, torch.nn.functional.normalize(raw, dim=-1), rtol=0, atol=0.1)


def test_vmf_keeps_its_table_out_of_weights_and_parameters() -> None:
    posterior = VonMisesFisherPosterior(SIZE, KAPPA)
    assert not posterior.state_dict()
    assert not list(posterior.parameters())
    (table,) = posterior.buffers()
    assert table.shape == (2**16,)
    assert table.dtype == torch.float32


@pytest.mark.parametrize("kind", KINDS)
def test_training_draws_from_the_global_generator_and_evaluation_from_nothing(kind: str) -> None:
    posterior = built(kind)
    raw = torch.randn(8, posterior.input_size)

    def code(seed: int) -> Tensor:
        torch.manual_seed(seed)
        code_Bd: Tensor = posterior(raw).z_Bd
        return code_Bd

    assert torch.equal(code(3), code(3))
    assert torch.equal(code(3), code(4)) == (kind == "none")
    posterior.eval()
    assert torch.equal(code(3), code(4))


@pytest.mark.parametrize("kind", ["vmf", "none"])
def test_in_evaluation_a_code_on_the_sphere_is_the_direction(kind: str) -> None:
    raw = torch.randn(8, SIZE)
    latent = built(kind).eval()(raw)
    torch.testing.assert_close(latent.z_Bd, raw / raw.norm(dim=-1, keepdim=True))
    assert latent.kl_B.tolist() == pytest.approx([DIVERGENCE if kind == "vmf" else 0.0] * 8)


def test_a_point_is_the_limit_of_a_concentrated_von_mises_fisher() -> None:
    raw = torch.randn(8, SIZE)
    concentrated = VonMisesFisherPosterior(SIZE, 1e4)(raw).z_Bd
    assert (concentrated - PointPosterior(SIZE)(raw).z_Bd).norm(dim=-1).max() < 0.1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("training", [True, False])
def test_half_precision_input_gives_single_precision_codes(kind: str, training: bool) -> None:
    posterior = built(kind).train(training)
    down = torch.nn.Linear(32, posterior.input_size)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        raw = down(torch.randn(8, 32))
        latent = posterior(raw)
    assert raw.dtype == torch.bfloat16
    assert latent.z_Bd.dtype == latent.kl_B.dtype == torch.float32
    if kind != "gaussian":
        assert (latent.z_Bd.norm(dim=-1) - 1).abs().max() < 1e-6
    latent.z_Bd.sum().backward()
    assert down.weight.grad is not None
    assert down.weight.grad.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_prior_has_its_moments(kind: str) -> None:
    posterior = built(kind)
    code = posterior.prior(50_000, torch.Generator().manual_seed(5))
    assert torch.equal(code, posterior.prior(50_000, torch.Generator().manual_seed(5)))
    assert code.shape == (50_000, SIZE)
    assert code.mean(0).abs().max() < 0.02
    variance = 1.0 if kind == "gaussian" else 1 / SIZE
    torch.testing.assert_close(code.var(0), torch.full((SIZE,), variance), rtol=0.04, atol=0)
    assert (kind != "gaussian") == bool((code.norm(dim=-1) - 1).abs().max() < 1e-6)


@settings(max_examples=25)
@given(st.integers(0, 2**32), st.floats(-4, 4), st.floats(-60, 60), st.integers(2, 40))
def test_gaussian_divergence_cannot_vanish(seed: int, log_scale: float, theta: float, num_texts: int) -> None:
    """On average at least gamma_mean^2 / 2 a number, whatever the projection gives: 3/8 at first, 1/4 in the limit."""
    posterior = GaussianPosterior(SIZE).requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    raw = math.exp(log_scale) * torch.randn(num_texts, 2 * SIZE, generator=generator) + 3
    # Single precision and the epsilon of the normalisation take a little off.
    assert float(posterior(raw).kl_B.mean()) > 0.375 * SIZE * 0.999
    torch.nn.init.constant_(posterior.theta, theta)
    bound = (0.5 + 0.5 / (1 + math.exp(-theta))) / 2
    assert 0.25 <= bound <= 0.5
    assert float(posterior(raw).kl_B.mean()) > bound * SIZE * 0.999


def test_gaussian_divergence_vanishes_without_the_normalisation() -> None:
    assert float(gaussian_kl(torch.zeros(4, SIZE), torch.ones(4, SIZE)).max()) < 1e-5


@pytest.mark.parametrize("theta", [0.0, -3.0, 3.0])
def test_gaussian_codes_of_a_batch_are_distributed_as_the_prior(theta: float) -> None:
    """Mean 0 and variance gamma_mean^2 + gamma_deviation^2 = 1; a layer norm gives neither."""
    posterior = GaussianPosterior(SIZE).requires_grad_(False)
    torch.nn.init.constant_(posterior.theta, theta)
    raw = torch.randn(50_000, 2 * SIZE) * torch.linspace(0.2, 7, 2 * SIZE) + 3 * torch.randn(2 * SIZE)
    code = posterior(raw).z_Bd
    assert code.mean(0).abs().max() < 0.02
    torch.testing.assert_close(code.var(0), torch.ones(SIZE), rtol=0.03, atol=0)
    by_layer = torch.nn.functional.layer_norm(raw, (2 * SIZE,))
    assert by_layer.mean(0).abs().max() > 0.2
    assert (by_layer.var(0) - 1).abs().max() > 0.2


def test_gaussian_scales_begin_at_three_quarters_and_one_quarter() -> None:
    posterior = GaussianPosterior(SIZE)
    # Every text often: its codes have the posterior's own mean and deviation.
    raw = torch.randn(8, 2 * SIZE).repeat(20_000, 1)
    code = posterior(raw).z_Bd.unflatten(0, (20_000, 8))
    mean, deviation = code.mean(0), code.std(0)
    normalised = torch.nn.functional.batch_norm(raw[:8], None, None, training=True)
    torch.testing.assert_close(mean, math.sqrt(0.75) * normalised[:, :SIZE], rtol=0, atol=0.03)
    torch.testing.assert_close(deviation, (math.sqrt(0.25) * normalised[:, SIZE:]).abs(), rtol=0, atol=0.03)
    assert posterior.theta.tolist() == [0.0] * SIZE
    assert [name for name, _ in posterior.named_parameters()] == ["theta"]


def test_gaussian_divergence_is_the_closed_form() -> None:
    mean, deviation = torch.randn(20, SIZE).double(), torch.randn(20, SIZE).double()
    exact = kl_divergence(Normal(mean, deviation.abs()), Normal(0.0, 1.0)).sum(-1)
    # The floor is felt where a deviation is within some hundredths of 0.
    assert (gaussian_kl(mean, deviation) - exact).abs().max() < 0.1
    floored = Normal(mean, (deviation**2 + VARIANCE_FLOOR).sqrt())
    torch.testing.assert_close(gaussian_kl(mean, deviation), kl_divergence(floored, Normal(0.0, 1.0)).sum(-1))
    assert not torch.allclose(gaussian_kl(mean, deviation**2), exact, atol=0.1)


def test_gaussian_divergence_is_that_of_the_samples() -> None:
    mean, deviation = torch.tensor([[0.5, -1.0]]).double(), torch.tensor([[-0.3, 0.8]]).double()
    code = mean + deviation * torch.randn(200_000, 2).double()
    ratio = Normal(mean, deviation.abs()).log_prob(code) - Normal(0.0, 1.0).log_prob(code)
    assert float(gaussian_kl(mean, deviation)) == pytest.approx(float(ratio.sum(-1).mean()), rel=0.01)


def test_gaussian_divergence_and_gradient_are_finite_where_a_deviation_is_0() -> None:
    raw = torch.ones(4, 2 * SIZE, requires_grad=True)
    kl_B = GaussianPosterior(SIZE)(raw).kl_B
    kl_B.sum().backward()
    assert kl_B.isfinite().all()
    assert raw.grad is not None
    assert raw.grad.isfinite().all()
    zero = torch.zeros(4, SIZE)
    assert kl_divergence(Normal(zero, zero, validate_args=False), Normal(0.0, 1.0)).isinf().all()


@pytest.mark.parametrize("training", [True, False])
def test_gaussian_normalises_a_single_text_by_running_statistics(training: bool) -> None:
    posterior = GaussianPosterior(SIZE)
    for _ in range(200):
        posterior(3 * torch.randn(64, 2 * SIZE) + 5)
    text = 3 * torch.randn(1, 2 * SIZE) + 5
    before = {name: tensor.clone() for name, tensor in posterior.state_dict().items()}
    kl = posterior.train(training)(text).kl_B
    assert all(torch.equal(before[name], tensor) for name, tensor in posterior.state_dict().items())
    mean = posterior.eval()(text).z_Bd
    torch.testing.assert_close(mean, math.sqrt(0.75) * (text[:, :SIZE] - 5) / 3, rtol=0.2, atol=0.2)
    torch.testing.assert_close(kl, posterior(text).kl_B)
    assert mean.abs().max() > 0.1
