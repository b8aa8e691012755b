"""Training that goes on, is interrupted or saved in between: partial_fit, warm_start, Ctrl-C."""

import pickle

import joblib
import numpy as np
import pandas as pd
import pytest
from skorch.callbacks import Callback, Freezer

from skgvae import GaussianVAE, GaussianVAEClassifier, GaussianVAERegressor
from skgvae.model_selection import StackedGridSearchCV
from skgvae.net import GaussianVAENet
from skgvae.nn import MixturePrior

KINDS = [GaussianVAE, GaussianVAERegressor, GaussianVAEClassifier]
FAST = {"max_epochs": 5, "hidden_layer_sizes": (8,), "random_state": 0}


@pytest.fixture(scope="module", name="X")
def rows():
    rng = np.random.default_rng(0)
    return rng.standard_normal((120, 5)) @ (np.eye(5) + 0.5 * rng.standard_normal((5, 5)))


def target(X, kind):
    return (X[:, 0] > 0).astype(int) if kind is GaussianVAEClassifier else X[:, 0]


@pytest.mark.parametrize("kind", KINDS)
def test_later_passes_may_have_one_row(kind, X):
    y = target(X, kind)
    model = kind(**FAST).fit(X, y)
    before = model.transform(X)
    model.partial_fit(X[:1], y[:1])
    weight = np.r_[1.0, np.zeros(len(X) - 1)]
    model.partial_fit(X, y, sample_weight=weight)
    assert np.isfinite(model.transform(X)).all()
    assert not np.array_equal(model.transform(X), before)
    with pytest.raises(ValueError, match="minimum of 2"):
        kind(**FAST).partial_fit(X[:1], y[:1])


@pytest.mark.parametrize("kind", [GaussianVAE, GaussianVAERegressor])
@pytest.mark.parametrize("large", [1.0, 1e4])
def test_a_column_that_varies_late_gets_its_units_then(kind, large):
    rng = np.random.default_rng(0)
    first, later = rng.standard_normal((2, 200, 3))
    first[:, 1], later[:, 1] = 7.0, 7.0 + large * later[:, 1]
    late = kind(2, n_estimators=1, random_state=0).partial_fit(first, first[:, 0])
    known = kind(2, n_estimators=1, random_state=0)
    for _ in range(20):
        late.partial_fit(later, later[:, 0])
        known.partial_fit(later, later[:, 0])
    if kind is GaussianVAE:
        assert late.score(later) > known.score(later) - 1
    else:
        assert late.score(later, later[:, 0]) > known.score(later, later[:, 0]) - 0.1


@pytest.mark.parametrize("kind", [GaussianVAE, GaussianVAERegressor])
def test_warm_start_learns_the_units_of_a_column_that_varies_late(kind, X):
    first, later = X.copy(), X.copy()
    first[:, 2], later[:, 2] = 0.0, 1e4 * X[:, 2]
    params = {"warm_start": True, "max_epochs": 60, "random_state": 0, "n_estimators": 1}
    model = kind(2, **params).fit(first, X[:, 0]).fit(later, X[:, 0])
    fresh = kind(2, **params).fit(later, X[:, 0])
    y = () if kind is GaussianVAE else (X[:, 0],)
    assert model.score(later, *y) > fresh.score(later, *y) - 1


def test_a_column_that_differs_from_call_to_call_gets_units(X):
    model = GaussianVAERegressor(2, n_estimators=1, random_state=0)
    levels = np.repeat(1e4 * (np.arange(6) - 2.5), 20)
    rows = np.c_[X[:, :2], levels]
    y = rows[:, 0] + levels / 1e4
    for _ in range(40):
        for part in np.arange(120).reshape(6, 20):
            model.partial_fit(rows[part], y[part])
    assert model.score(rows, y) > 0.5


