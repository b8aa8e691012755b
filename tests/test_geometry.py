"""The metric that the decoder pulls back to the latent space, and its directions."""

import numpy as np
import pytest
import torch
from conftest import standardise
from sklearn.datasets import load_diabetes
from sklearn.decomposition import FactorAnalysis
from sklearn.exceptions import NotFittedError
from torch.autograd.functional import jacobian

import skgvae._answers
from skgvae import GaussianVAE, GaussianVAEClassifier, GaussianVAERegressor
from skgvae.nn import NOISE_MODELS, GaussianMLP, pullback_metric

FAST = {"max_epochs": 5, "hidden_layer_sizes": (8,), "random_state": 0}


@pytest.fixture(scope="module")
def fitted(iris):
    return GaussianVAE(3, **FAST, columns="continuous").fit(iris)


def metric_of(eigenvalues, directions):
    return np.einsum("nj,njk,njl->nkl", eigenvalues, directions, directions)


def metric_by_differences(model, Z, step=1e-5):
    """Return G at each point from ``decode`` alone: means and noise in the user's units."""

    def decode(Z):
        mean, std = model.decode(Z, return_std=True)
        return mean.reshape(len(Z), -1), std.reshape(len(Z), -1)

    std = decode(Z)[1]
    family = model.module_.decoder.family
    of_loc, of_log_scale = np.sqrt(family.fisher_information)
    slopes = []
    for e in step * np.eye(Z.shape[1]):
        (mean_up, std_up), (mean_down, std_down) = decode(Z + e), decode(Z - e)
        by_loc = (mean_up - mean_down) / (2 * step) / std * family.variance**0.5
        by_log_scale = np.log(std_up / std_down) / (2 * step)
        slopes.append(np.hstack([of_loc * by_loc, of_log_scale * by_log_scale]))
    slopes = np.stack(slopes, 1)  # (n, latent, 2 out)
    return slopes @ slopes.mT


# The torch side


@pytest.mark.parametrize("noise", NOISE_MODELS)
def test_metric_is_made_of_the_jacobians(noise, float64):
    decoder = GaussianMLP(3, 5, hidden_features=(7,), noise=noise)
    z = torch.randn(4, 3)
    metric = pullback_metric(decoder, z)
    for point, found in zip(z, metric, strict=True):
        by_loc = jacobian(lambda p: decoder(p).mean, point)
        by_log_scale = jacobian(lambda p: decoder(p).stddev.log(), point)
        precision = torch.diag(decoder.family.variance / decoder(point).variance)
        of_loc, of_log_scale = decoder.family.fisher_information
        expected = of_loc * by_loc.T @ precision @ by_loc
        expected = expected + of_log_scale * by_log_scale.T @ by_log_scale
        torch.testing.assert_close(found, expected)


def test_metric_can_be_differentiated(float64):
    decoder = GaussianMLP(2, 3, hidden_features=(4,))
    z = torch.randn(2, 2, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: pullback_metric(decoder, z), z)


# The estimators


@pytest.mark.parametrize("noise", ["homoscedastic", "heteroscedastic"])
def test_linear_decoder_in_closed_form(noise, cancer):
    X = cancer[:, :12]
    sharp = {"min_noise": 1e-3, "columns": "continuous"}
    vae = GaussianVAE(3, noise=noise, max_epochs=0, **sharp).fit(X)
    model = FactorAnalysis(3, svd_method="lapack").fit(standardise(X))
    precision = model.components_ / model.noise_variance_ @ model.components_.T
    Z = np.random.default_rng(0).standard_normal((4, 3))
    eigenvalues, directions = vae.latent_directions(Z)
    expected = np.tile(np.linalg.eigvalsh(precision), (4, 1))
    np.testing.assert_allclose(eigenvalues, expected, rtol=1e-3)
    # The start is rotated: its components are the directions, the sharpest first.
    np.testing.assert_allclose(directions, np.tile(np.eye(3)[::-1], (4, 1, 1)), atol=1e-3)


@pytest.mark.parametrize("noise", NOISE_MODELS)
def test_finite_differences_on_a_trained_decoder(noise, iris):
    vae = GaussianVAE(3, noise=noise, **FAST, columns="continuous").fit(iris)
    Z = vae.transform(iris[::10])
    metric = metric_of(*vae.latent_directions(Z))
    np.testing.assert_allclose(metric, metric_by_differences(vae, Z), rtol=1e-5, atol=1e-5)


