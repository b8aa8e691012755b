"""
Why mean squared error + KL does not simply work
================================================

One network, one optimiser, eight losses that differ in a line. The squared error is a Gaussian
of fixed variance; with the usual averages that variance is so large that to ignore the latents
is optimal. :doc:`/why_mse_plus_kl_fails` has the formulas and their sources.
"""

# %%
# The losses
# ----------
# All take the rows ``x``, the decoder's mean ``mu`` and log variance ``log_var``, and the KL
# divergence ``kl`` of each row and latent. The first two ignore ``log_var``.
import math
import warnings

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from skgvae import GaussianVAERegressor, PosteriorCollapseWarning
from skgvae.nn import GaussianVAEModule


def averaged_error(x, mu, log_var, kl):
    """Mean squared error + KL: the usual code."""
    return (x - mu).square().mean() + kl.sum(-1).mean()


def unit_variance(x, mu, log_var, kl):
    """Half the squared error, summed over features: a Gaussian of variance one."""
    return (0.5 * (x - mu).square()).sum(-1).mean() + kl.sum(-1).mean()


def gaussian(x, mu, log_var, kl):
    """The negative log density of N(mu, exp(log_var)): right for any variance."""
    error = 0.5 * (math.log(2 * math.pi) + log_var + (x - mu).square() / log_var.exp())
    return error.sum(-1).mean() + kl.sum(-1).mean()


def common(x, mu, log_var, kl):
    """A common implementation of the same, with four slips."""
    return common_error(x, mu, log_var).mean() + kl.sum()


def common_error(x, mu, log_var):
    return math.log2(math.pi) + log_var + (x - mu).square() / (2 * log_var.exp())


def common_kl_by_row(x, mu, log_var, kl):
    """Its KL averaged over rows, as the error is."""
    return common_error(x, mu, log_var).mean() + kl.sum(-1).mean()


def common_summed(x, mu, log_var, kl):
    """Its error summed over features too."""
    return common_error(x, mu, log_var).sum(-1).mean() + kl.sum(-1).mean()


# %%
# One network for all
# -------------------
# 30 columns, standardised; 10 latents; one hidden layer of tanh units on each side, as in
# appendix C.2 of Kingma & Welling. The noise model only says what the log variance depends on:
# nothing, the feature, or the feature and z.
X_train, X_test = train_test_split(load_breast_cancer().data, random_state=0)
scaler = StandardScaler().fit(X_train)
X_train, X_test = (torch.from_numpy(scaler.transform(X)).float() for X in (X_train, X_test))
n_features, n_latents, batch_size = X_train.shape[1], 10, 64


def normal_kl(loc, log_scale):
    """Return KL(N(loc, exp(log_scale)²) ‖ N(0, 1)) of each row and latent, in nats."""
    return 0.5 * (loc.square() + torch.exp(2 * log_scale) - 1) - log_scale


def terms(vae, x, generator):
    """Return what a loss takes, for one draw of z in each row."""
    loc, log_scale = vae.encoder.loc_and_log_scale(x)
    z = loc + log_scale.exp() * torch.randn(loc.shape, generator=generator)
    mu, decoder_log_scale = vae.decoder.loc_and_log_scale(z)
    return x, mu, 2 * decoder_log_scale.expand_as(mu), normal_kl(loc, log_scale)


def train(loss, noise="heteroscedastic", hidden=(32,), batch_size=batch_size, lr=0.015, steps=300):
    """Return a network trained by Adam at a falling rate."""
    generator = torch.Generator().manual_seed(0)
    vae = GaussianVAEModule(
        n_features,
        n_latents,
        hidden_features=hidden,
        activation=torch.nn.Tanh,
        noise=noise,
        linear=False,
        generator=generator,
    )
    optimizer = torch.optim.Adam(vae.parameters(), lr=lr)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * (1 - step / steps)
        rows = torch.randperm(len(X_train), generator=generator)[:batch_size]
        value = loss(*terms(vae, X_train[rows], generator))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    return vae


@torch.no_grad()
def describe(vae, implied_variance):
    """Return KL, active latents, R² and the bound at the implied variance, on held-out rows."""
    loc, log_scale = vae.encoder.loc_and_log_scale(X_test)
    kl = normal_kl(loc, log_scale).mean(0)
    error = (X_test - vae.decoder.loc_and_log_scale(loc)[0]).square().sum()
    r2 = 1 - error / (X_test - X_test.mean(0)).square().sum()
    generator, n_draws = torch.Generator().manual_seed(1), 50
    x, mu, log_var, kl_of_draw = terms(vae, X_test.repeat(n_draws, 1), generator)
    bound = -gaussian(x, mu, implied_variance(log_var.exp()).log(), kl_of_draw)
    return kl.sum().item(), (kl > 0.01).sum().item(), r2.item(), bound.item()


