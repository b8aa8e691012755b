import io
import pickle
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA, FactorAnalysis
from torch import nn

from skgvae import GaussianVAE, GaussianVAEClassifier, GaussianVAERegressor
from skgvae.model_selection import StackedGridSearchCV
from skgvae.nn import (
    NOISE_MODELS,
    ClassifierHead,
    GaussianMLP,
    GaussianVAEClassifierModule,
    GaussianVAEModule,
    MixturePrior,
    SoftBound,
    StandardNormalPrior,
)
from skgvae.objectives import elbo, importance_weighted_bound


@pytest.mark.parametrize("noise", NOISE_MODELS)
@pytest.mark.parametrize("shape", [(), (5,), (3, 5)])
@pytest.mark.parametrize("hidden", [(), (7,), (7, 6)])
def test_shapes(noise, shape, hidden):
    vae = GaussianVAEModule(4, 2, 3, hidden_features=hidden, noise=noise)
    v1 = torch.randn(*shape, 4)
    q, z, p = vae(v1)
    assert q.batch_shape == p.batch_shape == shape
    assert (q.event_shape, z.shape[-1:], p.event_shape) == ((2,), (2,), (3,))
    _, z, p = vae(v1, n_draws=6)
    assert z.shape == (6, *shape, 2)
    assert p.log_prob(torch.zeros(*shape, 3)).shape == (6, *shape)


@pytest.mark.parametrize("noise", NOISE_MODELS)
@pytest.mark.parametrize("linear", [True, False])
def test_every_parameter_has_a_gradient_inside_a_larger_graph(noise, linear):
    class Graph(nn.Module):
        def __init__(self):
            super().__init__()
            self.before = nn.Linear(5, 4)
            self.vae = GaussianVAEModule(4, 2, hidden_features=(7, 6), noise=noise, linear=linear)
            self.after = nn.Linear(8, 2)

        def forward(self, x):
            v1 = self.before(x)
            _, _, p = self.vae(v1)
            return self.after(torch.cat([v1, p.rsample()], -1))

    graph = Graph()
    graph(torch.randn(20, 5)).square().sum().backward()
    for name, parameter in graph.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_module_is_repeatable_and_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    a, b = (GaussianVAEModule(4, 2, generator=torch.Generator().manual_seed(3)) for _ in "ab")
    for x, y in zip(a.parameters(), b.parameters(), strict=True):
        assert torch.equal(x, y)
    assert torch.equal(torch.get_rng_state(), before)
    c = GaussianVAEModule(4, 2)
    assert not torch.equal(c.encoder.loc.weight, a.encoder.loc.weight)


@pytest.mark.parametrize("noise", NOISE_MODELS)
def test_state_dict_round_trip(noise):
    a, b = (GaussianVAEModule(4, 2, noise=noise) for _ in "ab")
    buffer = io.BytesIO()
    torch.save(a.state_dict(), buffer)
    buffer.seek(0)
    b.load_state_dict(torch.load(buffer, weights_only=True))
    z = torch.randn(5, 2)
    x = torch.randn(5, 4)
    assert torch.equal(a.decoder(z).log_prob(x), b.decoder(z).log_prob(x))


def test_decoder_mirrors_the_encoder_and_repr_names_the_noise():
    vae = GaussianVAEModule(10, 2, hidden_features=(8, 5), noise="isotropic")
    widths = [[m.out_features for m in net.hidden if isinstance(m, nn.Linear)] for net in
              (vae.encoder, vae.decoder)]  # fmt: skip
    assert widths == [[8, 5], [5, 8]]
    assert "noise='isotropic'" in repr(vae)


@pytest.mark.parametrize("noise", NOISE_MODELS)
def test_noise_below_its_floor_still_has_a_gradient(noise):
    net = GaussianMLP(3, 4, noise=noise, min_scale=0.2)
    head = net.log_scale.bias if net.per_row else net.shared_log_scale
    with torch.no_grad():
        head.fill_(-3.0)
    x = torch.randn(50, 3)
    (-net(x).log_prob(10 * torch.randn(50, 4)).mean()).backward()
    assert (head.grad < 0).all()  # towards more noise


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.0, 1.0), (2.0, 1.0)])
def test_impossible_bounds(low, high):
    with pytest.raises(ValueError, match="0 < low < high"):
        SoftBound(low, high)


