"""Lower bound on Frey faces against the width of the latent space, as in Kingma & Welling 2013.

    python benchmarks/aevb.py DATA [--latent 2 5 10 20] [--steps 10000]
                                   [--models sigmoid default] [--pixels raw dequantised]

DATA holds ``img_frey.npz``. The figure is number 2 of arXiv:1312.6114: Gaussian decoder, sigmoid
means, one tanh layer of 200 units on either side, batches of 100, one draw. Printed is the
evidence lower bound in nats an image, in units in which a pixel lies in [0, 1], of

- sigmoid: that network as GaussianVAE's module, ``--steps`` steps of AdamW with a cosine schedule
  in place of Adagrad, no weight decay, the epoch chosen by validation images;
- default: ``GaussianVAE(n_components=..., n_estimators=1)`` with all other defaults.

What is comparable: the order of magnitude, and the growth with the latent width. The published
figures are read off a printed plot, to about ± 100. Images have 8 bits. "raw" takes them as they
are (x / 255), as was published: the bound then depends on how small a variance may become, which
the paper leaves open and which is one grey level at least for "sigmoid" here. "dequantised" adds
uniform noise of one grey level: only then is there a density, and no model gains by precision
beyond a level. The published split is not known: 1565 training, 200 validation and 200 test
images are drawn at random. Neighbours in the film lie on both sides, so the test bound is that of
images nearly seen.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from skgvae import GaussianVAE
from skgvae.nn import GaussianMLP, GaussianVAEModule

# Test bounds, read off Figure 2.
PUBLISHED = {2: "800 to 900", 5: "about 1150", 10: "about 1300", 20: "1350 to 1400"}
N_VALID, N_TEST = 200, 200
LEVEL = 1 / 256


class SigmoidMLP(GaussianMLP):
    """A Gaussian whose mean lies in (0, 1), in units in which a pixel does; it sees others."""

    def __init__(self, *args, offset, scale, **params):
        super().__init__(*args, **params)
        self.register_buffer("offset", torch.tensor(offset).float())
        self.register_buffer("scale", torch.tensor(scale).float())

    def loc_and_log_scale(self, x):
        """Return the squashed mean and log σ, standardised as the rows are."""
        loc, log_scale = super().loc_and_log_scale(x)
        return (torch.sigmoid(loc) - self.offset) / self.scale, log_scale


class SigmoidVAE(GaussianVAEModule):
    """The network of the paper, appendix C.2: no linear paths, sigmoid means."""

    def __init__(self, in_features, latent_features, out_features, *, offset, scale, **spec):
        super().__init__(in_features, latent_features, out_features, **spec)
        self.decoder = SigmoidMLP(
            latent_features,
            out_features,
            spec["hidden_features"][::-1],
            spec["activation"],
            min_scale=spec["min_noise"],
            max_scale=spec["max_noise"],
            linear=spec["linear"],
            generator=spec["generator"],
            offset=offset,
            scale=scale,
        )


def sigmoid(n_components, n_steps, X):
    batch_size = 100
    n_batches = -(-(len(X) - N_VALID) // batch_size)
    scale = np.where(X.std(0) > 0, X.std(0), 1.0)  # the units in which the estimator trains
    return GaussianVAE(
        n_components,
        hidden_layer_sizes=200,
        activation="tanh",
        prior="standard",
        max_epochs=-(-n_steps // n_batches),
        batch_size=batch_size,
        lr=2e-3,
        validation_fraction=N_VALID / len(X),
        n_estimators=1,
        random_state=0,
        net_params={
            "module": SigmoidVAE,
            "module__linear": False,
            "module__min_noise": LEVEL / scale,
            "module__offset": X.mean(0),
            "module__scale": scale,
            "criterion__n_draws": 1,
        },
    )


def default(n_components, n_steps, X):
    return GaussianVAE(n_components, n_estimators=1, random_state=0)


MODELS = {"sigmoid": sigmoid, "default": default}


def load(folder, pixels):
    """Return training (and validation) and test images."""
    X = np.load(folder / "img_frey.npz")["X"].astype(float)
    rng = np.random.default_rng(0)
    X = X[rng.permutation(len(X))]
    X = X / 255 if pixels == "raw" else (X + rng.random(X.shape)) * LEVEL
    return X[N_TEST:], X[:N_TEST]


def main(folder, latents, n_steps, models, pixels):
    print("| pixels | model | latents | training bound | test bound | log density, test "
          "| published, test | smallest noise | fit, s |\n" + "|---" * 9 + "|")  # fmt: skip
    for kind in pixels:
        train, test = load(folder, kind)
        for name in models:
            for n_components in latents:
                start = time.perf_counter()
                vae = MODELS[name](n_components, n_steps, train).fit(train)
                seconds = time.perf_counter() - start
                bounds = vae.elbo(train).mean(), vae.elbo(test).mean(), vae.score(test)
                published = PUBLISHED.get(n_components, "")
                noise = np.sqrt(vae.noise_variance_.min())
                print(f"| {kind} | {name} | {n_components} | "
                      + " | ".join(f"{bound:.0f}" for bound in bounds)
                      + f" | {published} | {noise:.4f} | {seconds:.0f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--latent", type=int, nargs="*", default=[2, 5, 10, 20])
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    kinds = ["raw", "dequantised"]
    parser.add_argument("--pixels", nargs="*", default=kinds, choices=kinds)
    args = parser.parse_args()
    main(args.data, args.latent, args.steps, args.models, args.pixels)
