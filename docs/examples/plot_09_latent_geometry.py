"""
Blurry regions and blurry directions of a latent space
=======================================================

Where in the latent space is the decoder unsure, and in which direction can z move without that
anybody could tell? The first is its standard deviation σ(z). The second needs its derivatives:
``latent_directions`` measures a step of z by what it changes in what is decoded, relative to
the noise there.
"""

# %%
# A plane for three grape varieties
# ---------------------------------
# Thirteen measurements of wines, and a latent space of two components that can be drawn. With
# ``columns="continuous"`` what is decoded is a Gaussian for every measurement, also for integers.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_wine

from skgvae import GaussianVAE
from skgvae.display import LatentDirectionsDisplay, LatentSpaceDisplay

X, y = load_wine(return_X_y=True)
vae = GaussianVAE(2, columns="continuous", random_state=0).fit(X)
Z = vae.transform(X)

# %%
# Blurry regions
# --------------
# σ(z) is one number for each measurement; its geometric mean, relative to the average noise,
# makes a map. Its logarithm is the entropy of what is decoded, up to a constant.
relative = vae.decode(Z, return_std=True)[1] / np.sqrt(vae.noise_variance_)
blur = np.exp(np.log(relative).mean(1))
print(f"{'wine':<8}{'σ(z) over its average':>24}")
for wine in range(3):
    print(f"{wine:<8}{blur[y == wine].mean():>24.2f}")

# %%
# Blurry directions
# -----------------
# The Gaussians that are decoded at z and at z + dz differ by ½ dzᵀ G(z) dz nats, with
#
# .. math:: G(z) = J_\mu^T \Sigma^{-1} J_\mu
#     + \tfrac12 J_{\log\sigma^2}^T J_{\log\sigma^2}.
#
# The eigenvectors of G are the directions, and the roots of its eigenvalues say how many
# standard deviations of the noise a unit of z is worth. They are the same whatever the units of
# the measurements.
eigenvalues, directions = vae.latent_directions(Z)
blurry, sharp = np.sqrt(eigenvalues).T
print(f"\n{'std of the noise per unit of z':<34}{'blurry':>8}{'sharp':>8}")
for wine in range(3):
    rows = y == wine
    name = f"wine {wine}, median"
    print(f"{name:<34}{np.median(blurry[rows]):>8.2f}{np.median(sharp[rows]):>8.2f}")

# %%
# Does it hold? A step of a tenth of a unit from each row, decoded
# -----------------------------------------------------------------
# The divergence of the two Gaussians is known in closed form; nothing in it knows of G.
step = 0.1


def divergence(Z, Z_new):
    """Return KL(p(x | z_new) ‖ p(x | z)) in nats."""
    (mean, std), (mean_new, std_new) = (vae.decode(z, return_std=True) for z in (Z, Z_new))
    ratio = (std_new / std) ** 2
    return 0.5 * (ratio - 1 - np.log(ratio) + ((mean_new - mean) / std) ** 2).sum(1)


print(f"\n{f'divergence of a step of {step}, nats':<34}{'decoded':>8}{'½ t² λ':>8}")
for j, name in enumerate(("blurry", "sharp")):
    found = np.median(divergence(Z, Z + step * directions[:, j]))
    print(f"{f'{name} direction, median':<34}{found:>8.3f}"
          f"{np.median(step**2 * eigenvalues[:, j] / 2):>8.3f}")  # fmt: skip

# %%
# Both maps
# ---------
# Left, dark is blurry: there the decoder has much noise of its own. Right, each ellipse is long
# in the blurry direction; its colour says how little a step in that direction changes. The two
# are different questions: noise may be large where the mean moves fast.
figure, axes = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
wines = np.array(["wine 0", "wine 1", "wine 2"])
LatentSpaceDisplay.from_estimator(vae, X, wines[y], background=True, ax=axes[0])
LatentDirectionsDisplay.from_estimator(vae, X, grid_resolution=12, ax=axes[1])
axes[1].scatter(*Z.T, s=6, color="black")
axes[0].set_title("blurry regions", pad=22)
axes[1].set_title("blurry directions", pad=22)
plt.show()