def test_rows_far_from_the_first_are_warned_of(X):
    model = GaussianVAE(2, **FAST).partial_fit(X)
    with pytest.warns(UserWarning, match="standard deviations from the mean of the first rows"):
        model.partial_fit(1e5 * X)


def test_a_target_that_varies_late_gets_its_units_then(X):
    model = GaussianVAERegressor(2, n_estimators=1, random_state=0)
    model.partial_fit(X, np.full(len(X), 3.0))
    for _ in range(30):
        model.partial_fit(X, 1e4 * X[:, 0])
    assert model.score(X, 1e4 * X[:, 0]) > 0.8


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "changed",
    [{"net_params": {"lr": 1e-12}}, {"device": "meta"}],
    ids=["net_params", "device"],
)
def test_partial_fit_refuses_what_it_would_ignore(kind, changed, X):
    y = target(X, kind)
    model = kind(**FAST).fit(X, y).set_params(**changed)
    (name,) = changed
    with pytest.raises(ValueError, match=f"^{name}="):
        model.partial_fit(X, y)


def test_partial_fit_compares_arrays_in_net_params(X, tmp_path):
    vae = GaussianVAE(2, **FAST, net_params={"module__min_noise": np.full(5, 0.1)}).fit(X)
    joblib.dump(vae.set_params(device=vae.device), tmp_path / "model")
    joblib.load(tmp_path / "model").partial_fit(X)
    with pytest.raises(ValueError, match="net_params="):
        vae.set_params(net_params={"module__min_noise": np.full(5, 0.2)}).partial_fit(X)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("with_fit", "n_passes"), [(True, 0), (True, 2), (False, 2)])