# %%
# A loss is a variance and a KL weight
# ------------------------------------
# But for constants, each loss is a Gaussian's negative log density at some variance plus a
# weighted KL. With B rows a batch and d features, the mean squared error has the variance d/2. In
# the common implementation the log variance is not halved, so that the network's variance s²
# stands for 2 s², and the averages make the KL weight B d/2. The lines that begin with dots mend
# it step by step; with the log variance halved too it is the last line. Bounds are those at the
# variance that the loss implies, with KL weight one.
d, B = n_features, batch_size


def constant(variance):
    return lambda s2: torch.full_like(s2, variance)


def times(factor):
    return lambda s2: factor * s2


losses = {  # name: loss, noise model, implied variance, the same in words, KL weight
    "mean squared error + KL": (
        averaged_error, "heteroscedastic", constant(d / 2), f"d/2 = {d / 2:g}", 1),
    "common implementation": (common, "heteroscedastic", times(2), "2 s²(z)", B * d / 2),
    ".. KL averaged over rows": (
        common_kl_by_row, "heteroscedastic", times(2), "2 s²(z)", d / 2),
    ".. error summed over features": (
        common_summed, "heteroscedastic", times(2), "2 s²(z)", 1 / 2),
    "half squared error, summed": (unit_variance, "heteroscedastic", constant(1), "1", 1),
    "one learned variance": (gaussian, "isotropic", times(1), "s²", 1),
    "one for each feature": (gaussian, "homoscedastic", times(1), "s² by feature", 1),
    "a function of z": (gaussian, "heteroscedastic", times(1), "s²(z) by feature", 1),
}  # fmt: skip
print(f"held-out rows, d = {d}, B = {B}{'KL':>31}{'active':>8}{'':>7}{'bound,':>9}")
print(f"{'loss':<31}{'variance':<17}{'KL weight':>9}{'nats':>7}{'latents':>8}{'R²':>7}{'nats':>9}")
networks, results = {}, {}
for name, (loss, noise, variance, words, weight) in losses.items():
    networks[name] = train(loss, noise)
    kl, active, r2, bound = results[name] = describe(networks[name], variance)
    print(f"{name:<31}{words:<17}{weight:>9g}{kl:>7.2f}{active:>8}{r2:>z7.2f}{bound:>9.1f}")


# %%
# The slips, seen
# ---------------
# The common implementation equals 2/d (negative log density at 2 s² + B d/2 KL) and a constant,
# here with random weights. Its constant log2(π) moves no weight, but makes values incomparable;
# the variance that it learns is half of the squared error, so its draws are too narrow.
@torch.no_grad()
def error_ratio(vae):
    """Return the squared error over the network's own variance, on the training rows."""
    x, mu, log_var, _ = terms(vae, X_train, torch.Generator().manual_seed(2))
    return ((x - mu).square() / log_var.exp()).mean().item()


vae = GaussianVAEModule(d, n_latents, generator=torch.Generator().manual_seed(3))
with torch.no_grad():
    x, mu, log_var, kl = terms(vae, X_train[:B], torch.Generator().manual_seed(4))
    equivalent = 2 / d * (gaussian(x, mu, log_var + math.log(2), B * d / 2 * kl))
    difference = (common(x, mu, log_var, kl) - equivalent).item()
print(f"\ncommon implementation less its equivalent{difference:>9.3f}")
print(f"log2(π) - log(4π){math.log2(math.pi) - math.log(4 * math.pi):>32.3f}")
excess = math.log2(math.pi) - 0.5 * math.log(2 * math.pi)
print(f"log2(π) for ½ log 2π: {excess:.2f} nats too many a feature, {d * excess:.1f} a row")
print("squared error over the variance that the network states")
for name in ("common implementation", ".. error summed over features", "a function of z"):
    print(f"{name:<31}{error_ratio(networks[name]):>18.2f}")

# %%
# Theory: eigenvalues against the variance
# ----------------------------------------
# With linear networks and one fixed variance, a direction of the data is used if and only if its
# eigenvalue of the covariance exceeds KL weight x variance, and then costs half the logarithm of
# their ratio. Variance 15 is the mean squared error's: as the eigenvalues of standardised columns
# sum to d, it asks for one direction with half of all variance.
eigenvalues = np.linalg.eigvalsh(np.cov(X_train.T, bias=True))[::-1]
print(f"\neigenvalues: {' '.join(f'{v:.2f}' for v in eigenvalues[:12])} ...")


def fixed_variance(variance):
    """Return the loss of a Gaussian with this variance, its constant left out."""
    return lambda x, mu, log_var, kl: (
        (x - mu).square().sum(-1).mean() / (2 * variance) + kl.sum(-1).mean()
    )


