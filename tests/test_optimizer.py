"""Orthogonal steps against singular values, and all others against AdamW."""

import copy
import pickle
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from sklearn.base import clone
from skorch.callbacks import LRScheduler
from skorch.helper import predefined_split

from skgvae import GaussianVAE
from skgvae._optimizer import StackOptimizer, orthogonalise
from skgvae._recipe import recipe_for
from skgvae._stack import ModuleStack
from skgvae.net import GaussianVAENet, RowDataset, StackedRows
from skgvae.nn import GaussianVAEModule


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


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def make_stack(n=3, dtype=torch.float64):
    modules = [GaussianVAEModule(3, 2, hidden_features=(6, 4)) for _ in range(n)]
    for m, module in enumerate(modules):
        module.to(dtype)
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, generator=seeded(m))
    return ModuleStack(modules)


def is_hidden(name):
    return ".hidden." in name and name.endswith("weight")


def take_steps(optimizer, stack, n=6):
    for step in range(n):
        optimizer.step(gradient=torch.randn(stack.weights.shape, generator=seeded(step)).double())


def gradients(stack, n=6):
    for step in range(n):
        yield stack.by_name(torch.randn(stack.weights.shape, generator=seeded(step)).double())


def test_a_gradient_that_has_died_does_no_harm():
    stack = make_stack(1, torch.float32)
    optimizer = StackOptimizer(stack, orthogonal=True)
    for step in range(3000):
        optimizer.step(gradient=torch.full_like(stack.weights, float(step < 5)))
    assert torch.isfinite(stack.weights).all()


def test_orthogonal_steps_equal_a_naive_loop():
    stack, lr, decay = make_stack(), 0.1, 0.5
    expected = {name: p.detach().clone() for name, p in stack.parameters.items()}
    momenta = {name: torch.zeros_like(p) for name, p in expected.items()}
    take_steps(StackOptimizer(stack, lr, weight_decay=decay, orthogonal=True), stack)
    for gradient in gradients(stack):
        for name in filter(is_hidden, expected):
            p, momentum = expected[name], momenta[name]
            for m in range(len(p)):
                momentum[m] = 0.95 * momentum[m] + 0.05 * gradient[name][m]
                step = by_singular_values(0.95 * momentum[m] + 0.05 * gradient[name][m])
                size = lr * 0.4 * max(step.shape) ** 0.5
                p[m] = (1 - lr * decay) * p[m] - size * step
    assert any(map(is_hidden, expected))
    for name in filter(is_hidden, expected):
        torch.testing.assert_close(
            stack.parameters[name].detach(), expected[name], rtol=1e-8, atol=1e-8
        )


