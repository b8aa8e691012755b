"""
A target with two answers
=========================

The inverse of a function that is not one to one has several answers. A network that predicts
a mean and a variance can only cover them all with one wide Gaussian; a mixture over the
latent space follows the branches.
"""

# %%
# Bishop's inverse problem: x = t + 0.3 sin(2πt) + noise, and t is asked for.
import matplotlib.pyplot as plt
import numpy as np
import torch

from skgvae import GaussianVAERegressor
from skgvae.metrics import log_likelihood_score
from skgvae.nn import GaussianMLP

rng = np.random.default_rng(0)
t = rng.uniform(size=3000)
x = t + 0.3 * np.sin(2 * np.pi * t) + rng.uniform(-0.05, 0.05, size=3000)
X_train, X_test, t_train, t_test = x[:2000, None], x[2000:, None], t[:2000], t[2000:]

# %%
# The mean-variance network is the same perceptron without a latent between x and t, trained
# on its log density. More draws of z in training let the branches part.
model = GaussianVAERegressor(
    kl_weight=0.1,
    n_estimators=1,
    max_epochs=100,
    random_state=0,
    net_params={"criterion__n_draws": 16},
).fit(X_train, t_train)

torch.manual_seed(0)
network = GaussianMLP(1, 1, hidden_features=(64, 64), min_scale=0.01)
optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3)
columns = [torch.from_numpy(a).float().view(-1, 1) for a in (X_train, t_train, X_test, t_test)]
for _ in range(1000):
    loss = -network(columns[0]).log_prob(columns[1]).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
with torch.no_grad():
    one_gaussian = network(columns[2])
    one_score = one_gaussian.log_prob(columns[3]).mean().item()
    one_draws = one_gaussian.sample()[:, 0].numpy()

score = log_likelihood_score(model, X_test, t_test)
print(f"held-out log density, nats a row\nmixture over the latent{score:>7.2f}")
print(f"one Gaussian for each x{one_score:>7.2f}")

# %%
# Draws of t given x
# ------------------
panels = {
    "held-out rows": t_test,
    f"GaussianVAERegressor, {score:.2f} nats": model.sample(X_test, random_state=0)[0],
    f"one Gaussian for each x, {one_score:.2f} nats": one_draws,
}
figure, axes = plt.subplots(
    1, 3, figsize=(11, 3.6), sharex=True, sharey=True, layout="constrained"
)
for axis, (title, values) in zip(axes, panels.items(), strict=True):
    axis.plot(X_test[:, 0], values, ".", markersize=2)
    axis.set(title=title, xlabel="x", ylim=(-0.3, 1.3))
axes[0].set(ylabel="t")
plt.show()
