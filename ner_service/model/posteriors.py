"""Posteriors of a latent code: from a down-projection's output to a code and its divergence from the prior.

    posterior                 code                             prior                   divergence
    VonMisesFisherPosterior   on the unit sphere, fixed kappa  uniform on the sphere   a constant above 0
    GaussianPosterior         mean + deviation * noise         standard normal         kept up by a batch norm
    PointPosterior            a direction, no noise (UniAE)    uniform on the sphere   none, reported as 0

In training mode a code is a sample, its noise from torch's global generator of the input's device; in evaluation it is
the centre. Whatever the dtype of the input, and under autocast, codes and divergences have single precision at least.
Knows no layer, no encoder and no loss.

Shapes: B texts, X `input_size`, d `size` of a code. What is on the sphere takes any axes before the last.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from ner_service.model.config import LatentConfig
from ner_service.model.von_mises_fisher import kl_to_uniform, quantile_table

TAU = 0.5
"""The share of the Gaussian's unit variance that always stays with the means."""

BATCH_NORM_EPS = 1e-8

VARIANCE_FLOOR = 1e-6
"""Added to a Gaussian's variances before their logarithm: a normalised deviation has mean 0 and passes through it."""


@dataclass(frozen=True, slots=True)
class Latent:
    """A code for each text, and the divergence of its posterior from the prior in nats, summed over the code."""

    z_Bd: Tensor
    kl_B: Tensor


class VonMisesFisherPosterior(nn.Module):
    """vMF(mu, kappa) with mu the direction of the input. Its divergence is a constant, so it cannot vanish.

    Source: kexue.fm/archives/8404 and 8475.
    """

    cosine_table: Tensor

    def __init__(self, size: int, kappa: float) -> None:
        super().__init__()
        self.size = self.input_size = size
        self.kl = kl_to_uniform(size, kappa)
        table = torch.from_numpy(quantile_table(size, kappa)).float()
        self.register_buffer("cosine_table", table, persistent=False)

    def forward(self, raw_BX: Tensor) -> Latent:
        mu_Bd = _direction(raw_BX)
        kl_B = mu_Bd.new_full(mu_Bd.shape[:-1], self.kl)
        if not self.training:
            return Latent(mu_Bd, kl_B)
        index_B = torch.randint(len(self.cosine_table), kl_B.shape, device=mu_Bd.device)
        cosine_B = self.cosine_table[index_B].to(mu_Bd.dtype)
        return Latent(vmf_sample(mu_Bd, cosine_B, torch.randn_like(mu_Bd)), kl_B)

    def prior(self, num: int, generator: torch.Generator | None = None) -> Tensor:
        """`num` codes [num, d], uniform on the sphere, on the CPU."""
        return _uniform_on_sphere(num, self.size, generator)


