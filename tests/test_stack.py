import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from skgvae._rows import batches
from skgvae._stack import ModuleStack
from skgvae.net import RowDataset, StackedRows
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
    modules = make_modules(n)
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


def rows_of(seed, n):
    generator = seeded(seed)
    t = torch.randn(n, 1, generator=generator)
    noise = torch.randn(n, 4, generator=generator)
    return RowDataset(t + 0.3 * noise, t.expand(-1, 3) + 0.1, 0.5 + t.abs()[:, 0])


def test_rows_of_several_models():
    tables = [rows_of(m, 8) for m in range(2)]
    parts = [tables[0].subset(torch.tensor([6, 1, 3])), tables[1].subset(torch.tensor([0, 7, 2]))]
    stacked = StackedRows([parts[0], parts[1], parts[0]])
    pick = torch.tensor([[0, 2], [1, 1], [2, 0]])
    batch = stacked.take(pick)
    for m, part in enumerate([parts[0], parts[1], parts[0]]):
        own = part.take(pick[m])
        assert torch.equal(batch.v1[m], own.v1)
        assert torch.equal(batch.v2[m], own.v2)
        assert torch.equal(batch.weight[m], own.weight)
        assert part.weight.mean() == pytest.approx(1)


def test_batches_of_models_with_different_numbers_of_rows():
    lengths = 10, 9, 11
    members = [RowDataset(torch.arange(float(n))[:, None] + 100 * n) for n in lengths]
    members[1].weight = torch.arange(9.0) / 4

    def shuffled(which):
        rows = StackedRows([members[m] for m in which])
        return batches(rows, 4, [seeded(m) for m in which])

    n_rows = []
    for (batch, counts), *alone in zip(
        shuffled([0, 1, 2]), *map(shuffled, [[0], [1], [2]]), strict=True
    ):
        n_rows.append(counts)
        for m, (own, (n,)) in enumerate(alone):
            assert counts[m] == n == own.v1.shape[1]
            assert torch.equal(batch.v1[m, :n], own.v1[0])
            assert torch.equal(batch.v2[m, :n], own.v2[0])
            weight = torch.ones(n) if own.weight is None else own.weight[0]
            expected = (weight * own.v1[0, :, 0]).mean()
            torch.testing.assert_close((batch.weight[m] * batch.v1[m, :, 0]).mean(), expected)
    assert np.sum(n_rows, 0).tolist() == list(lengths)


def test_tables_with_one_input_and_several_targets():
    v1 = torch.zeros(4, 1)
    rows = StackedRows([RowDataset(v1, torch.full((4, 1), float(m))) for m in range(3)])
    v2 = rows.take(torch.arange(2).expand(3, -1)).v2
    assert v2[..., 0].tolist() == [[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]]


def test_rows_of_several_stacks_are_joined():
    parts = [StackedRows([rows_of(m, 8), rows_of(9, 8)]) for m in range(2)]
    joined = StackedRows.joined(parts)
    assert joined.counts == [8, 8, 8, 8]
    ((batch, _),) = batches(joined, 8)
    ((first, _),), ((second, _),) = (batches(part, 8) for part in parts)
    assert torch.equal(batch.v1, torch.cat([first.v1, second.v1]))
    assert torch.equal(batch.weight, torch.cat([first.weight, second.weight]))


def test_each_model_has_an_order_of_its_own():
    rows = StackedRows([RowDataset(torch.arange(10.0)[:, None])] * 2)
    found = [batch.v2[..., 0] for batch, _ in batches(rows, 4, [seeded(0), seeded(1)])]
    orders = torch.cat(found, 1)
    assert [sorted(order) for order in orders.tolist()] == [list(range(10))] * 2
    assert orders[0].tolist() != orders[1].tolist()