@pytest.mark.parametrize("noise", NOISE_MODELS)
@pytest.mark.parametrize(
    ("low", "high"),
    [
        (0.0, 1.0),
        (-1.0, 1.0),
        (2.0, 1.0),
        (float("nan"), 1.0),
        (0.1, float("nan")),
        (0.1, float("inf")),
        (1e-50, 1.0),  # zero in float32
        (1.0, 1 + 1e-12),  # one number in float32
        (torch.tensor([0.1, 0.0, 0.1]), 1.0),
    ],
)
def test_every_noise_model_checks_its_bounds(noise, low, high):
    with pytest.raises(ValueError, match=r"must satisfy 0 < low < high < inf.*got"):
        GaussianVAEModule(3, 2, noise=noise, min_noise=low, max_noise=high)


@pytest.mark.parametrize("noise", NOISE_MODELS)
@pytest.mark.parametrize("name", ["min", "max"])
def test_bounds_are_one_or_as_many_as_there_are_features(noise, name):
    bound = {f"{name}_noise": torch.tensor([0.5, 0.5])}
    with pytest.raises(ValueError, match=r"must be numbers or of shape \(3,\), got shape \(2,\)"):
        GaussianVAEModule(3, 2, noise=noise, **bound)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GaussianVAEModule(3, 2, hidden_features=(0,)), r"hidden_features .* got \(0,\)"),
        (lambda: GaussianVAEModule(3, 2, hidden_features=[4, -1]), "hidden_features must be 1 or"),
        (lambda: GaussianVAEModule(0, 2), "in_features must be 1 or more, got 0"),
        (lambda: GaussianVAEModule(3, 0), "latent_features must be 1 or more, got 0"),
        (lambda: GaussianVAEModule(3, 2, 0), "out_features must be 1 or more, got 0"),
        (lambda: GaussianVAEModule(3, 2, n_prior_components=0), "n_components must be 1 or more"),
        (lambda: StandardNormalPrior(0), "latent_features must be 1 or more, got 0"),
        (lambda: MixturePrior(0, 2), "latent_features must be 1 or more, got 0"),
        (lambda: ClassifierHead(3, 2, 0), "n_classes must be 1 or more, got 0"),
        (lambda: ClassifierHead(3, 0, 2), "target_features must be 1 or more, got 0"),
        (lambda: ClassifierHead(3, 2, 2, (0,)), r"hidden_features .* got \(0,\)"),
    ],
)
def test_sizes_must_be_positive(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_unknown_noise():
    with pytest.raises(ValueError, match="noise must be one of"):
        GaussianMLP(2, 2, noise="pink")


def test_soft_bound_holds_and_inverts(float64):
    bound = SoftBound(torch.tensor([0.01, 0.3]), 50.0)
    t = torch.linspace(-100, 100, 401)[:, None].expand(-1, 2)
    scale = bound(t).exp()
    assert (scale >= torch.tensor([0.01, 0.3]) * (1 - 1e-6)).all()
    assert (scale <= 50 * (1 + 1e-6)).all()
    inside = torch.tensor([[0.02, 0.4], [1.0, 1.0], [20.0, 20.0]]).log()
    torch.testing.assert_close(bound(bound.inverse(inside)), inside)
    assert torch.isfinite(bound.inverse(torch.tensor([-40.0, 40.0]))).all()


@pytest.mark.parametrize("noise", NOISE_MODELS)
def test_noise_never_below_its_floor(noise):
    net = GaussianMLP(3, 4, noise=noise, min_scale=0.2)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(100).sub_(50)
    _, log_scale = net.loc_and_log_scale(torch.randn(50, 3))
    assert (log_scale.exp() >= 0.2 * (1 - 1e-6)).all()


def test_set_linear_is_exact_and_needs_the_linear_path(float64):
    net = GaussianMLP(3, 2, hidden_features=(5,))
    weight, bias, log_scale = torch.randn(2, 3), torch.randn(2), torch.tensor([-3.0, 0.5])
    net.set_linear_(weight, bias, log_scale)
    x = torch.randn(7, 3)
    p = net(x)
    torch.testing.assert_close(p.mean, x @ weight.T + bias)
    torch.testing.assert_close(p.stddev.log(), log_scale.expand(7, 2))
    with pytest.raises(ValueError, match="linear=True"):
        GaussianMLP(3, 2, linear=False).set_linear_(weight, bias, log_scale)


@pytest.mark.parametrize("noise", ["homoscedastic", "isotropic"])
def test_shared_noise_update_is_the_running_average_of_the_batch_optimum(noise, float64):
    net = GaussianMLP(3, 4, noise=noise, min_scale=1e-3)
    x, y = torch.randn(50, 3), 2 * torch.randn(50, 4)
    old = net(x).variance[0]
    residual = (y - net(x).mean).square().mean(0)
    if noise == "isotropic":
        residual = residual.mean().expand(4)
    (-net(x).log_prob(y).mean()).backward()
    net.update_shared_noise_(0.3)
    torch.testing.assert_close(net(x).variance[0], 0.7 * old + 0.3 * residual)


def test_standard_normal_prior_against_torch(float64):
    prior = StandardNormalPrior(3).double()
    loc, log_scale = torch.randn(5, 3), torch.randn(5, 3)
    q = torch.distributions.Normal(loc, log_scale.exp())
    p = torch.distributions.Normal(torch.zeros(3), torch.ones(3))
    torch.testing.assert_close(prior.kl(loc, log_scale), torch.distributions.kl_divergence(q, p))
    torch.testing.assert_close(prior.log_prob(loc), prior().log_prob(loc))
    torch.testing.assert_close(prior.kl(torch.zeros(3), torch.zeros(3)), torch.zeros(3))
    draws = prior.sample(20_000, torch.Generator().manual_seed(0))
    assert draws.dtype == torch.float64
    torch.testing.assert_close(draws.mean(0), torch.zeros(3), atol=0.03, rtol=0)
    torch.testing.assert_close(draws.T.cov(), torch.eye(3), atol=0.05, rtol=0)


@pytest.mark.parametrize("n_factors", [1, 3])
@pytest.mark.parametrize("n_latents", [3, 5])
def test_factor_analysis_is_reproduced_to_rounding(n_factors, n_latents, cancer, float64):
    X = cancer[:, :8] / cancer[:, :8].std(0)
    model = FactorAnalysis(n_factors, svd_method="lapack").fit(X)
    vae = GaussianVAEModule(8, n_latents, noise="homoscedastic", min_noise=1e-4).double()
    vae.start_at_factor_analysis(
        torch.tensor(model.components_.T),
        torch.tensor(model.noise_variance_),
        torch.tensor(model.mean_),
    )
    x = torch.tensor(X)
    expected = torch.tensor(model.score_samples(X))
    # q is the exact posterior: every weight is the same, one draw is enough.
    bound = importance_weighted_bound(vae, x, x, torch.randn(1, len(x), n_latents)).value
    torch.testing.assert_close(bound, expected, rtol=1e-10, atol=1e-10)
    posterior = vae.encoder(x)
    eps = torch.cat([torch.eye(n_latents), -torch.eye(n_latents)])[:, None] * n_latents**0.5
    # The 2 L sigma points integrate the quadratic log density exactly.
    torch.testing.assert_close(elbo(vae, x, x, eps).value, expected, rtol=1e-10, atol=1e-10)
    assert posterior.mean.shape == (len(x), n_latents)


def test_probabilistic_pca_is_reproduced_to_rounding(cancer, float64):
    X = cancer[:, :8] / cancer[:, :8].std(0)
    model = PCA(3, svd_solver="full").fit(X)
    scale = torch.tensor((model.explained_variance_ - model.noise_variance_) ** 0.5)
    vae = GaussianVAEModule(8, 3, noise="isotropic", min_noise=1e-4).double()
    vae.start_at_factor_analysis(
        torch.tensor(model.components_.T) * scale,
        torch.full((8,), model.noise_variance_),
        torch.tensor(model.mean_),
    )
    x = torch.tensor(X)
    bound = importance_weighted_bound(vae, x, x, torch.randn(1, len(x), 3)).value
    expected = torch.tensor(model.score_samples(X))
    torch.testing.assert_close(bound, expected, rtol=1e-10, atol=1e-10)


def test_another_prior_can_take_the_place_of_the_standard_one(float64):
    class Shifted(StandardNormalPrior):
        def log_prob(self, z):
            return super().log_prob(z - 1)

        def kl(self, loc, log_scale, z=None):
            return super().kl(loc - 1, log_scale)

    x = torch.randn(6, 4)
    eps = torch.randn(50, 6, 2)
    a = GaussianVAEModule(4, 2, generator=torch.Generator().manual_seed(0))
    b = GaussianVAEModule(4, 2, prior=Shifted(2), generator=torch.Generator().manual_seed(0))
    for bound in (elbo, importance_weighted_bound):
        assert not torch.allclose(bound(a, x, x, eps).value, bound(b, x, x, eps).value)


@pytest.mark.parametrize("noise", NOISE_MODELS)
@pytest.mark.parametrize("n_prior_components", [None, 3])
def test_a_batch_without_rows(noise, n_prior_components):
    vae = GaussianVAEModule(4, 2, 3, noise=noise, n_prior_components=n_prior_components)
    joint = GaussianVAEClassifierModule(vae, ClassifierHead(4, 3, 5))
    v1, eps = torch.zeros(0, 4), torch.zeros(6, 0, 2)
    q, z, p = vae(v1, n_draws=6)
    assert (q.mean.shape, z.shape, p.mean.shape) == ((0, 2), (6, 0, 2), (6, 0, 3))
    assert joint(v1).logits.shape == (0, 5)
    assert joint(v1, n_draws=6).logits.shape == (6, 0, 5)
    assert elbo(vae, v1, torch.zeros(0, 3), eps).value.shape == (0,)
    assert vae.prior.sample(0).shape == (0, 2)


# torch's defaults, which the user may have set


@contextmanager
def torch_default(kind):
    if kind == "meta":  # a device that every machine has
        torch.set_default_device("meta")
    else:
        torch.set_default_dtype(getattr(torch, kind))
    try:
        yield
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("n_prior_components", [None, 3])
def test_a_seed_gives_the_same_weights_in_every_dtype(n_prior_components):
    def weights():
        generator = torch.Generator().manual_seed(0)
        params = {"n_prior_components": n_prior_components, "generator": generator}
        return GaussianVAEModule(4, 2, 3, **params).float().state_dict()

    expected = weights()
    with torch_default("float64"):
        found = weights()
    for name, weight in expected.items():
        assert torch.equal(found[name], weight), name


@pytest.mark.parametrize("noise", NOISE_MODELS)
def test_a_module_lies_on_the_default_device_as_those_of_torch_do(noise):
    generator = torch.Generator()
    with torch_default("meta"):
        vae = GaussianVAEModule(4, 2, noise=noise, n_prior_components=3, generator=generator)
        joint = GaussianVAEClassifierModule(vae, ClassifierHead(4, 4, 3, generator=generator))
        tensors = [*joint.parameters(), *joint.buffers()]
    assert {tensor.device.type for tensor in tensors} == {"meta"}


ROWS = np.random.default_rng(0).standard_normal((90, 3))
FEW_LABELS = np.where(np.arange(90) % 4 == 0, ROWS[:, 0] > 0, -1)
FAST = {"max_epochs": 2, "hidden_layer_sizes": (8,), "n_draws": 8, "random_state": 0}


def density():
    vae = GaussianVAE(2, **FAST).fit(ROWS)
    return (
        vae.score_samples(ROWS),
        vae.sample(5, random_state=0),
        *vae.latent_directions(ROWS[:, :2]),
    )


def mixture():
    vae = GaussianVAE(2, prior=3, **FAST).fit(ROWS)
    return vae.partial_fit(ROWS).score_samples(ROWS), vae.elbo(ROWS), vae.reconstruct(ROWS)


def factors():
    vae = GaussianVAE(2, prior="standard", noise="isotropic", **FAST).fit(ROWS)
    return (pickle.loads(pickle.dumps(vae)).score_samples(ROWS),)


def regression():
    model = GaussianVAERegressor(**FAST).fit(ROWS, ROWS[:, :2])
    return *model.predict(ROWS, return_std=True), *model.predict_interval(ROWS)


def classes():
    model = GaussianVAEClassifier(**FAST).fit(ROWS, ROWS[:, 0] > 0)
    return model.predict_proba(ROWS), model.predict_target(ROWS)


def few_classes():
    return (GaussianVAEClassifier(unlabeled=-1, **FAST).fit(ROWS, FEW_LABELS).predict_proba(ROWS),)


def search():
    grid = {"n_components": [1, 2], "kl_weight": [0.5, 1.0]}
    found = StackedGridSearchCV(GaussianVAE(n_estimators=1, **FAST), grid, cv=2).fit(ROWS)
    return (found.cv_results_["mean_test_score"],)


@pytest.mark.parametrize("kind", ["float64", "meta"])
@pytest.mark.parametrize(
    "answers", [density, mixture, factors, regression, classes, few_classes, search]
)
@pytest.mark.filterwarnings("ignore::skgvae.PosteriorCollapseWarning")
def test_defaults_of_torch_change_no_estimator(answers, kind):
    expected = answers()
    with torch_default(kind):
        found = answers()
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


# The joint module


@pytest.mark.parametrize("shape", [(), (5,), (3, 5)])
@pytest.mark.parametrize("hidden", [(), (7,), (7, 6)])
def test_shapes_of_the_joint_module(shape, hidden):
    head = ClassifierHead(4, 3, 6, hidden_features=hidden)
    joint = GaussianVAEClassifierModule(GaussianVAEModule(4, 2, 3), head)
    v1 = torch.randn(*shape, 4)
    logits, v2_estimate, out = joint(v1)
    assert (logits.shape, v2_estimate.shape, out.z.shape) == (
        (*shape, 6),
        (*shape, 3),
        (*shape, 2),
    )
    assert (logits == 0).all()  # at the start all classes are equally likely
    logits, v2_estimate, out = joint(v1, n_draws=8)
    assert logits.shape == (8, *shape, 6)
    assert v2_estimate.shape == out.likelihood.mean.shape == (8, *shape, 3)


def test_draws_of_the_joint_module_come_from_its_distributions():
    joint = GaussianVAEClassifierModule(GaussianVAEModule(4, 2, 3), ClassifierHead(4, 3, 2))
    v1 = torch.randn(1, 4)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        out = joint(v1, n_draws=50_000, generator=generator)
    standardised = (out.v2_estimate - out.vae.likelihood.mean) / out.vae.likelihood.stddev
    assert standardised.mean((0, 1)).numpy() == pytest.approx([0, 0, 0], abs=0.02)
    assert standardised.std((0, 1)).numpy() == pytest.approx([1, 1, 1], abs=0.02)
    again = joint(v1, n_draws=50_000, generator=generator.manual_seed(0))
    assert torch.equal(again.v2_estimate, out.v2_estimate)


def test_the_joint_module_accepts_any_classifier():
    class Difference(nn.Module):
        def forward(self, v1, v2_estimate):
            assert v1.ndim == v2_estimate.ndim == 2
            return v1 - v2_estimate

    joint = GaussianVAEClassifierModule(GaussianVAEModule(4, 2), Difference())
    v1 = torch.randn(5, 4)
    out = joint(v1, n_draws=3)
    torch.testing.assert_close(out.logits, v1 - out.v2_estimate)
