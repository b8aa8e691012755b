"""Orthogonal steps against singular values, and all others against AdamW."""

import copy
import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from skorch.helper import predefined_split

from skgvae import GaussianVAE
from skgvae.batches import RowDataset, StackedRows
from skgvae.net import GaussianVAENet
from skgvae.nn import GaussianVAEModule
from skgvae.optimizer import Muon, orthogonalise


def polynomial(s):
    """Five iterations on a singular value, with the published coefficients."""
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return s


def by_singular_values(matrix):
    U, s, Vh = torch.linalg.svd(matrix, full_matrices=False)
    return U @ torch.diag(polynomial(s / s.norm())) @ Vh


@pytest.mark.parametrize("shape", [(1, 1, 1), (4, 3, 8), (2, 6, 6), (3, 1, 5)])
def test_singular_values_move_towards_one(shape):
    torch.manual_seed(0)
    matrices = torch.randn(shape, dtype=torch.float64) * torch.logspace(-9, 9, shape[0]).view(
        -1, 1, 1
    )
    found = orthogonalise(matrices)
    for matrix, orthogonal in zip(matrices, found, strict=True):
        torch.testing.assert_close(orthogonal, by_singular_values(matrix), rtol=1e-8, atol=1e-8)
        s = torch.linalg.svdvals(matrix)
        moved = torch.linalg.svdvals(orthogonal)[s > 0.01 * s.norm()]
        assert ((moved > 0.4) & (moved < 1.3)).all()


@pytest.mark.parametrize("size", [0.0, 1e-37, 1e-25, 1e-20, 1e15])
def test_entries_of_any_size_give_finite_steps(size):
    matrices = size * torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    found = orthogonalise(matrices)
    assert torch.isfinite(found).all()
    assert found.abs().max() < 1.3
    assert found.any() == (size > 0)


def test_a_gradient_that_has_died_does_no_harm():
    weights = torch.nn.Parameter(torch.ones(1, 2, 3))
    optimizer = Muon([{"params": [weights], "orthogonal": True}], lr=1e-3)
    for step in range(3000):
        weights.grad = torch.full((1, 2, 3), float(step < 5))
        optimizer.step()
    assert torch.isfinite(weights).all()


def steps_of(make, parameters, n=6, seed=0):
    """Return parameters after some steps with gradients that depend on the seed alone."""
    parameters = [torch.nn.Parameter(p.clone()) for p in parameters]
    optimizer = make(parameters)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(n):
        for p in parameters:
            p.grad = torch.randn(p.shape, generator=generator, dtype=p.dtype)
        kept = [p.grad.clone() for p in parameters]
        optimizer.step()
        for p, gradient in zip(parameters, kept, strict=True):
            assert torch.equal(p.grad, gradient)
    return [p.detach() for p in parameters]


def stack(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_steps_equal_a_naive_loop():
    start, lr, decay = [stack(3, 4, 7), stack(3, 7, 4), stack(3, 4, 4)], 0.1, 0.5

    def orthogonal(parameters):
        group = {"params": parameters, "orthogonal": True, "weight_decay": decay}
        return Muon([group], lr=lr)

    found = steps_of(orthogonal, start)
    generator = torch.Generator().manual_seed(0)
    expected = [p.clone() for p in start]
    momenta = [torch.zeros_like(p) for p in start]
    for _ in range(6):
        for p, momentum in zip(expected, momenta, strict=True):
            gradient = torch.randn(p.shape, generator=generator, dtype=p.dtype)
            for m in range(len(p)):
                momentum[m] = 0.95 * momentum[m] + 0.05 * gradient[m]
                step = by_singular_values(0.95 * momentum[m] + 0.05 * gradient[m])
                size = lr * 0.4 * max(step.shape) ** 0.5
                p[m] = (1 - lr * decay) * p[m] - size * step
    for own, other in zip(found, expected, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("fused", [True, False])
def test_others_have_the_steps_of_adamw(fused):
    start = [stack(3, 4, 7), stack(3, 4), stack(2, 3, 4, 5)]
    params = {"lr": 0.1, "weight_decay": 0.2, "fused": fused}
    groups = [lambda p: [{"params": p}], lambda p: [{"params": p[1:], "orthogonal": True}]]
    expected = steps_of(lambda p: torch.optim.AdamW(p, **params), start)
    for group, first in zip(groups, (0, 1), strict=True):
        found = steps_of(lambda p, group=group: Muon(group(p), **params), start)
        for p, other in list(zip(found, expected, strict=True))[first:]:
            assert torch.equal(p, other)


@pytest.mark.parametrize("orthogonal", [True, False])
def test_each_module_can_have_its_own_decay(orthogonal):
    start, decays = [stack(3, 4, 7), stack(3, 4)], [0.0, 2.0, 0.5]

    def optimizer(decay):
        group = {"orthogonal": orthogonal, "weight_decay": decay}
        return lambda parameters: Muon([{"params": parameters, **group}], lr=0.1)

    found = steps_of(optimizer(torch.tensor(decays, dtype=torch.float64)), start)
    for m, decay in enumerate(decays):
        for own, other in zip(found, steps_of(optimizer(decay), start), strict=True):
            torch.testing.assert_close(own[m], other[m])


def test_the_size_of_a_step():
    def orthogonal(parameters):
        return Muon([{"params": parameters, "orthogonal": True}], lr=0.01)

    (step,) = steps_of(orthogonal, [torch.zeros(2, 64, 32)], n=1)
    assert step.std().item() == pytest.approx(0.4 * 0.01, rel=0.3)


def test_training_goes_on_from_a_saved_state():
    weights = torch.nn.Parameter(stack(2, 3, 4)), torch.nn.Parameter(stack(2, 3))
    optimizer = Muon([{"params": [weights[0]], "orthogonal": True}, {"params": [weights[1]]}])

    def step(weights, optimizer):
        for w in weights:
            w.grad = w.detach() ** 2
        optimizer.step()

    step(weights, optimizer)
    others = [torch.nn.Parameter(w.detach().clone()) for w in weights]
    other = Muon([{"params": [others[0]], "orthogonal": True}, {"params": [others[1]]}])
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for _ in range(3):
        step(weights, optimizer)
        step(others, other)
    assert all(torch.equal(a, b) for a, b in zip(weights, others, strict=True))


def test_goes_on_from_a_state_of_adamw():
    weights = torch.nn.Parameter(torch.ones(1, 2, 3))
    weights.grad = torch.ones(1, 2, 3)
    adamw = torch.optim.AdamW([weights])
    adamw.step()
    optimizer = Muon([weights])
    optimizer.load_state_dict(adamw.state_dict())
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))]})
    optimizer.step()
    assert [group["orthogonal"] for group in optimizer.param_groups] == [False, False]