class GaussianPosterior(nn.Module):
    """N(mean, deviation^2) with both read from the input (first the means) and normalised over the batch.

    mean = gamma_mean * norm(first half), deviation = gamma_deviation * norm(second half), where for each of d numbers
    gamma_mean^2 = tau + (1 - tau) sigmoid(theta) and gamma_deviation^2 = (1 - tau) sigmoid(-theta) add up to 1. Over a
    batch the codes then have mean 0 and variance 1, as under the prior, and the divergence averages at least
    gamma_mean^2 / 2 a number. A deviation has either sign.

    A batch of one text has no statistics of its own: it is normalised by the running ones, as in evaluation. Gradients
    of several micro-batches are not those of one large batch, because each is normalised by itself.

    Source: kexue.fm/archives/7381.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.input_size = 2 * size
        self.norm = nn.BatchNorm1d(self.input_size, eps=BATCH_NORM_EPS, affine=False)
        self.theta = nn.Parameter(torch.zeros(size))

    def forward(self, raw_BX: Tensor) -> Latent:
        mean_Bd, deviation_Bd = self._normalise(_at_least_single(raw_BX)).chunk(2, -1)
        mean_Bd = mean_Bd * (TAU + (1 - TAU) * self.theta.sigmoid()).sqrt()
        deviation_Bd = deviation_Bd * ((1 - TAU) * (-self.theta).sigmoid()).sqrt()
        z_Bd = mean_Bd + deviation_Bd * torch.randn_like(mean_Bd) if self.training else mean_Bd
        return Latent(z_Bd, gaussian_kl(mean_Bd, deviation_Bd))

    def prior(self, num: int, generator: torch.Generator | None = None) -> Tensor:
        """`num` codes [num, d], standard normal, on the CPU."""
        return torch.randn(num, self.size, generator=generator)

    def _normalise(self, raw_BX: Tensor) -> Tensor:
        if len(raw_BX) < 2:
            return functional.batch_norm(raw_BX, self.norm.running_mean, self.norm.running_var, eps=BATCH_NORM_EPS)
        normalised_BX: Tensor = self.norm(raw_BX)
        return normalised_BX


class PointPosterior(nn.Module):
    """No noise: the limit of `VonMisesFisherPosterior` for kappa to infinity, so a code is a direction there as well.

    Off the sphere there would be no prior to sample from. The divergence of a point is infinite; it is reported as 0,
    for nothing of it can be weighed against the reconstruction.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = self.input_size = size

    def forward(self, raw_BX: Tensor) -> Latent:
        mu_Bd = _direction(raw_BX)
        return Latent(mu_Bd, mu_Bd.new_zeros(mu_Bd.shape[:-1]))

    def prior(self, num: int, generator: torch.Generator | None = None) -> Tensor:
        """`num` codes [num, d], uniform on the sphere, on the CPU."""
        return _uniform_on_sphere(num, self.size, generator)


Posterior = VonMisesFisherPosterior | GaussianPosterior | PointPosterior


def build_posterior(config: LatentConfig) -> Posterior:
    """The posterior of a configuration, for one code."""
    match config.posterior:
        case "vmf":
            return VonMisesFisherPosterior(config.size, config.kappa)
        case "gaussian":
            return GaussianPosterior(config.size)
        case "none":
            return PointPosterior(config.size)


def vmf_sample(mu_Bd: Tensor, cosine_B: Tensor, noise_Bd: Tensor) -> Tensor:
    """The point on the unit sphere at a given cosine to `mu_Bd`, on the side that `noise_Bd` points to: z_Bd.

    z = w mu + sqrt(1 - w^2) nu, with nu the direction of the noise's part at right angles to mu. For w from its density
    and normal noise, z is a sample of vMF(mu, kappa), differentiable in mu.
    """
    w_B1 = cosine_B[..., None]
    tangent_Bd = noise_Bd - (noise_Bd * mu_Bd).sum(-1, keepdim=True) * mu_Bd
    # (1 - w)(1 + w) loses no digits near w = 1; 1 - w * w does.
    return w_B1 * mu_Bd + ((1 - w_B1) * (1 + w_B1)).sqrt() * functional.normalize(tangent_Bd, dim=-1)


def gaussian_kl(mean_Bd: Tensor, deviation_Bd: Tensor) -> Tensor:
    """KL(N(mean, v) || N(0, 1)) = sum of (mean^2 + v - log(v) - 1) / 2 in nats, v = deviation^2 + floor: kl_B.

    With `VARIANCE_FLOOR` in both places it is an exact divergence: never below 0, nor below half the squared means.
    """
    variance_Bd = deviation_Bd**2 + VARIANCE_FLOOR
    return (mean_Bd**2 + variance_Bd - variance_Bd.log() - 1).sum(-1) / 2


def _direction(raw_BX: Tensor) -> Tensor:
    return functional.normalize(_at_least_single(raw_BX), dim=-1)


def _at_least_single(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _uniform_on_sphere(num: int, size: int, generator: torch.Generator | None) -> Tensor:
    return functional.normalize(torch.randn(num, size, generator=generator), dim=-1)
