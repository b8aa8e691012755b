"""Unknown cells: what is known of a row decides what its other cells may be."""

import copy
import pickle

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.integrate import trapezoid
from scipy.stats import multivariate_normal
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_iris, load_wine
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.utils import shuffle

from skgvae import GaussianVAE, GaussianVAEClassifier, GaussianVAERegressor, _proposals
from skgvae._groups import merge_copies
from skgvae._proposals import linear_posterior
from skgvae.model_selection import StackedGridSearchCV
from skgvae.nn import GaussianVAEModule
from skgvae.nn.prior import GaussianComponents
from skgvae.objectives import (
    NegativeBound,
    decoded_log_prob,
    elbo,
    importance_weighted_bound,
)

FEW = {"max_epochs": 5, "n_estimators": 2, "random_state": 0}


def with_holes(X, share=0.3, seed=0):
    X = np.array(X, copy=True)
    X[np.random.default_rng(seed).uniform(size=X.shape) < share] = np.nan
    return X


def gaussian_rows(n=2000, d=4, seed=0):
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((d, d)) + np.eye(d)
    truth = multivariate_normal(10 * rng.standard_normal(d), root @ root.T)
    return truth, truth.rvs(n, random_state=seed)


def conditional(mean, cov, row):
    """Return mean and covariance of a Gaussian row's unknown cells given its known ones."""
    u = np.isnan(row)
    gain = np.linalg.solve(cov[np.ix_(~u, ~u)], cov[np.ix_(~u, u)]).T
    return mean[u] + gain @ (row[~u] - mean[~u]), cov[np.ix_(u, u)] - gain @ cov[np.ix_(~u, u)]


@pytest.fixture(scope="module")
def gaussian():
    """An untrained model of one Gaussian, that Gaussian, and rows with holes."""
    _, X = gaussian_rows()
    model = GaussianVAE(prior=1, max_epochs=0, random_state=0).fit(X)
    with torch.no_grad():
        module = copy.deepcopy(model.module_).double()
        _, means, factors = module.prior.gaussian_components()
        loadings, z_cov = module.decoder.linear.weight, torch.linalg.inv(factors[0].T @ factors[0])
        centre, log_scale = (part[0].numpy() for part in module.decoder.loc_and_log_scale(means))
        cov = (loadings @ z_cov @ loadings.T).numpy() + np.diag(np.exp(2 * log_scale))
    scale, offset = X.std(0), X.mean(0)
    own = centre * scale + offset, cov * np.outer(scale, scale)
    return model, own, with_holes(X[:200], 0.5)


@pytest.fixture(scope="module")
def curved():
    """A model trained on rows with holes, near a curved surface, and complete rows."""
    rng = np.random.default_rng(0)
    t = rng.uniform(-2, 2, (800, 2))
    X = np.stack([t[:, 0], np.sin(2 * t[:, 0]) + t[:, 1], t[:, 1] ** 2], 1)
    X = X + 0.2 * rng.standard_normal(X.shape)
    model = GaussianVAE(max_epochs=40, n_estimators=2, random_state=0).fit(with_holes(X[:600]))
    return model, X[600:]


# Complete tables


def test_complete_tables_train_as_they_did_before_cells_could_be_unknown():
    X, y = load_iris(return_X_y=True)
    params = {"max_epochs": 3, "n_estimators": 2, "random_state": 0}
    models = (
        GaussianVAE(**params, columns="continuous").fit(X),
        GaussianVAERegressor(**params).fit(X[:, :3], np.sqrt(X[:, 3])),
        GaussianVAEClassifier(**params).fit(X, y),
    )
    stored = (  # losses in training and of held-out rows, printed at commit 5bff5dd
        [4.62459, 4.07221, 3.84807, 4.2558, 3.7635, 3.5974],
        [1.02672, 0.43556, 0.16573, 0.8486, 0.19607, 0.17152],
        [2.44624, 1.1438, 0.71952, 1.42627, 0.6989, 0.55523],
    )
    for model, losses in zip(models, stored, strict=True):
        found = [h[name] for name in ("train_loss", "valid_loss") for h in model.history_]
        assert_allclose(found, losses, rtol=1e-3, atol=1e-3)
        assert model.module_.encoder.in_features == model.n_features_in_  # and no mask
    expected = [-0.94043, -1.41340, -1.35609, -1.03916]
    assert_allclose(models[0].transform(X[:1])[0], expected, atol=2e-3)