def test_uphill():
    def steps(**params):
        return steps_of(lambda p: Muon([{"params": p, "orthogonal": True}], **params), start)

    start = [torch.zeros(2, 3, 4)]
    (up,), (down,) = steps(maximize=True), steps()
    torch.testing.assert_close(up, -down)


def test_members_have_the_steps_that_they_have_alone():
    modules = [GaussianVAEModule(3, 2, hidden_features=(6, 5)) for _ in range(3)]
    rows = [RowDataset(torch.randn(n, 3)) for n in (60, 60, 60)]
    valid = [RowDataset(torch.randn(20, 3)) for _ in range(3)]

    def fit(which):
        net = GaussianVAENet(
            [copy.deepcopy(modules[i]) for i in which],
            seed=which,
            optimizer=Muon,
            optimizer__param_groups=[("*.hidden.*.weight", {"orthogonal": True})],
            max_epochs=30,
            patience=1,
            lr=0.03,
            batch_size=30,
            train_split=predefined_split(StackedRows([valid[i] for i in which])),
        )
        return net.fit(StackedRows([rows[i] for i in which]))

    together = fit([0, 1, 2])
    ended = dict(together.callbacks_)["best_epoch"].last_epochs_
    assert len(set(ended)) > 1  # else no member is dropped
    for i, member in enumerate(together.stack_.members):
        (alone,) = fit([i]).stack_.members
        for own, other in zip(member.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(own, other, rtol=1e-3, atol=1e-4)


def test_a_closure_is_evaluated_with_a_gradient():
    weights = torch.nn.Parameter(torch.ones(1, 2, 2))
    optimizer = Muon([{"params": [weights], "orthogonal": True}])

    def closure():
        loss = weights.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 4
    assert not torch.equal(weights, torch.ones(1, 2, 2))


@pytest.mark.parametrize(
    ("params", "n_matrices"),
    [
        ({"batch_size": 32}, 4),
        ({"batch_size": 31}, 0),
        ({"batch_size": 31, "n_train_draws": 5}, 4),
        ({"batch_size": 32, "hidden_layer_sizes": ()}, 0),
        ({"batch_size": 32, "weight_decay": 0.1}, 4),
        ({"batch_size": 32, "net_params": {"optimizer": torch.optim.SGD}}, 0),
        ({"batch_size": 32, "net_params": {"module__activation": torch.nn.PReLU}}, 4),
    ],
)
def test_matrices_of_hidden_layers_have_such_steps_in_large_steps(params, n_matrices, iris):
    vae = GaussianVAE(2, max_epochs=1, n_prior_components=1, random_state=0, **params).fit(iris)
    optimizer = vae.net_.optimizer_
    names = {id(p): name for name, p in vae.net_.stack_.stacked.named_parameters()}
    orthogonal = [
        (names[id(p)], p)
        for group in optimizer.param_groups
        if group.get("orthogonal")
        for p in group["params"]
    ]
    matrices = [name for name, p in orthogonal if p.ndim == 3]
    assert len(matrices) == n_matrices
    assert all(".hidden." in name for name in matrices)
    decays = {g["weight_decay"] for g in optimizer.param_groups if g.get("orthogonal")}
    assert decays == ({params.get("weight_decay", 0.0)} if n_matrices else set())
    assert np.isfinite(vae.score(iris))


def test_a_copy_goes_on_with_the_optimizer_of_the_first_pass(iris):
    vae = GaussianVAE(2, n_prior_components=1, random_state=0)
    for first in (iris[:40], np.tile(iris, (8, 1))):
        fitted = clone(vae).partial_fit(first).partial_fit(np.tile(iris, (8, 1)))
        again = pickle.loads(pickle.dumps(fitted))
        is_orthogonal = [
            any(group["orthogonal"] for group in model.net_.optimizer_.param_groups)
            for model in (fitted, again)
        ]
        assert is_orthogonal == [len(first) > 1000] * 2