print(f"{'':<10}{'eigenvalues':>14}{'active latents,':>17}{'KL, nats':>14}")
print(f"{'variance':<10}{'above it':>14}{'linear network':>17}{'theory':>7}{'trained':>9}")
for variance in (15, 10, 4, 1):
    used = eigenvalues[eigenvalues > variance]
    vae = train(fixed_variance(variance), hidden=(), batch_size=len(X_train), lr=0.1)
    with torch.no_grad():
        kl = normal_kl(*vae.encoder.loc_and_log_scale(X_train)).mean(0)
    theory = 0.5 * np.log(used / variance).sum()
    active = (kl > 0.01).sum().item()
    print(f"{variance:<10g}{len(used):>14}{active:>17}{theory:>7.2f}{kl.sum().item():>9.2f}")
left_over = eigenvalues[n_latents:].mean()  # the optimum of probabilistic PCA
print(f"learned, theory: variance {left_over:.2f}, {(eigenvalues > left_over).sum()} eigenvalues"
      f" above it, {n_latents} latents used")  # fmt: skip

# %%
# A target that is not the input
# ------------------------------
# With y in place of x on the decoder's side the loss is an information bottleneck: the KL is paid
# for all that z knows of x, the gain is what z says of y. In the linear Gaussian case, with one
# draw and a learned variance, the latent is used if and only if the KL weight is less than R².
# With eight draws, the spread of the draws may stand for noise: the rule is laxer.
X, y = load_diabetes(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
r2_linear = LinearRegression().fit(X_train, y_train).score(X_train, y_train)


def bottleneck_r2(weight):
    """Return R² of the linear Gaussian model at its optimum: its slope is shrunk."""
    if weight >= r2_linear:
        return 0.0
    shrinkage = 1 - weight * (1 - r2_linear) / (1 - weight) / r2_linear
    return r2_linear * shrinkage * (2 - shrinkage)


print(f"\nR² of linear regression, training rows: {r2_linear:.2f}")
print(f"{'KL weight':<10}{'draws':>6}{'theory':>8}{'R², training':>14}{'R², held out':>14}"
      f"{'KL, nats':>10}  warned")  # fmt: skip
weights = {1: (1, 0.5, 0.1, 0.01), 8: (1, 0.5)}  # by the number of draws
curves = {1: [], 8: []}
for draws, curve in curves.items():
    for weight in weights[draws]:
        model = GaussianVAERegressor(
            kl_weight=weight,
            n_estimators=1,
            lr=0.005,
            batch_size=64,
            max_epochs=30,
            random_state=0,
            net_params={"criterion__n_draws": draws},
        )
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", PosteriorCollapseWarning)
            model.fit(X_train, y_train)
        warned = any(issubclass(w.category, PosteriorCollapseWarning) for w in caught)
        curve.append(model.score(X_train, y_train))
        theory = f"{bottleneck_r2(weight):.2f}" if draws == 1 else ""
        print(f"{weight:<10g}{draws:>6}{theory:>8}{curve[-1]:>14.2f}"
              f"{model.score(X_test, y_test):>14.2f}{model.kl_per_component_.sum():>10.2f}"
              f"  {'yes' if warned else 'no'}")  # fmt: skip

# %%
# Both in a figure
# ----------------
shown = [name for name in losses if not name.startswith("..")]
position = np.arange(len(shown))
figure, axes = plt.subplots(1, 2, figsize=(11, 3.8), layout="constrained")
for shift, values, label in (
    (-0.2, [results[name][1] / n_latents for name in shown], "latents in use, share"),
    (0.2, [max(results[name][2], 0) for name in shown], "R², held out"),
):
    bars = axes[0].barh(position + shift, values, 0.4, label=label)
    axes[0].bar_label(bars, fmt="{:.2f}", padding=2, fontsize=8)
axes[0].set(yticks=position, yticklabels=shown, xlim=(0, 1.1), title="breast cancer, v2 = v1")
axes[0].invert_yaxis()
axes[0].legend(loc="upper right")
grid = np.geomspace(0.01, 1, 200)
axes[1].plot(grid, [bottleneck_r2(w) for w in grid], color="grey", label="theory, one draw")
axes[1].plot(weights[1], curves[1], "o", label="one draw")
axes[1].plot(weights[8], curves[8], "s", label="eight draws")
axes[1].axvline(r2_linear, color="black", linestyle=":", label="KL weight = R² (linear)")
axes[1].set(xscale="log", xlabel="KL weight", ylabel="R², training rows",
            title="diabetes, v2 = y", ylim=(-0.02, 0.7))  # fmt: skip
axes[1].legend(loc="lower left")
plt.show()
