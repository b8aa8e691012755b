"""``n_estimators``: several models from one fit, each judged by rows that it does not see."""

import copy
import pickle

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_wine
from sklearn.decomposition import FactorAnalysis
from skorch.callbacks import Callback
from torch import nn

from skgvae import GaussianVAE, GaussianVAEClassifier, GaussianVAERegressor
from skgvae._recipe import CLASSIFICATION, DENSITY, REGRESSION, recipe_for
from skgvae.nn import ClassifierHead, MixturePrior

FAST = {"max_epochs": 4, "hidden_layer_sizes": (8,), "n_draws": 64}
KINDS = {
    GaussianVAE: DENSITY,
    GaussianVAERegressor: REGRESSION,
    GaussianVAEClassifier: CLASSIFICATION,
}


@pytest.fixture(scope="module")
def diabetes():
    return load_diabetes(return_X_y=True)


@pytest.fixture(scope="module")
def ensemble(diabetes):
    return GaussianVAERegressor(n_estimators=3, random_state=0, **FAST).fit(*diabetes)


@pytest.fixture(scope="module")
def small():
    """Rows of three columns of which the first has no value twice, and two classes."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((93, 3)) @ rng.standard_normal((3, 3))
    return X, (X[:, 0] > 0).astype(int)


def alone(model, i):
    """Return a model that holds one module of an ensemble, with its share of the draws."""
    n_draws = -(-model.n_draws // len(model.modules_))
    state = model.__getstate__()
    state["_weights"] = {name: weights[[i]] for name, weights in state["_weights"].items()}
    state["_train_seeds"] = state["_train_seeds"][i : i + 1]
    single = clone(model)
    single.__setstate__({**state, "n_estimators": 1, "n_draws": n_draws})
    part = slice(i * n_draws, (i + 1) * n_draws)
    single._draws = lambda width=None: model._draws(width)[part]
    return single


class Watch(Callback):
    """Keeps what each fit trains on and is judged by, and the weights after each epoch."""

    def on_train_begin(self, net, X=None, y=None, **kwargs):
        self.train_ = self.valid_ = None
        self.weights_ = []

    def on_epoch_begin(self, net, dataset_train=None, dataset_valid=None, **kwargs):
        self.train_ = batch_of(dataset_train)
        self.valid_ = dataset_valid and batch_of(dataset_valid)

    def on_epoch_end(self, net, **kwargs):
        members = net.stack_.members
        self.weights_.append([copy.deepcopy(member.state_dict()) for member in members])

    def rows(self):
        """Return, for each model, its training rows and those that judge it."""
        return list(zip(self.train_, self.valid_, strict=True))


def batch_of(rows):
    """Return, for each model, its rows as they are named: by their first column."""
    places = torch.arange(len(rows)).expand(len(rows.counts), -1)
    v1 = rows.take(places.minimum(torch.tensor(rows.counts)[:, None] - 1)).v1
    return [frozenset(own[:n, 0].tolist()) for own, n in zip(v1, rows.counts, strict=True)]


# Folds


@pytest.mark.parametrize("fraction", ["auto", 0.3])
@pytest.mark.parametrize("n_estimators", [1, 2, 5, 7])
@pytest.mark.parametrize("kind", KINDS)
def test_each_model_is_judged_by_a_part_of_its_own(kind, n_estimators, fraction, small):
    watch = Watch()
    params = {"net_params": {"callbacks": [watch]}, "random_state": 0, **FAST}
    params |= {"n_estimators": n_estimators, "validation_fraction": fraction}
    model = kind(**params).fit(*small)
    assert len(model.modules_) == n_estimators
    n_folds = recipe_for(93, 3, model.get_params(deep=False), KINDS[kind]).n_folds
    everything = watch.train_[0] | watch.valid_[0]
    assert len(everything) == 93
    for train, valid in watch.rows():
        assert not train & valid
        assert train | valid == everything
        assert len(valid) in (93 // n_folds, 93 // n_folds + 1)
    n_parts = min(n_folds, n_estimators)  # those after the last begin again with the first
    assert len(frozenset.union(*watch.valid_[:n_parts])) == sum(map(len, watch.valid_[:n_parts]))
    assert watch.valid_[n_parts:] == watch.valid_[: n_estimators - n_parts]


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_fraction_all_models_see_all_rows(kind, small):
    watch = Watch()
    params = {"net_params": {"callbacks": [watch]}, "validation_fraction": None, **FAST}
    model = kind(n_estimators=3, random_state=0, **params).fit(*small)
    assert [len(rows) for rows in watch.train_] == [93] * 3
    assert watch.valid_ is None
    assert model.best_epoch_ == model.n_epochs_ == 4
    assert "valid_loss" not in model.history_[-1]


@pytest.mark.parametrize("n_estimators", [2, 5])
def test_all_models_keep_the_epoch_that_is_best_on_average(n_estimators, small):
    watch = Watch()
    params = {**FAST, "max_epochs": 30, "lr": 0.05, "net_params": {"callbacks": [watch]}}
    model = GaussianVAERegressor(n_estimators=n_estimators, random_state=0, **params)
    model.fit(small[0], small[0][:, 1] + 0.5 * np.random.default_rng(1).standard_normal(93))
    losses = np.array([record["valid_loss"] for record in model.net_.result_.records])
    assert losses.shape == (model.n_epochs_, n_estimators)
    own = [record["valid_loss"] for record in model.history_]
    np.testing.assert_allclose(own, losses.mean(1), rtol=1e-6)
    # Without a fifth of them at either end: one bad part must not choose.
    n_cut = n_estimators // 5
    judged = np.sort(losses, 1)[:, n_cut : n_estimators - n_cut].mean(1)
    assert model.best_epoch_ == 1 + np.argmin(judged) < model.n_epochs_
    assert len(set(losses.argmin(0))) > 1  # they would choose otherwise
    seen = watch.weights_[model.best_epoch_ - 1]
    for module, weights in zip(model.modules_, seen, strict=True):
        state, moved = module.state_dict(), ("decoder.log_scale.bias", "decoder.bound.centre")
        for name, weight in state.items():
            assert torch.equal(weight, weights[name]) or name in moved, name
        # The noise is scaled after training.
        torch.testing.assert_close(*(state[name] - weights[name] for name in moved))


def test_each_model_starts_from_its_own_rows(small):
    X, watch = small[0], Watch()
    params = {**FAST, "max_epochs": 1, "lr": 1e-20, "n_draws": 3 * 64}
    params |= {"prior": "standard", "net_params": {"callbacks": [watch]}}
    vae = GaussianVAE(2, n_estimators=3, min_noise=1e-3, random_state=0, **params).fit(X)
    places = np.argsort(np.argsort(X[:, 0]))  # among the values of the first column
    names = np.sort([*(watch.train_[0] | watch.valid_[0])])[places]
    classical = []
    for train, _ in watch.rows():
        own = np.array([name in train for name in names])
        classical.append(FactorAnalysis(2).fit(X[own]).score_samples(X))
    for i in (0, 2):  # the second starts at random
        found = alone(vae, i).score_samples(X)
        distances = [np.abs(found - expected).mean() for expected in classical]
        assert np.argmin(distances) == i
        assert distances[i] < 0.02


class Held(GaussianVAE):
    """Keeps which rows judged each model of each fit."""

    fits = []

    def _train(self, train, valid, *args, **params):
        self.fits.append([frozenset(map(tuple, rows.v1.tolist())) for rows in valid])
        super()._train(train, valid, *args, **params)


@pytest.mark.parametrize("n_estimators", [1, 3])
def test_a_model_that_goes_on_is_judged_by_the_same_rows(n_estimators, cancer):
    X, fits = cancer[:100, :4], Held.fits
    fits.clear()
    params = {"n_estimators": n_estimators, "warm_start": True, "random_state": None}
    model = Held(2, **{**FAST, **params}).fit(X)
    assert len(set(fits[0])) == n_estimators
    for other in (model, pickle.loads(pickle.dumps(model))):
        other.fit(X)
        assert fits[-1] == fits[0]
    model.set_params(warm_start=False).fit(X)
    assert fits[-1] != fits[0]  # without a seed


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_of_the_net_change_no_members_folds_or_starts(kind, small):
    watch = Watch()
    models = [
        kind(2, random_state=0, net_params=net_params, **FAST).fit(*small)
        for net_params in (None, {"callbacks": [watch]}, {"gradient_clip": 10.0})
    ]
    for model in models:
        assert len(model.modules_) == 5
        np.testing.assert_array_equal(model.transform(small[0]), models[0].transform(small[0]))
        assert model.history_ == models[0].history_


# Ensembles


def test_the_predictive_distribution_is_the_mixture_of_the_members(ensemble, diabetes):
    X, y = diabetes
    members = [alone(ensemble, i) for i in range(3)]
    densities = [member.score_samples(X, y) for member in members]
    mixture = np.logaddexp.reduce(densities, 0) - np.log(3)
    np.testing.assert_allclose(ensemble.score_samples(X, y), mixture, rtol=1e-6)
    means = np.array([member.predict(X) for member in members])
    np.testing.assert_allclose(ensemble.predict(X), means.mean(0), rtol=1e-6)
    stds = np.array([member.predict(X, return_std=True)[1] for member in members])
    total = np.sqrt((stds**2).mean(0) + means.var(0))
    np.testing.assert_allclose(ensemble.predict(X, return_std=True)[1], total, rtol=1e-6)
    noise, latent = ensemble.predict_variance(X)
    np.testing.assert_allclose(noise + latent, total**2, rtol=1e-6)
    variance = ensemble.predict(X, return_cov=True)[1]
    np.testing.assert_allclose(variance, total**2, rtol=1e-6)
    assert means.std(0).min() > 0  # members differ


def test_quantiles_and_draws_of_an_ensemble_agree(ensemble, diabetes):
    X, _ = diabetes
    quantiles = ensemble.predict_quantiles(X[:5], [0.1, 0.5, 0.9])
    draws = ensemble.sample(X[:5], 20_000, random_state=0)
    assert draws.shape == (20_000, 5)
    below = (draws[:, :, None] < quantiles).mean(0)
    np.testing.assert_allclose(below, np.tile([0.1, 0.5, 0.9], (5, 1)), atol=0.02)


@pytest.fixture(scope="module", params=[150, 569])
def densities(request, cancer):
    X = cancer[: request.param, :4]
    params = {**FAST, "columns": "continuous"}
    model = GaussianVAE(n_estimators=3, random_state=0, **params).fit(X)
    assert len(model.modules_) == 3
    return model, X, [alone(model, i) for i in range(3)]


def test_a_density_is_the_mean_of_the_members(densities):
    model, X, members = densities
    for method in "score_samples", "elbo":
        of_members = np.array([getattr(member, method)(X) for member in members])
        mixture = np.logaddexp.reduce(of_members, 0) - np.log(3)
        found = getattr(model, method)(X)
        if method == "elbo":
            np.testing.assert_allclose(found, mixture, rtol=1e-6)
        else:  # with other draws
            error = np.sqrt(np.sum([m.score_samples(X, return_std=True)[1] ** 2 for m in members]))
            assert abs(np.sum(found - mixture)) < 5 * error
            assert np.abs(found - mixture).mean() < 0.1
        assert of_members.std(0).min() > 0  # members differ
    parts = np.array([member.reconstruct(X, return_std=True) for member in members])
    mean, std = model.reconstruct(X, return_std=True)
    np.testing.assert_allclose(mean, parts[:, 0].mean(0), rtol=1e-6)
    expected = (parts[:, 1] ** 2).mean(0) + parts[:, 0].var(0)
    np.testing.assert_allclose(std**2, expected, rtol=1e-6)


def test_samples_of_an_ensemble_are_from_all_members(densities):
    model, _, members = densities
    rows = model.sample(6000, random_state=0)
    of_members = [m.sample(2000, random_state=i) for i, m in enumerate(members)]
    for column, mixed in zip(rows.T, np.concatenate(of_members).T, strict=True):
        assert stats.ks_2samp(column, mixed).pvalue > 1e-3
    for i in range(3):  # which would not tell the members apart
        moved = pickle.loads(pickle.dumps(model))
        with torch.no_grad():
            moved.modules_[i].decoder.loc.bias += 1000
        far = (moved.sample(6000, random_state=0)[:, 0] > 100 * rows[:, 0].max()).mean()
        assert far == pytest.approx(1 / 3, abs=0.03)


def test_what_is_said_of_the_latent_space_is_the_first_members(densities):
    model, X, members = densities
    np.testing.assert_array_equal(model.transform(X), members[0].transform(X))
    Z = model.transform(X)
    np.testing.assert_array_equal(model.inverse_transform(Z), members[0].inverse_transform(Z))
    assert [module.training for module in model.modules_] == [False] * 3
    assert model.module_ is model.modules_[0]


def test_a_callback_of_scikit_learn_sees_all_models_in_every_fit(cancer):
    callback = pytest.importorskip("sklearn.callback")
    X, scores = cancer[:100, :4], []

    class Scores:
        def setup(self, estimator, context):
            pass

        teardown = setup

        def on_fit_task_begin(self, estimator, context, *, fitted_estimator=None):
            pass

        def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
            if context.task_name == "epoch":
                assert len(fitted_estimator.modules_) == fitted_estimator.n_estimators
                scores.append(fitted_estimator.score(X))

    assert isinstance(Scores(), callback.FitCallback)
    model = GaussianVAE(2, random_state=0, **FAST).set_callbacks(Scores())
    fits = {}, {"n_components": 3}, {"n_estimators": 3, "validation_fraction": 0.2}
    for params in fits:
        model.set_params(**params).fit(X)
    model.set_params(warm_start=True, net_params={"patience": 1}).fit(X)
    assert len(scores) >= 3 * 4 + 1
    assert np.isfinite(scores).all()
    n_seen = len(scores)
    assert model.partial_fit(X).score(X) == pytest.approx(scores[-1], rel=1e-3)
    assert len(scores) == n_seen + 1


def test_how_many_models_there_are(cancer):
    def count(**params):
        params = {"random_state": 0, **FAST, **params}
        return len(GaussianVAE(2, **params).fit(cancer[:100]).modules_)

    assert count() == count(validation_fraction=0.2) == count(validation_fraction=None) == 5
    assert count(net_params={"gradient_clip": 1.0}) == 5
    assert count(net_params={"gradient_clip": 1.0}, n_estimators=2) == 2
    # Without training all would be one: the classical model of all rows.
    assert count(max_epochs=0) == count(max_epochs=0, n_estimators=3) == 1


def test_a_density_of_several_goes_on(cancer):
    X = cancer[:, :4]
    model = GaussianVAE(random_state=0, **FAST).partial_fit(X)
    assert len(model.modules_) == 5
    before = model.score(X)
    for _ in range(5):
        model.partial_fit(X)
    assert len(model.modules_) == 5
    assert model.score(X) > before
    loaded = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(loaded.score_samples(X), model.score_samples(X))
    np.testing.assert_array_equal(loaded.sample(9, 0), model.sample(9, 0))


@pytest.mark.parametrize("labels", ["all", "few"])
def test_class_probabilities_of_an_ensemble(labels):
    X, y = load_wine(return_X_y=True)
    y = np.where(np.arange(len(y)) % 3 > 0, -1, y) if labels == "few" else y
    unlabeled = -1 if labels == "few" else None
    params = {"n_estimators": 3, "unlabeled": unlabeled, "random_state": 0, **FAST}
    model = GaussianVAEClassifier(**params).fit(X, y)
    members = [alone(model, i).predict_proba(X) for i in range(3)]
    np.testing.assert_allclose(model.predict_proba(X), np.mean(members, 0), rtol=1e-5)
    assert np.std(members, 0).max() > 0


def test_an_ensemble_of_the_users_classifier():
    class Scores(nn.Module):
        def __init__(self, n_features, n_target_features, n_classes):
            super().__init__()
            self.scores = nn.Linear(n_features + n_target_features, n_classes)
            self.dropout = nn.Dropout(0.2)

        def forward(self, v1, v2):
            return self.scores(self.dropout(torch.cat([v1, v2], 1)))

    X, y = load_wine(return_X_y=True)
    params = {"n_estimators": 2, "random_state": 0, **FAST, "max_epochs": 20}
    model = GaussianVAEClassifier(classifier=Scores, **params).fit(X, y)
    assert model.score(X, y) > 0.9
    again = GaussianVAEClassifier(classifier=Scores, **params).fit(X, y)
    np.testing.assert_array_equal(model.predict_proba(X), again.predict_proba(X))


def test_ensembles_survive_pickling_and_go_on(ensemble, diabetes):
    X, y = diabetes
    loaded = pickle.loads(pickle.dumps(ensemble))
    np.testing.assert_array_equal(loaded.predict(X), ensemble.predict(X))
    one = GaussianVAERegressor(random_state=0, **FAST).fit(X, y)
    n_weights = sum(p.numel() for p in one.module_.parameters())
    assert len(pickle.dumps(loaded)) < len(pickle.dumps(one)) + 2 * 4 * n_weights + 10_000
    before, module = loaded.score_samples(X, y).mean(), loaded.module_
    loaded.set_params(lr=2e-3)
    for _ in range(5):
        loaded.partial_fit(X, y)
    assert len(loaded.modules_) == 3
    assert loaded.module_ is module  # the same latent space
    assert loaded.score_samples(X, y).mean() > before
    steps = {int(state["step"]) for state in loaded.net_.optimizer_.state.values()}
    assert steps == {5 * -(-len(X) // loaded.net_.batch_size)}  # one optimizer, not five
    assert loaded.n_epochs_ == len(loaded.history_) == 9


def test_a_callback_keeps_what_it_saw(diabetes):
    class Losses(Callback):
        def initialize(self):
            self.seen_ = []
            return self

        def on_epoch_end(self, net, **kwargs):
            self.seen_.append(net.history[-1]["valid_loss"])

    losses = Losses()
    params = {"net_params": {"callbacks": [losses]}, "random_state": 0, **FAST}
    model = GaussianVAERegressor(n_estimators=3, **params).fit(*diabetes)
    assert losses.seen_ == [record["valid_loss"] for record in model.history_]


def test_few_labels_weigh_the_same_for_every_member():
    X, y = load_wine(return_X_y=True)
    y = np.where(np.arange(len(y)) % 20 == 0, y, -1)
    spreads = []

    class Weights(Callback):
        def on_epoch_begin(self, net, dataset_train=None, **kwargs):
            shortest = min(dataset_train.counts)
            places = torch.arange(shortest).expand(len(dataset_train.counts), -1)
            spreads.append(dataset_train.take(places).weight.std(1).tolist())

    params = {"net_params": {"callbacks": [Weights()]}, "random_state": 0, **FAST}
    GaussianVAEClassifier(n_estimators=3, unlabeled=-1, **params).fit(X, y)
    assert spreads[0] == pytest.approx([spreads[0][0]] * 3, rel=0.1)
    assert spreads[0][0] > 0


def test_tied_weights_stay_tied():
    class Tied(nn.Module):
        def __init__(self, n_features, n_target_features, n_classes):
            super().__init__()
            self.a = nn.Linear(n_features + n_target_features, 8)
            self.b = nn.Linear(n_features + n_target_features, 8)
            self.b.weight = self.a.weight
            self.scores = nn.Linear(8, n_classes)

        def forward(self, v1, v2):
            x = torch.cat([v1, v2], 1)
            return self.scores(torch.tanh(self.a(x)) + torch.relu(self.b(x)))

    X, y = load_wine(return_X_y=True)
    for n in (1, 2):
        model = GaussianVAEClassifier(classifier=Tied, n_estimators=n, random_state=0, **FAST)
        classifier = model.fit(X, y).module_.classifier
        assert classifier.a.weight is classifier.b.weight


def test_networks_that_know_one_model_alone_are_trained_in_turn():
    class Recurrent(nn.Module):
        def __init__(self, n_features, n_target_features, n_classes):
            super().__init__()
            self.gru = nn.GRU(n_features + n_target_features, n_classes)

        def forward(self, v1, v2):
            return self.gru(torch.cat([v1, v2], 1)[None])[0][0]

    X, y = load_wine(return_X_y=True)
    params = {"classifier": Recurrent, "random_state": 0, "n_estimators": 2, **FAST}
    model = GaussianVAEClassifier(**params).fit(X, y)
    first, second = (module.classifier.gru.weight_hh_l0 for module in model.modules_)
    assert not torch.equal(first, second)
    assert np.isfinite(model.predict_proba(X)).all()


def test_own_classifiers_and_few_labels_change_no_number_of_models():
    X, y = load_wine(return_X_y=True)
    model = GaussianVAEClassifier(random_state=0, **FAST)
    assert len(model.fit(X, y).modules_) == 5
    own = clone(model).set_params(classifier=ClassifierHead)
    assert len(own.fit(X, y).modules_) == 5
    few = clone(model).set_params(unlabeled=-1, warm_start=True)
    hidden = np.where(np.arange(178) % 2, y, -1)
    assert len(few.fit(X, hidden).modules_) == 5
    assert len(few.fit(X, y).modules_) == 5  # continued


def test_a_prior_of_the_user_is_copied_for_every_model(iris):
    prior = MixturePrior(2, 3)
    before = prior.means.clone()
    params = {"net_params": {"module__prior": prior}, "random_state": 0}
    vae = GaussianVAE(2, n_estimators=2, validation_fraction=None, **params, **FAST).fit(iris)
    assert vae.n_prior_components_ == 3
    assert torch.equal(prior.means, before)
    for module in vae.modules_:
        assert module.prior.n_components == 3
        assert not torch.equal(module.prior.means, before)


def test_a_failure_after_a_member_has_diverged_restores_all(diabetes):
    class Fails(Callback):
        fails = False

        def on_grad_computed(self, net, named_parameters, training=False, **kwargs):
            if self.fails:
                for _, parameter in named_parameters:
                    parameter.grad[1] = torch.nan

        def on_epoch_end(self, net, **kwargs):
            if self.fails and len(net.history) == 2:
                raise RuntimeError("broken")

    X, y = diabetes
    callback = Fails()
    params = {"net_params": {"callbacks": [callback]}, "random_state": 0, "warm_start": True}
    model = GaussianVAERegressor(n_estimators=3, **params, **FAST).fit(X, y)
    before = model.predict(X)
    callback.fails = True
    with (
        pytest.warns(RuntimeWarning, match="not finite in epoch 1 for 1 of 3 models"),
        pytest.raises(RuntimeError, match="broken"),
    ):
        model.fit(X, y)
    np.testing.assert_array_equal(model.predict(X), before)
    callback.fails = False
    assert len(model.partial_fit(X, y).modules_) == 3


def test_an_optimizer_whose_state_has_other_shapes(diabetes):
    params = {"net_params": {"optimizer": torch.optim.Adafactor, "patience": 2}}
    model = GaussianVAERegressor(
        n_estimators=3, random_state=0, **params, **{**FAST, "max_epochs": 30}
    )
    assert np.isfinite(model.fit(*diabetes).score(*diabetes))


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_a_failed_continuation_leaves_every_member_as_it_was(method, diabetes):
    class Fails(Callback):
        fails = False

        def on_epoch_end(self, net, **kwargs):
            if self.fails:
                raise RuntimeError("broken")

    X, y = diabetes
    callback = Fails()
    params = {"warm_start": True, "net_params": {"callbacks": [callback]}, "random_state": 0}
    model = GaussianVAERegressor(n_estimators=2, **params, **FAST).fit(X, y)
    before = model.predict(X)
    callback.fails = True
    with pytest.raises(RuntimeError, match="broken"):
        getattr(model, method)(X, y)
    np.testing.assert_array_equal(model.predict(X), before)
    callback.fails = False
    model.partial_fit(X, y)
    assert not np.array_equal(model.predict(X), before)


def test_warm_start_goes_on_with_every_member(diabetes):
    X, y = diabetes
    params = {"n_estimators": 2, "random_state": 0, "warm_start": True, **FAST}
    model = GaussianVAERegressor(**params).fit(X, y)
    before = model.score_samples(X, y).mean()
    assert model.set_params(max_epochs=40).fit(X, y).score_samples(X, y).mean() > before
    assert len(model.modules_) == 2


def test_draws_are_shared_out_between_the_members(ensemble, diabetes):
    loc, scale = ensemble._predict_components(diabetes[0][:3])
    assert loc.shape == scale.shape == (3 * 22, 3, 1)  # 64 draws for three
    assert len(ensemble._draws()) == 3 * 22


def test_partial_fit_from_the_start(diabetes):
    X, y = diabetes
    model = GaussianVAERegressor(n_estimators=3, random_state=0, **FAST)
    scores = [model.partial_fit(X, y).score_samples(X, y).mean() for _ in range(10)]
    assert len(model.modules_) == 3
    assert scores[-1] > scores[0]


# Wide components


def with_share(wide_share, X, y, **params):
    model = GaussianVAERegressor(random_state=0, **params).fit(X, y)
    model._correction = model._correction._replace(wide_share=wide_share)
    return model


def test_wide_components_have_a_larger_scale(diabetes):
    X, y = diabetes
    y = y + np.random.default_rng(0).uniform(size=len(y))  # of integers there are no densities
    params = {"n_estimators": 3, **FAST, "n_draws": 120}
    model, plain = (with_share(share, X, y, **params) for share in (1 / 60, 0.0))
    loc, scale = (part[..., 0] for part in model._predict_components(X))
    plain_loc, plain_scale = (part[..., 0] for part in plain._predict_components(X))
    np.testing.assert_array_equal(loc, plain_loc)
    is_wide = np.isin(np.arange(120), [59, 119])
    np.testing.assert_allclose(scale[is_wide], 3 * plain_scale[is_wide])
    np.testing.assert_array_equal(scale[~is_wide], plain_scale[~is_wide])
    mean, std = model.predict(X, return_std=True)
    np.testing.assert_allclose(mean, loc.mean(0))
    np.testing.assert_allclose(std**2, (scale**2).mean(0) + loc.var(0), rtol=1e-6)
    expected = stats.norm(loc, scale).pdf(y).mean(0)
    np.testing.assert_allclose(model.score_samples(X, y), np.log(expected), rtol=1e-6)
    draws = model.sample(X[:4], 200_000, random_state=0)
    np.testing.assert_allclose(draws.std(0), std[:4], rtol=0.02)
    far = model.predict(X[:1]) + 12 * std[0]
    assert model.score_samples(X[:1], far) > plain.score_samples(X[:1], far) + 10


def test_few_components_have_none_that_is_wide(diabetes):
    X, y = diabetes
    params = {"n_estimators": 1, **FAST, "n_draws": 64}
    densities = [with_share(w, X, y, **params).score_samples(X, y) for w in (1 / 256, 0.0)]
    np.testing.assert_array_equal(*densities)