# The truth


def test_an_untrained_gaussian_has_exact_marginals(gaussian):
    model, (mean, cov), H = gaussian
    scores, std = model.score_samples(H, return_std=True)
    errors = []
    for row, score in zip(H, scores, strict=True):
        k = ~np.isnan(row)
        truth = multivariate_normal(mean[k], cov[np.ix_(k, k)]).logpdf(row[k]) if k.any() else 0
        errors.append(score - truth)
    assert np.abs(errors).mean() < 0.01
    assert np.abs(errors).max() < 0.1
    assert std.max() < 0.05


def test_imputations_of_an_untrained_gaussian_have_its_conditional_moments(gaussian):
    model, (mean, cov), H = gaussian
    H = H[:25]
    best, spread = model.impute(H), model.reconstruct(H, return_std=True)[1]
    draws = model.impute(H, n_imputations=4000, random_state=0)
    for i, row in enumerate(H):
        u = np.isnan(row)
        if not u.any():
            continue
        expected, expected_cov = conditional(mean, cov, row)
        std = np.sqrt(np.diagonal(expected_cov))
        assert_allclose(best[i, u], expected, atol=0.1 * std.max())
        assert_allclose(spread[i, u], std, rtol=0.1)
        assert_allclose(draws[:, i, u].mean(0), expected, atol=0.15 * std.max())
        found = np.atleast_2d(np.cov(draws[:, i, u].T))
        assert np.abs(found - expected_cov).max() < 0.15 * expected_cov.max()


def test_rows_with_given_cells_are_drawn_from_the_conditional(gaussian):
    model, (mean, cov), _ = gaussian
    row = np.array([mean[0] + 1.0, np.nan, mean[2] - 2.0, np.nan])
    drawn = model.sample(5000, random_state=0, given=row)
    expected, expected_cov = conditional(mean, cov, row)
    assert_array_equal(drawn[:, [0, 2]], np.broadcast_to(row[[0, 2]], (5000, 2)))
    std = np.sqrt(np.diagonal(expected_cov))
    assert_allclose(drawn[:, [1, 3]].mean(0), expected, atol=0.06 * std.max())
    assert np.abs(np.cov(drawn[:, [1, 3]].T) - expected_cov).max() < 0.1 * expected_cov.max()


def test_a_cell_that_is_integrated_over_is_a_cell_that_is_unknown(curved):
    model, X = curved
    rows, errors = X[:15], []
    for j in range(3):
        grid = np.linspace(X[:, j].min() - 2, X[:, j].max() + 2, 120)
        H = rows.copy()
        H[:, j] = np.nan
        for row, score in zip(rows, model.score_samples(H), strict=True):
            points = np.repeat(row[None], len(grid), 0)
            points[:, j] = grid
            integral = trapezoid(np.exp(model.score_samples(points)), grid)
            errors.append(score - np.log(integral))
    assert np.abs(errors).mean() < 0.05
    assert np.mean(np.abs(errors) < 0.15) > 0.95


def test_a_linear_posterior_is_that_of_the_formula():
    rng = np.random.default_rng(0)
    n, d, n_latents, n_components = 6, 5, 3, 2
    means = rng.standard_normal((n_components, n_latents))
    roots = np.tril(rng.standard_normal((n_components, n_latents, n_latents))) + 2 * np.eye(3)
    loc, slope = rng.standard_normal((2, d)), rng.standard_normal((2, d, n_latents))
    precision, x = rng.uniform(0.5, 2, (2, d)), rng.standard_normal((n, d))
    known = rng.uniform(size=(n, d)) < 0.6
    weights = np.array([0.3, 0.7])
    tensors = map(torch.from_numpy, (np.log(weights), means, roots))
    arguments = map(torch.from_numpy, (loc, slope, precision))
    found = linear_posterior(
        torch.from_numpy(np.where(known, x, 1e6)),
        torch.from_numpy(known),
        GaussianComponents(*tensors),
        *arguments,
    )
    for c in range(n_components):
        prior_cov = np.linalg.inv(roots[c].T @ roots[c])
        total = slope[c] @ prior_cov @ slope[c].T + np.diag(1 / precision[c])
        for i, k in enumerate(known):
            J, S = slope[c][k], total[np.ix_(k, k)]
            evidence = np.log(weights[c])
            evidence += multivariate_normal(loc[c][k], S).logpdf(x[i, k]) if k.any() else 0
            assert found.log_evidence[c, i].item() == pytest.approx(evidence)
            mean = means[c] + prior_cov @ J.T @ np.linalg.solve(S, x[i, k] - loc[c][k])
            assert_allclose(found.mean[c, i], mean)
            root = found.root[c, i].numpy()
            cov = prior_cov - prior_cov @ J.T @ np.linalg.solve(S, J @ prior_cov)
            assert_allclose(np.linalg.inv(root @ root.T), cov, atol=1e-10)


