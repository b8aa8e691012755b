"""Copies of rows count once, and rows of one group stay on one side of every split."""

import numpy as np
import pytest
from sklearn.datasets import load_diabetes, load_wine
from sklearn.model_selection import GridSearchCV, GroupKFold

from skgvae import GaussianVAE, GaussianVAEClassifier, GaussianVAERegressor

FAST = {"max_epochs": 8, "hidden_layer_sizes": (8,), "random_state": 0}


def answers(kind, X, y, fresh, params=None, **fit_params):
    model = kind(2, **FAST | (params or {})).fit(X, y, **fit_params)
    method = "predict_proba" if kind is GaussianVAEClassifier else "transform"
    scores = [model.score_samples(fresh)] if kind is GaussianVAE else []
    return np.concatenate([np.ravel(getattr(model, method)(fresh)), *scores])


@pytest.mark.parametrize("kind", [GaussianVAE, GaussianVAERegressor, GaussianVAEClassifier])
@pytest.mark.parametrize("how", ["repeated", "appended", "by weight"])
def test_copies_say_nothing_new(kind, how):
    X, y = load_wine(return_X_y=True)
    X, y, fresh = X[::2], y[::2], X[1::2]
    plain = answers(kind, X, y, fresh)
    if how == "by weight":
        found = answers(kind, X, y, fresh, sample_weight=np.full(len(X), 4.0))
    else:
        copy = np.repeat if how == "repeated" else lambda a, n, axis: np.concatenate([a] * n)
        found = answers(kind, copy(X, 4, axis=0), copy(y, 4, axis=0), fresh)
    np.testing.assert_allclose(found, plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", [GaussianVAE, GaussianVAERegressor])
def test_rows_that_are_repeated_unevenly_have_the_weight_of_their_copies(kind):
    X, y = load_diabetes(return_X_y=True)
    times = 1 + np.arange(len(X)) % 3
    own = answers(kind, X, y, X[:50], sample_weight=times)
    found = answers(kind, np.repeat(X, times, 0), np.repeat(y, times), X[:50])
    np.testing.assert_allclose(found, own, rtol=1e-6, atol=1e-6)


def test_few_rows_repeated_very_often_do_not_each_become_a_component():
    # An oversampled minority: ten rows, a hundred times each, beside 400 others.
    rng = np.random.default_rng(0)
    X = rng.standard_normal((410, 3))
    often = np.concatenate([np.repeat(X[:10], 100, 0), X[10:]])
    fresh = rng.standard_normal((500, 3))
    start = GaussianVAE(max_epochs=0, random_state=0).fit(often)
    assert start.score(fresh) > GaussianVAE(max_epochs=0, random_state=0).fit(X).score(fresh) - 3


@pytest.mark.parametrize("columns", ["grades", "one-hot", "ages", "grades and ages"])
@pytest.mark.filterwarnings("ignore::skgvae.PosteriorCollapseWarning")
def test_equal_rows_of_grids_are_evidence(columns):
    rng = np.random.default_rng(0)
    grades = rng.integers(1, 6, (200, 2))
    ages = rng.integers(18, 80, 200)[:, None]
    X = {
        "grades": grades,
        "one-hot": np.eye(3)[rng.integers(0, 3, 200)],
        "ages": ages,
        "grades and ages": np.c_[grades, ages],
    }[columns].astype(float)
    n_steps = []
    for rows in X, np.unique(X, axis=0):
        model = GaussianVAE(
            1, n_estimators=1, early_stopping=False, batch_size=1, **FAST | {"max_epochs": 1}
        )
        net = model.fit(rows, sample_weight=None).net_
        n_steps.append(len(net.optimizer_.state) and _steps(net))
    assert n_steps[0] == len(X) > n_steps[1]


def _steps(net):
    return int(next(iter(net.optimizer_.state.values()))["step"])


def test_continuous_column_among_grids_tells_copies():
    rng = np.random.default_rng(0)
    X = np.c_[rng.integers(1, 6, (60, 2)), rng.standard_normal(60)]
    plain = answers(GaussianVAE, X, None, X)
    np.testing.assert_allclose(answers(GaussianVAE, np.repeat(X, 3, 0), None, X), plain, rtol=1e-4)


def test_copies_with_other_labels_are_held_out_together():
    # A table beside itself without labels, as in semi-supervised learning.
    X, y = load_wine(return_X_y=True)
    both, labels = np.r_[X, X], np.r_[y, np.full(len(y), -1)]
    seen = _rows_of_splits(
        GaussianVAEClassifier(unlabeled=-1, n_estimators=1, **FAST), both, labels
    )
    for train, valid in seen:
        assert not set(map(tuple, train)) & set(map(tuple, valid))


def _rows_of_splits(model, X, y=None, **fit_params):
    # What a callback sees of the rows.
    from skorch.callbacks import Callback

    seen = []

    class Look(Callback):
        def on_epoch_begin(self, net, dataset_train=None, dataset_valid=None, **kwargs):
            table = dataset_train._table[0].numpy()
            parts = (
                table if d._index is None else table[d._index[0].numpy()]
                for d in (dataset_train, dataset_valid)
            )
            seen.append(tuple(part.round(4) for part in parts))

    model.set_params(net_params={"callbacks": [Look()]}).fit(X, y, **fit_params)
    return seen[:1]


@pytest.mark.parametrize("kind", [GaussianVAE, GaussianVAERegressor, GaussianVAEClassifier])
def test_groups_are_held_out_whole(kind):
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(120), 5)
    objects = rng.standard_normal((120, 2))
    X = np.c_[groups, objects[groups] + 0.01 * rng.standard_normal((600, 2))]
    y = groups % 2
    model = kind(2, n_estimators=1, standardize=False, **FAST)
    ((train, valid),) = _rows_of_splits(model, X, y, groups=groups.astype(str))
    train, valid = ({int(g) for g in part[:, 0]} for part in (train, valid))
    # The regressor's and the classifier's first column is limited to its range: still a number.
    assert len(valid) >= 3
    assert not train & valid


