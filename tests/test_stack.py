import copy
import math
import pickle

import numpy as np
import pytest
import torch
from skorch.helper import predefined_split
from torch import nn

from skgvae._batches import RowDataset, StackedRows, TensorBatches
from skgvae._stack import ModuleStack
from skgvae.net import GaussianVAENet
from skgvae.nn import (
    ClassifierHead,
    GaussianVAEClassifierModule,
    GaussianVAEModule,
    StandardNormalPrior,
)
from skgvae.objectives import (
    JointLoss,
    NegativeBound,
    elbo,
    importance_weighted_bound,
    predictive_bound,
)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def make_modules(n=3, **params):
    params = {"hidden_features": (5, 4), "min_noise": 0.1, **params}
    modules = [GaussianVAEModule(4, 2, 3, generator=seeded(m), **params) for m in range(n)]
    for m, module in enumerate(modules):  # at a random start, not at a special point
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.7, generator=seeded(10 + m))
    return modules


def make_batch(n=3, rows=6, draws=5):
    v1, v2 = torch.randn(n, rows, 4), torch.randn(n, rows, 3)
    return v1, v2, torch.randn(n, draws, rows, 2), torch.rand(n, rows)


class Wrapped(nn.Module):
    """A network that says nothing of a model axis: it is called for each model."""

    def __init__(self, mlp):
        super().__init__()
        self.mlp = mlp
        self.in_features, self.out_features = mlp.in_features, mlp.out_features
        self.noise, self.family, self.per_row = mlp.noise, mlp.family, mlp.per_row

    def loc_and_log_scale(self, x):
        return self.mlp.loc_and_log_scale(x)


class ShiftedPrior(StandardNormalPrior):
    def __init__(self, latent_features):
        super().__init__(latent_features)
        self.shift = nn.Parameter(torch.randn(latent_features))

    def log_prob(self, z):
        return super().log_prob(z - self.shift)

    def kl(self, loc, log_scale, z=None):
        return super().kl(loc - self.shift, log_scale)


def assert_same_terms_and_gradients(modules, criterion, batch):
    """Hold the stack against its modules, one by one."""
    alone = copy.deepcopy(modules)
    stack = ModuleStack(modules)
    v1, v2, eps, *others = batch
    terms = criterion.by_rows(stack, v1, v2, eps, *others)
    terms.loss.mean(-1).sum().backward()
    gradients = {name: p.grad for name, p in stack.parameters.items()}
    for m, module in enumerate(alone):
        own = criterion(module, v1[m], v2[m], eps[m], *(other[m] for other in others))
        own.loss.backward()
        for name, term in own._asdict().items():
            torch.testing.assert_close(getattr(terms, name)[m].mean(), term)
        for name, parameter in module.named_parameters():
            torch.testing.assert_close(gradients[name][m], parameter.grad)
            assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("noise", ["heteroscedastic", "homoscedastic", "isotropic", "student"])
@pytest.mark.parametrize("bound", [elbo, importance_weighted_bound, predictive_bound])
def test_stack_equals_its_modules(bound, noise, n, float64):
    modules = make_modules(n, noise=noise)
    extra = {"mean_power": 0.5} if bound is predictive_bound else {}
    criterion = NegativeBound(bound, kl_weight=0.3, **extra)
    assert_same_terms_and_gradients(modules, criterion, make_batch(n))


@pytest.mark.parametrize("kl_weight", [0.0, 1.0, 1.7])
@pytest.mark.parametrize("bound", [elbo, importance_weighted_bound])
def test_any_weight_of_the_divergence(bound, kl_weight, float64):
    criterion = NegativeBound(bound, kl_weight)
    assert_same_terms_and_gradients(make_modules(), criterion, make_batch())


@pytest.mark.parametrize("kl_weight", [0.3, 1.0, 1.7])
@pytest.mark.parametrize("bound", [elbo, importance_weighted_bound, predictive_bound])
def test_mixture_prior(bound, kl_weight, float64):
    modules = make_modules(n_prior_components=3)
    assert_same_terms_and_gradients(modules, NegativeBound(bound, kl_weight), make_batch())


@pytest.mark.parametrize("n_prior_components", [None, 2])
@pytest.mark.parametrize("bound", [elbo, importance_weighted_bound, predictive_bound])
def test_a_weight_of_the_divergence_for_each_member(bound, n_prior_components, float64):
    modules = make_modules(n_prior_components=n_prior_components)
    batch, weights = make_batch(), [0.2, 1.0, 1.5]
    criterion = NegativeBound(bound, torch.tensor(weights)[:, None])
    terms = criterion.by_rows(ModuleStack(modules), *batch)
    for m, weight in enumerate(weights):
        v1, v2, eps, row_weight = batch[0][m], batch[1][m], batch[2][m], batch[3][m]
        own = NegativeBound(bound, weight).by_rows(modules[m], v1, v2, eps, row_weight)
        torch.testing.assert_close(terms.loss[m], own.loss)