@pytest.mark.parametrize("copy", [lambda m: pickle.loads(pickle.dumps(m)), joblib.hash])
def test_saving_between_passes_changes_nothing(kind, with_fit, n_passes, copy, X):
    y = target(X, kind)
    model, twin = (kind(2, **FAST) for _ in range(2))
    for m in model, twin:
        m = m.fit(X, y) if with_fit else m
        for _ in range(n_passes):
            m.partial_fit(X, y)
    copied = copy(model)
    model = model if isinstance(copied, str) else copied
    np.testing.assert_array_equal(
        model.partial_fit(X, y).transform(X), twin.partial_fit(X, y).transform(X)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_warm_start_knows_the_columns_by_name(kind, X):
    frame = pd.DataFrame(X, columns=list("abcde"))
    y = target(X, kind)
    model = kind(warm_start=True, **FAST).fit(frame, y)
    before = model.transform(frame)
    for wrong in frame[list("edcba")], frame.rename(columns={"a": "z"}):
        with pytest.raises(ValueError, match="feature names should match"):
            model.fit(wrong, y)
    assert list(model.feature_names_in_) == list("abcde")
    np.testing.assert_array_equal(model.transform(frame), before)


class InterruptAt(Callback):
    def __init__(self, epoch):
        self.epoch = epoch

    def on_epoch_begin(self, net, **kwargs):
        if len(net.history) == self.epoch:
            raise KeyboardInterrupt


@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupt_keeps_the_best_epoch_and_goes_on(kind, X):
    y = target(X, kind)
    callback = InterruptAt(4)
    params = FAST | {"max_epochs": 30, "net_params": {"callbacks": [callback]}}
    model = kind(2, **params)
    with pytest.raises(KeyboardInterrupt, match="epoch 4"):
        model.fit(X, y)
    assert model.n_epochs_ == len(model.history_) == 3
    assert model.best_epoch_ <= 3
    assert np.isfinite(model.transform(X)).all()
    callback.epoch = None
    loaded = pickle.loads(pickle.dumps(model))
    for m in model, loaded:  # nothing is left of the epoch that did not end
        assert m.partial_fit(X, y).best_epoch_ == m.n_epochs_ == 4
    np.testing.assert_array_equal(loaded.transform(X), model.transform(X))


@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupted_pass_is_none(kind, X):
    y = target(X, kind)
    net_params = {"callbacks": [InterruptAt(3)]}
    model = kind(2, **FAST, net_params=net_params).partial_fit(X, y).partial_fit(X, y)
    before = model.transform(X)
    with pytest.raises(KeyboardInterrupt):
        model.partial_fit(X, y)
    np.testing.assert_array_equal(model.transform(X), before)
    assert model.n_epochs_ == 2
    model.net_.callbacks_ = [c for c in model.net_.callbacks_ if not isinstance(c[1], InterruptAt)]
    assert model.partial_fit(X, y).n_epochs_ == 3  # nothing is left of the interrupt


def test_an_interrupt_ends_a_search(X, monkeypatch):
    # In the common training, as Ctrl-C does.
    own, n_models = GaussianVAENet.record, []

    def interrupt(self, values):
        own(self, values)
        n_models.append(len(self.stack_))
        if len(n_models) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(GaussianVAENet, "record", interrupt)
    search = StackedGridSearchCV(GaussianVAE(1, **FAST), {"kl_weight": [0.5, 1.0]}, cv=2)
    with pytest.raises(KeyboardInterrupt):
        search.fit(X)
    assert n_models == [4 * search.estimator.n_estimators] * 3
    assert not hasattr(search, "cv_results_")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "changed", [{"net_params": {"module__linear": False, "lr": -1.0}}, {"device": "foo"}]
)
def test_fitted_state_does_not_depend_on_later_parameters(kind, changed, X):
    model = kind(2, **FAST, net_params={"module__linear": True}).fit(X, target(X, kind))
    expected = model.transform(X)
    loaded = pickle.loads(pickle.dumps(model.set_params(**changed)))
    np.testing.assert_array_equal(loaded.transform(X), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_memory_mapped_model_answers_and_trains_on(kind, X, tmp_path):
    y = target(X, kind)
    model = kind(2, **FAST).fit(X, y)
    joblib.dump(model, tmp_path / "model")
    loaded = joblib.load(tmp_path / "model", mmap_mode="r")  # warnings are errors
    names = ["transform", "score_samples", "reconstruct", "predict", "predict_proba"]
    for name in names:
        if hasattr(model, name):
            np.testing.assert_array_equal(getattr(loaded, name)(X), getattr(model, name)(X))
    loaded.partial_fit(X, y)


def test_number_of_components_is_that_of_the_module(X):
    net_params = {"module__prior": MixturePrior(2, 3)}
    vae = GaussianVAE(2, **FAST, net_params=net_params).fit(X)
    assert vae.n_prior_components_ == vae.module_.prior.n_components == 3


def test_passes_keep_the_users_own_rate_and_batch_size(X):
    groups = [("decoder*", {"lr": 1e-7})]
    for net_params, rates, batch_size in (
        ({"optimizer__lr": 1e-6}, [1e-6], 16),
        ({"batch_size": 7}, [0.014], 7),
        ({"optimizer__param_groups": groups}, [1e-7, 0.014], 16),
    ):
        vae = GaussianVAE(2, net_params=net_params, **FAST)
        for _ in range(2):
            vae.partial_fit(X)
            assert [group["lr"] for group in vae.net_.optimizer_.param_groups] == rates
            assert vae.net_.batch_size == batch_size


def test_what_a_callback_froze_stays_frozen_in_later_passes(X):
    net_params = {"callbacks": [Freezer("encoder*")]}
    vae = GaussianVAE(2, n_estimators=2, net_params=net_params, **FAST).fit(X)
    before = vae.transform(X)
    np.testing.assert_array_equal(vae.partial_fit(X).transform(X), before)


def test_a_pass_over_one_row_does_not_forget_where_the_others_are(X):
    vae = GaussianVAE(2, **FAST).fit(X)
    before = vae.score_samples(X)
    vae.set_params(lr=1e-12).partial_fit(X[:1])
    np.testing.assert_allclose(vae.score_samples(X), before, atol=1e-4)
