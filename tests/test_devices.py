"""Everything is where the model is: steps and answers on a device without data, each looked at.

torch's ``meta`` device knows shapes alone. What the CPU has to make for a computation (draws,
indices, bounds) has to be moved before it is used: on a GPU some such operations are refused, and
others wait for the device.
"""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from skgvae._answers import sample_components
from skgvae._density import log_density
from skgvae._mixture import mixture_cdf, mixture_crps, mixture_log_prob, mixture_quantile
from skgvae._optimizer import StackOptimizer
from skgvae._posterior import decoded_by, posterior_draws
from skgvae._stack import ModuleStack
from skgvae._training import Hooks, Plan, evaluate, train
from skgvae.likelihood import (
    class_log_prob,
    decoded_components,
    decoded_covariance,
    decoded_moments,
    latent_draws,
    lower_bound,
    marginal_log_prob,
    predictive_log_prob,
)
from skgvae.net import RowDataset, StackedRows
from skgvae.nn import (
    ClassifierHead,
    GaussianVAEClassifierModule,
    GaussianVAEModule,
    pullback_metric,
)
from skgvae.objectives import (
    JointLoss,
    NegativeBound,
    elbo,
    importance_weighted_bound,
    predictive_bound,
)

MOVES = torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default


class Generator(torch.Generator):
    """Stands for a generator of any device: torch makes none that has no data."""

    places = {}

    def __new__(cls, device="cpu"):
        return super().__new__(cls, "cpu")

    def __init__(self, device="cpu"):
        self.place = torch.device(device)

    def manual_seed(self, seed):
        self.places[seed] = self.place
        return super().manual_seed(seed)