@pytest.mark.parametrize("hidden", [(), (5,), (5, 4, 3)])
@pytest.mark.parametrize("linear", [True, False])
def test_any_depth_with_and_without_linear_paths(hidden, linear, float64):
    modules = make_modules(hidden_features=hidden, linear=linear)
    assert_same_terms_and_gradients(modules, NegativeBound(elbo), make_batch())


@pytest.mark.parametrize(
    "activation",
    [nn.Identity, nn.Sigmoid, nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.ELU, nn.Softplus],
)
def test_any_activation(activation, float64):
    modules = make_modules(activation=activation)
    assert_same_terms_and_gradients(modules, NegativeBound(elbo), make_batch())


def test_an_activation_with_weights_of_its_own(float64):
    modules = make_modules(activation=nn.PReLU)
    assert_same_terms_and_gradients(modules, NegativeBound(elbo), make_batch())


@pytest.mark.parametrize("n", [1, 3])
def test_networks_and_priors_of_a_user_are_called_in_turn(n, float64):
    modules = make_modules(n, prior=None)
    for module in modules:
        module.encoder, module.decoder = Wrapped(module.encoder), Wrapped(module.decoder)
        module.prior = ShiftedPrior(2)
    criterion = NegativeBound(importance_weighted_bound, kl_weight=0.5)
    assert_same_terms_and_gradients(modules, criterion, make_batch(n))


@pytest.mark.parametrize("pseudo_weight", [0.0, 1.5])
@pytest.mark.parametrize("n", [1, 3])
def test_stack_of_joint_modules(n, pseudo_weight, float64):
    modules = [
        GaussianVAEClassifierModule(vae, ClassifierHead(4, 3, 2, hidden_features=(5,)))
        for vae in make_modules(n)
    ]
    for module in modules:
        for parameter in module.classifier.parameters():
            nn.init.normal_(parameter)
    v1, v2, _, weight = make_batch(n)
    eps, label = torch.randn(n, 5, 6, 2 + 3 + (pseudo_weight > 0)), torch.randint(2, (n, 6))
    params = {"vae_weight": 0.7, "label_share": 0.5, "pseudo_weight": pseudo_weight}
    criterion = JointLoss(0.3, penalty=0.2, **params)
    batch = v1, v2, eps, weight, label, torch.randn(n, 6)  # negative: without a label
    assert_same_terms_and_gradients(modules, criterion, batch)


@pytest.mark.parametrize("bound", [elbo, importance_weighted_bound, predictive_bound])
@pytest.mark.parametrize("n_prior_components", [None, 3])
def test_a_batch_without_rows(bound, n_prior_components):
    stack = ModuleStack(make_modules(2, n_prior_components=n_prior_components))
    n_latents, n_out = stack.encoder.out_features, stack.decoder.out_features
    v1, v2 = torch.zeros(2, 0, stack.encoder.in_features), torch.zeros(2, 0, n_out)
    eps = torch.zeros(2, 5, 0, n_latents)
    terms = NegativeBound(bound).by_rows(stack, v1, v2, eps)
    assert {tuple(term.shape) for term in terms} == {(2, 0)}
    loc, log_scale = stack.decoder.loc_and_log_scale(eps)
    assert loc.shape == log_scale.shape == (2, 5, 0, n_out)


def test_members_and_the_matrix_are_brought_in_line():
    modules = make_modules()
    stack = ModuleStack(modules)
    with torch.no_grad():
        stack.stacked.decoder.loc.bias.fill_(7.0)
    stack.sync_()
    assert [module.decoder.loc.bias[0].item() for module in modules] == [7.0, 7.0, 7.0]
    with torch.no_grad():
        modules[1].decoder.loc.bias.fill_(8.0)
    stack.pull_()
    assert stack.stacked.decoder.loc.bias[:, 0].tolist() == [7.0, 8.0, 7.0]
    assert stack.by_name(stack.weights)["decoder.loc.bias"][:, 0].tolist() == [7.0, 8.0, 7.0]


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda stack: pickle.loads(pickle.dumps(stack)),
    "state_dict": lambda stack: _with_state_of(stack),
}


