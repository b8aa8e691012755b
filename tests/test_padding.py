"""Modules with other numbers of latents, or of Gaussians, in one stack."""

import copy

import pytest
import torch
from skorch.helper import predefined_split
from torch import nn

from skgvae._padding import of_one_shape
from skgvae.batches import RowDataset, StackedRows
from skgvae.net import GaussianVAENet
from skgvae.nn import ClassifierHead, GaussianVAEClassifierModule, GaussianVAEModule
from skgvae.objectives import (
    JointLoss,
    NegativeBound,
    elbo,
    importance_weighted_bound,
    predictive_bound,
)
from skgvae.optimizer import Muon
from skgvae.stack import ModuleStack

N_LATENTS = 2, 5, 3


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def make_modules(n_gaussians=(None, None, None), joint=False, **params):
    modules = []
    for m, (n_latents, n) in enumerate(zip(N_LATENTS, n_gaussians, strict=True)):
        own = {"hidden_features": (6, 7), "n_prior_components": n, **params}
        vae = GaussianVAEModule(4, n_latents, 3, generator=seeded(m), **own)
        if joint:
            vae = GaussianVAEClassifierModule(vae, ClassifierHead(4, 3, 2, hidden_features=(5,)))
        for parameter in vae.parameters():  # at a random start, not at a special point
            nn.init.normal_(parameter, std=0.5, generator=seeded(10 + m))
        modules.append(vae)
    return modules


def make_rows(seed, n=60):
    v1 = torch.randn(n, 4, generator=seeded(seed)).cumsum(1)
    return RowDataset(v1, v1[:, :3].sin() + 0.1)


@pytest.mark.parametrize("noise", ["heteroscedastic", "homoscedastic"])
@pytest.mark.parametrize("n_gaussians", [(None,) * 3, (1, 4, 2), (3, 1, 2)])
@pytest.mark.parametrize("activation", [nn.SiLU, nn.Mish], ids=["written_out", "by_vmap"])
@pytest.mark.parametrize("bound", [elbo, importance_weighted_bound, predictive_bound, None])
def test_what_is_added_changes_neither_loss_nor_gradient(
    bound, activation, n_gaussians, noise, float64
):
    joint = bound is None
    if joint and n_gaussians[0] is not None:
        pytest.skip("a classifier has the standard prior")
    params = {"activation": activation, "noise": noise, "joint": joint}
    modules = [module.double() for module in make_modules(n_gaussians, **params)]
    criterion = JointLoss(0.3) if joint else NegativeBound(bound, kl_weight=0.7)
    v1, v2 = torch.randn(3, 8, 4), torch.randn(3, 8, 3)
    eps = [torch.randn(6, 8, criterion.noise_features(module)) for module in modules]
    others = (None, torch.randint(0, 2, (3, 8)), None) if joint else ()
    stack = ModuleStack(of_one_shape(modules))
    padded = torch.stack(stack.pad_draws(eps), 1)
    terms = stack.by_rows(criterion, v1, v2, padded, *others)
    terms.loss.sum().backward()
    stack.mask_gradients_()
    for m, module in enumerate(modules):
        own = [None if part is None else part[m] for part in others]
        expected = criterion.by_rows(module, v1[m], v2[m], eps[m], *own)
        for found, term in zip(terms, expected, strict=True):
            torch.testing.assert_close(found[m], term)
        expected.loss.sum().backward()
        for name, parameter in module.named_parameters():
            gradient = stack.stacked.get_parameter(name).grad[m].clone()
            used = tuple(map(slice, parameter.shape))
            torch.testing.assert_close(gradient[used], parameter.grad)
            gradient[used] = 0
            assert not gradient.any(), name


@pytest.mark.parametrize("n_gaussians", [(None,) * 3, (3, 1, 2)])
@pytest.mark.parametrize("activation", [nn.SiLU, nn.Mish], ids=["written_out", "by_vmap"])
@pytest.mark.parametrize("orthogonal", [True, False])
def test_modules_are_trained_as_if_alone(orthogonal, activation, n_gaussians):
    modules, decays = make_modules(n_gaussians, activation=activation), [0.0, 2.0, 0.5]
    train, valid = [make_rows(m) for m in range(3)], [make_rows(9 + m, 20) for m in range(3)]

    def fit(modules, seeds, train, valid, decay):
        group = {"orthogonal": orthogonal, "weight_decay": decay}
        net = GaussianVAENet(
            copy.deepcopy(modules),
            seed=seeds,
            criterion__bound=importance_weighted_bound,
            criterion__n_draws=3,
            max_epochs=30,
            batch_size=16,
            patience=3,
            optimizer=Muon,
            optimizer__weight_decay=0.0,
            optimizer__param_groups=[("*.hidden.*.weight", group)],
            train_split=predefined_split(StackedRows(valid)),
        )
        return net.fit(StackedRows(train))

    together = fit(of_one_shape(modules), [0, 1, 2], train, valid, torch.tensor(decays))
    lengths = []
    for m in range(3):
        alone = fit([modules[m]], [m], [train[m]], [valid[m]], decays[m])
        lengths.append(len(alone.history))
        found = [r["modules"]["valid_loss"][m] for r in together.history[: lengths[-1]]]
        assert found == pytest.approx(alone.history[:, "valid_loss"], rel=1e-4)
        state = together.stack_.members[m].state_dict()
        for name, weight in alone.module_.state_dict().items():
            if weight.ndim and not name.endswith("logits"):
                own = state[name][tuple(map(slice, weight.shape))]
                torch.testing.assert_close(own, weight, rtol=1e-3, atol=1e-4)
    assert len(set(lengths)) > 1  # else none was dropped, with its decay


def test_only_modules_of_other_sizes_are_copied():
    alike = [make_modules()[0], make_modules()[0]]
    assert all(a is b for a, b in zip(of_one_shape(alike), alike, strict=True))
    modules = make_modules()
    padded = of_one_shape(modules)
    assert [module.encoder.out_features for module in padded] == [5, 5, 5]
    assert [module.encoder.out_features for module in modules] == list(N_LATENTS)
    assert ModuleStack(padded).n_used_latents == list(N_LATENTS)