class OneDevice(TorchDispatchMode):
    """Raise at an operation on tensors or generators of several devices; count those on meta.

    No condition is met there, and all rows are found by one.
    """

    def __init__(self):
        super().__init__()
        self.n_seen = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        leaves = tree_leaves((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        devices = {tensor.device for tensor in tensors if tensor.ndim}
        for leaf in leaves:
            if isinstance(leaf, torch.Generator):
                devices.add(Generator.places[leaf.initial_seed()])
                devices.add(torch.device(kwargs.get("device") or tensors[0].device))
        assert func in MOVES or len(devices) <= 1, f"{func} has {devices}."
        self.n_seen += torch.device("meta") in devices
        if torch.device("meta") in devices and func is torch.ops.aten.nonzero.default:
            return torch.zeros(len(args[0]), 1, dtype=torch.long, device="meta")
        if func is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
            return 0  # a condition, not met
        return func(*args, **kwargs)


@pytest.fixture
def one_device(monkeypatch):
    monkeypatch.setattr(torch, "Generator", Generator)
    with OneDevice() as mode:
        yield mode
    assert mode.n_seen > 10


def test_it_sees_what_it_should():
    here, there = torch.ones(2), torch.ones(2, device="meta")
    with OneDevice() as mode:
        there + there
        there + torch.tensor(1.0)
        assert here.to("meta").is_meta
        torch.randn(2, generator=Generator("meta").manual_seed(1), device="meta")
        assert mode.n_seen >= 3
        with pytest.raises(AssertionError, match="has"):
            there[torch.tensor([0])]
        with pytest.raises(AssertionError, match="randn"):
            torch.randn(2, generator=Generator().manual_seed(2), device="meta")
        with pytest.raises(AssertionError, match="randn"):
            torch.randn(2, generator=Generator("meta").manual_seed(1))


NOISES = ["heteroscedastic", "homoscedastic", "isotropic", "student"]


def make_modules(**params):
    return [
        GaussianVAEModule(
            4, 2, 3, hidden_features=(5, 4), generator=torch.Generator().manual_seed(m), **params
        )
        for m in range(3)
    ]


class MLP(nn.Module):
    """A classifier of a user, which knows nothing of several models."""

    def __init__(self):
        super().__init__()
        self.norm, self.out = nn.BatchNorm1d(7), nn.Linear(7, 2)

    def forward(self, v1, v2_estimate):
        return self.out(self.norm(torch.cat([v1, v2_estimate], 1)))


def make_joint(classifier="own"):
    def head(m):
        generator = torch.Generator().manual_seed(m)
        return MLP() if classifier == "user" else ClassifierHead(4, 3, 2, generator=generator)

    return [GaussianVAEClassifierModule(vae, head(m)) for m, vae in enumerate(make_modules())]


def make_rows(lengths, with_label=False, with_known=False):
    members = []
    for n in lengths:
        v1, weight = torch.zeros(n, 4), torch.ones(n)
        labels = (torch.zeros(n, dtype=int), -torch.ones(n)) if with_label else ()
        known = torch.ones(n, 3, dtype=bool) if with_known else None
        members.append(RowDataset(v1, torch.zeros(n, 3), weight, *labels, known=known))
    return StackedRows(members).to("meta")


class Stop(Hooks):
    """End training after some steps, before numbers are read."""

    sees_batches = True

    def __init__(self):
        self.n_steps = 0

    def on_batch_end(self, batch, n, training, loss):
        self.n_steps += 1
        if self.n_steps == 3 or not training:
            raise KeyboardInterrupt


def run(modules, criterion, with_label=False, with_known=False, make_optimizer=None, **settings):
    """Take three steps, and evaluate some rows."""
    stack = ModuleStack([copy.deepcopy(module).to("meta") for module in modules])
    if make_optimizer is None:
        optimizer = StackOptimizer(stack, lr=0.01, **settings)
    else:
        optimizer = make_optimizer(stack.parameters.values(), lr=0.01, **settings)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    plan, seeds, stop = Plan(max_epochs=2, batch_size=5), [11, 12, 13], Stop()
    rows = make_rows([20, 17, 19], with_label, with_known)
    result = train(stack, criterion, optimizer, rows, None, plan, seeds, stop)
    assert result.interrupt is not None
    assert stop.n_steps == 3
    ceiling = torch.zeros(3, device="meta")
    with pytest.raises(KeyboardInterrupt):
        evaluate(stack, criterion, rows, plan, seeds, stop, ceiling)
    parameters = [p for member in stack.members for p in member.parameters()]
    assert all(p.is_meta for p in [*parameters, *stack.parameters.values(), stack.weights])
    assert all(moment.is_meta for moment in moments_of(optimizer))


def moments_of(optimizer):
    states = (tensor for state in optimizer.state.values() for tensor in state.values())
    return [tensor for tensor in states if torch.is_tensor(tensor) and tensor.ndim]


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("n_prior_components", [None, 3])
@pytest.mark.parametrize("bound", [elbo, importance_weighted_bound, predictive_bound])
def test_steps(bound, n_prior_components, noise, one_device):
    modules = make_modules(noise=noise, n_prior_components=n_prior_components)
    extra = {"mean_power": 0.5} if bound is predictive_bound else {}
    run(modules, NegativeBound(bound, kl_weight=0.5, n_draws=2, **extra), orthogonal=True)


@pytest.mark.parametrize(
    ("make_optimizer", "settings"),
    [
        (None, {"weight_decay": 0.1}),
        (torch.optim.AdamW, {}),
        (torch.optim.SGD, {"momentum": 0.9}),
    ],
)
def test_steps_of_other_optimizers(make_optimizer, settings, one_device):
    criterion = NegativeBound(elbo, n_draws=2)
    run(make_modules(), criterion, make_optimizer=make_optimizer, **settings)


def test_steps_with_unknown_cells(one_device):
    run(make_modules(), NegativeBound(importance_weighted_bound, n_draws=2), with_known=True)


def test_weights_of_the_divergence_for_each_model(one_device):
    weights = torch.ones(3, 1, device="meta")
    run(make_modules(), NegativeBound(importance_weighted_bound, weights, n_draws=2))


@pytest.mark.parametrize("pseudo_weight", [0.0, 1.0])
@pytest.mark.parametrize("classifier", ["own", "user"])
def test_steps_with_a_classifier(classifier, pseudo_weight, one_device):
    criterion = JointLoss(
        0.1, n_draws=2, penalty=0.1, label_share=0.5, pseudo_weight=pseudo_weight
    )
    run(make_joint(classifier), criterion, with_label=True)


ANSWERS = {
    "marginal_log_prob": lambda vaes, v, draws: marginal_log_prob(vaes, v, v, draws),
    "log_density": lambda vaes, v, draws: log_density(vaes, v, v, [draws.repeat(4, 1)] * 3, 3),
    "log_density of known cells": lambda vaes, v, draws: log_density(
        vaes, v, v, [draws.repeat(4, 1)] * 3, 3, v > 0
    ),
    "posterior_draws": lambda vaes, v, draws: posterior(vaes, v, draws).z,
    "posterior_draws of each model": lambda vaes, v, draws: (
        posterior(vaes, v, draws, torch.arange(5, device=v.device) % 3).z
    ),
    "decoded_by": lambda vaes, v, draws: decoded_by(vaes, *posterior(vaes, v, draws)[:2]),
    "lower_bound": lambda vaes, v, draws: lower_bound(vaes, v, v, draws),
    "predictive_log_prob": lambda vaes, v, draws: predictive_log_prob(vaes, v, v, draws, 3.0),
    "decoded_moments": lambda vaes, v, draws: decoded_moments(vaes, v, draws, 0.3),
    "decoded_components": lambda vaes, v, draws: decoded_components(vaes, v, draws, 0.3),
    "decoded_covariance": lambda vaes, v, draws: decoded_covariance(vaes, v, draws, 0.3),
    "sample_components": lambda vaes, v, draws: sample_components(
        vaes, v, 5, draws, 0.3, None, np.random.default_rng(0)
    ),
    "pullback_metric": lambda vaes, v, draws: pullback_metric(vaes[0].decoder, v[:, :2]),
}


def posterior(vaes, v, draws, model=None):
    position = torch.full((7, 5), 0.5, device="meta", dtype=torch.float64)
    return posterior_draws(vaes, v, v, v > 0, [draws.repeat(4, 1)] * 3, 3, position, model)


def on_meta(**params):
    modules = [GaussianVAEModule(4, 2, **params) for _ in range(3)]
    v = torch.zeros(7, 4, device="meta", dtype=torch.float64)
    return [module.to("meta", torch.float64) for module in modules], v


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("n_prior_components", [None, 3])
@pytest.mark.parametrize("name", ANSWERS)
def test_answers(name, n_prior_components, noise, one_device):
    vaes, v = on_meta(noise=noise, n_prior_components=n_prior_components)
    found = ANSWERS[name](vaes, v, latent_draws(12, 2, 0))
    for part in found if isinstance(found, tuple) else (found,):
        assert part.is_meta
        assert part.dtype == torch.float64


@pytest.mark.parametrize("noise", NOISES[:3])  # torch's own StudentT reads numbers when it is made
def test_output_of_the_module(noise, one_device):
    vaes, v = on_meta(noise=noise)
    out = vaes[0](v, 3, torch.Generator("meta").manual_seed(21))
    assert out.z.is_meta
    assert out.likelihood.log_prob(v).is_meta


@pytest.mark.parametrize("classifier", ["own", "user"])
def test_probabilities_of_classes(classifier, one_device):
    joints = [joint.to("meta").eval() for joint in make_joint(classifier)]
    found = class_log_prob(joints, torch.zeros(7, 4, device="meta"), latent_draws(12, 5, 0))
    assert found.is_meta
    assert found.shape == (7, 2)
    out = joints[0](torch.zeros(7, 4, device="meta"), 3, torch.Generator("meta").manual_seed(22))
    assert out.logits.is_meta


@pytest.mark.parametrize("noise", ["heteroscedastic", "student"])
def test_predictive_mixtures(noise, one_device):
    family = make_modules(noise=noise)[0].decoder.family
    loc, scale = torch.zeros(2, 6, 7, 3, device="meta", dtype=torch.float64)
    x = torch.zeros(7, 3, device="meta", dtype=torch.float64)
    for function in mixture_cdf, mixture_log_prob:
        assert function(x, loc, scale, family).is_meta
    assert mixture_quantile(0.9, loc, scale, family).is_meta
    if noise != "student":  # whose score is made of many quantiles
        assert mixture_crps(x, loc, scale, family).is_meta
