"""The von Mises-Fisher distribution in double precision: its mean, its divergence from uniform, its quantiles.

    p(x) ~ exp(kappa <mu, x>) on the unit sphere of R^d,   w = <mu, x>,   p(w) ~ exp(kappa w) (1 - w^2)^((d - 3) / 2)

No Bessel function is evaluated: scaled ones underflow at d = 768, plain ones overflow at kappa = 1,000. In the code
`size` is d. Knows no tensor, no direction mu and no sample.

Source: kexue.fm/archives/8404; Mardia and Jupp, Directional Statistics.
Shapes: N concentrations.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

NUM_NODES = 128
"""Of the quadrature: far more than double precision needs up to kappa / d = 10,000."""

NUM_CELLS = 2**18
"""Of the grid of angles that quantiles are read off."""


def mean_resultant_length(size: int, kappa: float) -> float:
    """A_d(kappa) = E[w] = I_{d/2}(kappa) / I_{d/2 - 1}(kappa): the length of the mean of x, in [0, 1).

    Raises:
        ValueError: `size` is below 2, or `kappa` is negative or not finite.
    """
    _check(size, kappa)
    return float(_mean_resultant_lengths(size, np.array([kappa]))[0])


def kl_to_uniform(size: int, kappa: float) -> float:
    """KL(vMF(mu, kappa) || uniform) in nats: kappa A_d(kappa) - the integral of A_d from 0 to kappa, whatever mu is.

    The integral is Gauss-Legendre's after t = (d / 2) sinh(s), which keeps every pole of A_d pi / 2 away from the path:
    they lie on the imaginary axis, the first beyond d / 2.

    Raises:
        ValueError: `size` is below 2, or `kappa` is negative or not finite.
    """
    _check(size, kappa)
    node_N, weight_N = np.polynomial.legendre.leggauss(NUM_NODES)
    half_path = math.asinh(2 * kappa / size) / 2
    s_N = half_path * (1 + node_N)
    length_N = _mean_resultant_lengths(size, size / 2 * np.sinh(s_N))
    integral = half_path * size / 2 * (weight_N * np.cosh(s_N) * length_N).sum()
    return float(kappa * mean_resultant_length(size, kappa) - integral)


def quantile_table(size: int, kappa: float, num: int = 2**16) -> NDArray[np.float64]:
    """Quantiles of w at the probabilities (i + 1/2) / num, ascending. A uniformly drawn entry is a sample of w.

    Midpoint rule: the density at the centres of the cells, half a cell taken off each cumulated sum; whole cells would
    shift the mean. The grid is one of angles, w = cos(angle), with density exp(kappa cos) sin^(d - 2): the singular
    ends that p(w) has at d = 2 are gone, and cells are narrow where a high kappa puts the mass.

    Raises:
        ValueError: `size` is below 2, or `kappa` is negative or not finite.
    """
    _check(size, kappa)
    angle = math.pi * (1 - (np.arange(NUM_CELLS) + 0.5) / NUM_CELLS)
    log_density = kappa * np.cos(angle) + (size - 2) * np.log(np.sin(angle))
    mass = np.exp(log_density - log_density.max())
    below = (np.cumsum(mass) - mass / 2) / mass.sum()
    return np.cos(np.interp((np.arange(num) + 0.5) / num, below, angle))


def _mean_resultant_lengths(size: int, kappa_N: NDArray[np.float64]) -> NDArray[np.float64]:
    """The continued fraction kappa / (d + kappa^2 / (d + 2 + kappa^2 / (d + 4 + ...))), from its far end."""
    num_terms = math.ceil(2 * kappa_N.max()) + 200
    squared_N = kappa_N**2
    denominator_N = np.full_like(kappa_N, size + 2 * num_terms)
    for term in reversed(range(num_terms)):
        denominator_N = size + 2 * term + squared_N / denominator_N
    return kappa_N / denominator_N


def _check(size: int, kappa: float) -> None:
    if size < 2:
        raise ValueError(
            f"size is {size}, expected 2 or more: a sphere in fewer dimensions has no directions to turn to"
        )
    if not 0 <= kappa < math.inf:
        raise ValueError(f"kappa is {kappa}, expected a finite concentration of 0 or more")