def test_no_step_towards_a_mode_leads_downhill(curved, monkeypatch):
    model, X = curved
    x = torch.from_numpy((with_holes(3 * X[:100], 0.5) - X.mean(0)) / X.std(0))
    known, v2 = ~x.isnan(), x.nan_to_num(0.0)
    v1 = torch.cat([v2, (~known).double()], -1)
    for module in model.modules_:
        vae = copy.deepcopy(module).double()
        heights = []
        for n_steps in 0, 1, 2:
            monkeypatch.setattr(_proposals, "N_STEPS", n_steps)
            with torch.no_grad():
                modes = _proposals.Proposal(vae, v1, v2, known).mode
                log_lik = decoded_log_prob(vae, v2, *vae.decoder.loc_and_log_scale(modes), known)
                heights.append(log_lik + vae.prior.log_prob(modes))
        assert (heights[1] >= heights[0] - 1e-9).all()
        assert (heights[2] >= heights[1] - 1e-9).all()
        assert (heights[2] > heights[0] + 0.1).any()


@pytest.mark.parametrize("prior", ["standard", 1])
def test_the_start_is_fitted_to_the_known_cells(prior):
    # Where a cell is missing depends on another: the mean of those that are left is wrong.
    truth, X = gaussian_rows(3000, d=4, seed=1)
    rng, H = np.random.default_rng(0), X.copy()
    is_large = X[:, 0] > np.median(X[:, 0])
    H[is_large & (rng.uniform(size=len(X)) < 0.8), 1] = np.nan
    H[rng.uniform(size=len(X)) < 0.2, 2] = np.nan
    model = GaussianVAE(prior=prior, max_epochs=0, random_state=0).fit(H)
    drawn = model.sample(20_000, random_state=0)
    std = np.sqrt(np.diagonal(truth.cov))
    assert_allclose(drawn.mean(0), truth.mean, atol=0.1 * std.max())
    assert np.abs(np.cov(drawn.T) - truth.cov).max() < 0.12 * truth.cov.max()
    naive = np.nanmean(H, 0)
    assert abs(naive[1] - truth.mean[1]) > 2 * abs(drawn[:, 1].mean() - truth.mean[1])


def test_clusters_are_found_in_rows_of_which_none_is_complete():
    rng = np.random.default_rng(0)
    centres = np.array([[0, 0, 0, 0], [6, 6, 0, 0], [0, 6, 6, 6]], float)
    X = np.repeat(centres, 200, 0) + rng.standard_normal((600, 4))
    H = X.copy()
    H[np.arange(600), rng.integers(4, size=600)] = np.nan
    model = GaussianVAE(prior=3, max_epochs=0, random_state=0).fit(H)
    complete = GaussianVAE(prior=3, max_epochs=0, random_state=0).fit(X)
    fresh = np.repeat(centres, 100, 0) + rng.standard_normal((300, 4))
    assert model.score(fresh) > complete.score(fresh) - 0.15


