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
from torch.utils.data import DataLoader

from skgvae import GaussianVAE, GaussianVAEClassifier, GaussianVAERegressor
from skgvae._batches import RowDataset, StackedRows, TensorBatches
from skgvae.net import GaussianVAENet, one_cycle
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
    generator = torch.Generator().manual_seed(0)
    batches = TensorBatches(
        RowDataset(v1, 2 * v1, weight), 5, shuffle=True, generators=[generator]
    )
    orders = []
    for _ in range(2):
        parts = list(batches)
        assert len(parts) == len(batches) == 5
        assert {len(y) for _, y in parts} <= {4, 5}
        x = torch.cat([x for (x, _), _ in parts])
        assert torch.equal(torch.cat([y for _, y in parts]), 2 * x)
        if weighted:
            assert torch.equal(torch.cat([w for (_, w), _ in parts]), weight[x[:, 0].long()])
        orders.append(x[:, 0].tolist())
        assert sorted(orders[-1]) == v1[:, 0].tolist()
    assert orders[0] != orders[1]


def test_rows_without_a_target_are_not_copied():
    rows = RowDataset(line(10))
    (v1, weight), v2 = rows[torch.arange(4)]
    assert v1 is v2
    assert weight is None
    moved = rows.to("cpu")
    assert moved.v1 is moved.v2


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


def test_what_still_gets_better_has_a_second_cycle_of_the_rate():
    rates, params = Rates(), {"max_epochs": 10, "lr": 0.005}
    net = make_net(n_cycles=2, callbacks=[rates], **params).fit(RowDataset(line(200)))
    one = make_net(**params).fit(RowDataset(line(200)))
    assert len(one.history) == 10
    assert len(net.history) == len(rates.rates_) == 30
    losses = net.history[:, "valid_loss"]
    assert losses[:10] == one.history[:, "valid_loss"]
    assert min(losses[10:]) < min(losses[:10])
    assert rates.rates_[9] < 0.001 < 0.004 < rates.rates_[11]
    assert rates.rates_[29] < 0.0001
    net.partial_fit(RowDataset(line(200)), epochs=4)  # as many as are asked for
    assert len(net.history) == 34


class Prior(Callback):
    """Record after which epochs the prior was another than before."""

    def on_train_begin(self, net, **kwargs):
        self.moved, self.means = [], net.module_.prior.means.detach().clone()

    def on_epoch_end(self, net, **kwargs):
        means = net.module_.prior.means.detach().clone()
        self.moved.append(not torch.equal(means, self.means))
        self.means = means


@pytest.mark.parametrize(
    ("params", "n_at_rest"),
    [
        ({"prior_delay": 0.5}, 5),
        ({"prior_delay": 0.25}, 2),  # it moves within the third epoch
        ({}, 0),
        ({"prior_delay": 0.5, "schedule": None}, 0),
        ({"prior_delay": 0.5, "n_cycles": 2}, 5),
        ({"prior_delay": 0.5, "optimizer": torch.optim.SGD, "lr": 1e-3}, 5),
    ],
)
def test_the_prior_rests_in_a_part_of_the_first_cycle(params, n_at_rest):
    prior = Prior()
    net = make_net(
        **{"lr": 0.005, "max_epochs": 10, "n_prior_components": 2, **params},
        callbacks=[prior],
    )
    net.fit(RowDataset(line(200)))
    assert prior.moved == [False] * n_at_rest + [True] * (len(net.history) - n_at_rest)
    assert len(net.history) == (30 if "n_cycles" in params else 10)


def flat(progress):
    return 1.0


@pytest.mark.parametrize(
    "params",
    [
        {"schedule": None},
        {"callbacks": [LRScheduler("StepLR", step_size=5)]},
        {"callbacks__best_epoch": None},
    ],
    ids=lambda params: next(iter(params)),
)
def test_without_a_schedule_or_a_best_epoch_there_is_one_cycle(params):
    net = make_net(n_cycles=2, max_epochs=6, lr=0.005, **params).fit(RowDataset(line(200)))
    assert len(net.history) == 6


@pytest.mark.parametrize("n_cycles", [0, 1.5, "two"])
def test_a_number_of_cycles_that_is_none_is_refused(n_cycles):
    with pytest.raises(ValueError, match="n_cycles"):
        make_net(n_cycles=n_cycles).fit(RowDataset(line(50)))


