"""``n_init`` and ``n_estimators``: many models from one fit."""

import copy
import pickle

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_wine
from skorch.callbacks import Callback
from torch import nn

from skgvae import GaussianVAE, GaussianVAEClassifier, GaussianVAERegressor
from skgvae.nn import ClassifierHead, MixturePrior

FAST = {"max_epochs": 4, "hidden_layer_sizes": (8,), "n_draws": 64}


@pytest.fixture(scope="module")
def diabetes():
    return load_diabetes(return_X_y=True)


@pytest.fixture(scope="module")
def ensemble(diabetes):
    return GaussianVAERegressor(n_estimators=3, random_state=0, **FAST).fit(*diabetes)


def alone(model, i, X, y):
    """Return a model that holds one module of an ensemble, with its share of the draws."""
    single = pickle.loads(pickle.dumps(model))
    n_draws = -(-model.n_draws // len(model.modules_))
    single.set_params(n_estimators=1, n_draws=n_draws)
    single._keep_modules([i])
    part = slice(i * n_draws, (i + 1) * n_draws)
    single._draws = lambda width=None: model._draws(width)[part]
    if hasattr(model, "_loc_range"):
        single._loc_range = tuple(bounds[[i]] for bounds in model._loc_range)
    return single


# The best of several starts


def test_n_init_keeps_the_start_with_the_best_bound(iris):
    params = {"n_init": 4, "n_estimators": 1, "random_state": 0, **FAST}
    vae = GaussianVAE(2, init="random", **params).fit(iris)
    assert len(vae.modules_) == 1
    # Each with five more, those of its folds, that share its loss.
    losses = np.array([record["modules"]["valid_loss"] for record in vae.net_.history])
    assert losses.shape == (4, 4 * 6)
    starts = losses[:, ::6]
    assert np.array_equal(losses, np.repeat(starts, 6, 1))
    own = [record["valid_loss"] for record in vae.history_]
    best = np.argmin(np.min(starts, 0))
    assert own == starts[:, best].tolist()
    assert vae.best_epoch_ == np.argmin(own) + 1
    assert len(set(starts[-1])) == 4


def test_the_first_start_is_that_of_a_single_fit(iris):
    # Seeds of further starts come after those of the first.
    one = GaussianVAE(2, init="random", random_state=0, **FAST).fit(iris)
    many = GaussianVAE(2, init="random", n_init=3, random_state=0, **FAST).fit(iris)
    first = [record["modules"]["valid_loss"][0] for record in many.net_.history]
    assert first == pytest.approx([record["valid_loss"] for record in one.history_], rel=1e-4)


def test_more_starts_are_never_worse_on_the_held_out_rows(iris):
    def best(n_init):
        vae = GaussianVAE(2, init="random", n_init=n_init, random_state=1, **FAST).fit(iris)
        return min(record["valid_loss"] for record in vae.history_)

    assert best(4) <= best(1) + 1e-4


def test_n_init_without_held_out_rows(iris):
    params = {"init": "random", "early_stopping": False, "random_state": 0}
    vae = GaussianVAE(2, n_init=3, **params, **FAST).fit(iris)
    final = vae.net_.history[-1]["modules"]["train_loss"]
    assert vae.history_[-1]["train_loss"] == min(final)


# Ensembles


def test_the_predictive_distribution_is_the_mixture_of_the_members(ensemble, diabetes):
    X, y = diabetes
    members = [alone(ensemble, i, X, y) for i in range(3)]
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


def test_the_latent_space_is_that_of_the_best_member(ensemble, diabetes):
    X, y = diabetes
    best = min(ensemble.net_.history, key=lambda record: min(record["modules"]["valid_loss"]))
    i = int(np.argmin(best["modules"]["valid_loss"]))
    assert [record["valid_loss"] for record in ensemble.history_] == [
        record["modules"]["valid_loss"][i] for record in ensemble.net_.history
    ]
    np.testing.assert_array_equal(ensemble.transform(X), alone(ensemble, 0, X, y).transform(X))
    assert ensemble.module_ is ensemble.modules_[0]
    Z = ensemble.transform(X)
    np.testing.assert_array_equal(ensemble.decode(Z), alone(ensemble, 0, X, y).decode(Z))


def test_members_hold_out_rows_of_their_own(diabetes):
    seen = []

    class Watch(Callback):
        def on_epoch_begin(self, net, dataset_train=None, dataset_valid=None, **kwargs):
            seen.append((dataset_train._index.clone(), dataset_valid._index.clone()))

    params = {"net_params": {"callbacks": [Watch()]}, **FAST}
    GaussianVAERegressor(n_estimators=3, n_init=2, random_state=0, **params).fit(*diabetes)
    train, valid = seen[0]
    for e in range(3):  # two starts of one member see the same rows
        assert torch.equal(train[2 * e], train[2 * e + 1])
        together = torch.cat([train[2 * e], valid[2 * e]]).sort().values
        assert torch.equal(together, torch.arange(442))
    assert len({tuple(rows.sort().values.tolist()) for rows in valid}) == 3


def test_an_ensemble_of_the_best_starts(diabetes):
    params = {"n_estimators": 2, "n_init": 3, "random_state": 0, **FAST}
    model = GaussianVAERegressor(**params).fit(*diabetes)
    assert len(model.modules_) == 2
    best = np.min([record["modules"]["valid_loss"] for record in model.net_.history], 0)
    expected = min(best[:3]), min(best[3:])
    assert min(record["valid_loss"] for record in model.history_) == min(expected)


@pytest.fixture(scope="module", params=[150, 569])
def densities(request, cancer):
    """One model and two of its folds, and three models with a held-out tenth."""
    X = cancer[: request.param, :4]
    model = GaussianVAE(n_estimators=3, random_state=0, **FAST).fit(X)
    assert len(model.modules_) == 3
    return model, X, [alone(model, i, X, None) for i in range(3)]


def test_a_density_is_the_mean_of_the_members(densities):
    model, X, members = densities
    for method in "score_samples", "elbo":
        of_members = np.array([getattr(member, method)(X) for member in members])
        mixture = np.logaddexp.reduce(of_members, 0) - np.log(3)
        np.testing.assert_allclose(getattr(model, method)(X), mixture, rtol=1e-6)
        assert of_members.std(0).min() > 0  # members differ


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
    first = copy.copy(members[0])
    first._draws = model._draws  # all of them
    np.testing.assert_array_equal(model.reconstruct(X), first.reconstruct(X))
    assert [module.training for module in model.modules_] == [False] * 3
    losses = np.array([record["modules"]["valid_loss"] for record in model.net_.history])
    best = np.argmin(losses.min(0))
    assert [record["valid_loss"] for record in model.history_] == losses[:, best].tolist()


def test_models_of_folds_join_the_model_that_they_judge(cancer):
    X, params = cancer[:150, :4], {"random_state": 0, **FAST}
    one = GaussianVAE(n_estimators=1, **params).fit(X)
    six = GaussianVAE(n_estimators=6, **params).fit(X)
    auto = GaussianVAE(**params).fit(X)
    assert [len(model.modules_) for model in (one, six, auto)] == [1, 6, 5]
    np.testing.assert_array_equal(one.transform(X), six.transform(X))
    assert one.history_ == six.history_ == auto.history_
    # Beyond these there are more such models, each with folds of its own, first.
    eight = GaussianVAE(n_estimators=8, **params).fit(X)
    losses = np.array([record["modules"]["valid_loss"] for record in eight.net_.history])
    assert losses.shape[1] == 2 * 6
    assert len(eight.modules_) == 8
    mains = [alone(eight, i, X, None).transform(X) for i in range(2)]
    assert sum(np.allclose(main, one.transform(X), atol=1e-3) for main in mains) == 1


def test_starts_of_several_models_compete(monkeypatch):
    monkeypatch.setattr(GaussianVAE, "_n_steps", 1)
    monkeypatch.setattr(GaussianVAE, "_n_rows_seen", 20 * 450)  # a first cycle of 20 epochs
    angle = np.random.default_rng(0).uniform(-3, 3, (500, 1))
    X = np.sin(angle * [1, 2, 3]) + 0.1 * np.random.default_rng(1).standard_normal((500, 3))
    params = {"prior": "standard", "hidden_layer_sizes": (8,), "random_state": 0}
    vae = GaussianVAE(n_estimators=2, **params).fit(X)
    losses = [record["modules"]["valid_loss"] for record in vae.net_.history]
    assert len(losses[0]) == 4
    assert len(losses) > vae.net_.max_epochs  # else the test shows little
    cycle = np.array(losses[: vae.net_.max_epochs])
    winners = np.argmin(cycle.min(0).reshape(2, 2), 1)
    for i, winner in enumerate(winners):  # the loser of each pair ends with the first cycle
        assert np.isnan(np.array(losses[len(cycle) :])[:, 2 * i + 1 - winner]).all()
    kept = np.nanmin(losses, 0)[2 * np.arange(2) + winners]
    assert min(record["valid_loss"] for record in vae.history_) == kept.min()
    one = GaussianVAE(n_estimators=1, **params).fit(X)
    first = cycle[:5, :2].min(1)
    assert first == pytest.approx(
        np.min([r["modules"]["valid_loss"] for r in one.net_.history[:5]], 1), rel=1e-3
    )


class Recorded(GaussianVAE):
    held_out, seeds = [], []

    def _train(self, train, valid, *args, **params):
        self.seeds.append(self._split_seeds)
        self.held_out.append([set(map(tuple, rows.v1.tolist())) for rows in valid])
        super()._train(train, valid, *args, **params)


@pytest.mark.parametrize("n_init", [1, 2])
def test_each_member_keeps_its_held_out_rows(n_init, cancer):
    X, held_out, seen = cancer[:100, :4], Recorded.held_out, Recorded.seeds
    held_out.clear()
    seen.clear()
    params = {"n_estimators": 3, "n_init": n_init, "warm_start": True, "random_state": None}
    model = Recorded(2, **{**FAST, **params}).fit(X)
    before, first, seeds = model._split_seeds, held_out[0][::n_init], seen[0][::n_init]
    assert len(set(map(frozenset, first))) == 3
    for other in (model, pickle.loads(pickle.dumps(model))):
        own = [next(rows for rows, s in zip(first, seeds, strict=True) if s == seed)
               for seed in other._split_seeds]  # fmt: skip
        other.fit(X)
        assert held_out[-1] == own
        assert sorted(other._split_seeds) == sorted(before)


def test_a_callback_sees_one_model_in_every_fit(cancer):
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
                first = fitted_estimator.module_
                score, drawn = fitted_estimator.score(X), fitted_estimator.sample(3, 0)
                fitted_estimator._keep_modules([0])
                assert fitted_estimator.module_ is first
                assert score == pytest.approx(fitted_estimator.score(X), rel=0.05)
                np.testing.assert_array_equal(drawn, fitted_estimator.sample(3, 0))
                scores.append(score)

    assert isinstance(Scores(), callback.FitCallback)
    model = GaussianVAE(2, random_state=0, **FAST).set_callbacks(Scores())
    for params in ({}, {}, {"n_components": 3}, {"n_estimators": 3, "validation_fraction": 0.2}):
        model.set_params(**params).fit(X)
    model.set_params(warm_start=True, patience=1).fit(X)
    assert len(scores) >= 4 * 4 + 1


def test_how_many_models_a_density_has(cancer, monkeypatch):
    def count(n_rows=100, **params):
        params = {"random_state": 0, **FAST, **params}
        return len(GaussianVAE(2, **params).fit(cancer[:n_rows]).modules_)

    assert count() == count(validation_fraction=0.2) == count(early_stopping=False) == 5
    assert count(net_params={"gradient_clip": 1.0}) == count(max_epochs=0) == 1
    assert count(net_params={"gradient_clip": 1.0}, n_estimators=2) == 2
    monkeypatch.setattr("skgvae._vae.MAX_ROWS_OF_SEVERAL", 100)
    assert [count(), count(101)] == [5, 1]


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
    members = [alone(model, i, X, y).predict_proba(X) for i in range(3)]
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
    assert steps == {5 * 17}  # one optimizer, not five
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
    assert len(losses.seen_) == 4
    best = dict(model.net_.callbacks_)["best_epoch"]
    assert best.best_losses_.tolist() == sorted(best.best_losses_)
    assert model.net_.final_losses()[0] == best.best_losses_[0]


def test_few_labels_weigh_the_same_for_every_member():
    X, y = load_wine(return_X_y=True)
    y = np.where(np.arange(len(y)) % 20 == 0, y, -1)
    spreads = []

    class Watch(Callback):
        def on_epoch_begin(self, net, dataset_train=None, **kwargs):
            spreads.append(dataset_train.weight.std(1).tolist())

    params = {"net_params": {"callbacks": [Watch()]}, "random_state": 0, **FAST}
    GaussianVAEClassifier(n_estimators=2, n_init=2, unlabeled=-1, **params).fit(X, y)
    assert spreads[0] == pytest.approx([spreads[0][0]] * 4, rel=1e-3)
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


def test_the_classifier_chooses_how_many_models_it_has():
    X, y = load_wine(return_X_y=True)
    model = GaussianVAEClassifier(random_state=0, **FAST)
    assert len(model.fit(X, y).modules_) == 5
    probabilities = [
        GaussianVAEClassifier(random_state=0, **FAST, n_estimators=n).fit(X, y).predict_proba(X)
        for n in (5, 1)
    ]
    np.testing.assert_array_equal(model.predict_proba(X), probabilities[0])
    assert np.abs(probabilities[1] - probabilities[0]).max() > 1e-3
    own = clone(model).set_params(classifier=ClassifierHead)
    assert len(own.fit(X, y).modules_) == 1
    few = clone(model).set_params(unlabeled=-1, warm_start=True)
    hidden = np.where(np.arange(178) % 2, y, -1)
    assert len(few.fit(X, hidden).modules_) == 1
    assert len(few.fit(X, y).modules_) == 1  # continued


def test_a_prior_of_the_user_is_copied_for_every_start(iris):
    prior = MixturePrior(2, 3)
    before = prior.means.clone()
    params = {"net_params": {"module__prior": prior}, "init": "random", "random_state": 0}
    vae = GaussianVAE(2, n_init=2, early_stopping=False, **params, **FAST).fit(iris)
    assert vae.module_.prior is not prior
    assert vae.n_prior_components_ == vae.module_.prior.n_components == 3
    assert torch.equal(prior.means, before)
    assert not torch.equal(vae.module_.prior.means, before)


def test_a_failure_after_some_members_were_dropped_restores_all(diabetes):
    class Fails(Callback):
        fails = False

        def on_grad_computed(self, net, named_parameters, training=False, **kwargs):
            if self.fails and len(net.stack_) == 3:
                for _, parameter in named_parameters:
                    parameter.grad[1] = torch.nan

        def on_epoch_begin(self, net, **kwargs):
            if self.fails and len(net.stack_) < 3:
                raise RuntimeError("broken")

    X, y = diabetes
    callback = Fails()
    params = {"net_params": {"callbacks": [callback]}, "random_state": 0, "warm_start": True}
    model = GaussianVAERegressor(n_estimators=3, **params, **FAST).fit(X, y)
    before = model.predict(X)
    callback.fails = True
    with (
        pytest.warns(RuntimeWarning, match="not finite"),
        pytest.raises(RuntimeError, match="broken"),
    ):
        model.fit(X, y)
    np.testing.assert_array_equal(model.predict(X), before)
    callback.fails = False
    assert len(model.partial_fit(X, y).modules_) == 3


def test_an_optimizer_whose_state_has_other_shapes(diabetes):
    params = {"net_params": {"optimizer": torch.optim.Adafactor}, "patience": 2}
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


# The tail


def test_the_tail_is_one_component_with_a_larger_scale(diabetes):
    X, y = diabetes
    params = {"n_estimators": 3, "random_state": 0, **FAST, "n_draws": 120}
    model = GaussianVAERegressor(tail=4.0, **params).fit(X, y)
    plain = GaussianVAERegressor(tail=1.0, **params).fit(X, y)
    loc, scale = (part[..., 0] for part in model._predict_components(X))
    plain_loc, plain_scale = (part[..., 0] for part in plain._predict_components(X))
    np.testing.assert_array_equal(loc, plain_loc)
    np.testing.assert_allclose(scale[0], 4 * plain_scale[0])
    np.testing.assert_array_equal(scale[1:], plain_scale[1:])
    mean, std = model.predict(X, return_std=True)
    np.testing.assert_allclose(mean, loc.mean(0))
    np.testing.assert_allclose(std**2, (scale**2).mean(0) + loc.var(0), rtol=1e-6)
    expected = stats.norm(loc, scale).pdf(y).mean(0)
    np.testing.assert_allclose(model.score_samples(X, y), np.log(expected), rtol=1e-6)
    draws = model.sample(X[:4], 200_000, random_state=0)
    np.testing.assert_allclose(draws.std(0), std[:4], rtol=0.02)
    far = model.predict(X[:1]) + 12 * std[0]
    assert model.score_samples(X[:1], far) > plain.score_samples(X[:1], far) + 10


def test_few_components_have_no_tail(diabetes):
    X, y = diabetes
    models = [
        GaussianVAERegressor(tail=tail, random_state=0, n_estimators=1, **FAST).fit(X, y)
        for tail in (1.0, 5.0)
    ]
    densities = [model.score_samples(X, y) for model in models]
    np.testing.assert_array_equal(*densities)
