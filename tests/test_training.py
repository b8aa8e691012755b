"""The loop against naive loops, each model of a stack against itself alone, and what is kept."""

import copy
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from skorch.callbacks import BatchScoring, Callback, EpochScoring, LRScheduler
from skorch.helper import predefined_split
from torch import nn
from torch.nn.utils import clip_grad_norm_, parameters_to_vector
from torch.optim.lr_scheduler import StepLR

from skgvae import GaussianVAE
from skgvae._training import Plan
from skgvae.net import GaussianVAENet, RowDataset, StackedRows, one_cycle
from skgvae.nn import ClassifierHead, GaussianVAEClassifierModule, GaussianVAEModule
from skgvae.objectives import JointLoss, NegativeBound, importance_weighted_bound


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def make_modules(n, **params):
    params = {"hidden_features": (5, 4), "min_noise": 0.01, **params}
    return [GaussianVAEModule(4, 2, 3, generator=seeded(m), **params) for m in range(n)]


def rows_of(seed, n, weighted=True):
    generator, dtype = seeded(seed), torch.get_default_dtype()
    t = torch.randn(n, 1, generator=generator, dtype=dtype)
    noise = torch.randn(n, 4, generator=generator, dtype=dtype)
    v2 = 0.05 * noise[:, :3] + torch.cat([t, t.square(), -t], 1)  # densities above one
    return RowDataset(t + 0.3 * noise, v2, 0.5 + t.abs()[:, 0] if weighted else None)


def make_net(modules, valid=None, **params):
    params = {"max_epochs": 6, "batch_size": 16, "lr": 0.02, "n_valid_draws": 2, **params}
    if valid is not None:
        params["train_split"] = predefined_split(StackedRows(valid))
    params = {"seed": list(range(len(modules))), **params}
    if "criterion" not in params:
        params |= {"criterion__bound": importance_weighted_bound, "criterion__n_draws": 3}
    return GaussianVAENet(copy.deepcopy(modules), **params)


def weights_of(net):
    return [parameters_to_vector(member.parameters()).detach() for member in net.stack_.members]


class Epochs(Callback):
    """Keep the weights that are judged, of the start and of each epoch."""

    def on_train_begin(self, net, **kwargs):
        self.weights = [weights_of(net)]

    def on_epoch_end(self, net, **kwargs):
        self.weights.append(weights_of(net))


def losses_of(modules, net, valid):
    """Return the validation losses of all models, of the start and of each epoch."""
    first = [
        make_net([module], seed=m).initialize().evaluate(valid[m])["loss"]
        for m, module in enumerate(modules)
    ]
    return np.array([first, *(record["valid_loss"] for record in net.result_.records)])


# The loop itself