@pytest.mark.parametrize("orthogonal", [True, False])
def test_other_steps_are_those_of_adamw(orthogonal):
    stack = make_stack()
    copies = {name: torch.nn.Parameter(p.detach().clone()) for name, p in stack.parameters.items()}
    groups = [
        {"params": [p for name, p in copies.items() if is_hidden(name)], "weight_decay": 0.2},
        {"params": [p for name, p in copies.items() if not is_hidden(name)], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=0.1)
    take_steps(StackOptimizer(stack, 0.1, weight_decay=0.2, orthogonal=orthogonal), stack)
    for gradient in gradients(stack):
        for name, p in copies.items():
            p.grad = gradient[name]
        adamw.step()
    for name, p in copies.items():
        if not (orthogonal and is_hidden(name)):
            torch.testing.assert_close(stack.parameters[name], p, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("orthogonal", [True, False])
def test_each_module_can_have_its_own_decay(orthogonal):
    decays = [0.0, 2.0, 0.5]
    together = make_stack()
    params = {"lr": 0.1, "orthogonal": orthogonal}
    decay = torch.tensor(decays, dtype=torch.float64)
    take_steps(StackOptimizer(together, weight_decay=decay, **params), together)
    for m, decay in enumerate(decays):
        alike = make_stack()
        take_steps(StackOptimizer(alike, weight_decay=decay, **params), alike)
        torch.testing.assert_close(together.weights[m], alike.weights[m])


def test_the_size_of_an_orthogonal_step():
    stack = ModuleStack([GaussianVAEModule(64, 2, hidden_features=(32,), generator=seeded(0))])
    before = stack.by_name(stack.weights.clone())["encoder.hidden.0.weight"]
    optimizer = StackOptimizer(stack, lr=0.01, orthogonal=True)
    optimizer.step(gradient=torch.randn(stack.weights.shape, generator=seeded(1)))
    step = stack.parameters["encoder.hidden.0.weight"].detach() - before
    assert step.std().item() == pytest.approx(0.4 * 0.01, rel=0.3)


def test_training_goes_on_from_a_saved_state():
    stack, other = make_stack(), make_stack()
    optimizer = StackOptimizer(stack, lr=0.1, orthogonal=True)
    take_steps(optimizer, stack)
    other.put_(stack.weights.clone(), other.buffers)
    again = StackOptimizer(other, orthogonal=True)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for opt, s in ((optimizer, stack), (again, other)):
        take_steps(opt, s, 3)
    assert torch.equal(stack.weights, other.weights)


def test_it_has_no_other_group():
    optimizer = StackOptimizer(make_stack())
    with pytest.raises(ValueError, match="no other group"):
        optimizer.add_param_group({"params": []})


def test_members_have_the_steps_that_they_have_alone():
    modules = [GaussianVAEModule(3, 2, hidden_features=(6, 5)) for _ in range(3)]
    rows = [RowDataset(torch.randn(n, 3)) for n in (60, 60, 60)]
    valid = [RowDataset(torch.randn(20, 3)) for _ in range(3)]

    def fit(which):
        net = GaussianVAENet(
            [copy.deepcopy(modules[i]) for i in which],
            seed=which,
            optimizer__orthogonal=True,
            max_epochs=30,
            patience=1,
            n_groups=len(which),
            lr=0.03,
            batch_size=30,
            train_split=predefined_split(StackedRows([valid[i] for i in which])),
        )
        return net.fit(StackedRows([rows[i] for i in which]))

    together = fit([0, 1, 2])
    assert len(set(together.result_.last_epochs)) > 1  # else the test shows little
    for i, member in enumerate(together.stack_.members):
        (alone,) = fit([i]).stack_.members
        for own, other in zip(member.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(own, other, rtol=1e-3, atol=1e-4)


def test_the_first_fit_of_a_process_imports_no_compiler():
    code = """
        import sys, numpy as np
        from skgvae import GaussianVAE, GaussianVAEClassifier, GaussianVAERegressor
        X = np.random.default_rng(0).standard_normal((60, 3))
        for kind in GaussianVAE, GaussianVAEClassifier, GaussianVAERegressor:
            kind(max_epochs=1, hidden_layer_sizes=(4,)).fit(X, (X[:, 0] > 0).astype(int))
        assert "torch._dynamo" not in sys.modules
    """
    subprocess.run([sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)], check=True)


def test_schedulers_of_torch_accept_it(iris):
    scheduler = LRScheduler("StepLR", step_size=1, gamma=0.5)
    params = {"net_params": {"callbacks": [scheduler]}, "random_state": 0}
    vae = GaussianVAE(2, max_epochs=4, lr=0.01, **params)
    rates = [group["lr"] for group in vae.fit(iris).net_.optimizer_.param_groups]
    assert rates == pytest.approx([0.01 / 2**4])


def test_groups_of_parameters_have_the_optimizer_of_torch(iris):
    groups = [("encoder*", {"lr": 0.0})]
    vae = GaussianVAE(
        2, max_epochs=3, n_estimators=1, validation_fraction=None, random_state=0,
        net_params={"optimizer__param_groups": groups},
    )  # fmt: skip
    start = clone(vae).set_params(max_epochs=0).fit(iris).module_
    trained = vae.fit(iris).module_
    assert torch.equal(trained.encoder.loc.weight, start.encoder.loc.weight)
    assert not torch.equal(trained.decoder.loc.weight, start.decoder.loc.weight)


@pytest.mark.parametrize("n_draws", [1, 4, 5])
@pytest.mark.parametrize(
    "params",
    [{}, {"hidden_layer_sizes": ()}, {"net_params": {"module__activation": torch.nn.PReLU}}],
    ids=["plain", "linear", "own_activation"],
)
def test_hidden_layers_have_orthogonal_steps_where_the_recipe_says_so(params, n_draws, iris):
    vae = GaussianVAE(2, max_epochs=1, prior=1, random_state=0, **params)
    found = []
    for batch_size in (8, 64):
        net_params = params.get("net_params", {}) | {"optimizer__weight_decay": 0.1}
        vae.set_params(batch_size=batch_size, net_params=net_params).fit(iris)
        recipe = recipe_for(len(iris), iris.shape[1], vae.get_params(deep=False))
        optimizer = vae.net_.optimizer_
        assert optimizer.orthogonal == recipe.orthogonal
        assert optimizer.param_groups[0]["weight_decay"] == 0.1
        assert np.isfinite(vae.score(iris))
        found.append(recipe.orthogonal)
    assert found == [False, True]  # else the test shows little


def test_a_copy_goes_on_with_the_optimizer_of_the_first_pass(iris):
    vae = GaussianVAE(2, prior=1, random_state=0)
    for first in (iris[:40], np.tile(iris, (8, 1))):
        fitted = clone(vae).partial_fit(first).partial_fit(np.tile(iris, (8, 1)))
        again = pickle.loads(pickle.dumps(fitted))
        orthogonal = [model.net_.optimizer_.orthogonal for model in (fitted, again)]
        assert orthogonal == [len(first) > 1000] * 2


def test_copies_of_a_net_go_on_as_it_does_and_leave_other_nets_alone():
    rows = RowDataset(torch.randn(60, 3, generator=torch.Generator().manual_seed(0)))
    for optimizer in (StackOptimizer, torch.optim.AdamW):
        module = GaussianVAEModule(3, 2, generator=torch.Generator().manual_seed(0))
        net = GaussianVAENet(module, optimizer=optimizer, max_epochs=2, batch_size=20).fit(rows)
        copies = [pickle.loads(pickle.dumps(net)), copy.deepcopy(net)]
        for each in (net, *copies):
            assert each.module_ is each.stack_.members[0]
            each.partial_fit(rows)
        for each in copies:
            for own, other in zip(
                each.module_.parameters(), net.module_.parameters(), strict=True
            ):
                torch.testing.assert_close(own, other, rtol=0, atol=0)


def test_what_was_loaded_into_a_module_survives_a_copy_of_its_net():
    net = GaussianVAENet(GaussianVAEModule(3, 2), max_epochs=1).fit(RowDataset(torch.randn(9, 3)))
    net.module_.load_state_dict({k: v * 0 + 1 for k, v in net.module_.state_dict().items()})
    for each in (pickle.loads(pickle.dumps(net)), copy.deepcopy(net), net):
        assert all((p == 1).all() for p in each.module_.parameters())


def test_a_copy_of_an_estimator_with_a_scheduler_leaves_others_alone(iris):
    scheduler = LRScheduler("StepLR", step_size=2)
    vae = GaussianVAE(2, max_epochs=2, prior=1, net_params={"callbacks": [scheduler]}).fit(iris)
    for each in (clone(vae), pickle.loads(pickle.dumps(vae)), GaussianVAE(2, max_epochs=2)):
        each.fit(iris)