def test_measurements_of_one_object_do_not_look_like_others():
    # Ten noisy measurements of each of 25 objects: by rows, memorising objects looks like skill.
    rng = np.random.default_rng(0)
    objects = rng.standard_normal((45, 4))
    groups = np.repeat(np.arange(25), 10)
    X = objects[groups] + 0.02 * rng.standard_normal((250, 4))
    fresh = objects[25:] + 0.02 * rng.standard_normal((20, 4))
    params = {"hidden_layer_sizes": (32,), "n_estimators": 1, "max_epochs": 60, "init": "random"}
    by_row = GaussianVAE(random_state=0, **params).fit(X).score(fresh)
    by_group = GaussianVAE(random_state=0, **params).fit(X, groups=groups).score(fresh)
    assert by_group > by_row + 1


def test_groups_are_validated():
    X = np.random.default_rng(0).standard_normal((20, 2))
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        GaussianVAE(**FAST).fit(X, groups=np.arange(19))


def test_groups_are_routed_metadata():
    import sklearn

    X = np.random.default_rng(0).standard_normal((60, 3))
    groups = np.arange(60) // 4
    with sklearn.config_context(enable_metadata_routing=True):
        vae = GaussianVAE(2, **FAST).set_fit_request(groups=True)
        search = GridSearchCV(vae, {"kl_weight": [1.0]}, cv=GroupKFold(3))
        assert np.isfinite(search.fit(X, groups=groups).best_score_)


@pytest.mark.parametrize("n", [2, 3, 5, 8, 9])
@pytest.mark.parametrize("kind", [GaussianVAE, GaussianVAERegressor])
def test_few_rows_keep_the_start(kind, n):
    rng = np.random.default_rng(n)
    X, fresh = rng.standard_normal((n, 3)), rng.standard_normal((200, 3))
    with pytest.warns(UserWarning, match=f"{n} rows or groups are too few"):
        model = kind(random_state=0).fit(X, X[:, 0])
    start = kind(random_state=0, max_epochs=0).fit(X, X[:, 0])
    y = () if kind is GaussianVAE else (fresh[:, 0],)
    gap = model.score_samples(fresh, *y).mean() - start.score_samples(fresh, *y).mean()
    assert gap > -5


@pytest.mark.parametrize("n", [10, 20])
def test_a_density_of_twenty_rows_keeps_its_start_where_folds_cannot_judge(n):
    X = np.random.default_rng(n).standard_normal((n, 3))
    with pytest.warns(UserWarning, match=f"{n} rows or groups are too few"):
        vae = GaussianVAE(random_state=0, net_params={"averaging": 0.0}).fit(X)
    assert vae.n_epochs_ == 0


@pytest.mark.parametrize("n", [10, 15, 20])
def test_a_regressor_of_ten_rows_is_judged(n):
    rng = np.random.default_rng(n)
    X = rng.standard_normal((200, 3))
    y = X[:, 0] + 0.5 * rng.standard_normal(200)
    params = {"random_state": 0, "hidden_layer_sizes": (16,)}
    model = GaussianVAERegressor(max_epochs=300, **params).fit(X[:n], y[:n])
    assert "valid_loss" in model.history_[0]
    start = GaussianVAERegressor(max_epochs=0, **params).fit(X[:n], y[:n])
    assert model.score_samples(X, y).mean() > start.score_samples(X, y).mean() - 1


def test_too_few_groups_keep_the_start():
    X = np.random.default_rng(0).standard_normal((40, 2))
    with pytest.warns(UserWarning, match="4 rows or groups are too few"):
        GaussianVAE(random_state=0).fit(X, groups=np.arange(40) // 10)