def _with_state_of(stack):
    others = make_modules()
    for own, other in zip(stack.members, others, strict=True):
        with torch.no_grad():
            other.decoder.loc.bias.fill_(5.0)
        other.load_state_dict(own.state_dict())
    return ModuleStack(others)


@pytest.mark.parametrize("how", COPIES)
def test_a_step_of_a_copy_changes_its_answers_alone(how):
    stack = ModuleStack(make_modules())
    v1, v2, eps, _ = make_batch()

    def value(stack):
        return elbo(stack, v1, v2, eps).value

    other, before = COPIES[how](stack), value(stack)
    torch.testing.assert_close(value(other), before)
    value(other).sum().backward()
    torch.optim.SGD(other.parameters.values(), lr=0.01).step()
    other.sync_()
    assert (value(other) - before).abs().min() > 0
    assert torch.equal(value(stack), before)
    again = ModuleStack(other.members)  # the members have made the step too
    torch.testing.assert_close(value(again), value(other))


def test_frozen_weights_stay():
    modules = make_modules()
    for module in modules:
        module.encoder.requires_grad_(False)
    before = copy.deepcopy(modules)
    rows = [rows_of(m) for m in range(3)]
    for optimizer in ({}, {"optimizer": torch.optim.SGD}, {"optimizer__weight_decay": 0.1}):
        net = fit(modules, [0, 1, 2], rows, None, **optimizer)
        for member, old in zip(net.stack_.members, before, strict=True):
            assert torch.equal(member.encoder.loc.weight, old.encoder.loc.weight)
            assert torch.equal(member.encoder.hidden[0].weight, old.encoder.hidden[0].weight)
            assert not torch.equal(member.decoder.loc.weight, old.decoder.loc.weight)


def test_modules_of_several_dtypes_are_refused():
    modules = make_modules()
    for module in modules:
        module.decoder.double()
    with pytest.raises(ValueError, match="must have one dtype"):
        ModuleStack(modules)


class MLPClassifier(nn.Module):
    # As users write them: for two matrices, with a state and layers of torch.
    def __init__(self):
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(7, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2))

    def forward(self, v1, v2):
        assert v1.ndim == v2.ndim == 2
        return self.hidden(torch.cat([v1, v2], 1))


def test_a_classifier_of_the_user_has_its_own_state_in_each_model(float64):
    vaes = make_modules(2)
    modules = [GaussianVAEClassifierModule(vae, MLPClassifier()) for vae in vaes]
    v1, v2, _, weight = make_batch(2)
    batch = v1, v2, torch.randn(2, 5, 6, 5), weight, torch.randint(2, (2, 6))
    assert_same_terms_and_gradients(modules, JointLoss(0.3, penalty=0.2), batch)


def rows_of(seed, n=60):
    generator = seeded(seed)
    t = torch.randn(n, 1, generator=generator)
    noise = torch.randn(n, 4, generator=generator)
    return RowDataset(t + 0.3 * noise, t.expand(-1, 3) + 0.1, 0.5 + t.abs()[:, 0])


def fit(modules, seeds, train, valid, **params):
    params = {"max_epochs": 6, "batch_size": 16, "lr": 0.02, "patience": 3, **params}
    params |= {"n_valid_draws": 2, "criterion__n_draws": 3}
    net = GaussianVAENet(
        copy.deepcopy(modules),
        seed=seeds,
        criterion__bound=importance_weighted_bound,
        train_split=None if valid is None else predefined_split(StackedRows(valid)),
        **params,
    )
    return net.fit(StackedRows(train))


@pytest.mark.parametrize("noise", ["heteroscedastic", "homoscedastic"])
@pytest.mark.parametrize("validated", [True, False])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("lengths", [(50, 50, 50), (50, 49, 50)])
def test_members_are_trained_as_if_alone(lengths, shared, validated, noise):
    modules, seeds = make_modules(noise=noise), [5, 6, 7]
    if shared:  # subsets of one table
        table = rows_of(0)
        order = [torch.randperm(60, generator=seeded(m)) for m in range(3)]
        train = [table.subset(o[10 : 10 + n]) for o, n in zip(order, lengths, strict=True)]
        valid = [table.subset(o[:10]) for o in order]
    else:
        train = [rows_of(m, n) for m, n in enumerate(lengths)]
        valid = [rows_of(9 + m, 10) for m in range(3)]
    valid = valid if validated else None
    together = fit(modules, seeds, train, valid)
    for m in range(3):
        alone = fit([modules[m]], [seeds[m]], [train[m]], None if valid is None else [valid[m]])
        for name, weight in alone.module_.state_dict().items():
            torch.testing.assert_close(
                together.stack_.members[m].state_dict()[name], weight, rtol=1e-3, atol=1e-4
            )
        n_epochs = len(alone.history)
        found = [record["modules"]["train_loss"][m] for record in together.history[:n_epochs]]
        assert found == pytest.approx(alone.history[:, "train_loss"], rel=1e-4)