def test_the_second_cycle_starts_from_the_best_weights():
    class Start(Callback):
        def on_epoch_begin(self, net, dataset_valid=None, **kwargs):
            if len(net.history) == 31:
                self.loss = net.evaluate(dataset_valid)["loss"]
                self.optimizer_state = dict(net.optimizer_.state)

    start = Start()
    net = make_net(
        n_cycles=2, max_epochs=30, lr=0.05, schedule=flat, averaging=0, callbacks=[start]
    ).fit(RowDataset(line(100)))
    losses = net.history[:30, "valid_loss"]
    assert min(losses) < losses[29]  # else the test shows little
    assert start.loss == pytest.approx(min(losses), rel=1e-5)
    assert not start.optimizer_state


def test_what_was_best_before_has_no_second_cycle():
    net = make_net(n_cycles=2, max_epochs=40, lr=0.1, schedule=flat).fit(RowDataset(line(10)))
    best = dict(net.callbacks_)["best_epoch"].best_epoch_
    assert best <= 36
    assert len(net.history) == 40
    loss = net.evaluate(RowDataset(line(100, seed=1)))["loss"]
    assert loss == pytest.approx(min(net.history[:, "valid_loss"]), rel=1e-5)


def test_best_epoch_is_restored():
    net = make_net(max_epochs=30, lr=0.05, schedule=None).fit(RowDataset(line(100)))
    losses = net.history[:, "valid_loss"]
    best = dict(net.callbacks_)["best_epoch"].best_epoch_
    assert best == losses.index(min(losses)) + 1
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
        self.epochs.append(net.kept_weights[0].clone())


def flat_weights(net):
    return net.stack_.weights.detach()[0].clone()


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
    best = net.callbacks_[0][1].best_epoch_
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
    assert "interrupted in epoch 4" in str(net.interrupt_)
    assert dict(net.callbacks_)["best_epoch"].best_epoch_ <= 3
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
    make_net(verbose=1, max_epochs=3).fit(RowDataset(line(100)))
    err = capfd.readouterr().err
    assert "3/3" in err
    assert "valid_loss" in err
    assert err.count("\n") == 1
    net = make_net(verbose=1, n_cycles=2, max_epochs=10, lr=0.005).fit(RowDataset(line(200)))
    assert "30/30" in capfd.readouterr().err
    net.partial_fit(RowDataset(line(200)), epochs=2)
    assert "2/2" in capfd.readouterr().err


class MemberWeights(Callback):
    def on_epoch_begin(self, net, **kwargs):
        self.kept = getattr(self, "kept", [member_weights(net)])

    def on_epoch_end(self, net, **kwargs):
        self.kept.append(member_weights(net))


def member_weights(net):
    return net.kept_weights.clone()


def fit_folds(n_folds, *callbacks):
    """Train two groups of six; return the net, and its losses with those of the start."""
    rows, parts = RowDataset(line(63)), torch.arange(63).tensor_split(5)
    train = [rows] + [rows.subset(torch.cat(parts[:i] + parts[i + 1 :])) for i in range(5)]
    valid = StackedRows([rows.subset(part) for part in (parts[0], *parts)] * 2)
    generators = [torch.Generator().manual_seed(i) for i in range(2 * 6)]
    net = GaussianVAENet(
        [GaussianVAEModule(2, 1, generator=generator) for generator in generators],
        seed=list(range(2 * 6)),
        max_epochs=12,
        batch_size=16,
        lr=0.3,
        n_valid_draws=4,
        n_folds=n_folds,
        callbacks=list(callbacks),
        train_split=predefined_split(valid),
    ).initialize()
    at_start = net.evaluate_members(valid)["loss"]
    net.partial_fit(StackedRows(train * 2))
    return net, np.array([at_start, *(r["modules"]["valid_loss"] for r in net.history)])


