"""Which rows judge which model: whole groups, equal folds, each class in all, a number at most."""

import numpy as np
import pytest
from skorch.callbacks import Callback

from skgvae import GaussianVAE, GaussianVAEClassifier, GaussianVAERegressor
from skgvae._folds import make_folds
from skgvae._rows import batches

SIZES = [(2, 2), (5, 5), (7, 3), (50, 10), (103, 5), (1000, 7)]


def sizes_of(folds, n_folds):
    return np.bincount(folds[folds >= 0], minlength=n_folds)


def random_groups(n_rows, seed, largest=6):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, largest + 1, n_rows)
    groups = np.repeat(np.arange(n_rows), sizes)[:n_rows]
    return rng.permutation(groups)


@pytest.mark.parametrize(("n_rows", "n_folds"), SIZES)
def test_folds_are_of_equal_size(n_rows, n_folds, seed):
    folds = make_folds(n_rows, n_folds, seed)
    assert folds.shape == (n_rows,)
    assert np.ptp(sizes_of(folds, n_folds)) <= 1
    assert folds.min() == 0


def test_they_follow_the_seed_alone():
    np.random.seed(0)
    state = np.random.get_state()[1].copy()
    first, again, other = (make_folds(100, 5, seed) for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert np.array_equal(np.random.get_state()[1], state)


@pytest.mark.parametrize(("n_rows", "n_folds"), SIZES)
@pytest.mark.parametrize("n_strata", [1, 2, 4])
def test_each_stratum_has_equal_shares_in_all_folds(n_strata, n_rows, n_folds, seed):
    strata = np.random.default_rng(seed).integers(-1, n_strata - 1, n_rows)
    folds = make_folds(n_rows, n_folds, seed, strata=strata)
    assert np.ptp(sizes_of(folds, n_folds)) <= 1
    for stratum in np.unique(strata):
        assert np.ptp(sizes_of(folds[strata == stratum], n_folds)) <= 1


@pytest.mark.parametrize(("n_rows", "n_folds"), SIZES[2:])
@pytest.mark.parametrize("has_strata", [True, False])
@pytest.mark.parametrize("max_rows", [None, 8])
def test_groups_stay_whole(max_rows, has_strata, n_rows, n_folds, seed):
    groups = random_groups(n_rows, seed)
    strata = groups % 3 if has_strata else None
    folds = make_folds(n_rows, n_folds, seed, groups, strata, max_rows)
    for group in np.unique(groups):
        assert len(np.unique(folds[groups == group])) == 1


@pytest.mark.parametrize(("n_rows", "n_folds"), SIZES[3:])
def test_folds_of_groups_differ_by_a_group_at_most(n_rows, n_folds, seed):
    groups = random_groups(n_rows, seed)
    folds = make_folds(n_rows, n_folds, seed, groups)
    assert folds.min() == 0
    assert np.ptp(sizes_of(folds, n_folds)) <= np.bincount(groups).max()


def test_groups_of_one_row_are_rows():
    groups = np.random.default_rng(0).permutation(60)
    folds = make_folds(60, 5, 0, groups)
    assert sizes_of(folds, 5).tolist() == [12] * 5


def test_numbers_of_groups_do_not_matter():
    groups = random_groups(100, 0)
    folds = make_folds(100, 5, 0, groups)
    assert np.array_equal(folds, make_folds(100, 5, 0, 7 * groups + 2))


def test_one_large_group_has_a_fold_to_itself():
    groups = np.r_[np.zeros(50, int), 1:51]
    folds = make_folds(100, 5, 0, groups)
    assert np.sum(folds == folds[0]) == 50
    others = np.delete(sizes_of(folds, 5), folds[0])
    assert np.ptp(others) <= 1


@pytest.mark.parametrize("max_rows", [1, 8, 19, 20, 100])
def test_a_fold_has_so_many_rows_at_most(max_rows, seed):
    whole = make_folds(100, 5, seed)
    folds = make_folds(100, 5, seed, max_rows=max_rows)
    assert sizes_of(folds, 5).tolist() == [min(max_rows, 20)] * 5
    left = folds >= 0
    assert np.array_equal(folds[left], whole[left])  # the others are in none


@pytest.mark.parametrize("max_rows", [1, 8, 19])
def test_but_for_a_group(max_rows, seed):
    groups = random_groups(100, seed)
    sizes = sizes_of(make_folds(100, 5, seed, groups, max_rows=max_rows), 5)
    assert np.all(sizes >= min(max_rows, 15))
    assert np.all(sizes < max_rows + np.bincount(groups).max())


def test_rows_beyond_are_left_out_at_random():
    strata = np.arange(1000) % 2
    folds = make_folds(1000, 2, 0, strata=strata, max_rows=200)
    for fold in range(2):
        assert 60 < np.sum(strata[folds == fold]) < 140
        assert 60 < np.sum(np.flatnonzero(folds == fold) < 500) < 140


# What the estimators make of them


class Rows(Callback):
    """Look at which rows each model trains on, and which judge it, by their first column."""

    def on_epoch_begin(self, net, dataset_train=None, dataset_valid=None, **kwargs):
        self.train = self.read(dataset_train)
        self.valid = None if dataset_valid is None else self.read(dataset_valid)

    def read(self, rows):
        ((batch, counts),) = batches(rows, len(rows))
        column = batch.v1[:, :, 0]
        return [column[m, :n].numpy().round(4).tolist() for m, n in enumerate(counts)]


KINDS = [GaussianVAE, GaussianVAERegressor, GaussianVAEClassifier]


def fit(kind, X, y, n_estimators, net_params=None, groups=None, **params):
    rows = Rows()
    params = {"max_epochs": 1, "hidden_layer_sizes": (4,), "random_state": 0, **params}
    net_params = {"callbacks": [rows], **(net_params or {})}
    model = kind(1, n_estimators=n_estimators, net_params=net_params, **params)
    return model.fit(X, y, groups=groups), rows


@pytest.fixture(scope="module")
def table():
    X = np.random.default_rng(0).standard_normal((97, 2))
    X[:, 0] = np.pi * np.arange(97) - 100  # no integers, which the model sees last
    return X, (np.arange(97) % 3 == 0).astype(int)


pytestmark = pytest.mark.filterwarnings("ignore::skgvae.PosteriorCollapseWarning")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_estimators", [1, 2, 5, 7])
def test_each_model_is_judged_by_a_fold_that_it_does_not_see(n_estimators, kind, table):
    _, rows = fit(kind, *table, n_estimators)
    everything = {*rows.train[0], *rows.valid[0]}
    assert len(everything) == 97
    assert len(rows.train) == len(rows.valid) == n_estimators
    for train, valid in zip(rows.train, rows.valid, strict=True):
        assert not set(train) & set(valid)
        assert set(train) | set(valid) == everything
    judged = [row for valid in rows.valid for row in valid]
    assert len(judged) == len(set(judged))  # one partition for all
    n_folds = max(n_estimators, 5) if n_estimators > 1 else 10
    assert len(judged) == pytest.approx(97 * n_estimators / n_folds, abs=n_estimators)


@pytest.mark.parametrize("kind", KINDS)
def test_groups_are_held_out_together(kind, table):
    X, y = table
    groups = np.arange(97) // 4
    _, rows = fit(kind, X, y, 5, groups=[f"object {g}" for g in groups])
    places = {value: i for i, value in enumerate(sorted({*rows.train[0], *rows.valid[0]}))}
    for valid in rows.valid:
        held_out = np.isin(np.arange(97), [places[row] for row in valid])
        for group in np.unique(groups):
            assert len(set(held_out[groups == group])) == 1


def test_each_class_judges_each_model(table):
    X, y = table
    y = np.where(np.arange(97) % 4 == 1, "unknown", np.array(["a", "b"])[y])
    _, rows = fit(GaussianVAEClassifier, X, y, 5, unlabeled="unknown")
    order = sorted({*rows.train[0], *rows.valid[0]})
    for valid in rows.valid:
        labels = y[np.searchsorted(order, valid)]
        for name in np.unique(y):
            assert np.sum(labels == name) == pytest.approx(np.sum(y == name) / 5, abs=1)


@pytest.mark.parametrize("kind", KINDS)
def test_judges_are_few_where_rows_are_many(kind, table, monkeypatch):
    monkeypatch.setattr("skgvae._recipe.MAX_JUDGED", 4)
    _, rows = fit(kind, *table, 5)
    assert [len(valid) for valid in rows.valid] == [4] * 5
    assert [len(train) for train in rows.train] == [93] * 5  # the others train


@pytest.mark.parametrize("kind", KINDS)
def test_without_held_out_rows_all_train(kind, table):
    _, rows = fit(kind, *table, 3, validation_fraction=None)
    assert rows.valid is None
    assert [len(set(train)) for train in rows.train] == [97] * 3


@pytest.mark.parametrize("net_params", [{}, {"patience": 1}, {"gradient_clip": 1.0}, {"lr": 0.1}])
def test_parameters_of_the_net_change_no_fold(net_params, table):
    model, rows = fit(GaussianVAE, *table, 5, net_params)
    _, plain = fit(GaussianVAE, *table, 5)
    assert rows.valid == plain.valid
    assert rows.train == plain.train
    assert len(model.modules_) == 5