def test_every_member_keeps_its_own_best_epoch():
    modules = make_modules()
    train, valid = [rows_of(m, 30) for m in range(3)], [rows_of(9 + m, 20) for m in range(3)]
    net = fit(modules, [0, 1, 2], train, valid, max_epochs=80, lr=0.1, patience=80)
    losses = torch.tensor([record["modules"]["valid_loss"] for record in net.history])
    best = dict(net.callbacks_)["best_epoch"].best_epochs_
    assert best.tolist() == (losses.argmin(0) + 1).tolist()
    assert len(set(best.tolist())) > 1  # else the test shows little
    found = net.evaluate_members(StackedRows(valid))["loss"]
    assert found == pytest.approx(losses.min(0).values.numpy(), rel=1e-4)
    assert net.final_losses() == pytest.approx(found, rel=1e-4)


def test_members_that_are_done_are_dropped_and_change_nothing():
    modules, seeds = make_modules(), [0, 1, 2]
    train, valid = [rows_of(m, 30) for m in range(3)], [rows_of(9 + m, 20) for m in range(3)]
    params = {"max_epochs": 80, "lr": 0.1, "patience": 4}
    net = fit(modules, seeds, train, valid, **params)
    lengths = [
        sum(not math.isnan(record["modules"]["valid_loss"][m]) for record in net.history)
        for m in range(3)
    ]
    assert min(lengths) < max(lengths) == len(net.history)  # else the test shows little
    for m in range(3):
        alone = fit([modules[m]], [seeds[m]], [train[m]], [valid[m]], **params)
        assert len(alone.history) == lengths[m]
        for name, weight in alone.module_.state_dict().items():
            found = net.stack_.members[m].state_dict()[name]
            torch.testing.assert_close(found, weight, rtol=1e-2, atol=1e-3)
    net.partial_fit(StackedRows(train), epochs=1)  # all go on
    assert not any(map(math.isnan, net.history[-1]["modules"]["train_loss"]))


def test_members_go_on_for_a_second_cycle_as_if_alone():
    modules, seeds = make_modules(), [0, 1, 2]
    train, valid = [rows_of(m, 30) for m in range(3)], [rows_of(9 + m, 20) for m in range(3)]
    params = {"max_epochs": 30, "lr": 0.04, "patience": None, "n_cycles": 2}
    net = fit(modules, seeds, train, valid, **params)
    last = dict(net.callbacks_)["best_epoch"].last_epochs_
    assert set(last.tolist()) == {30, 90}  # else the test shows little
    for m in range(3):
        alone = fit([modules[m]], [seeds[m]], [train[m]], [valid[m]], **params)
        assert len(alone.history) == last[m]
        for name, weight in alone.module_.state_dict().items():
            found = net.stack_.members[m].state_dict()[name]
            torch.testing.assert_close(found, weight, rtol=1e-3, atol=1e-4)


def test_of_competing_starts_the_best_goes_on_as_if_alone():
    modules, seeds = make_modules(), [0, 1, 2]
    train, valid = [rows_of(0, 30)] * 3, [rows_of(9, 20)] * 3
    params = {"max_epochs": 30, "lr": 0.005, "patience": None, "n_cycles": 2}
    net = fit(modules, seeds, train, valid, n_starts=3, **params)
    alone = [fit([modules[m]], [seeds[m]], train[:1], valid[:1], **params) for m in range(3)]
    assert [len(one.history) for one in alone] == [90] * 3  # else the test shows little
    first = [min(one.history[:30, "valid_loss"]) for one in alone]
    best = int(np.argmin(first))
    last = dict(net.callbacks_)["best_epoch"].last_epochs_
    assert last.tolist() == [90 if m == best else 30 for m in range(3)]
    for name, weight in alone[best].module_.state_dict().items():
        found = net.stack_.members[best].state_dict()[name]
        torch.testing.assert_close(found, weight, rtol=1e-3, atol=1e-4)
    assert net.final_losses() == pytest.approx(
        [
            min(one.history[:, "valid_loss"]) if m == best else first[m]
            for m, one in enumerate(alone)
        ],
        rel=1e-3,
    )


