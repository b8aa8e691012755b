"""The mixture prior: as a density, as a module among modules, as the start of a fit."""

import copy
import pickle

import numpy as np
import pytest
import torch
from conftest import standardise
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from sklearn.datasets import load_wine, make_blobs
from sklearn.mixture import GaussianMixture
from torch.func import functional_call, grad, stack_module_state, vmap

from skgvae import GaussianVAE, GaussianVAERegressor, _vae
from skgvae.likelihood import latent_draws, marginal_log_prob
from skgvae.net import GaussianVAENet, RowDataset
from skgvae.nn import NOISE_MODELS, PRIORS, GaussianNoise, GaussianVAEModule, MixturePrior
from skgvae.objectives import elbo, importance_weighted_bound

# Only with normal noise is a linear decoder a classical model.
GAUSSIAN = [name for name, model in NOISE_MODELS.items() if model.family is GaussianNoise]
MIXTURE = {"prior": "mixture", "random_state": 0}


def random_mixture(n_components, d, seed=0):
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.full(n_components, 5.0))
    means = rng.standard_normal((n_components, d))
    factors = rng.standard_normal((n_components, d, d + 2))
    return weights, means, factors @ factors.transpose(0, 2, 1) / (d + 2)


def prior_of(mixture):
    prior = MixturePrior(mixture[1].shape[1], len(mixture[0])).double()
    prior.set_(*map(torch.from_numpy, mixture))
    return prior


def mixture_log_prob(X, weights, means, covariances):
    components = zip(weights, means, covariances, strict=True)
    return logsumexp(
        [np.log(w) + multivariate_normal(m, c).logpdf(X) for w, m, c in components], 0
    )


# The density


def test_density_is_that_of_scikit_learn(iris):
    X = standardise(iris)
    model = GaussianMixture(3, random_state=0).fit(X)
    prior = prior_of((model.weights_, model.means_, model.covariances_))
    z = torch.from_numpy(X)
    expected = model.score_samples(X)
    for log_prob in (prior.log_prob(z), prior().log_prob(z)):
        np.testing.assert_allclose(log_prob.detach(), expected, rtol=1e-9)
    torch.testing.assert_close(prior().mean, z.mean(0))  # EM keeps the mean of the data


def test_density_with_any_parameters_integrates_to_one(float64):
    prior = MixturePrior(2, 3)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.copy_(0.7 * torch.randn(parameter.shape))
    line = torch.linspace(-20, 20, 1001)
    density = prior.log_prob(torch.cartesian_prod(line, line)).exp()
    assert (density.sum() * (line[1] - line[0]) ** 2).item() == pytest.approx(1, abs=1e-6)


def test_samples_have_the_moments_of_the_mixture():
    weights, means, covariances = random_mixture(3, 3)
    prior = prior_of((weights, means, covariances))
    z = prior.sample(100_000, torch.Generator().manual_seed(0))
    assert z.dtype == torch.float64
    assert torch.equal(z, prior.sample(100_000, torch.Generator().manual_seed(0)))
    mean = weights @ means
    spread = means - mean
    covariance = np.einsum(
        "c,cij->ij", weights, covariances + spread[:, :, None] * spread[:, None]
    )
    np.testing.assert_allclose(z.mean(0), mean, atol=0.02)
    np.testing.assert_allclose(z.T.cov(), covariance, atol=0.03)
    # And not the moments alone: the average log density is minus the entropy.
    expected = prior().sample((100_000,))
    entropy, naive = (prior.log_prob(draws).mean().item() for draws in (z, expected))
    assert entropy == pytest.approx(naive, abs=0.03)


# The divergence