@pytest.mark.slow
def test_a_trained_model_knows_a_gaussian_whose_cells_are_missing_at_random():
    truth, X = gaussian_rows(5000, d=5, seed=2)
    rng, H = np.random.default_rng(0), X.copy()
    is_large = X[:, 0] > np.median(X[:, 0])
    H[is_large & (rng.uniform(size=len(X)) < 0.6), 1] = np.nan
    H[:, 2:][rng.uniform(size=(len(X), 3)) < 0.2] = np.nan
    model = GaussianVAE(random_state=0).fit(H)
    complete = truth.rvs(1500, random_state=5)
    fresh = with_holes(complete, 0.4, seed=3)
    best, scores = model.impute(fresh), model.score_samples(fresh)
    draws = model.impute(fresh, n_imputations=199, random_state=0)
    low, high = np.quantile(draws, [0.05, 0.95], axis=0)
    misses, gaps, held = [], [], []
    for i, row in enumerate(fresh):
        k = ~np.isnan(row)
        if not k.any():
            continue
        cov = truth.cov[np.ix_(k, k)]
        gaps.append(scores[i] - multivariate_normal(truth.mean[k], cov).logpdf(row[k]))
        expected, cov = conditional(truth.mean, truth.cov, row)
        misses.extend((best[i, ~k] - expected) / np.sqrt(np.diagonal(cov)))
        held.extend((low[i, ~k] < complete[i, ~k]) & (complete[i, ~k] < high[i, ~k]))
    assert abs(np.mean(misses)) < 0.05
    assert np.abs(misses).mean() < 0.08
    assert abs(np.mean(gaps)) < 0.05
    assert 0.88 < np.mean(held) < 0.92


# Rows in every form


def test_nothing_known_is_the_prior(curved):
    model, _ = curved
    nothing = np.full((2, 3), np.nan)
    scores, std = model.score_samples(nothing, return_std=True)
    assert_array_equal(scores, 0)
    assert_array_equal(std, 0)
    drawn = model.sample(20_000, random_state=0)
    assert_allclose(model.impute(nothing)[0], drawn.mean(0), atol=0.1)
    draws = model.impute(nothing, n_imputations=3000, random_state=0)[:, 0]
    assert_allclose(draws.mean(0), drawn.mean(0), atol=0.1)
    assert_allclose(np.cov(draws.T), np.cov(drawn.T), atol=0.25)


def test_answers_do_not_depend_on_other_rows(curved):
    model, X = curved
    H = np.vstack([with_holes(X[:60], 0.4), X[60:80], np.full((1, 3), np.nan)])
    answers = {
        "score_samples": model.score_samples(H),
        "elbo": model.elbo(H),
        "transform": model.transform(H),
        "reconstruct": model.reconstruct(H),
        "impute": model.impute(H),
    }
    order = np.random.default_rng(0).permutation(len(H))
    for rows in order, order[:30], order[:1]:
        for name, whole in answers.items():
            found = getattr(model, name)(H[rows])
            assert_allclose(found, whole[rows], rtol=1e-6, atol=1e-7, err_msg=name)


def test_complete_rows_among_others_are_answered_as_alone(curved):
    model, X = curved
    both = np.vstack([X[:10], with_holes(X[10:20])])
    for name in "score_samples", "elbo", "transform", "reconstruct":
        answer = getattr(model, name)
        assert_allclose(answer(both)[:10], answer(X[:10]), rtol=1e-9, err_msg=name)


def test_the_bound_is_below_the_density(curved):
    model, X = curved
    H = with_holes(X[:80], 0.4)
    assert (model.elbo(H) < model.score_samples(H) + 0.3).all()
    assert model.elbo(H).mean() > model.score(H) - 3


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_known_cells_stay_as_they_are(curved, dtype):
    model, X = curved
    H = with_holes(X[:50], 0.4).astype(dtype)
    before, known = H.copy(), ~np.isnan(H)
    for table in (model.impute(H), model.impute(H, statistic="median"),
                  *model.impute(H, n_imputations=3, random_state=0)):  # fmt: skip
        assert table.dtype == dtype
        assert_array_equal(table[known], H[known])
        assert np.isfinite(table).all()
    assert_array_equal(H, before)
    assert_array_equal(model.impute(X[:5].astype(dtype)), X[:5].astype(dtype))
    assert model.impute(X[:5], n_imputations=2).shape == (2, 5, 3)