def test_regressor_and_classifier(iris):
    X, y = load_diabetes(return_X_y=True)
    models = [
        GaussianVAERegressor(2, n_estimators=3, **FAST).fit(X, y),
        GaussianVAERegressor(2, n_estimators=1, **FAST).fit(X, np.column_stack([y, X[:, 0]])),
        GaussianVAEClassifier(2, **FAST).fit(iris[:, :2], iris[:, 3] > 1, X_target=iris[:, 2:]),
    ]
    Z = np.random.default_rng(0).standard_normal((5, 2))
    for model in models:
        metric = metric_of(*model.latent_directions(Z))
        np.testing.assert_allclose(metric, metric_by_differences(model, Z), rtol=1e-4, atol=1e-5)


def test_directions_are_unit_vectors_in_rows_least_first(fitted, iris):
    eigenvalues, directions = fitted.latent_directions(fitted.transform(iris))
    assert (eigenvalues[:, :-1] <= eigenvalues[:, 1:]).all()
    np.testing.assert_allclose(
        directions @ directions.mT, np.tile(np.eye(3), (150, 1, 1)), atol=1e-12
    )
    largest = np.take_along_axis(directions, np.abs(directions).argmax(-1)[..., None], -1)
    assert (largest > 0).all()


@pytest.mark.parametrize("j", [0, 2])
def test_eigenvalues_are_divergences(j, fitted, iris):
    Z = fitted.transform(iris)
    eigenvalues, directions = fitted.latent_directions(Z)
    length = 1e-3 / np.sqrt(eigenvalues[:, j])
    (mean, std), (mean_new, std_new) = (
        fitted.decode(z, return_std=True) for z in (Z, Z + length[:, None] * directions[:, j])
    )
    ratio = (std_new / std) ** 2
    divergence = 0.5 * (ratio - 1 - np.log(ratio) + ((mean_new - mean) / std) ** 2).sum(1)
    np.testing.assert_allclose(divergence, 0.5 * 1e-6, rtol=0.02)


def test_units_of_the_columns_do_not_matter(fitted, iris):
    Z = fitted.transform(iris)
    X = iris * [1000, 1, 0.01, 5] + [3, 0, -7, 1]
    scaled = GaussianVAE(3, **FAST, columns="continuous").fit(X)
    expected = metric_of(*fitted.latent_directions(Z))
    np.testing.assert_allclose(
        metric_of(*scaled.latent_directions(Z)), expected, rtol=0.01, atol=0.05
    )


def test_answers_depend_on_their_own_row_alone(fitted, iris, monkeypatch):
    Z = fitted.transform(iris)
    eigenvalues, directions = fitted.latent_directions(Z)
    rows = [70, 3, 149]
    some = fitted.latent_directions(Z[rows])
    np.testing.assert_allclose(some[0], eigenvalues[rows], rtol=1e-9)
    np.testing.assert_allclose(some[1], directions[rows], atol=1e-9)
    monkeypatch.setattr(skgvae._answers, "MAX_ELEMENTS", 7 * 3 * 8)  # seven rows at once
    chunked = fitted.latent_directions(Z)
    np.testing.assert_allclose(chunked[0], eigenvalues, rtol=1e-9)
    np.testing.assert_allclose(chunked[1], directions, atol=1e-9)


def test_single_precision(fitted, iris):
    Z = fitted.transform(iris)
    expected = metric_of(*fitted.latent_directions(Z))
    single = fitted.latent_directions(Z.astype(np.float32))
    assert {part.dtype for part in single} == {np.dtype(np.float32)}
    np.testing.assert_allclose(metric_of(*single), expected, rtol=1e-3, atol=1e-3)


def test_errors(fitted):
    with pytest.raises(NotFittedError):
        GaussianVAE().latent_directions([[0.0, 0.0]])
    with pytest.raises(ValueError, match="2 columns, but the latent space has 3"):
        fitted.latent_directions([[0.0, 0.0]])
    with pytest.raises(ValueError, match="NaN"):
        fitted.latent_directions([[0.0, np.nan, 0.0]])
    with pytest.raises(ValueError, match="2D"):
        fitted.latent_directions([0.0, 0.0, 0.0])
