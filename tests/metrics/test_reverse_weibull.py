"""Fits of the reverse Weibull distribution, against scipy and samples of known parameters."""

import numpy as np
import pytest
from scipy.stats import kstest, weibull_max

from easybn.metrics.reverse_weibull import fit, goodness


def sample(shape: float, n: int = 500, rows: int = 1, location: float = 10.0, scale: float = 2.0, seed: int = 0):
    return weibull_max.rvs(shape, location, scale, size=(rows, n), random_state=np.random.default_rng(seed))


def log_likelihood(values, location, scale, shape) -> float:
    return float(weibull_max.logpdf(values, shape, location, scale).sum())


def test_the_likelihood_is_that_of_scipy_and_at_least_the_one_that_its_search_reaches():
    for shape in (1.5, 3.0, 6.0):
        values = sample(shape, rows=2, seed=int(shape))
        found = fit(values, penalty=0.0)
        for i, row in enumerate(values):
            mine = log_likelihood(row, found.location[i], found.scale[i], found.shape[i])
            assert found.log_likelihood[i] == pytest.approx(mine, abs=1e-6)
            searched = weibull_max.fit(row, shape, loc=10, scale=2)  # from the truth
            theirs = log_likelihood(row, searched[1], searched[2], searched[0])
            assert theirs - 1e-3 < mine < theirs + 1e-2
            assert mine >= log_likelihood(row, 10, 2, shape)


def test_a_known_location_is_recovered_within_its_standard_error():
    values = sample(4.0, rows=60)
    found = fit(values)
    many, at, step = sample(4.0, n=4000, seed=1)[0], np.array([10.0, 2.0, 4.0]), 1e-5 * np.eye(3)

    def log_density(p):
        return weibull_max.logpdf(many, p[2], p[0], p[1])

    score = np.stack([(log_density(at + h) - log_density(at - h)) / 2e-5 for h in step], 1)
    information = 500 * score.T @ score / len(many)
    error = np.sqrt(np.linalg.inv(information)[0, 0])
    z = (found.location - 10) / error
    assert abs(np.median(z)) < 4 * 1.25 / np.sqrt(60)
    assert 0.6 < (np.abs(z) < 1.96).mean() <= 1
    assert np.quantile(np.abs(z), 0.9) < 3


def test_rows_are_fitted_one_by_one_in_any_unit():
    values = sample(5.0, n=50, rows=5)
    together, moved = fit(values), fit(3.0 + 0.01 * values)
    assert np.allclose(moved.location, 3 + 0.01 * together.location, rtol=1e-9)
    assert np.allclose(moved.scale, 0.01 * together.scale, rtol=1e-6)
    assert np.allclose(moved.shape, together.shape, rtol=1e-6)
    for i in range(5):
        assert fit(values[i : i + 1]).location[0] == pytest.approx(together.location[i], rel=1e-12)


def test_values_that_are_all_the_same():
    found = fit(np.stack([np.full(20, 7.0), np.linspace(6, 7, 20)]))
    assert found.location[0] == 7
    assert found.scale[0] == 0
    assert np.isnan(found.shape[0])
    assert found.location[1] == fit(np.linspace(6, 7, 20)[None]).location[0]


def test_below_a_shape_of_one_the_location_is_the_largest_value():
    values = sample(0.6, rows=3)
    found = fit(values)
    assert np.array_equal(found.location, values.max(1))
    assert (found.shape == 1).all()
    assert np.allclose(found.scale, (values.max(1, keepdims=True) - values).mean(1))


def test_what_looks_like_gumbels_distribution_has_no_end_but_for_the_penalty():
    values = np.random.default_rng(0).gumbel(size=(40, 500))
    free, penalised = fit(values, penalty=0.0), fit(values)
    assert np.isinf(free.location).mean() > 0.4
    assert np.isnan(free.shape[np.isinf(free.location)]).all()
    assert np.isfinite(penalised.location).all()
    assert (penalised.shape < 30).all()
    assert (penalised.location > values.max(1)).all()
    assert (penalised.location <= free.location + 1e-9).all()  # it draws towards smaller shapes


def test_goodness_is_kolmogorovs_and_smirnovs():
    for n in (20, 500):
        values = sample(3.0, n=n, seed=n)[0]
        for location, scale, shape in ((10.0, 2.0, 3.0), (10.2, 2.5, 3.0), (10.5, 2.0, 3.0)):
            expected = kstest(values, weibull_max(shape, location, scale).cdf)
            distance, p = goodness(values, location, scale, shape)
            assert distance == pytest.approx(expected.statistic, rel=1e-12)
            assert p == pytest.approx(expected.pvalue, abs=0.02 if expected.pvalue > 0.2 else 0.005)