def test_draws_follow_their_seed_and_their_model(curved):
    model, X = curved
    H = with_holes(X[:30], 0.5)
    one, same = (model.impute(H, n_imputations=4, random_state=1) for _ in range(2))
    other = model.impute(H, n_imputations=4, random_state=2)
    assert_array_equal(one, same)
    unknown = np.isnan(H)
    assert (one[:, unknown] != other[:, unknown]).all()
    assert len(np.unique(one[:, unknown][:, 0])) == 4
    far = clone(model).fit(with_holes(X, 0.2))
    with torch.no_grad():  # which take turns
        far.modules_[1].decoder.loc.bias.add_(100.0)
    nothing = np.full((1, 3), np.nan)
    firsts = set()
    for seed in range(8):
        drawn = far.impute(nothing, n_imputations=4, random_state=seed)[:, 0, 0]
        is_second = np.abs(drawn) > 50
        assert (is_second[1:] != is_second[:-1]).all()
        firsts.add(is_second[0])
    assert firsts == {False, True}


def test_global_generators_are_left_alone(curved):
    model, X = curved
    H = with_holes(X[:10], 0.5)
    np.random.seed(0)
    torch.manual_seed(0)
    expected = np.random.uniform(), torch.rand(1).item()
    np.random.seed(0)
    torch.manual_seed(0)
    model.impute(H, n_imputations=2)
    model.sample(3, given={0: 1.0})
    assert (np.random.uniform(), torch.rand(1).item()) == expected


def test_containers_with_values_of_their_own_for_what_is_unknown():
    X = with_holes(load_iris(return_X_y=True)[0][:60], 0.2)
    names = list("abcd")
    frame = pd.DataFrame(X, columns=names)
    arrow = frame.convert_dtypes(dtype_backend="pyarrow")
    objects = frame.astype(object).mask(frame.isna(), pd.NA)
    tables = [frame, arrow, objects, frame.convert_dtypes(), pl.DataFrame(frame).fill_nan(None)]
    expected = GaussianVAE(**FEW).fit(X)
    for table in tables:
        model = GaussianVAE(**FEW).fit(table)
        assert_allclose(model.impute(table), expected.impute(X))
        assert model.feature_names_in_.tolist() == names
    assert_allclose(GaussianVAE(**FEW).fit(X.tolist()).impute(X.tolist()), expected.impute(X))


def test_columns_of_which_nothing_is_known_are_left_out():
    X = load_iris(return_X_y=True)[0]
    H = pd.DataFrame(with_holes(X, 0.2), columns=list("abcd")).assign(b=np.nan)
    with pytest.warns(UserWarning, match=r"columns \['b'\] of X is known"):
        model = GaussianVAE(**FEW).fit(H)
    assert model.n_features_in_ == 4
    for cells in (model.impute(H), model.reconstruct(H), model.sample(9),
                  model.inverse_transform(model.transform(H)), model.noise_variance_[None],
                  model.min_noise_[None]):  # fmt: skip
        assert np.isnan(cells[:, 1]).all()
        assert np.isfinite(np.delete(cells, 1, 1)).all()
    other = H.assign(b=3.0)
    assert (model.impute(other)[:, 1] == 3.0).all()
    assert_array_equal(model.score_samples(other), model.score_samples(H))
    again = pickle.loads(pickle.dumps(model))
    assert_array_equal(again.impute(H), model.impute(H))
    with pytest.warns(UserWarning, match="columns"):
        assert_allclose(GaussianVAE(**FEW).partial_fit(H).sample(2)[:, 1], np.nan)
    y = np.arange(150) // 50
    with pytest.warns(UserWarning, match=r"columns \['b'\]"):
        classifier = GaussianVAEClassifier(**FEW).fit(H, y)
    assert classifier.predict_target(H).shape == classifier.sample(H)[0].shape == (150, 4)
    with pytest.warns(UserWarning, match=r"columns \['b'\]"):
        assert GaussianVAERegressor(**FEW).fit(H, y).predict(H).shape == (150,)
    complete = np.insert(X, 1, np.nan, axis=1)  # but for the column that is left out
    with pytest.warns(UserWarning, match=r"columns \[1\]"):
        regressor = GaussianVAERegressor(**FEW).fit(complete, y)
    assert regressor.predict(complete).shape == (150,)  # without a warning of unknown cells


