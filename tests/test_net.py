import math

import numpy as np
import pytest
import torch
from sklearn.base import is_classifier
from sklearn.datasets import load_wine
from sklearn.metrics import accuracy_score, f1_score, log_loss, make_scorer, r2_score
from skorch.callbacks import BatchScoring, Callback, Checkpoint, EpochScoring, LRScheduler
from skorch.dataset import ValidSplit
from skorch.helper import predefined_split
from torch.nn.utils import parameters_to_vector
from torch.utils.data import RandomSampler

from skgvae import GaussianVAE, GaussianVAEClassifier, GaussianVAERegressor
from skgvae._rows import batches
from skgvae.net import GaussianVAENet, RowDataset, StackedRows, one_cycle
from skgvae.nn import GaussianVAEModule


def line(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    t = torch.randn(n, 1, generator=generator)
    return torch.cat([t, -t], 1) + 0.1 * torch.randn(n, 2, generator=generator)


def make_net(valid=True, n_prior_components=None, **params):
    generator = torch.Generator().manual_seed(0)
    module = GaussianVAEModule(2, 1, n_prior_components=n_prior_components, generator=generator)
    split = predefined_split(RowDataset(line(100, seed=1))) if valid else None
    params = {"max_epochs": 5, "batch_size": 50, "train_split": split, **params}
    return GaussianVAENet(module, **params)


def test_loss_falls_to_the_entropy_of_a_line():
    net = make_net(max_epochs=60).fit(RowDataset(line(1000)))
    covariance = torch.tensor([[1.01, -1.0], [-1.0, 1.01]])
    entropy = 0.5 * torch.logdet(2 * math.pi * math.e * covariance).item()
    assert net.history[0]["train_loss"] > entropy + 0.5
    assert min(net.history[:, "valid_loss"]) == pytest.approx(entropy, abs=0.15)


def test_history_is_short_and_adds_up():
    net = make_net(criterion__kl_weight=0.3).fit(RowDataset(line(200)))
    assert [record["epoch"] for record in net.history] == [1, 2, 3, 4, 5]
    for record in net.history:
        assert not any(record["batches"])
        for part in ("train", "valid"):
            expected = record[f"{part}_reconstruction"] + 0.3 * record[f"{part}_kl"]
            assert record[f"{part}_loss"] == pytest.approx(expected, rel=1e-4)


def test_validation_uses_the_same_draws_each_time():
    net = make_net(n_valid_draws=3).fit(RowDataset(line(200)))
    rows = RowDataset(line(80, seed=2))
    assert net.evaluate(rows) == net.evaluate(rows)


@pytest.mark.parametrize("weighted", [False, True])
def test_batches_hold_every_row_once(weighted):
    v1 = torch.arange(23.0)[:, None]
    weight = torch.linspace(0.5, 1.5, 23) if weighted else None
    rows, generators = StackedRows([RowDataset(v1, 2 * v1, weight)]), [torch.Generator()]
    orders = []
    for _ in range(2):
        parts, counts = zip(*batches(rows, 5, generators), strict=True)
        assert len(parts) == 5
        sizes = [part.v1.shape[1] for part in parts]
        assert set(sizes) == {4, 5}
        assert list(counts) == [[size] for size in sizes]
        x = torch.cat([part.v1[0] for part in parts])
        assert torch.equal(torch.cat([part.v2[0] for part in parts]), 2 * x)
        if weighted:
            found = torch.cat([part.weight[0] for part in parts])
            assert torch.equal(found, weight[x[:, 0].long()])
        orders.append(x[:, 0].tolist())
        assert sorted(orders[-1]) == v1[:, 0].tolist()
    assert orders[0] != orders[1]
    in_order = torch.cat([part.v1[0] for part, _ in batches(rows, 5)])
    assert torch.equal(in_order, v1)


def test_rows_without_a_target_are_not_copied():
    rows = RowDataset(line(10))
    (v1, weight), v2 = rows[torch.arange(4)]
    assert v1 is v2
    assert weight is None
    ((batch, _),) = batches(StackedRows([rows]).to("cpu"), 10)
    assert batch.v1 is batch.v2


def test_one_cycle_rises_and_falls():
    steps = [one_cycle(i / 1000) for i in range(1001)]
    assert steps[0] == 0
    assert max(steps) == pytest.approx(1)
    assert steps[-1] == pytest.approx(0)
    top = steps.index(max(steps))
    assert steps[: top + 1] == sorted(steps[: top + 1])
    assert steps[top:] == sorted(steps[top:], reverse=True)


class Rates(Callback):
    """Record the learning rate at the end of every epoch."""

    def on_epoch_end(self, net, **kwargs):
        self.rates_ = [*getattr(self, "rates_", []), net.optimizer_.param_groups[0]["lr"]]


def test_the_schedule_is_followed_and_steps_aside_for_skorchs():
    rates = Rates()
    make_net(lr=0.1, callbacks=[rates]).fit(RowDataset(line(200)))
    assert rates.rates_[0] > rates.rates_[-1] > 0
    rates = Rates()
    make_net(lr=0.1, schedule=None, callbacks=[rates]).fit(RowDataset(line(200)))
    assert rates.rates_ == [0.1] * 5
    rates = Rates()
    step = LRScheduler("StepLR", step_size=1, gamma=0.5)
    make_net(lr=0.1, callbacks=[rates, step]).fit(RowDataset(line(200)))
    assert rates.rates_ == pytest.approx([0.1 * 0.5**i for i in range(5)])


def test_best_epoch_is_restored():
    net = make_net(max_epochs=30, lr=0.05, schedule=None).fit(RowDataset(line(100)))
    losses = net.history[:, "valid_loss"]
    assert net.result_.best_epochs.tolist() == [losses.index(min(losses)) + 1]
    loss = net.evaluate(RowDataset(line(100, seed=1)))["loss"]
    assert loss == pytest.approx(min(losses), rel=1e-5)


class Weights(Callback):
    """Record the weights after every step and at the end of every epoch."""

    def on_train_begin(self, net, **kwargs):
        self.steps, self.epochs = [flat_weights(net)], []

    def on_batch_end(self, net, training, **kwargs):
        if training:
            self.steps.append(flat_weights(net))

    def on_epoch_end(self, net, **kwargs):
        self.epochs.append(flat_weights(net))


def flat_weights(net):
    return parameters_to_vector(net.module_.parameters()).detach().clone()


@pytest.mark.parametrize("valid", [True, False])
def test_epochs_end_with_an_average_of_the_weights(valid):
    weights = Weights()
    net = make_net(valid, averaging=0.3, callbacks=[weights], lr=0.02).fit(RowDataset(line(200)))
    average, averages = weights.steps[0], []
    for n, step in enumerate(weights.steps[1:], 1):
        share = 1 / (1 + 0.3 * n)
        average = (1 - share) * average + share * step
        averages.append(average)
    assert len(averages) == 5 * 4
    torch.testing.assert_close(torch.stack(weights.epochs), torch.stack(averages[3::4]))
    assert (weights.epochs[0] - weights.steps[4]).abs().max() > 0.01
    (best,) = net.result_.best_epochs
    kept = [weights.steps[0], *weights.epochs][best]  # epoch 0 is the start
    assert torch.equal(flat_weights(net), kept)


def test_training_goes_on_from_the_weights_themselves():
    nets = [make_net(averaging=share).fit(RowDataset(line(200))) for share in (0.0, 0.5)]
    train, valid = (
        [[record[name] for record in net.history] for net in nets]
        for name in ("train_loss", "valid_loss")
    )
    assert train[0] == train[1]
    assert valid[0] != valid[1]


@pytest.mark.parametrize("share", [-1.0, math.nan])
def test_a_negative_share_of_steps_is_refused(share):
    with pytest.raises(ValueError, match=r"averaging=.* must be 0 or positive"):
        make_net(averaging=share).fit(RowDataset(line(200)))


def test_the_start_takes_part_in_early_stopping():
    net = make_net(max_epochs=30, lr=5.0, patience=3)
    rows = RowDataset(line(100, seed=1))
    net.initialize()
    start = net.evaluate(rows)["loss"]
    before = {n: p.clone() for n, p in net.module_.state_dict().items()}
    net.partial_fit(RowDataset(line(100)))
    assert min(net.history[:, "valid_loss"]) > start  # else the test shows nothing
    assert len(net.history) == 3
    for name, p in net.module_.state_dict().items():
        assert torch.equal(p, before[name])


@pytest.mark.parametrize("valid", [True, False])
def test_training_stops_at_a_loss_that_is_not_finite(valid):
    class Poison(Callback):
        def on_epoch_begin(self, net, **kwargs):
            if len(net.history) == 3:
                net.stack_.weights.data[0, 0] = math.nan

    net = make_net(valid, max_epochs=10, callbacks=[Poison()])
    with pytest.warns(RuntimeWarning, match="not finite in epoch 3.*smaller lr") as record:
        net.fit(RowDataset(line(100)))
    assert len(record) == 1
    assert len(net.history) == 3
    assert math.isfinite(net.evaluate(RowDataset(line(50)))["loss"])


@pytest.mark.parametrize("valid", [True, False])
def test_an_interrupt_leaves_the_best_epoch(valid):
    class Interrupt(Callback):
        def on_batch_begin(self, net, training=False, **kwargs):
            if training and len(net.history) == 4:
                raise KeyboardInterrupt

    net = make_net(valid, max_epochs=10, callbacks=[Interrupt()])
    net.fit(RowDataset(line(100)))
    assert isinstance(net.result_.interrupt, KeyboardInterrupt)
    assert len(net.result_.records) == 3
    assert net.result_.best_epochs[0] <= 3
    assert math.isfinite(net.evaluate(RowDataset(line(50)))["loss"])


def test_skorch_callbacks_work(tmp_path):
    checkpoint = Checkpoint(dirname=tmp_path, monitor="valid_loss_best")
    scoring = EpochScoring("r2", lower_is_better=False, name="valid_r2")
    loss_again = EpochScoring(
        lambda net, X, y: net.evaluate(X)["loss"], name="again", use_caching=False
    )
    net = make_net(max_epochs=8, callbacks=[checkpoint, scoring, loss_again])
    net.fit(RowDataset(line(200)))
    assert (tmp_path / "params.pt").exists()
    assert net.history[-1, "valid_r2"] > net.history[0, "valid_r2"]
    assert net.history[:, "again"] == pytest.approx(net.history[:, "valid_loss"])
    other = make_net().initialize()
    other.load_params(checkpoint=checkpoint)
    rows = RowDataset(line(50))
    assert other.evaluate(rows) == net.evaluate(rows)


def test_checkpoint_alone_works(tmp_path):
    checkpoint = Checkpoint(dirname=tmp_path)
    net = make_net(callbacks=[checkpoint]).fit(RowDataset(line(200)))
    other = make_net().initialize()
    other.load_params(checkpoint=checkpoint)
    rows = RowDataset(line(50))
    assert other.evaluate(rows) == net.evaluate(rows)


def test_callbacks_can_be_set_after_the_net_is_made():
    rates = Rates()
    net = make_net().set_params(callbacks=[rates]).fit(RowDataset(line(100)))
    assert len(rates.rates_) == 5
    net.set_params(callbacks=None).fit(RowDataset(line(100)))
    assert len(rates.rates_) == 5


def test_gradient_hooks_see_the_gradients():
    class Norms(Callback):
        def on_grad_computed(self, net, named_parameters, **kwargs):
            self.norms_ = {n: p.grad.norm().item() for n, p in named_parameters}

    norms = Norms()
    net = make_net(callbacks=[norms]).fit(RowDataset(line(100)))
    assert set(norms.norms_) == {n for n, _ in net.module_.named_parameters()}
    assert any(norm > 0 for norm in norms.norms_.values())


def test_optimizer_and_criterion_parameters_reach_their_place():
    net = make_net(
        criterion__n_draws=3,
        optimizer=torch.optim.SGD,
        optimizer__momentum=0.5,
        optimizer__param_groups=[("decoder.*", {"lr": 0.001})],
    ).fit(RowDataset(line(100)))
    assert net.criterion_.n_draws == 3
    assert {g["momentum"] for g in net.optimizer_.param_groups} == {0.5}
    assert len(net.optimizer_.param_groups) == 2


@pytest.mark.parametrize("noise", ["homoscedastic", "isotropic"])
def test_shared_noise_reaches_its_optimum(noise):
    rows = RowDataset(torch.randn(2000, 3) * torch.tensor([0.3, 1.0, 2.0]))
    net = GaussianVAENet(
        GaussianVAEModule(3, 1, noise=noise, linear=False, hidden_features=()), max_epochs=30
    )
    with torch.no_grad():  # a decoder that ignores z: the noise is all of the variance
        for parameter in net.module.decoder.loc.parameters():
            parameter.zero_().requires_grad_(False)
    net.fit(rows)
    variance = torch.exp(2 * net.module_.decoder.shared_log_scale)
    expected = rows.v1.square().mean(0)
    expected = expected.mean() if noise == "isotropic" else expected
    torch.testing.assert_close(variance, expected.expand_as(variance), rtol=0.03, atol=0)


def test_progress_bar_is_one_bar(capfd):
    net = make_net(verbose=1, max_epochs=3).fit(RowDataset(line(100)))
    err = capfd.readouterr().err
    assert "3/3" in err
    assert "valid_loss" in err
    assert err.count("\n") == 1
    net.partial_fit(RowDataset(line(200)), epochs=2)
    assert "2/2" in capfd.readouterr().err


class MemberWeights(Callback):
    def on_epoch_begin(self, net, **kwargs):
        self.kept = getattr(self, "kept", [member_weights(net)])

    def on_epoch_end(self, net, **kwargs):
        self.kept.append(member_weights(net))


def member_weights(net):
    return [parameters_to_vector(m.parameters()).detach() for m in net.stack_.members]


def fit_groups(n_groups, *callbacks):
    """Train two times six modules; return the net, and their losses with those of the start."""
    rows, parts = RowDataset(line(63)), torch.arange(63).tensor_split(6)
    train = [rows.subset(torch.cat(parts[:i] + parts[i + 1 :])) for i in range(6)]
    valid = [rows.subset(part) for part in parts]
    net = GaussianVAENet(
        [GaussianVAEModule(2, 1, generator=torch.Generator().manual_seed(i)) for i in range(12)],
        seed=list(range(12)),
        max_epochs=12,
        batch_size=16,
        lr=0.15,
        n_valid_draws=4,
        n_groups=n_groups,
        callbacks=list(callbacks),
        train_split=predefined_split(StackedRows(valid * 2)),
    ).initialize()
    at_start = [
        GaussianVAENet(module, seed=i, n_valid_draws=4).initialize().evaluate(valid[i % 6])["loss"]
        for i, module in enumerate(net.stack_.members)
    ]
    net.partial_fit(StackedRows(train * 2))
    return net, np.array([at_start, *(r["valid_loss"] for r in net.result_.records)])


def test_modules_of_a_group_have_one_best_epoch():
    weights, kept = MemberWeights(), MemberWeights()
    alone, own = fit_groups(12, weights)
    assert np.array_equal(alone.result_.best_epochs, own.argmin(0))
    net, losses = fit_groups(2, kept)
    np.testing.assert_array_equal(losses, own)
    trimmed = np.sort(own.reshape(13, 2, 6))[..., 1:-1].mean(-1)  # without a fifth at either end
    best = trimmed.argmin(0)
    assert np.array_equal(net.result_.best_epochs, best)
    np.testing.assert_allclose(net.result_.best_losses, trimmed.min(0), rtol=1e-5)
    assert best[0] != best[1]  # else the test shows little, as here
    assert np.any(best.repeat(6) != own.argmin(0))
    for before, after in zip(weights.kept, kept.kept, strict=True):  # one training
        torch.testing.assert_close(before, after, rtol=0, atol=0)
    for i, found in enumerate(member_weights(net)):
        assert torch.equal(found, weights.kept[best[i // 6]][i])
    flags = np.array([record["valid_loss_best"] for record in net.result_.records])
    assert flags.dtype == bool
    assert np.array_equal(12 - flags[::-1].argmax(0), best.repeat(6))  # the last is the best


def test_groups_have_equal_numbers_of_modules():
    with pytest.raises(ValueError, match="n_groups=5 does not divide 12 modules"):
        fit_groups(5)


# What is refused, in words


@pytest.mark.parametrize("rows", [line(50), line(50).numpy()], ids=["tensor", "ndarray"])
@pytest.mark.parametrize("method", ["fit", "predict", "evaluate"])
def test_rows_are_a_data_set(rows, method):
    net = make_net().initialize()
    with pytest.raises(TypeError, match=rf"RowDataset, got {type(rows).__name__}"):
        getattr(net, method)(rows)


@pytest.mark.parametrize("method", ["fit", "predict", "evaluate"])
def test_a_data_set_has_rows(method):
    net = make_net().initialize()
    with pytest.raises(ValueError, match="at least one row"):
        getattr(net, method)(RowDataset(torch.zeros(0, 2)))


def test_a_split_of_skorch():
    rows = RowDataset(line(100), weight=torch.linspace(0.5, 1.5, 100))
    net = make_net(train_split=ValidSplit(5)).fit(rows)
    held_out = rows.subset(torch.arange(20))  # the first of five
    loss = net.evaluate(held_out)["loss"]
    assert loss == pytest.approx(net.result_.best_losses[0], rel=1e-5)
    assert loss == pytest.approx(min(net.history[:, "valid_loss"]), rel=1e-5)


X = line(60).numpy()
SHORT = {"max_epochs": 3, "hidden_layer_sizes": (8,), "random_state": 0}


@pytest.mark.parametrize(
    ("net_params", "error", "message"),
    [
        ({"optimizer": torch.optim.LBFGS}, ValueError, "LBFGS needs a closure.*AdamW or SGD"),
        ({"iterator_train": RandomSampler}, ValueError, "it takes no iterators"),
        ({"iterator_valid": RandomSampler}, ValueError, "it takes no iterators"),
        ({"iterator_train__shuffle": True}, ValueError, "it takes no iterators"),
    ],
)
def test_net_params_that_the_net_cannot_use(net_params, error, message):
    with pytest.raises(error, match=message):
        GaussianVAE(1, net_params=net_params, **SHORT).fit(X)


def test_an_estimator_splits_by_itself():
    net_params = {"train_split": ValidSplit(5)}
    with pytest.raises(TypeError, match="use validation_fraction"):
        GaussianVAE(1, validation_fraction=None, net_params=net_params, **SHORT).fit(X)


def test_several_modules_on_one_data_set_with_one_seed():
    def modules():
        return [make_net().module, GaussianVAEModule(2, 1, generator=torch.Generator())]

    net = GaussianVAENet(modules(), seed=3, max_epochs=3).fit(RowDataset(line(80)))
    for found, module in zip(net.stack_.members, modules(), strict=True):
        alone = GaussianVAENet(module, seed=3, max_epochs=3).fit(RowDataset(line(80)))
        torch.testing.assert_close(found.state_dict(), alone.module_.state_dict())


@pytest.mark.parametrize(
    ("seeds", "n_members", "message"),
    [
        ([0, 1], 3, "an entry for each of the 3 modules, got 2"),
        (0, 2, "3 modules.*have 2 members"),
    ],
)
def test_seeds_and_rows_for_each_of_several_modules(seeds, n_members, message):
    modules = [GaussianVAEModule(2, 1) for _ in range(3)]
    rows = StackedRows([RowDataset(line(20))] * n_members)
    with pytest.raises(ValueError, match=message):
        GaussianVAENet(modules, seed=seeds, max_epochs=2).fit(rows)


# Scores


@pytest.fixture(scope="module")
def wine():
    X, y = load_wine(return_X_y=True)
    return X, np.array(["barolo", "barbera", "grignolino"])[y]


def accuracy(net, X, y):
    assert is_classifier(net)
    return accuracy_score(y, net.predict(X))


OF_CLASSES = {
    "accuracy": ("accuracy", lambda y, p, proba: accuracy_score(y, p)),
    "log_loss": ("neg_log_loss", lambda y, p, proba: -log_loss(y, proba)),
    "macro": (
        make_scorer(f1_score, average="macro", pos_label=None),
        lambda y, p, proba: f1_score(y, p, average="macro"),
    ),
    "of_one": (
        make_scorer(f1_score, average=None, labels=["barolo"], pos_label=None),
        lambda y, p, proba: f1_score(y, p, average=None, labels=["barolo"])[0],
    ),
    "function": (accuracy, lambda y, p, proba: accuracy_score(y, p)),
}


@pytest.mark.parametrize("unlabeled", [None, "unknown"])
def test_a_score_of_classes_is_that_of_the_classifier(unlabeled, wine):
    X, y = wine
    known = np.full(len(y), True)
    if unlabeled is not None:  # so few that they are repeated in training
        known = np.arange(len(y)) % 5 == 0
        y = np.where(known, y, unlabeled)
    callbacks = [
        EpochScoring(scoring, name=name, on_train=True, use_caching=False, lower_is_better=False)
        for name, (scoring, _) in OF_CLASSES.items()
    ]
    model = GaussianVAEClassifier(
        n_estimators=1,
        unlabeled=unlabeled,
        validation_fraction=None,
        net_params={"callbacks": callbacks},
        **SHORT,
    ).fit(X, y)
    answers = y[known], model.predict(X[known]), model.predict_proba(X[known])
    assert accuracy_score(*answers[:2]) > 0.5
    for name, (_, expected) in OF_CLASSES.items():
        assert model.history_[-1][name] == pytest.approx(expected(*answers), abs=1e-5), name


@pytest.mark.parametrize("unlabeled", [None, "unknown"])
@pytest.mark.parametrize("n_estimators", [1, 3])
def test_scores_of_held_out_classes_with_and_without_the_cache(unlabeled, n_estimators, wine):
    X, y = wine
    if unlabeled is not None:
        y = np.where(np.arange(len(y)) % 2 == 0, y, unlabeled)
    seen = []

    def look(net, X, y):
        seen.append((net.predict(X), y))
        return 0.0

    callbacks = [
        EpochScoring(scoring, name=f"{name}_{cached}", use_caching=cached)
        for name, (scoring, _) in OF_CLASSES.items()
        for cached in (True, False)
    ]
    callbacks += [
        EpochScoring(look, name="look"),
        BatchScoring("accuracy", name="by_batch", lower_is_better=False),
    ]
    model = GaussianVAEClassifier(
        n_estimators=n_estimators,
        unlabeled=unlabeled,
        validation_fraction=0.4,
        net_params={"callbacks": callbacks},
        **SHORT,
    ).fit(X, y)
    for record in model.history_:
        for name in OF_CLASSES:
            assert record[f"{name}_True"] == pytest.approx(record[f"{name}_False"], abs=1e-6)
        assert record["by_batch"] == pytest.approx(record["accuracy_True"])
    assert -math.log(3) < model.history_[-1]["log_loss_True"] < 0
    predicted, labels = seen[-1]
    assert len(predicted) == len(labels)
    n_of_each = np.unique(y[y != unlabeled], return_counts=True)[1]
    n_expected = n_of_each.sum() / 2  # of 0.4 the nearest whole number of folds
    assert abs(len(labels) - n_expected) <= len(n_of_each)
    assert set(labels) == set(model.classes_)


def test_scores_of_targets():
    y = X @ [[1.0, 0.5], [-1.0, 2.0]]
    callbacks = [
        EpochScoring(scoring, name=f"{scoring}_{cached}", use_caching=cached, on_train=on_train)
        for scoring in ("r2", "neg_mean_squared_error")
        for cached, on_train in ((True, False), (False, False))
    ]
    last = EpochScoring("r2", name="train_r2", on_train=True, use_caching=False)
    for n_estimators in (1, 2):
        params = {"net_params": {"callbacks": callbacks}, "n_estimators": n_estimators, **SHORT}
        for model in GaussianVAE(1, **params).fit(X), GaussianVAERegressor(**params).fit(X, y):
            for record in model.history_:
                for name in ("r2", "neg_mean_squared_error"):
                    cached, anew = record[f"{name}_True"], record[f"{name}_False"]
                    assert cached == pytest.approx(anew, rel=1e-4)
                assert record["r2_True"] < 1
                assert record["neg_mean_squared_error_True"] < 0
    params = {"validation_fraction": None, "net_params": {"callbacks": [last]}, **SHORT}
    model = GaussianVAERegressor(n_estimators=1, **params).fit(X, y)
    expected = r2_score(y, model.predict(X))
    assert model.history_[-1]["train_r2"] == pytest.approx(expected, abs=0.01)


class Noisy(torch.nn.Module):
    """A classifier that draws numbers and collects averages in training."""

    def __init__(self, in_features, target_features, n_classes):
        super().__init__()
        width = in_features + target_features
        self.norm, self.dropout = torch.nn.BatchNorm1d(width), torch.nn.Dropout(0.3)
        self.out = torch.nn.Linear(width, n_classes)

    def forward(self, v1, v2_estimate):
        return self.out(self.dropout(self.norm(torch.cat([v1, v2_estimate], 1))))


@pytest.mark.parametrize(
    "params",
    [{"classifier": Noisy}, {"n_estimators": 3, "net_params": {"patience": 1}}],
    ids=["noisy", "several"],
)
def test_a_score_changes_no_fit(params, wine):
    def look(net, X, y):
        net.evaluate(X)
        return net.predict(X).size

    callbacks = [
        EpochScoring("accuracy", name=f"{on_train}{cached}", on_train=on_train, use_caching=cached)
        for on_train in (True, False)
        for cached in (True, False)
    ]
    callbacks += [BatchScoring("accuracy"), EpochScoring(look, use_caching=False, name="look")]
    params = {**SHORT, "max_epochs": 6, **params}
    plain = GaussianVAEClassifier(**params).fit(*wine)
    params["net_params"] = params.get("net_params", {}) | {"callbacks": callbacks}
    scored = GaussianVAEClassifier(**params).fit(*wine)
    proba = [model.predict_proba(wine[0]) for model in (plain, scored)]
    np.testing.assert_array_equal(*proba)
    for before, after in zip(plain.history_, scored.history_, strict=True):
        assert before == {name: after[name] for name in before}


@pytest.mark.parametrize("optimizer", [{}, {"optimizer": torch.optim.AdamW}])
@pytest.mark.parametrize("name", ["lr", "optimizer__lr"])
def test_a_rate_set_between_passes_counts(name, optimizer):
    net = make_net(**optimizer).fit(RowDataset(line(200)))
    before = parameters_to_vector(net.module_.parameters()).detach().clone()
    net.set_params(**{name: 1e-12}).partial_fit(RowDataset(line(200)))
    after = parameters_to_vector(net.module_.parameters()).detach()
    torch.testing.assert_close(after, before, rtol=0, atol=1e-7)
