"""Copies of rows count once, and rows of one group stay on one side of every split."""

from contextlib import nullcontext

import numpy as np
import pytest
from sklearn.datasets import load_diabetes, load_wine
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, GroupKFold
from skorch.callbacks import Callback

from skgvae import GaussianVAE, GaussianVAEClassifier, GaussianVAERegressor
from skgvae._groups import merge_copies
from skgvae._recipe import MIN_TRAINING_ROWS

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
        counter = CountSteps()
        params = {"n_estimators": 1, "validation_fraction": None, "batch_size": 1}
        params |= FAST | {"max_epochs": 1, "net_params": {"callbacks": [counter]}}
        GaussianVAE(1, **params).fit(rows)
        n_steps.append(counter.n_steps)
    assert n_steps[0] == len(X) > n_steps[1]


class CountSteps(Callback):
    n_steps = 0

    def on_grad_computed(self, net, **kwargs):
        self.n_steps += 1


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
    X = np.c_[np.pi * groups - 100, objects[groups] + 0.01 * rng.standard_normal((600, 2))]
    y = groups % 2
    model = kind(2, n_estimators=1, **FAST)
    ((train, valid),) = _rows_of_splits(model, X, y, groups=groups.astype(str))
    train, valid = (set(part[:, 0].tolist()) for part in (train, valid))
    assert len(train | valid) == 120
    assert len(valid) >= 3
    assert not train & valid


def test_measurements_of_one_object_do_not_look_like_others():
    # Ten noisy measurements of each of 25 objects: by rows, memorising objects looks like skill.
    rng = np.random.default_rng(0)
    objects = rng.standard_normal((45, 4))
    groups = np.repeat(np.arange(25), 10)
    X = objects[groups] + 0.02 * rng.standard_normal((250, 4))
    fresh = objects[25:] + 0.02 * rng.standard_normal((20, 4))
    params = {"hidden_layer_sizes": (32,), "max_epochs": 60, "random_state": 0}
    by_row, by_group = (
        GaussianVAE(prior="standard", **params).fit(X, groups=g).score(fresh)
        for g in (None, groups)
    )
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


@pytest.mark.parametrize("n", [2, 3, 4, 5, 8, 9, 10, 20])
@pytest.mark.parametrize("kind", [GaussianVAE, GaussianVAERegressor])
def test_training_of_few_rows_does_no_harm(kind, n):
    for seed in range(2):
        rng = np.random.default_rng(n + 100 * seed)
        X, fresh = rng.standard_normal((n, 3)), rng.standard_normal((200, 3))
        y, fresh_y = (x[:, 0] + 0.5 * seed * rng.standard_normal(len(x)) for x in (X, fresh))
        warns = pytest.warns(UserWarning, match=f"{n} rows or groups are too few to judge")
        with warns if n < MIN_TRAINING_ROWS else nullcontext():
            model = kind(random_state=0).fit(X, y)
        assert (model.n_epochs_ == 0) == (n < MIN_TRAINING_ROWS)
        start = kind(random_state=0, max_epochs=0).fit(X, y)
        rows = (fresh,) if kind is GaussianVAE else (fresh, fresh_y)
        assert model.score_samples(*rows).mean() > start.score_samples(*rows).mean() - 3


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


@pytest.mark.parametrize("n", [20, 40, 80])
def test_few_rows_do_not_ruin_the_classifiers_estimate_of_the_target(n):
    rng = np.random.default_rng(0)
    X, V, y = rng.standard_normal((n, 3)), rng.standard_normal((n, 2)), np.arange(n) % 2
    model = GaussianVAEClassifier(max_epochs=300, random_state=0).fit(X, y, X_target=V)
    mean, std = model.predict_target(rng.standard_normal((500, 3)), return_std=True)
    t = (rng.standard_normal((500, 2)) - mean) / std
    assert np.mean(0.5 * t**2 + np.log(std)) < 1.2  # 0.5 at best


def test_one_group_keeps_the_start():
    X = np.random.default_rng(0).standard_normal((40, 2))
    with pytest.warns(UserWarning, match="1 rows or groups are too few"):
        GaussianVAE(random_state=0).fit(X, groups=np.zeros(40))


def test_few_objects_with_many_rows_judge_training():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((180, 3))
    y = X[:, 0] + 0.1 * rng.standard_normal(180)
    groups = np.arange(180) // 30
    model = GaussianVAERegressor(n_estimators=1, random_state=0).fit(X, y, groups=groups)
    assert model.score(X, y) > 0.9
    assert "valid_loss" in model.history_[0]
    vae = GaussianVAE(2, **FAST).fit(X, groups=groups)
    assert "valid_loss" in vae.history_[0]


