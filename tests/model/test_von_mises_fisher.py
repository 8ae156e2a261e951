"""The von Mises-Fisher distribution against high-precision values, closed forms and the Bessel functions it avoids.

The oracles are numbered F1 to F11; F1 to F5, F9 and F10 are about samples and stand with the posteriors.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ner_service.model.von_mises_fisher import kl_to_uniform, mean_resultant_length, quantile_table

# Size, kappa, A, variance of w, divergence in nats; from 30 digits of mpmath.
FIXTURES = (
    (2, 5, 0.893383137044, 0.02318994304, 1.1622339094),
    (3, 5, 0.800090803982, 0.03981838379, 1.30308451386),
    (4, 20, 0.925987748583, 0.003648527187, 3.25838544213),
    (8, 16, 0.799334395431, 0.01135572628, 3.8227783377),
    (16, 16, 0.627726010711, 0.01746692043, 3.9264130254),
    (16, 32, 0.789895224580, 0.005802147663, 7.58214437642),
    (16, 64, 0.888839902457, 0.001641775661, 12.0026114744),
    (32, 32, 0.622844930211, 0.008683166768, 7.77470513067),
    (32, 64, 0.785296947848, 0.002930494587, 15.1056694088),
    (64, 32, 0.415546944300, 0.009212690492, 6.05114637108),
    (64, 64, 0.620430436548, 0.004329862427, 15.4734001602),
    (64, 128, 0.783027104328, 0.001472400976, 30.1548330708),
    (768, 20, 0.0260240756308, 0.001299447047, 0.260152840642),
    (768, 30, 0.0390032299783, 0.001296168273, 0.584604373177),
    (768, 768, 0.618232993385, 0.0003599633825, 184.859331915),
)
of_fixtures = pytest.mark.parametrize(("size", "kappa", "length", "variance", "kl"), FIXTURES)

sizes = st.integers(2, 100)
kappas = st.floats(1e-3, 200)


def log_bessel(order: float, kappa: float) -> float:
    """The logarithm of I_order(kappa) from its power series, whose terms are all positive."""
    term = np.arange(500 + int(2 * kappa))
    log_factorials = np.array([math.lgamma(m + 1) + math.lgamma(m + order + 1) for m in term])
    return float(np.logaddexp.reduce((2 * term + order) * math.log(kappa / 2) - log_factorials))


def kl_with_bessel(size: int, kappa: float) -> float:
    """The divergence kappa A + log C_d(kappa) - log C_d(0), its normalisers written out."""
    order = size / 2 - 1
    length = math.exp(log_bessel(size / 2, kappa) - log_bessel(order, kappa))
    normaliser = order * math.log(kappa) - log_bessel(order, kappa)
    return kappa * length + normaliser - math.lgamma(size / 2) - order * math.log(2)


def right_riemann_table(size: int, kappa: float, num: int) -> NDArray[np.float64]:
    """The article's table: as many cells of (-1, 1) as quantiles, whole cells cumulated."""
    w = np.linspace(-1, 1, num + 2)[1:-1]
    log_density = kappa * w + (size - 3) / 2 * np.log(1 - w**2)
    cumulated = np.cumsum(np.exp(log_density - log_density.max()))
    return np.interp((np.arange(num) + 0.5) / num, cumulated / cumulated[-1], w)


@of_fixtures
def test_f7_lengths_and_divergences_are_those_of_the_fixture(
    size: int, kappa: float, length: float, variance: float, kl: float
) -> None:
    found = mean_resultant_length(size, kappa)
    assert found == pytest.approx(length, rel=0, abs=1e-12)
    assert 1 - found**2 - (size - 1) / kappa * found == pytest.approx(variance, rel=1e-9)
    assert kl_to_uniform(size, kappa) == pytest.approx(kl, rel=0, abs=1e-9)


@settings(max_examples=25)
@given(sizes, kappas)
def test_f7_lengths_and_divergences_are_those_of_bessel_functions(size: int, kappa: float) -> None:
    ratio = math.exp(log_bessel(size / 2, kappa) - log_bessel(size / 2 - 1, kappa))
    assert mean_resultant_length(size, kappa) == pytest.approx(ratio, rel=1e-10)
    assert kl_to_uniform(size, kappa) == pytest.approx(kl_with_bessel(size, kappa), rel=0, abs=1e-9)


@pytest.mark.parametrize("kappa", [0.01, 1.0, 5.0, 40.0, 300.0])
def test_f7_in_three_dimensions_the_closed_forms_hold(kappa: float) -> None:
    """A = coth(kappa) - 1 / kappa, KL = kappa A + log(kappa / sinh(kappa))."""
    length = 1 / math.tanh(kappa) - 1 / kappa
    assert mean_resultant_length(3, kappa) == pytest.approx(length, rel=0, abs=1e-13)
    expected = kappa * length + math.log(kappa / math.sinh(kappa))
    assert kl_to_uniform(3, kappa) == pytest.approx(expected, rel=0, abs=1e-11)