def test_kl_is_the_chain_rule_draw_by_draw():
    weights, means, covariances = random_mixture(3, 4)
    prior = prior_of((weights, means, covariances))
    loc, log_scale = torch.randn(5, 4).double(), 0.3 * torch.randn(5, 4).double()
    z = loc + log_scale.exp() * torch.randn(7, 5, 4)
    kl = prior.kl(loc, log_scale, z).detach().numpy()
    expected = np.zeros((5, 4))
    for draw in z.numpy():
        for row in range(5):
            before = 0.0
            for latent in range(4):
                q = multivariate_normal(loc[row, latent], log_scale[row, latent].exp() ** 2)
                k = latent + 1
                upto = mixture_log_prob(
                    draw[row, :k], weights, means[:, :k], covariances[:, :k, :k]
                )
                expected[row, latent] += (q.logpdf(draw[row, latent]) - (upto - before)) / 7
                before = upto
    np.testing.assert_allclose(kl, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(prior.kl(loc, log_scale, z[0]).shape, loc.shape)


def test_kl_of_one_component_is_the_closed_form_on_average():
    prior = prior_of((np.ones(1), *(a for a in random_mixture(1, 3)[1:])))
    loc, log_scale = torch.randn(3).double(), 0.3 * torch.randn(3).double()
    q = torch.distributions.MultivariateNormal(loc, torch.diag(log_scale.exp() ** 2))
    component = prior().component_distribution
    p = torch.distributions.MultivariateNormal(component.loc[0], component.covariance_matrix[0])
    z = loc + log_scale.exp() * latent_draws(2**14, 3, 0)
    kl = prior.kl(loc[None], log_scale[None], z[:, None])
    assert kl.sum().item() == pytest.approx(
        torch.distributions.kl_divergence(q, p).item(), rel=1e-2
    )
    assert (kl > 0).all()


def test_kl_of_an_unused_latent_is_zero_for_every_draw():
    weights, means, covariances = random_mixture(2, 3)
    means[:, 2], covariances[:, 2, :], covariances[:, :, 2] = 0, 0, 0
    covariances[:, 2, 2] = 1
    prior = prior_of((weights, means, covariances))
    loc, log_scale = torch.randn(6, 3).double(), torch.randn(6, 3).double()
    loc[:, 2], log_scale[:, 2] = 0, 0
    kl = prior.kl(loc, log_scale, loc + log_scale.exp() * torch.randn(4, 6, 3))
    torch.testing.assert_close(kl[:, 2], torch.zeros(6).double())
    assert (kl[:, :2].abs() > 1e-3).all()


# Among modules


@pytest.mark.parametrize("bound", [elbo, importance_weighted_bound])
def test_every_parameter_has_a_gradient(bound):
    vae = GaussianVAEModule(4, 3, hidden_features=(5,), n_prior_components=2)
    bound(
        vae, torch.randn(20, 4), torch.randn(20, 4), torch.randn(2, 20, 3)
    ).value.sum().backward()
    for name, parameter in vae.named_parameters():
        assert parameter.grad.abs().sum() > 0, name
    assert vae.prior.coefficients.grad.triu().abs().sum() == 0


def test_stacked_models_agree_with_a_loop(float64):
    modules = [GaussianVAEModule(4, 3, hidden_features=(5,), n_prior_components=2) for _ in "abc"]
    parameters, buffers = stack_module_state(modules)
    skeleton = copy.deepcopy(modules[0]).to("meta")
    x, eps = torch.randn(3, 6, 4), torch.randn(3, 5, 6, 3)

    def loss(parameters, buffers, x, eps):
        bounds = functional_call(Bounds(skeleton), prefixed(parameters, buffers), (x, eps))
        return bounds.sum()

    gradients = vmap(grad(loss))(parameters, buffers, x, eps)
    for i, module in enumerate(modules):
        Bounds(module)(x[i], eps[i]).sum().backward()
        for name, parameter in module.named_parameters():
            torch.testing.assert_close(gradients[name][i], parameter.grad)


class Bounds(torch.nn.Module):
    def __init__(self, vae):
        super().__init__()
        self.vae = vae

    def forward(self, x, eps):
        return importance_weighted_bound(self.vae, x, x, eps, 2.0).value


def prefixed(*states):
    return {f"vae.{name}": value for state in states for name, value in state.items()}


def test_components_of_weight_zero_change_nothing(float64):
    prior = prior_of(random_mixture(3, 2))
    padded = prior.padded(5)
    z = torch.from_numpy(np.random.default_rng(0).standard_normal((20, 2)) * 1e6)
    torch.testing.assert_close(padded.log_prob(z), prior.log_prob(z), rtol=0, atol=0)
    for model in (prior, padded):
        model.log_prob(z).sum().backward()
    for name, own in prior.named_parameters():
        added = padded.get_parameter(name).grad
        torch.testing.assert_close(added[:3], own.grad, rtol=1e-12, atol=0)
        assert not added[3:].any()


def test_one_component_starts_standard_normal_and_none_is_an_error():
    z = torch.randn(5, 3)
    expected = multivariate_normal(np.zeros(3)).logpdf(z)
    np.testing.assert_allclose(MixturePrior(3, 1).log_prob(z).detach(), expected, rtol=1e-5)
    assert not torch.equal(*MixturePrior(3, 2).means)  # alike, they would stay alike
    with pytest.raises(ValueError, match="n_components must be 1 or more"):
        MixturePrior(3, 0)


# The start


@pytest.mark.parametrize("noise", GAUSSIAN)
def test_start_of_the_module_is_exact_for_one_component(noise, float64):
    loadings, mean = torch.eye(4)[:, :3] * 0.8, torch.randn(4)
    noise_variance = torch.full((4,), 0.3**2)
    variances = torch.tensor([[0.5, 1.0, 2.0]])  # a diagonal posterior: the encoder's own form
    vae = GaussianVAEModule(4, 3, noise=noise).double()
    start = torch.ones(1), torch.randn(1, 3), torch.diag_embed(variances)
    vae.start_at_mixture(loadings, noise_variance, mean, *start)
    x = torch.randn(20, 4)
    bound = importance_weighted_bound(vae, x, x, torch.randn(1, 20, 3)).value
    covariance = loadings @ start[2][0] @ loadings.T + torch.diag(noise_variance)
    p = multivariate_normal(mean + loadings @ start[1][0], covariance)
    np.testing.assert_allclose(bound.detach(), p.logpdf(x), rtol=1e-9)


@pytest.mark.parametrize("n_latents", [3, 5])
def test_start_of_the_module_is_a_mixture_of_factor_analysers(n_latents, float64):
    weights, means, covariances = random_mixture(3, 2)
    rng = np.random.default_rng(0)
    # Orthogonal loadings: the posterior is nearly diagonal, as estimators choose it to be.
    loadings, mean = np.linalg.qr(rng.standard_normal((4, 3)))[0], rng.standard_normal(4)
    noise_variance = np.full(4, 0.03)
    vae = GaussianVAEModule(4, n_latents, hidden_features=(5,)).double()
    vae.start_at_mixture(
        *map(torch.tensor, (loadings, noise_variance, mean, weights, means, covariances))
    )
    full = np.tile(np.eye(3), (3, 1, 1))  # the third factor is standard normal
    full[:, :2, :2] = covariances
    mixture = (
        weights,
        mean + means @ loadings[:, :2].T,
        loadings @ full @ loadings.T + np.diag(noise_variance),
    )
    X = prior_of(mixture).sample(200, torch.Generator().manual_seed(0))
    draws = latent_draws(2**12, n_latents, 0)
    assert_estimates(marginal_log_prob(vae, X, X, draws).numpy(), mixture_log_prob(X, *mixture))


def assert_estimates(scores, log_prob):
    """Check importance-weighted estimates: seldom far from the truth, and on average near."""
    error = np.abs(scores - log_prob)
    assert error.mean() < 0.02
    assert error.max() < 0.5
    assert np.mean(error > 0.1) < 0.02


@pytest.fixture(scope="module")
def blobs():
    """Clusters of one shape in four columns: a mixture whose fit is beyond doubt."""
    X, _ = make_blobs(600, 4, centers=3, cluster_std=0.8, random_state=3)
    return X @ np.random.default_rng(0).standard_normal((4, 4)) * [1, 10, 100, 0.01]


@pytest.mark.parametrize("noise", GAUSSIAN)
def test_start_scores_like_gaussian_mixture_row_by_row(noise, blobs):
    X = standardise(blobs)
    expected = GaussianMixture(3, covariance_type="tied", random_state=0).fit(X).score_samples(X)
    expected -= np.log(blobs.std(0)).sum()
    vae = GaussianVAE(**MIXTURE, noise=noise, min_noise=1e-3, max_epochs=0, n_draws=1024).fit(
        blobs
    )
    assert vae.n_prior_components_ == 3  # found by the criterion
    assert_estimates(vae.score_samples(blobs), expected)
    assert vae.elbo(blobs).mean() > expected.mean() - 1.5


def test_number_of_prior_components_is_limited_by_rows_and_columns():
    X, _ = make_blobs(1200, 2, centers=40, cluster_std=0.02, random_state=0)
    assert 16 < GaussianVAE(max_epochs=0, random_state=0).fit(X).n_prior_components_ <= 64
    X, _ = make_blobs(90, 10, centers=6, cluster_std=0.05, random_state=0)
    numbers = [
        GaussianVAE(prior=prior, max_epochs=0, random_state=0).fit(X).n_prior_components_
        for prior in ("mixture", 6)
    ]
    assert numbers == [4, 6]  # one for 20 rows; asked for, as many as there are


def test_every_second_member_starts_at_a_mixture_of_its_rows(monkeypatch):
    rows, given, found, own = [], [], [], _vae.mixture_of_rows

    def spy(X, n_latents, **params):
        *model, kind = own(X, n_latents, **params)
        rows.append(X)
        given.append((params["n_components"], params.get("kinds")))
        found.append((len(model[3]), (kind,)))
        return *model, kind

    monkeypatch.setattr(_vae, "mixture_of_rows", spy)
    X = np.random.default_rng(2).standard_t(2, (200, 2))
    params = {"max_epochs": 1, "lr": 1e-12, "random_state": 0}
    vae = GaussianVAE(n_estimators=5, **params).fit(X)
    # The first chooses for all, but each has its own Gaussians. The second starts at random.
    assert given == [(None, None), *[found[0]] * 3]
    assert found == [found[0]] * 4
    assert not any(np.array_equal(rows[0], part) for part in rows[1:])
    is_linear = [bool(m.decoder.loc.weight.abs().max() < 1e-6) for m in vae.modules_]
    assert is_linear == [True, False, True, True, True]
    assert vae.n_prior_components_ == vae.modules_[1].prior.n_components >= found[0][0] > 1
    loaded = pickle.loads(pickle.dumps(vae))
    np.testing.assert_array_equal(loaded.score_samples(X), vae.score_samples(X))


def test_start_with_few_latents_is_a_mixture_in_their_plane():
    X, _ = make_blobs(500, 2, centers=4, cluster_std=0.5, random_state=1)
    rng = np.random.default_rng(0)
    X = X @ rng.standard_normal((2, 10)) + 0.5 * rng.standard_normal((500, 10))
    vae = GaussianVAE(2, **MIXTURE, max_epochs=0).fit(X)
    assert vae.n_prior_components_ == 4
    loadings = vae.inverse_transform(np.eye(2)) - vae.inverse_transform(np.zeros((2, 2)))
    components, latents = vae.module_.prior().component_distribution, vae._latents
    covariances = latents.from_module(latents.from_module(components.covariance_matrix).mT)
    expected = mixture_log_prob(
        X,
        vae.module_.prior.logits.softmax(-1).detach().numpy(),
        vae.inverse_transform(latents.from_module(components.mean).detach().double().numpy()),
        loadings.T @ covariances.detach().numpy() @ loadings + np.diag(vae.noise_variance_),
    )
    assert_estimates(vae.score_samples(X), expected)
    one_cloud = GaussianVAE(2, prior="standard", max_epochs=0).fit(X)
    assert vae.score(X) > one_cloud.score(X) + 0.5


def test_more_latents_than_columns_stay_unused(blobs):
    params = {"max_epochs": 0, "n_draws": 4096}  # so many that estimates are near the truth
    vae = GaussianVAE(6, **MIXTURE, **params).fit(blobs)
    assert vae.n_active_components_ == 4
    np.testing.assert_allclose(vae.kl_per_component_[4:], 0, atol=1e-5)
    assert vae.score(blobs) == pytest.approx(
        GaussianVAE(**MIXTURE, **params).fit(blobs).score(blobs), abs=0.02
    )


def test_one_gaussian_is_a_factor_analysis(cancer):
    X = cancer[:, :12]
    scores = [
        GaussianVAE(4, max_epochs=0, prior=prior, random_state=0).fit(X).score(X)
        for prior in ("standard", 1, "mixture")
    ]
    assert scores[1] == pytest.approx(scores[0], abs=0.05)
    assert scores[2] > scores[0] + 0.05


def test_weights_move_the_mixture(blobs):
    clusters = GaussianMixture(3, random_state=0).fit_predict(standardise(blobs))
    weight = np.array([1.0, 2.0, 5.0])[clusters]
    vae = GaussianVAE(**MIXTURE, max_epochs=0).fit(blobs, sample_weight=weight)
    shares = np.sort(vae.module_.prior.logits.softmax(-1).detach().numpy())
    np.testing.assert_allclose(shares, [1 / 8, 2 / 8, 5 / 8], atol=0.01)


def test_validation_bound_never_below_the_start():
    wine = load_wine().data
    vae = GaussianVAE(**MIXTURE, lr=1.0, max_epochs=3).fit(wine)
    assert vae.best_epoch_ == 0
    (kept,) = vae.net_.result_.best_losses
    assert kept < min(record["valid_loss"] for record in vae.history_)


def test_training_improves_on_mixture_and_standard_prior(seed):
    # Three curved clusters: neither Gaussians nor one cloud.
    rng = np.random.default_rng(seed)
    t, cluster = rng.uniform(-1, 1, 900), rng.integers(3, size=900)
    X = np.column_stack([t + 4 * cluster, t**2 - cluster]) + 0.1 * rng.standard_normal((900, 2))
    train, test = X[:600], X[600:]
    params = {"hidden_layer_sizes": 32, "max_epochs": 40, "random_state": 0}
    standard = GaussianVAE(**params, prior="standard").fit(train).score(test)
    start = GaussianVAE(**{**params, "max_epochs": 0}, prior=3).fit(train).score(test)
    assert GaussianVAE(**params, prior=3).fit(train).score(test) > max(start, standard) + 0.05


@pytest.mark.filterwarnings("ignore:.* rows or groups are too few:UserWarning")
@pytest.mark.filterwarnings("ignore::skgvae.PosteriorCollapseWarning")
@pytest.mark.parametrize("n_components", [1, None])
@pytest.mark.parametrize(
    "make",
    [
        lambda rng: np.column_stack([rng.standard_normal((200, 2)), np.full(200, 7.0)]),
        lambda rng: np.full((40, 3), 2.5),
        lambda rng: rng.standard_normal((2, 4)),
        lambda rng: np.repeat(rng.standard_normal((10, 3)), 20, axis=0),
        lambda rng: np.repeat(rng.standard_normal((100, 1)), 4, axis=1),
        lambda rng: rng.standard_normal((20, 60)),
        lambda rng: rng.standard_cauchy((300, 3)),
        lambda rng: rng.integers(0, 2, (200, 5)).astype(float),
    ],
    ids=[
        "constant column",
        "constant",
        "2 rows",
        "duplicated rows",
        "duplicated columns",
        "wide",
        "heavy tails",
        "binary",
    ],
)
def test_difficult_data_give_finite_answers(make, n_components):
    X = make(np.random.default_rng(0))
    vae = GaussianVAE(n_components, **MIXTURE, max_epochs=3, n_draws=32).fit(X)
    for answer in (vae.score_samples(X), vae.elbo(X), vae.sample(10), vae.kl_per_component_):
        assert np.isfinite(answer).all()


# State


def test_pickles_keep_the_prior_whatever_the_parameters_say_now(iris):
    vae = GaussianVAE(**MIXTURE, max_epochs=2).fit(iris)
    vae.set_params(prior="standard")
    for copied in (pickle.loads(pickle.dumps(vae)), copy.deepcopy(vae)):
        np.testing.assert_array_equal(copied.score_samples(iris), vae.score_samples(iris))
        np.testing.assert_array_equal(
            copied.sample(4, random_state=0), vae.sample(4, random_state=0)
        )
        assert copied.n_prior_components_ == vae.n_prior_components_ > 1


def test_continuation_keeps_the_prior(iris):
    params = {**MIXTURE, "n_estimators": 1, "n_draws": 32, "warm_start": True}
    params["validation_fraction"] = None  # the last epoch is kept
    vae = GaussianVAE(**params, max_epochs=2).fit(iris)
    n_components = vae.n_prior_components_
    first = vae.score(iris)
    assert vae.set_params(max_epochs=20).fit(iris).score(iris) > first
    assert vae.n_prior_components_ == n_components
    for prior in ("standard", 2):
        with pytest.raises(ValueError, match=r"prior=.*warm_start=False"):
            copy.deepcopy(vae).set_params(prior=prior).fit(iris)


def test_samples_look_like_the_rows(blobs):
    vae = GaussianVAE(**MIXTURE, max_epochs=0).fit(blobs)
    draws = vae.sample(4000, random_state=0)
    np.testing.assert_allclose(draws.mean(0), blobs.mean(0), atol=0.1 * blobs.std(0).max())
    np.testing.assert_allclose(np.corrcoef(draws.T), np.corrcoef(blobs.T), atol=0.05)
    model = GaussianMixture(3, random_state=0).fit(standardise(blobs))
    standardised = (draws - blobs.mean(0)) / blobs.std(0)
    assert model.score(standardised) == pytest.approx(model.score(standardise(blobs)), abs=0.1)


@pytest.mark.parametrize("prior", ["flow", 0, 2.5, None])
def test_bad_parameters(prior, iris):
    with pytest.raises(ValueError, match="'prior' parameter"):
        GaussianVAE(prior=prior).fit(iris)


# Whatever prior there is


def make_prior(name, seed=0):
    # As it starts, and then moved from there: nothing is special about the start.
    prior = PRIORS[name](3, generator=torch.Generator().manual_seed(seed))
    generator = torch.Generator().manual_seed(seed)
    for parameter in prior.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    return prior


@torch.no_grad()
@pytest.mark.parametrize("name", PRIORS)
def test_a_prior_is_one_distribution(name):
    prior = make_prior(name).double()
    z = prior.sample(40_000, torch.Generator().manual_seed(0))
    assert z.dtype == torch.float64
    assert torch.equal(z, prior.sample(40_000, torch.Generator().manual_seed(0)))
    assert prior.sample(0).shape == (0, 3)
    expected = prior().log_prob(z)
    torch.testing.assert_close(prior.log_prob(z), expected)
    other = prior().log_prob(prior().sample((40_000,)))
    standard_error = expected.std().item() / 200
    assert expected.mean().item() == pytest.approx(other.mean().item(), abs=6 * standard_error)


@torch.no_grad()
@pytest.mark.parametrize("name", PRIORS)
def test_the_divergences_of_the_latents_sum_to_that_of_z(name):
    prior = make_prior(name).double()
    loc, log_scale = torch.randn(2, 3).double()
    z = loc + log_scale.exp() * torch.randn(100_000, 3).double()
    rows = len(z), 3
    kl = prior.kl(loc.expand(rows), log_scale.expand(rows), z)
    assert kl.shape == rows
    log_q = GaussianNoise.log_prob(z, loc, log_scale).sum(-1)
    expected = log_q - prior.log_prob(z)
    standard_error = expected.std().item() / len(z) ** 0.5
    assert kl.sum(-1).mean().item() == pytest.approx(
        expected.mean().item(), abs=5 * standard_error
    )


@pytest.mark.parametrize("name", PRIORS)
def test_several_models_train_as_each_alone(name):
    X = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    modules = [
        GaussianVAEModule(
            4, 3, hidden_features=(5,), prior=make_prior(name, i),
            generator=torch.Generator().manual_seed(i),
        )
        for i in range(3)
    ]  # fmt: skip
    params = {"criterion__bound": importance_weighted_bound, "criterion__n_draws": 2}
    params |= {"max_epochs": 3, "batch_size": 20}
    alone = [
        GaussianVAENet(copy.deepcopy(m), seed=i, **params).fit(RowDataset(X)).module_
        for i, m in enumerate(modules)
    ]
    together = GaussianVAENet(modules, seed=[0, 1, 2], **params).fit(RowDataset(X)).stack_.members
    for one, other in zip(alone, together, strict=True):
        for key, tensor in one.state_dict().items():
            torch.testing.assert_close(tensor, other.state_dict()[key], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", PRIORS)
def test_a_fit_with_each_prior(name, iris):
    vae = GaussianVAE(2, prior=name, max_epochs=5, n_draws=32, random_state=0).fit(iris)
    assert type(vae.module_.prior) is PRIORS[name]
    assert vae.score(iris) > GaussianVAE(1, max_epochs=0, prior="standard").fit(iris).score(iris)
    assert vae.kl_per_component_.shape == (2,)
    np.testing.assert_allclose(vae.sample(5000, random_state=0).mean(0), iris.mean(0), atol=0.3)
    loaded = pickle.loads(pickle.dumps(vae))
    np.testing.assert_array_equal(loaded.score_samples(iris), vae.score_samples(iris))
    regressor = GaussianVAERegressor(max_epochs=2, net_params={"module__prior": name})
    assert type(regressor.fit(iris[:, :3], iris[:, 3]).module_.prior) is PRIORS[name]