@pytest.mark.parametrize("kind", [GaussianVAE, GaussianVAERegressor, GaussianVAEClassifier])
def test_groups_beside_weights_of_zero(kind):
    rng = np.random.default_rng(0)
    X, groups = rng.standard_normal((240, 3)), np.arange(240) // 2
    y, weight = np.arange(240) % 2, np.r_[np.ones(120), np.zeros(120)]
    found = answers(kind, X, y, X, groups=groups, sample_weight=weight)
    np.testing.assert_allclose(
        found, answers(kind, X[:120], y[:120], X, groups=groups[:120]), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("groups", [[None, "a"], ["a", 1]])
def test_groups_that_cannot_be_sorted_are_refused(groups):
    groups = np.array(groups * 10, dtype=object)
    with pytest.raises(ValueError, match="groups must be all numbers or all strings"):
        GaussianVAE(**FAST).fit(np.eye(20)[:, :2], groups=groups)


def n_kept(*tables):
    return len(merge_copies(None, None, *tables)[2])


RNG = np.random.default_rng(0)
BINS = np.sort(RNG.random(8))
EVIDENCE = {
    "doses": np.c_[RNG.choice([0.1, 1, 10, 100], 300), RNG.integers(0, 2, 300)],
    "uneven bins": RNG.choice(BINS, (300, 2)),
    "few rows of uneven bins": RNG.choice(BINS, (100, 2)),
    "logarithms of counts": np.log1p(RNG.poisson(5, (100, 2))),
    "half zeros": np.where(RNG.random((300, 2)) < 0.5, 0, RNG.standard_normal((300, 2))),
    "zipf": RNG.zipf(1.7, (300, 1)).astype(float),
    "codes": RNG.choice([101.0, 205.0, 333.0], (300, 1)),
    "counts": RNG.negative_binomial(2, 0.02, (200, 1)).astype(float),
    "rounded": RNG.standard_normal((300, 1)).round(2),
    "geometric": RNG.geometric(0.1, (90, 1)).astype(float),
}


@pytest.mark.parametrize("name", EVIDENCE)
def test_equal_rows_of_uneven_grids_and_counts_are_evidence(name):
    X = EVIDENCE[name]
    assert len(np.unique(X, axis=0)) < len(X)
    assert n_kept(X) == len(X)


NOISE = 1e-10 * RNG.standard_normal((4, 442, 10))
COPIES = {
    "repeated": lambda X: np.repeat(X, 4, axis=0),
    "appended": lambda X: np.tile(X, (3, 1)),
    "drawn": lambda X: np.r_[X, X[np.random.default_rng(0).integers(0, len(X), len(X))]],
    "in float32": lambda X: np.r_[X, X.astype(np.float32)],
    "but for rounding": lambda X: np.concatenate([X + noise for noise in NOISE]),
    "few of them often": lambda X: np.r_[X, np.repeat(X[:10], 100, axis=0)],
}


@pytest.mark.parametrize("how", COPIES)
def test_copies_of_continuous_rows_count_once(how):
    X, _ = load_diabetes(return_X_y=True)
    assert n_kept(COPIES[how](X)) == len(X)


@pytest.mark.parametrize("n", [3, 5, 9, 30])
def test_copies_of_few_rows_count_once(n):
    X = np.random.default_rng(n).standard_normal((n, 3))
    assert n_kept(np.repeat(X, 4, axis=0)) == n


def test_zeros_in_half_of_the_cells_stay_evidence_beside_copies():
    X = EVIDENCE["half zeros"]
    n_zeros = np.sum(~X.any(1))
    assert n_kept(np.repeat(X, 4, axis=0)) == len(X) - n_zeros + 4 * n_zeros


@pytest.mark.parametrize("kind", [GaussianVAE, GaussianVAERegressor, GaussianVAEClassifier])
def test_copies_count_once_in_the_first_pass(kind):
    X, y = load_wine(return_X_y=True)
    plain = kind(2, **FAST).partial_fit(X, y)
    copied = kind(2, **FAST).partial_fit(np.repeat(X, 4, axis=0), np.repeat(y, 4))
    np.testing.assert_allclose(copied.transform(X), plain.transform(X), rtol=1e-4, atol=1e-4)


def test_a_start_of_two_rows_is_no_spike():
    rng = np.random.default_rng(0)
    fresh = rng.standard_normal((500, 3))
    for n in (2, 3, 4):
        X = rng.standard_normal((n, 3))
        vae = GaussianVAE(max_epochs=0, random_state=0).fit(X)
        diagonal = GaussianMixture(covariance_type="diag").fit(X)
        assert vae.score(fresh) > min(2 * diagonal.score(fresh), diagonal.score(fresh) - 10)