def test_modules_of_folds_choose_one_best_epoch():
    weights, kept = MemberWeights(), MemberWeights()
    _, own = fit_folds(0, weights)
    folds = np.sort(own.reshape(13, 2, 6)[..., 1:])[..., 1:-1].mean(-1)
    net, losses = fit_folds(5, kept)
    np.testing.assert_allclose(losses, np.repeat(folds, 6, 1), rtol=1e-6)
    best = net.callbacks_[0][1].best_epochs_
    assert np.array_equal(best, np.repeat(folds.argmin(0), 6))
    assert np.any(best != own.argmin(0))  # else the test shows nothing
    torch.testing.assert_close(kept.kept, weights.kept)  # training is that without folds
    for i in (0, 6):
        torch.testing.assert_close(member_weights(net)[i], weights.kept[best[i]][i])


class Spoil(Callback):
    def __init__(self, member):
        self.member = member

    def on_grad_computed(self, net, named_parameters, **kwargs):
        if len(net.history) == 4:
            for _, parameter in named_parameters:
                parameter.grad[self.member] = math.nan


@pytest.mark.parametrize("member", [0, 3])
def test_of_a_group_all_end_where_one_is_lost(member):
    _, losses = fit_folds(5)
    with pytest.warns(RuntimeWarning, match="for 6 of 12 modules"):
        net, _ = fit_folds(5, Spoil(member))
    best = net.callbacks_[0][1]
    assert best.best_epochs_[0] == losses[:4, 0].argmin()
    assert np.array_equal(best.last_epochs_, [4] * 6 + [12] * 6)
    assert member_weights(net).isfinite().all()


def test_modules_that_are_kept_are_judged_by_their_own_rows():
    modules = [GaussianVAEModule(2, 1) for _ in range(6)]
    net = GaussianVAENet(modules, seed=[0] * 6, n_folds=5).initialize()
    net.keep_modules([0])
    rows = RowDataset(line(20))
    alone = GaussianVAENet(net.module_, seed=[0]).initialize()
    assert net.evaluate(rows) == alone.evaluate(rows)


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
    best = dict(net.callbacks_)["best_epoch"]
    assert net.evaluate(held_out)["loss"] == pytest.approx(best.best_losses_[0], rel=1e-5)


X = line(60).numpy()
SHORT = {"max_epochs": 3, "hidden_layer_sizes": (8,), "random_state": 0}


@pytest.mark.parametrize(
    ("net_params", "error", "message"),
    [
        ({"optimizer": torch.optim.LBFGS}, ValueError, "LBFGS needs a closure.*AdamW or SGD"),
        ({"iterator_train": DataLoader}, TypeError, "iterator_train.*TensorBatches.*DataLoader"),
        ({"iterator_valid": DataLoader}, TypeError, "iterator_valid.*TensorBatches.*DataLoader"),
    ],
)
def test_net_params_that_the_net_cannot_use(net_params, error, message):
    with pytest.raises(error, match=message):
        GaussianVAE(1, net_params=net_params, **SHORT).fit(X)


def test_an_estimator_splits_by_itself():
    net_params = {"train_split": ValidSplit(5)}
    with pytest.raises(TypeError, match="use validation_fraction"):
        GaussianVAE(1, early_stopping=False, net_params=net_params, **SHORT).fit(X)


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
        make_scorer(f1_score, average="macro"),
        lambda y, p, proba: f1_score(y, p, average="macro"),
    ),
    "of_one": (
        make_scorer(f1_score, average=None, labels=["barolo"]),
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
        early_stopping=False,
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
    n_of_each = np.unique(y[y != unlabeled], return_counts=True)[1]
    assert len(predicted) == len(labels) == sum(int(0.4 * n) for n in n_of_each)
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
    params = {"early_stopping": False, "net_params": {"callbacks": [last]}, **SHORT}
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


@pytest.mark.parametrize("params", [{"classifier": Noisy}, {"n_estimators": 3, "patience": 1}])
def test_a_score_changes_no_fit(params, wine):
    callbacks = [
        EpochScoring("accuracy", name=f"{on_train}{cached}", on_train=on_train, use_caching=cached)
        for on_train in (True, False)
        for cached in (True, False)
    ]
    params = {**SHORT, "max_epochs": 6, **params}
    plain = GaussianVAEClassifier(**params).fit(*wine)
    scored = GaussianVAEClassifier(net_params={"callbacks": callbacks}, **params).fit(*wine)
    proba = [model.predict_proba(wine[0]) for model in (plain, scored)]
    np.testing.assert_allclose(*proba, rtol=1e-5, atol=1e-7)