def test_what_cannot_be_learned_from_is_refused():
    X = load_iris(return_X_y=True)[0]
    infinite = X.copy()
    infinite[0, 0] = np.inf
    for model in GaussianVAE(**FEW), GaussianVAERegressor(**FEW), GaussianVAEClassifier(**FEW):
        with pytest.raises(ValueError, match="infinity"):
            model.fit(infinite, np.arange(150) // 50)
        with pytest.raises(ValueError, match="No cell of X is known"):
            model.fit(np.full((9, 3), np.nan), np.arange(9) % 2)
    model = GaussianVAE(**FEW).fit(X)
    with pytest.raises(ValueError, match=r"statistic must be one of .*, got 'mode'"):
        model.impute(X, statistic="mode")
    with pytest.raises(ValueError, match="n_imputations"):
        model.impute(X, n_imputations=0)
    with pytest.raises(ValueError, match="NaN"):
        GaussianVAERegressor(**FEW).fit(X, np.where(np.arange(150) == 3, np.nan, 1.0))


@pytest.mark.parametrize("columns", [[0], [-1], [0, 2]])
@pytest.mark.parametrize("kind", [GaussianVAE, GaussianVAERegressor, GaussianVAEClassifier])
def test_a_continued_fit_keeps_the_columns(kind, columns):
    X, y = load_iris(return_X_y=True)
    H = with_holes(X, 0.2)
    H[:, columns] = np.nan
    with pytest.warns(UserWarning, match="is known: they are left out"):
        model = kind(warm_start=True, **FEW).fit(H, y)
    for again in (model.fit, model.partial_fit):
        again(H, y)
        assert np.isfinite(model.transform(H)).all()
    with pytest.warns(UserWarning, match="what is known now is ignored"):
        model.partial_fit(X, y)
    assert_array_equal(model.transform(X), model.transform(np.where(np.isnan(H).all(0), 9.0, X)))


@pytest.mark.parametrize("noise", ["heteroscedastic", "isotropic"])
@pytest.mark.parametrize("prior", ["standard", "mixture"])
@pytest.mark.parametrize(("n_rows", "n_known"), [(120, 1), (120, 2), (3000, 3)])
def test_a_column_may_have_hardly_any_known_cell(n_rows, n_known, prior, noise):
    _, X = gaussian_rows(n_rows)
    H = with_holes(X, 0.2)
    H[n_known:, 1] = np.nan
    H[:n_known, 1] = X[:n_known, 1]
    model = GaussianVAE(prior=prior, noise=noise, max_epochs=1, random_state=0).fit(H)
    assert np.isfinite(model.impute(H[:50])).all()
    assert np.isfinite(model.score(H[:50]))


def test_copies_are_merged_by_what_is_known():
    # Rows that agree in two binary columns and have an unknown cell are no copies.
    rng = np.random.default_rng(0)
    X = np.c_[rng.integers(2, size=(200, 2)), rng.standard_normal(200)]
    X[:40, 2] = np.nan
    assert len(merge_copies(None, None, X)[2]) == 200
    once = with_holes(rng.standard_normal((50, 4)), 0.2)
    _, _, kept = merge_copies(None, None, np.vstack([once, once]))
    assert_array_equal(kept, np.arange(50))


# Given cells


def test_cells_are_given_by_name_by_place_or_as_a_row():
    X = load_iris(return_X_y=True)[0]
    model = GaussianVAE(**FEW).fit(pd.DataFrame(X, columns=list("abcd")))
    expected = model.sample(5, random_state=0, given={"b": 3.0, "d": 0.2})
    assert_array_equal(expected[:, [1, 3]], np.broadcast_to([3.0, 0.2], (5, 2)))
    for given in ({1: 3.0, 3: 0.2}, pd.Series({"b": 3.0, "d": 0.2, "a": np.nan}),
                  [np.nan, 3.0, np.nan, 0.2]):  # fmt: skip
        assert_array_equal(model.sample(5, random_state=0, given=given), expected)
    with pytest.raises(ValueError, match=r"given has 'e'.*\['a', 'b', 'c', 'd'\]"):
        model.sample(1, given={"e": 1.0})
    with pytest.raises(ValueError, match=r"one row of 4 cells.*got shape \(3,\)"):
        model.sample(1, given=[1.0, np.nan, 2.0])
    with pytest.raises(ValueError, match="infinity"):
        model.sample(1, given={"a": np.inf})
    for value in "x", [1.0, 2.0], pd.NA:
        with pytest.raises(ValueError, match=r"given\['a'\] must be a number, got"):
            model.sample(1, given={"a": value})
    row = pd.DataFrame({"a": [np.nan], "b": [3.0], "c": [np.nan], "d": [0.2]})
    assert_array_equal(model.sample(5, random_state=0, given=row), expected)
    with pytest.raises(ValueError, match=r"one row of 4 cells.*got shape \(2, 2\)"):
        model.sample(1, given=[[1.0, 2.0], [3.0, 4.0]])


def test_given_cells_that_no_draw_agrees_with_are_warned_of():
    X = load_iris(return_X_y=True)[0]
    params = {"max_epochs": 40, "n_estimators": 2, "random_state": 0}
    model = GaussianVAE(**params, columns="continuous").fit(X)
    with pytest.warns(UserWarning, match="rows are worth"):
        drawn = model.sample(2000, random_state=0, given={0: 30.0, 1: -20.0, 2: 40.0})
    assert np.isfinite(drawn).all()
    with pytest.warns(UserWarning, match="rows are worth"):
        model.sample(1, random_state=0, given={0: 30.0, 1: -20.0, 2: 40.0})


def test_a_column_that_was_left_out_cannot_be_given():
    X = load_iris(return_X_y=True)[0]
    X[:, 1] = np.nan
    with pytest.warns(UserWarning, match="left out"):
        model = GaussianVAE(**FEW).fit(X)
    with pytest.raises(ValueError, match=r"given has columns \[1\].*not in the model"):
        model.sample(1, given={1: 3.0})


def test_two_modes_are_two_modes():
    rng = np.random.default_rng(0)
    side = rng.choice([-3.0, 3.0], 600)
    X = np.stack([side + 0.3 * rng.standard_normal(600), np.abs(side) - 3 + rng.standard_normal(
        600)], 1)  # fmt: skip
    model = GaussianVAE(max_epochs=30, n_estimators=2, random_state=0).fit(X)
    drawn = model.sample(1000, random_state=0, given={1: 0.0})[:, 0]
    assert 0.4 < np.mean(drawn > 0) < 0.6
    near = [np.mean(np.abs(np.abs(x) - 3) < 1) for x in (drawn, model.sample(9999)[:, 0])]
    assert near[0] > 0.9
    assert near[0] == pytest.approx(near[1], abs=0.04)
    assert abs(model.impute([[np.nan, 0.0]])[0, 0]) < 0.7


# Training


def test_an_unknown_cell_has_no_part_in_the_loss():
    vae = GaussianVAEModule(6, 2, 3, generator=torch.Generator().manual_seed(0))
    rng = torch.Generator().manual_seed(1)
    v2, eps = torch.randn(8, 3, generator=rng), torch.randn(4, 8, 2, generator=rng)
    known = torch.rand(8, 3, generator=rng) < 0.6
    v1 = torch.cat([v2.where(known, 0.0), (~known).float()], -1)
    for bound in elbo, importance_weighted_bound:
        criterion, found = NegativeBound(bound), []
        for filler in 0.0, 1e3:
            vae.zero_grad()
            filled = v2.where(known, filler)
            loss = criterion(vae, v1, filled, eps, known=known).loss
            loss.backward()
            found.append([loss.detach(), *(p.grad.clone() for p in vae.parameters())])
        for a, b in zip(*found, strict=True):
            assert torch.equal(a, b)
        by_hand = bound(vae, v1, v2, eps)
        everything = bound(vae, v1, v2, eps, known=torch.ones_like(known))
        assert torch.allclose(by_hand.value, everything.value)


def test_a_model_of_complete_rows_answers_for_others():
    X = load_breast_cancer().data[:, :6]
    H = with_holes(X[400:], 0.3)
    complete = GaussianVAE(max_epochs=20, n_estimators=2, random_state=0).fit(X[:400])
    error = np.abs(complete.impute(H) - X[400:])[np.isnan(H)].mean()
    naive = np.abs(np.nanmean(H, 0) - X[400:])[np.isnan(H)].mean()
    assert error < 0.5 * naive
    assert complete.module_.encoder.in_features == 6


def test_holes_that_come_later_are_learned_from_too():
    X = load_wine().data[:, :5]
    model = GaussianVAE(**FEW).partial_fit(X[:100])
    for _ in range(3):
        model.partial_fit(with_holes(X, 0.3))
    assert np.isfinite(model.impute(with_holes(X, 0.3))).all()
    model.set_params(warm_start=True).fit(with_holes(X, 0.3))
    assert np.isfinite(model.score(with_holes(X, 0.3)))


def test_wide_tables_start_in_little_time():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((60, 4)) @ rng.standard_normal((4, 300))
    H = with_holes(X + 0.1 * rng.standard_normal(X.shape), 0.3)
    model = GaussianVAE(max_epochs=0, random_state=0).fit(H)
    u = np.isnan(H)
    assert np.abs(model.impute(H) - X)[u].mean() < 0.5 * np.abs(X)[u].mean()


def test_searches_with_unknown_cells():
    X = with_holes(load_iris(return_X_y=True)[0], 0.2)
    search = StackedGridSearchCV(GaussianVAE(**FEW), {"kl_weight": [0.5, 1.0]}, cv=2).fit(X)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_a_search_of_which_one_fold_has_unknown_targets():
    X, y = shuffle(*load_wine(return_X_y=True), random_state=0)
    target = X[:, :2].copy()
    target[:60:2, 1] = np.nan  # rows of the first fold alone
    params = {"scoring": "neg_log_loss", "cv": KFold(3)}
    found = []
    for search in StackedGridSearchCV, GridSearchCV:
        model = search(GaussianVAEClassifier(**FEW), {"kl_weight": [0.5, 1.0]}, **params)
        model.fit(X, y, X_target=target)
        found.append(np.array([model.cv_results_[f"split{i}_test_score"] for i in range(3)]))
    assert_allclose(*found, rtol=1e-5)


# Regressor and classifier


@pytest.mark.parametrize("kind", [GaussianVAERegressor, GaussianVAEClassifier])
def test_unknown_cells_of_v1(kind):
    X, y = load_wine(return_X_y=True)
    H = with_holes(X, 0.2)
    params = {"max_epochs": 40, "n_estimators": 2, "random_state": 0}
    model = kind(**params).fit(H[::2], y[::2])
    assert model.score(H[1::2], y[1::2]) > 0.7
    assert model.module_.encoder.in_features == 26
    complete = kind(**params).fit(X[::2], y[::2])
    with pytest.warns(UserWarning, match="fitted to rows without"):
        filled = complete.predict(H)
    assert_array_equal(filled, complete.predict(np.where(np.isnan(H), X[::2].mean(0), H)))


def test_a_users_classifier_sees_no_unknown_cells():
    seen = []

    class Own(torch.nn.Linear):
        def forward(self, v1, v2_estimate):
            seen.append((v1.detach().clone(), v2_estimate.detach().clone()))
            return super().forward(torch.cat([v1, v2_estimate], -1))

    X, y = load_wine(return_X_y=True)
    H = with_holes(X, 0.3)
    GaussianVAEClassifier(classifier=Own(26, 3), **FEW).fit(H, y)
    v1, estimate = seen[-1]
    assert v1.shape == estimate.shape
    share = (v1 == estimate).double().mean()  # where v2 is X an unknown cell is its estimate
    assert 0.2 < share < 0.4
    seen.clear()
    target = X[:, :2]
    GaussianVAEClassifier(classifier=Own(15, 3), **FEW).fit(H, y, X_target=target)
    assert (seen[-1][0] == 0).double().mean() > 0.2


def test_cells_of_a_target_may_be_unknown():
    X, y = load_wine(return_X_y=True)
    target = with_holes(X[:, :3], 0.3)
    params = {"max_epochs": 30, "n_estimators": 2, "random_state": 0}
    model = GaussianVAEClassifier(**params).fit(X, y, X_target=target)
    error = np.abs(model.predict_target(X) - X[:, :3]) / X[:, :3].std(0)
    assert error.mean() < 0.5
    with pytest.raises(ValueError, match="A column of X_target is known for 1 rows"):
        model.fit(X, y, X_target=np.where(np.arange(178)[:, None] > 0, np.nan, X[:, :2]))