def draw_batches(rows, n_batches, generator):
    order = torch.randperm(len(rows), generator=generator)
    edges = [i * len(rows) // n_batches for i in range(n_batches + 1)]
    for start, stop in pairwise(edges):
        batch = rows.take(order[start:stop])
        eps = torch.randn(3, stop - start, 2, generator=generator, dtype=rows.v1.dtype)
        yield batch.v1, batch.v2, eps, batch.weight


@pytest.mark.parametrize("averaging", [0.0, 0.2])
@pytest.mark.parametrize(
    "optimizer",
    [
        {},
        {"optimizer": torch.optim.AdamW, "optimizer__weight_decay": 0.0},
        {"optimizer": torch.optim.SGD, "optimizer__momentum": 0.9},
        {"optimizer": torch.optim.RMSprop},
    ],
    ids=["own", "AdamW", "SGD", "RMSprop"],
)
def test_training_is_a_plain_loop(optimizer, averaging, float64):
    rows, n_epochs, n_batches, lr, clip = rows_of(0, 50), 4, 4, 0.02, 1.0
    (module,) = make_modules(1)
    params = {"max_epochs": n_epochs, "gradient_clip": clip, "averaging": averaging, **optimizer}
    net = make_net([module], seed=3, lr=lr, **params).fit(rows)

    kind = optimizer.get("optimizer", torch.optim.AdamW)
    settings = {k.removeprefix("optimizer__"): v for k, v in optimizer.items() if "__" in k}
    if kind is torch.optim.AdamW:
        settings = {"weight_decay": 0.0}
    torch_optimizer, generator = kind(module.parameters(), lr=lr, **settings), seeded(3)
    criterion = NegativeBound(importance_weighted_bound)
    average, n_steps, was_clipped = parameters_to_vector(module.parameters()).detach(), 0, []
    for _ in range(n_epochs):
        for batch in draw_batches(rows, n_batches, generator):
            factor = one_cycle(n_steps / (n_epochs * n_batches))
            torch_optimizer.param_groups[0]["lr"] = lr * factor
            torch_optimizer.zero_grad()
            criterion(module, *batch).loss.backward()
            was_clipped.append(clip_grad_norm_(module.parameters(), clip).item() > clip)
            torch_optimizer.step()
            n_steps += 1
            share = 1 / (1 + averaging * n_steps)
            newest = parameters_to_vector(module.parameters()).detach()
            average = (1 - share) * average + share * newest
    assert any(was_clipped)  # else the test shows less
    torch.testing.assert_close(weights_of(net)[0], average, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("validated", [True, False])
@pytest.mark.parametrize("lengths", [(50, 50, 50), (64, 49, 57)], ids=["even", "uneven"])
@pytest.mark.parametrize(
    "params",
    [
        {},
        {"optimizer__orthogonal": True, "optimizer__weight_decay": 0.1},
        {"optimizer": torch.optim.AdamW},
        {"optimizer": torch.optim.SGD, "optimizer__momentum": 0.5, "lr": 1e-3},
        {"noise": "homoscedastic"},
        {"noise": "student"},
        {"n_prior_components": 3},
        {"activation": nn.PReLU, "optimizer__orthogonal": True},
    ],
    ids=["own", "orthogonal", "AdamW", "SGD", "shared_noise", "student", "mixture", "PReLU"],
)
def test_models_of_a_stack_are_trained_as_each_alone(params, lengths, validated, float64):
    names = "noise", "n_prior_components", "activation"
    modules = make_modules(3, **{name: params[name] for name in names if name in params})
    params = {name: value for name, value in params.items() if name not in names}
    table = rows_of(0, 100)  # of which two train on parts, and one on a table of its own
    order = torch.randperm(100, generator=seeded(0))
    train = [table.subset(order[: lengths[0]]), table.subset(order[-lengths[1] :])]
    train.append(rows_of(1, lengths[2], weighted=False))
    n_valid = (10, 10, 10) if len(set(lengths)) == 1 else (10, 13, 7)
    valid = [rows_of(9 + m, n) for m, n in enumerate(n_valid)] if validated else None
    for rows in valid or ():
        rows.v2[0] += 1e3  # such a loss counts up to a limit
    params = {"max_epochs": 8, "patience": 3, **params}
    together = make_net(modules, valid, n_groups=3, **params).fit(StackedRows(train))
    result = together.result_
    for m, module in enumerate(modules):
        alone = make_net([module], valid and [valid[m]], seed=[m], **params).fit(train[m])
        own = alone.result_
        assert result.best_epochs[m] == own.best_epochs[0]
        assert result.last_epochs[m] == own.last_epochs[0] == len(own.records)
        np.testing.assert_allclose(result.best_losses[m], own.best_losses[0], rtol=1e-8)
        for found, record in zip(result.records, own.records, strict=False):
            assert set(found) == set(record)
            for name, (value,) in record.items():
                assert found[name][m] == pytest.approx(value, rel=1e-8, abs=1e-9), name
        for name, tensor in alone.module_.state_dict().items():
            found = together.stack_.members[m].state_dict()[name]
            torch.testing.assert_close(found, tensor, rtol=1e-7, atol=1e-9)


def test_one_seed_gives_one_training_and_torchs_generator_stays():
    rows, valid = StackedRows([rows_of(m, 50) for m in range(3)]), [rows_of(9, 20)] * 3
    state = torch.get_rng_state()
    first, again = (make_net(make_modules(3), valid).fit(rows) for _ in range(2))
    other = make_net(make_modules(3), valid, seed=[5, 6, 7]).fit(rows)
    assert torch.equal(torch.get_rng_state(), state)
    for a, b, c in zip(*map(weights_of, (first, again, other)), strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)


def test_a_second_pass_has_an_order_and_draws_of_its_own():
    rows = rows_of(0, 50)
    net = make_net(make_modules(1), lr=1e-9, schedule=None, max_epochs=1).fit(rows)
    net.partial_fit(rows)
    first, second = net.history[:, "train_loss"]
    assert first != second


def test_without_epochs_nothing_moves():
    modules = make_modules(3)
    net = make_net(modules, [rows_of(9, 20)] * 3, max_epochs=0).fit(rows_of(0, 50))
    assert net.result_.records == []
    assert net.result_.best_epochs.tolist() == net.result_.last_epochs.tolist() == [0]
    for module, weights in zip(modules, weights_of(net), strict=True):
        assert torch.equal(weights, parameters_to_vector(module.parameters()))


# Which epoch is kept


@pytest.mark.parametrize("n_models", [1, 2, 4, 5, 10])
def test_the_best_epoch_is_that_of_the_lowest_trimmed_mean(n_models):
    modules, epochs = make_modules(n_models), Epochs()
    table, order = rows_of(0, 60), torch.arange(60)
    held_out = [order % max(n_models, 5) == m for m in range(n_models)]
    train, valid = ([table.subset(torch.where(mask)[0]) for mask in masks]
                    for masks in ([~h for h in held_out], held_out))  # fmt: skip
    params = {"max_epochs": 20, "lr": 0.3, "schedule": None, "averaging": 0.0}
    net = make_net(modules, valid, callbacks=[epochs], **params).fit(StackedRows(train))
    n_cut = n_models // 5
    of_models = losses_of(modules, net, valid)
    losses = np.sort(of_models, 1)[:, n_cut : n_models - n_cut].mean(1)
    (best,) = net.result_.best_epochs
    assert best == losses.argmin()
    assert 0 < best < 20  # else the test shows little
    np.testing.assert_allclose(net.result_.best_losses, [losses.min()], rtol=1e-5)
    for found, kept in zip(weights_of(net), epochs.weights[best], strict=True):
        assert torch.equal(found, kept)
    assert net.history[:, "valid_loss"] == pytest.approx(of_models[1:].mean(1), rel=1e-5)


@pytest.mark.parametrize("averaging", [0.0, 0.1])
def test_without_held_out_rows_the_last_epoch_is_kept(averaging):
    epochs = Epochs()
    net = make_net(make_modules(3), averaging=averaging, callbacks=[epochs]).fit(rows_of(0, 50))
    assert net.result_.best_epochs.tolist() == [6]
    assert net.result_.best_losses.tolist() == [math.inf]
    for found, kept in zip(weights_of(net), epochs.weights[-1], strict=True):
        assert torch.equal(found, kept)


@pytest.mark.parametrize(("scale", "start_is_best"), [(0.03, False), (0.01, True)])
def test_losses_below_zero_of_uneven_numbers_of_rows(scale, start_is_best):
    modules = [GaussianVAEModule(20, 2, min_noise=0.003, generator=seeded(m)) for m in range(3)]
    for module in modules:
        module.start_at_factor_analysis(torch.zeros(20, 1), torch.full((20,), scale**2))
    train, *valid = (
        RowDataset(0.01 * torch.randn(n, 20, generator=seeded(n))) for n in (50, 10, 13, 7)
    )
    net = make_net(modules, valid, lr=2e-3, max_epochs=12, n_groups=3).fit(train)
    losses = losses_of(modules, net, valid)
    assert losses.max() < -20
    assert np.all((losses.argmin(0) == 0) == start_is_best)
    assert net.result_.best_epochs.tolist() == losses.argmin(0).tolist()
    np.testing.assert_allclose(net.result_.best_losses, losses.min(0), rtol=1e-5)


def test_one_far_row_does_not_choose_the_epoch():
    rows, far = rows_of(1, 20, weighted=False), 1e4
    v1 = torch.cat([rows.v1, rows.v1[:1]])
    valid = RowDataset(v1, torch.cat([rows.v2, rows.v2[:1] + far]))
    params = {"max_epochs": 20, "lr": 0.05, "n_valid_draws": 64}
    epochs = Epochs()
    (module,) = make_modules(1)
    net = make_net([module], [valid], callbacks=[epochs], **params).fit(rows_of(0, 50))
    (best,) = net.result_.best_epochs

    def loss(weights, rows):
        nn.utils.vector_to_parameters(weights, module.parameters())
        return make_net([module], **params).initialize().evaluate(rows)["loss"]

    near = [loss(weights, rows) for (weights,) in epochs.weights]
    assert np.argmin([loss(weights, valid) for (weights,) in epochs.weights]) != best
    assert near[best] < min(near) + 0.1 < near[0] - 0.1
    assert net.result_.best_losses[0] < near[0] + 1e4


def test_patience_ends_each_group_by_itself():
    modules, valid = make_modules(4), [rows_of(9 + m, 10) for m in range(4)]
    train = StackedRows([rows_of(m, 20) for m in range(4)])
    params = {"max_epochs": 60, "lr": 0.1, "n_groups": 2}
    net = make_net(modules, valid, patience=4, **params).fit(train)
    result = net.result_
    losses = losses_of(modules, net, valid).reshape(-1, 2, 2).mean(-1)
    for group, (best, last) in enumerate(zip(result.best_epochs, result.last_epochs, strict=True)):
        assert best == losses[: last + 1, group].argmin()
        assert last == best + max(4, best) < 60  # at least as many as it took to the best
    assert len(result.records) == max(result.last_epochs) > min(result.last_epochs)
    net.partial_fit(train, epochs=2)  # all go on
    assert net.result_.last_epochs.tolist() == [2, 2]


def test_another_cycle_follows_where_the_last_epochs_were_the_best():
    modules, valid = make_modules(4), [rows_of(9 + m, 10) for m in range(4)]
    train = StackedRows([rows_of(m, 20) for m in range(4)])
    params = {"max_epochs": 60, "lr": 0.02, "n_groups": 2, "n_cycles": 3}
    net = make_net(modules, valid, **params).fit(train)
    losses = losses_of(modules, net, valid).reshape(-1, 2, 2).mean(-1)
    for group, (best, last) in enumerate(
        zip(net.result_.best_epochs, net.result_.last_epochs, strict=True)
    ):
        assert best == losses[: last + 1, group].argmin()
        bests = [losses[: end + 1, group].argmin() for end in (20, 40)]
        assert last == next((e for e, b in zip((20, 40), bests, strict=True) if b <= e - 2), 60)
    assert max(net.result_.last_epochs) > 20


def test_each_cycle_has_the_whole_schedule():
    rates = []

    class Rates(Callback):
        def on_grad_computed(self, net, **kwargs):
            rates.append(net.optimizer_.param_groups[0]["lr"])

    (module,) = make_modules(1)
    make_net([module], n_cycles=2, lr=0.5, callbacks=[Rates()]).fit(rows_of(0, 50))
    assert len(rates) == 6 * 4
    assert rates[:12] == rates[12:] == [0.5 * one_cycle(i / 12) for i in range(12)]


def test_cycles_may_grow():
    plan = Plan(max_epochs=70, batch_size=5, n_cycles=3, cycle_growth=2)
    found = [plan.cycle_at(epoch) for epoch in range(1, 71)]
    assert found == [(0, 10)] * 10 + [(10, 20)] * 20 + [(30, 40)] * 40
    plan = Plan(max_epochs=7, batch_size=5, n_cycles=2)  # the last one is cut short
    assert [plan.cycle_at(epoch) for epoch in (1, 4, 5, 7)] == [(0, 4), (0, 4), (4, 4), (4, 4)]


@pytest.mark.parametrize(
    "params", [{"schedule": None}, {"callbacks": [LRScheduler(StepLR, step_size=2)]}]
)
def test_without_the_schedule_there_is_one_cycle(params):
    (module,), valid = make_modules(1), [rows_of(9, 20)]
    net = make_net([module], valid, n_cycles=6, max_epochs=12, **params).fit(rows_of(0, 50))
    assert len(net.history) == 12


# What goes wrong


class Spoil(Callback):
    """Make gradients of some models infinite in some epochs."""

    def __init__(self, models, epochs=(4,)):
        self.models, self.epochs = models, epochs

    def on_grad_computed(self, net, named_parameters, **kwargs):
        if len(net.history) in self.epochs:
            for _, parameter in named_parameters:
                if parameter.grad is not None:
                    parameter.grad[self.models] = math.nan


OPTIMIZERS = [
    {},
    {"optimizer__orthogonal": True},
    {"optimizer": torch.optim.AdamW},
    {"optimizer": torch.optim.SGD, "optimizer__momentum": 0.9, "lr": 2e-4},
]


class Moments(Callback):
    """Look at what the optimizer remembers of each model after an epoch."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_epoch_end(self, net, **kwargs):
        if len(net.history) == self.epoch:
            states = [t for s in net.optimizer_.state.values() for t in s.values()]
            parts = [t.flatten(1).abs().sum(1) for t in states if torch.is_tensor(t) and t.ndim]
            self.size = torch.stack(parts).sum(0)


@pytest.mark.parametrize("validated", [True, False])
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=["own", "orthogonal", "AdamW", "SGD"])
def test_a_model_that_diverges_goes_on_from_its_best_weights(optimizer, validated):
    valid = [rows_of(9 + m, 20) for m in range(5)] if validated else None
    train = StackedRows([rows_of(m, 50) for m in range(5)])
    epochs, spoilt, moments = Epochs(), Epochs(), Moments(4)
    params = {"max_epochs": 8, **optimizer}
    plain = make_net(make_modules(5), valid, callbacks=[epochs], **params).fit(train)
    callbacks = [Spoil([1]), spoilt, moments]
    net = make_net(make_modules(5), valid, callbacks=callbacks, **params)
    with pytest.warns(RuntimeWarning, match="not finite in epoch 4 for 1 of 5 models") as record:
        net.fit(train)
    assert len(record) == 1
    # The other models are as they would have been.
    for before, after in zip(plain.result_.records, net.result_.records, strict=True):
        for name in set(before) - {"valid_loss_best"}:
            found, expected = (np.delete(record[name], 1) for record in (after, before))
            np.testing.assert_array_equal(found, expected)
    for before, after in zip(epochs.weights, spoilt.weights, strict=True):
        for m in (0, 2, 3, 4):
            assert torch.equal(before[m], after[m])
    # It is put back to the best weights so far, forgets what the optimizer knew, and goes on.
    best = 3
    if validated:
        losses = losses_of(make_modules(5), net, valid)[:4]
        best = np.sort(losses, 1)[:, 1:-1].mean(1).argmin()
        assert best > 0  # else the test shows little
    assert f"weights of epoch {best}" in str(record[0].message)
    assert torch.equal(spoilt.weights[4][1], spoilt.weights[best][1])
    assert (moments.size > 0).tolist() == [True, False, True, True, True]
    assert math.isnan(net.result_.records[3]["train_loss"][1])
    for later in net.result_.records[4:]:
        assert np.isfinite(later["train_loss"]).all()
    assert not torch.equal(spoilt.weights[5][1], spoilt.weights[4][1])
    assert all(weights.isfinite().all() for weights in weights_of(net))


def test_a_group_that_diverges_ends_and_the_others_go_on():
    valid = [rows_of(9 + m, 20) for m in range(4)]
    train = StackedRows([rows_of(m, 50) for m in range(4)])
    epochs = Epochs()
    plain = make_net(make_modules(4), valid, n_groups=2, callbacks=[epochs]).fit(train)
    net = make_net(make_modules(4), valid, n_groups=2, callbacks=[Spoil([0, 1], range(4, 99))])
    with pytest.warns(RuntimeWarning, match="for 2 of 4 models") as record:
        net.fit(train)
    assert len(record) == 1
    assert net.result_.last_epochs.tolist() == [4, 6]
    assert net.result_.best_epochs[1] == plain.result_.best_epochs[1]
    best = losses_of(make_modules(4), plain, valid)[:4, :2].mean(1).argmin()
    assert net.result_.best_epochs[0] == best
    found, expected = weights_of(net), weights_of(plain)
    for m in range(4):
        kept = epochs.weights[best] if m < 2 else expected
        assert torch.equal(found[m], kept[m])


def test_a_model_that_diverges_again_and_again_is_one_warning():
    net = make_net(make_modules(3), [rows_of(9, 20)] * 3, callbacks=[Spoil([2], (1, 2, 4))])
    with pytest.warns(RuntimeWarning, match="in epoch 1 for 1 of 3") as record:
        net.fit(rows_of(0, 50))
    assert len(record) == 1
    assert len(net.history) == 6
    assert all(weights.isfinite().all() for weights in weights_of(net))


class SpoilJudged(Callback):
    """Make the averaged weights of a model infinite, those by which it would be judged."""

    def on_batch_end(self, net, training, **kwargs):
        if training and len(net.history) == 3:
            self.is_due = True

    def on_batch_begin(self, net, training, **kwargs):
        if not training and getattr(self, "is_due", False):
            self.is_due = False
            with torch.no_grad():
                net.stack_.parameters["decoder.loc.bias"][1] = math.nan


def test_weights_without_a_validation_loss_are_not_kept():
    epochs = Epochs()
    net = make_net(make_modules(3), [rows_of(9, 20)] * 3, callbacks=[SpoilJudged(), epochs])
    with pytest.warns(RuntimeWarning, match="in epoch 4 for 1 of 3"):  # the average stays so
        net.fit(rows_of(0, 50))
    assert math.isnan(net.result_.records[2]["valid_loss"][1])
    assert net.result_.records[2]["valid_loss_best"].tolist() == [True] * 3
    assert torch.equal(epochs.weights[4][1], epochs.weights[2][1])
    assert all(weights.isfinite().all() for weights in weights_of(net))


class Stateful(nn.Module):
    """A classifier of a user, which draws numbers and collects averages in training."""

    def __init__(self):
        super().__init__()
        self.norm, self.dropout, self.out = nn.BatchNorm1d(7), nn.Dropout(0.3), nn.Linear(7, 2)

    def forward(self, v1, v2_estimate):
        return self.out(self.dropout(self.norm(torch.cat([v1, v2_estimate], 1))))


def joint_net(classifier, **params):
    modules = [GaussianVAEClassifierModule(vae, classifier()) for vae in make_modules(3)]
    train, valid = (
        RowDataset(rows.v1, rows.v2, None, (rows.v1[:, 0] > 0).long())
        for rows in (rows_of(0, 60), rows_of(9, 20))
    )
    return make_net(modules, [valid] * 3, criterion=JointLoss, **params), train


def test_averages_of_a_model_that_diverges_are_put_back():
    net, rows = joint_net(Stateful, callbacks=[Spoil([1])])
    with pytest.warns(RuntimeWarning, match="for 1 of 3"):
        net.fit(rows)
    for record in net.result_.records[3:]:
        assert np.isfinite(record["valid_loss"]).all()
    for member in net.stack_.members:
        assert all(buffer.isfinite().all() for buffer in member.buffers())
        assert member.classifier.norm.running_mean.abs().max() > 0


class Raise(Callback):
    def __init__(self, error, epoch, batch):
        self.error, self.epoch, self.batch = error, epoch, batch

    def on_epoch_begin(self, net, **kwargs):
        self.n_seen = 0

    def on_grad_computed(self, net, **kwargs):
        self.n_seen += 1
        if (len(net.history), self.n_seen) == (self.epoch, self.batch):
            raise self.error


@pytest.mark.parametrize("validated", [True, False])
@pytest.mark.parametrize(("epoch", "batch"), [(1, 1), (1, 3), (5, 1), (5, 4)])
def test_an_interrupt_keeps_the_best_epoch(epoch, batch, validated):
    valid = [rows_of(9 + m, 20) for m in range(3)] if validated else None
    rows, epochs = rows_of(0, 50), Epochs()
    make_net(make_modules(3), valid, lr=0.1, callbacks=[epochs]).fit(rows)
    interrupt = KeyboardInterrupt()
    raising = Raise(interrupt, epoch, batch)
    net = make_net(make_modules(3), valid, lr=0.1, callbacks=[raising]).fit(rows)
    result = net.result_
    assert result.interrupt is interrupt
    assert len(result.records) == epoch - 1
    best = losses_of(make_modules(3), net, valid).mean(1).argmin() if validated else epoch - 1
    assert result.best_epochs.tolist() == [best]
    for found, kept in zip(weights_of(net), epochs.weights[best], strict=True):
        assert torch.equal(found, kept)
    again = net.partial_fit(rows)  # it can go on
    assert again.result_.interrupt is None
    assert len(again.result_.records) == 6


def test_an_error_is_raised_and_leaves_the_best_epoch():
    valid, rows, epochs = [rows_of(9 + m, 20) for m in range(3)], rows_of(0, 50), Epochs()
    error = torch.OutOfMemoryError("CUDA")
    net = make_net(make_modules(3), valid, callbacks=[Raise(error, 4, 2), epochs])
    with pytest.raises(torch.OutOfMemoryError) as raised:
        net.fit(rows)
    assert raised.value is error
    assert any(all(map(torch.equal, weights_of(net), weights)) for weights in epochs.weights[1:])


def test_an_interrupt_before_the_first_step_is_one_too(monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    X = np.random.default_rng(0).standard_normal((20, 3)) @ np.ones((3, 3))
    model = GaussianVAE(1, max_epochs=1, random_state=0)
    with monkeypatch.context() as patch:
        patch.setattr("skgvae.net.train", interrupted)
        with pytest.raises(KeyboardInterrupt):
            model.fit(X)
    assert not hasattr(model, "net_")
    assert model.fit(X).n_epochs_ == 1


# Who looks on


class Looks(Callback):
    """Ask the net for everything at every occasion."""

    def __init__(self, rows):
        self.rows = rows

    def look(self, net, **kwargs):
        found = net.predict(self.rows), net.evaluate(self.rows)["loss"]
        assert np.isfinite(found[0]).all()
        assert math.isfinite(found[1])

    on_epoch_begin = on_batch_begin = on_grad_computed = on_batch_end = on_epoch_end = look


def test_what_looks_on_changes_no_bit():
    train = StackedRows([rows_of(m, 50 + m) for m in range(3)])
    valid = [rows_of(9 + m, 20 + m) for m in range(3)]
    callbacks = [
        Looks(rows_of(20, 7)),
        *(EpochScoring("r2", name=f"{on_train}", on_train=on_train) for on_train in (True, False)),
        EpochScoring("r2", name="anew", use_caching=False),
        BatchScoring("r2", name="by_batch"),
    ]
    plain = make_net(make_modules(3), valid).fit(train)
    watched = make_net(make_modules(3), valid, callbacks=callbacks).fit(train)
    for a, b in zip(weights_of(plain), weights_of(watched), strict=True):
        assert torch.equal(a, b)
    for before, after in zip(plain.result_.records, watched.result_.records, strict=True):
        for name in before:
            np.testing.assert_array_equal(before[name], after[name])


def test_what_looks_on_leaves_dropout_and_batch_norm_in_training():
    states = []
    for watches in (False, True):
        torch.manual_seed(0)
        net, rows = joint_net(Stateful)
        net.set_params(callbacks=[Looks(rows)] if watches else None).fit(rows)
        states.append([member.state_dict() for member in net.stack_.members])
    for before, after in zip(*states, strict=True):
        torch.testing.assert_close(before, after, rtol=0, atol=0)


def test_callbacks_see_the_weights_that_the_loss_is_of():
    class Losses(Callback):
        def on_epoch_end(self, net, **kwargs):
            self.seen = [*getattr(self, "seen", []), net.evaluate(rows_of(9, 20))["loss"]]

    losses = Losses()
    net = make_net(make_modules(3), [rows_of(9, 20)] * 3, callbacks=[losses]).fit(rows_of(0, 50))
    assert losses.seen == pytest.approx(net.history[:, "valid_loss"], rel=1e-6)


def test_predictions_of_a_batch_are_those_of_its_weights():
    class Predictions(Callback):
        def on_batch_end(self, net, batch, training, y_pred, **kwargs):
            if training:  # the parameters in training, called anew
                stacked = net.stack_.stacked
                v1 = batch[0][0].expand(len(net.stack_), -1, -1)
                with torch.no_grad():
                    loc, _ = stacked.encoder.loc_and_log_scale(v1)
                    expected = stacked.decoder.loc_and_log_scale(loc)[0][0]
                torch.testing.assert_close(y_pred, expected)
                self.n_seen = getattr(self, "n_seen", 0) + 1

    predictions = Predictions()
    make_net(make_modules(3), max_epochs=2, callbacks=[predictions]).fit(rows_of(0, 50))
    assert predictions.n_seen == 2 * 4


# What stays


@pytest.mark.parametrize(
    "optimizer",
    [*OPTIMIZERS, {"optimizer__orthogonal": True, "optimizer__weight_decay": 0.1}],
    ids=["own", "orthogonal", "AdamW", "SGD", "decay"],
)
def test_frozen_weights_stay(optimizer):
    modules = make_modules(3)
    for module in modules:
        module.encoder.requires_grad_(False)
        module.decoder.hidden[0].weight.requires_grad_(False)
    net = make_net(modules, **optimizer).fit(StackedRows([rows_of(m, 50) for m in range(3)]))
    for member, start in zip(net.stack_.members, modules, strict=True):
        for (name, found), before in zip(
            member.named_parameters(), start.parameters(), strict=True
        ):
            assert torch.equal(found, before) == (not before.requires_grad), name


def test_groups_of_weights_have_rates_of_their_own():
    groups = [("encoder*", {"lr": 0.0}), ("decoder.loc.*", {"lr": 1e-3})]
    modules = make_modules(2)
    params = {"optimizer": torch.optim.SGD, "optimizer__param_groups": groups, "lr": 1e-4}
    net = make_net(modules, schedule=None, **params).fit(rows_of(0, 50))
    assert [group["lr"] for group in net.optimizer_.param_groups] == [0.0, 1e-3, 1e-4]
    for member, start in zip(net.stack_.members, modules, strict=True):
        for (name, found), before in zip(
            member.named_parameters(), start.parameters(), strict=True
        ):
            assert torch.equal(found, before) == name.startswith("encoder"), name


def test_a_classifier_of_this_package_takes_part():
    net, rows = joint_net(lambda: ClassifierHead(4, 3, 2, (5,), generator=seeded(0)))
    net.fit(rows)
    losses = net.history[:, "valid_cross_entropy"]
    assert losses[-1] < losses[0] < math.log(2) + 0.1