def test_a_competing_start_that_fails_is_no_news():
    modules, rows = make_modules()[:2], [rows_of(0, 30)] * 2
    with torch.no_grad():
        modules[1].decoder.loc.weight.fill_(torch.nan)
    net = fit(modules, [0, 1], rows, [rows_of(9, 20)] * 2, n_starts=2)
    assert np.isfinite(net.final_losses()).tolist() == [True, False]
    with pytest.warns(RuntimeWarning, match="for 1 of 2 modules"):
        fit(modules, [0, 1], rows, [rows_of(9, 20)] * 2)


def test_groups_that_do_not_divide_the_modules_are_refused():
    with pytest.raises(ValueError, match="n_starts=2 and n_folds=0 do not divide 3 modules"):
        fit(make_modules(), [0, 1, 2], [rows_of(0)] * 3, [rows_of(9)] * 3, n_starts=2)


def test_starts_that_nothing_judges_all_go_on():
    params = {"max_epochs": 4, "n_cycles": 2, "n_starts": 2, "train_split": None}
    net = GaussianVAENet(make_modules()[:2], seed=[0, 1], **params)
    net.fit(StackedRows([rows_of(0, 30)] * 2))
    assert dict(net.callbacks_)["best_epoch"].last_epochs_.tolist() == [12, 12]


def test_a_member_that_fails_does_not_harm_the_others():
    modules = make_modules()
    with torch.no_grad():
        modules[1].decoder.loc.weight.fill_(torch.nan)
    train, valid = [rows_of(m) for m in range(3)], [rows_of(9 + m) for m in range(3)]
    with pytest.warns(RuntimeWarning, match="not finite in epoch 1 for 1 of 3 modules"):
        net = fit(modules, [5, 6, 7], train, valid)
    alone = fit([modules[2]], [7], [train[2]], [valid[2]])
    found = net.evaluate_members(StackedRows(valid))["loss"]
    expected = alone.evaluate(valid[2])["loss"]
    assert found[2] == pytest.approx(expected, rel=1e-3)


def test_rows_of_several_models():
    tables = [rows_of(m, 8) for m in range(2)]
    parts = [tables[0].subset(torch.tensor([6, 1, 3])), tables[1].subset(torch.tensor([0, 7, 2]))]
    stacked = StackedRows([parts[0], parts[1], parts[0]])
    pick = torch.tensor([[0, 2], [1, 1], [2, 0]])
    (v1, weight), v2 = stacked[pick]
    for m, part in enumerate([parts[0], parts[1], parts[0]]):
        (own, own_weight), own_target = part[pick[m]]
        assert torch.equal(v1[m], own)
        assert torch.equal(v2[m], own_target)
        assert torch.equal(weight[m], own_weight)
        assert part.weight.mean() == pytest.approx(1)


def test_batches_of_models_with_different_numbers_of_rows():
    lengths = 10, 9, 11
    members = [RowDataset(torch.arange(float(n))[:, None] + 100 * n) for n in lengths]
    members[1].weight = torch.arange(9.0) / 4
    batches = TensorBatches(
        StackedRows(members), 4, shuffle=True, generators=[seeded(m) for m in range(3)]
    )
    alone = [
        TensorBatches(member, 4, shuffle=True, generators=[seeded(m)])
        for m, member in enumerate(members)
    ]
    n_rows = []
    for ((v1, weight), v2), *own in zip(batches, *alone, strict=True):
        n_rows.append(batches.counts)
        for m, ((own_v1, own_weight), _) in enumerate(own):
            n = len(own_v1)
            assert torch.equal(v1[m, :n], own_v1)
            assert torch.equal(v2[m, :n], own_v1)
            expected = own_v1.mean() if own_weight is None else (own_weight * own_v1[:, 0]).mean()
            torch.testing.assert_close((weight[m] * v1[m, :, 0]).mean(), expected)
    assert np.sum(n_rows, 0).tolist() == list(lengths)


def test_tables_with_one_input_and_several_targets():
    v1 = torch.zeros(4, 1)
    rows = StackedRows([RowDataset(v1, torch.full((4, 1), float(m))) for m in range(3)])
    _, v2 = rows[slice(0, 2)]
    assert v2[..., 0].tolist() == [[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]]


def test_each_model_has_an_order_of_its_own():
    rows = StackedRows([RowDataset(torch.arange(10.0)[:, None])] * 2)
    batches = TensorBatches(rows, 4, shuffle=True, generators=[seeded(0), seeded(1)])
    orders = torch.cat([v2[..., 0] for _, v2 in batches], 1)
    assert [sorted(order) for order in orders.tolist()] == [list(range(10))] * 2
    assert orders[0].tolist() != orders[1].tolist()