@pytest.mark.parametrize("size", [2, 3, 16, 768])
def test_lengths_have_the_limits_of_small_and_large_kappa(size: int) -> None:
    assert mean_resultant_length(size, 1e-3) == pytest.approx(1e-3 / size, rel=1e-6)
    kappa = 50.0 * size
    assert 1 - mean_resultant_length(size, kappa) == pytest.approx((size - 1) / (2 * kappa), rel=0.02)


@pytest.mark.parametrize("size", [2, 3, 16, 768])
def test_f8_the_divergence_vanishes_with_kappa(size: int) -> None:
    assert kl_to_uniform(size, 0.0) == mean_resultant_length(size, 0.0) == 0.0
    assert kl_to_uniform(size, 0.01) == pytest.approx(0.01**2 / (2 * size), rel=1e-4)


@settings(max_examples=25)
@given(sizes, kappas, st.floats(0.01, 50))
def test_f8_the_divergence_grows_with_kappa(size: int, kappa: float, more: float) -> None:
    assert 0 < kl_to_uniform(size, kappa) < kl_to_uniform(size, kappa + more)


@settings(max_examples=25)
@given(sizes, kappas, st.floats(0.01, 50))
def test_f8_must_fail_without_the_mean_cosine(size: int, kappa: float, more: float) -> None:
    """The normalisers alone, log C_d(kappa) - log C_d(0), are below 0 and fall."""

    def normalisers(kappa: float) -> float:
        return kl_with_bessel(size, kappa) - kappa * mean_resultant_length(size, kappa)

    assert normalisers(kappa + more) < normalisers(kappa) < 0


@of_fixtures
def test_f11_the_divergence_is_not_that_of_two_dimensions_more(
    size: int, kappa: float, length: float, variance: float, kl: float
) -> None:
    assert abs(kl_to_uniform(size + 2, kappa) - kl) > 1e-4
    assert length != pytest.approx(mean_resultant_length(size + 2, kappa), rel=1e-3)


@pytest.mark.parametrize(("size", "kappa", "off"), [(4, 20, 0.235), (16, 128, 0.07)])
def test_f11_the_known_wrong_formula_is_off_by_the_known_amount(size: int, kappa: float, off: float) -> None:
    """Xu and Durrett's code has the divergence of d + 2, said to be less than 2 % off."""
    deviation = abs(kl_to_uniform(size + 2, kappa) / kl_to_uniform(size, kappa) - 1)
    assert deviation == pytest.approx(off, abs=0.005)


@of_fixtures
def test_f6_a_table_has_the_moments_of_the_fixture(
    size: int, kappa: float, length: float, variance: float, kl: float
) -> None:
    table = quantile_table(size, kappa)
    for stored in (table, table.astype(np.float32).astype(np.float64)):
        assert stored.mean() == pytest.approx(length, rel=0, abs=1e-5)
        assert stored.var() == pytest.approx(variance, rel=1e-4)


def test_f6_finds_cells_that_are_cumulated_whole() -> None:
    table = right_riemann_table(16, 32, 2**16)
    assert 1e-5 < abs(table.mean() - mean_resultant_length(16, 32)) < 1e-4


@pytest.mark.parametrize("size", [2, 3, 16])
def test_f8_without_concentration_a_table_is_that_of_the_uniform_sphere(size: int) -> None:
    table = quantile_table(size, 0.0, num=2**12)
    assert table == pytest.approx(-table[::-1], abs=1e-9)
    assert table.var() == pytest.approx(1 / size, rel=1e-3)
    assert quantile_table(size, 1.0, num=2**12).mean() > 0.5 / size


def test_a_table_in_three_dimensions_is_the_inverse_of_the_distribution() -> None:
    """Its closed form is w = 1 + log(u + (1 - u) exp(-2 kappa)) / kappa."""
    probability = (np.arange(1000) + 0.5) / 1000
    expected = 1 + np.log(probability + (1 - probability) * math.exp(-10)) / 5
    assert quantile_table(3, 5, num=1000) == pytest.approx(expected, abs=1e-8)


@settings(max_examples=25)
@given(sizes, kappas)
def test_a_table_ascends_within_the_cosines(size: int, kappa: float) -> None:
    table = quantile_table(size, kappa, num=100)
    assert (np.diff(table) > 0).all()
    assert -1 <= table[0] < table[-1] <= 1


@pytest.mark.parametrize(
    ("size", "kappa", "named"), [(1, 5, "size is 1"), (16, -1, "kappa is -1"), (16, math.inf, "inf")]
)
def test_what_is_no_distribution_is_refused(size: int, kappa: float, named: str) -> None:
    for function in (mean_resultant_length, kl_to_uniform, quantile_table):
        with pytest.raises(ValueError, match=named):
            function(size, kappa)
