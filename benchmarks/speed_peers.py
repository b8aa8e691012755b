"""The fits that speed.py compares: each trains the same layers on rows X for a number of epochs.

All have the hidden layers of our defaults on either side, the latent width and the batch size of
``Setting`` and its number of draws of z, except where the docstring says otherwise.
"""

import contextlib
import io
import logging
import tempfile
from typing import NamedTuple

import numpy as np
import torch
from sklearn.neural_network import MLPRegressor
from skorch import NeuralNet
from torch import nn

from skgvae import GaussianVAE
from skgvae._optimizer import orthogonalise
from skgvae._recipe import DENSITY, MAX_JUDGED
from skgvae.nn import GaussianVAEModule
from skgvae.objectives import NegativeBound, elbo, importance_weighted_bound

HELD_OUT = 0.1  # of the rows, which ours looks at after every epoch
HIDDEN, DRAWS = GaussianVAE().hidden_layer_sizes, DENSITY.n_draws
ADAMW = {"optimizer": torch.optim.AdamW, "optimizer__fused": True}
HIDDEN_WEIGHTS = [
    f"{part}.hidden.{2 * i}.weight" for part in ("encoder", "decoder") for i in range(len(HIDDEN))
]


class Setting(NamedTuple):
    """What all fits of a comparison share."""

    epochs: int
    batch_size: int
    n_components: int = 16
    draws: int = DRAWS
    device: str = "cpu"

    @property
    def bound(self):
        """Return what is maximised, as ours chooses it."""
        return elbo if self.draws == 1 else importance_weighted_bound


def data(n_rows, n_columns, seed=0):
    """Return float32 rows around a curved surface of eight dimensions."""
    rng = np.random.default_rng(seed)
    X = np.empty((n_rows, n_columns), np.float32)
    weights = rng.standard_normal((8, 32)), rng.standard_normal((32, n_columns)) / 4
    for start in range(0, n_rows, 4096):  # whole, it would need more memory than X itself
        part = X[start : start + 4096]
        part[:] = np.tanh(rng.standard_normal((len(part), 8)) @ weights[0]) @ weights[1]
        part += 0.3 * rng.standard_normal(part.shape)
    return X


def n_training_rows(X):
    """Return how many rows are left when ours has held out its validation rows."""
    return len(X) - min(int(np.ceil(HELD_OUT * len(X))), MAX_JUDGED)


def ours(X, setting, net_params=None, **params):
    """Fit GaussianVAE with N(0, I), as the others; its scaling, start and validation included."""
    settings = {
        "prior": "standard",
        "max_epochs": setting.epochs,
        "validation_fraction": HELD_OUT,
        "n_estimators": 1,
        "batch_size": setting.batch_size,
        "device": setting.device,
        "random_state": 0,
        "net_params": {"criterion__n_draws": setting.draws, **(net_params or {})},
    }
    return GaussianVAE(setting.n_components, **{**settings, **params}).fit(X)


def ours_as_peers(X, setting):
    """Fit GaussianVAE with what is nearest to the peers: one draw, one variance, AdamW."""
    return ours(X, setting._replace(draws=1), noise="isotropic", net_params=ADAMW)


def new_module(X, setting):
    module = GaussianVAEModule(X.shape[1], setting.n_components, hidden_features=HIDDEN)
    return module.to(setting.device)


def hand_written(X, setting):
    """Train the same network, bound, clipping and optimiser in a loop."""
    x = torch.from_numpy(X[: n_training_rows(X)]).float().to(setting.device)
    vae = new_module(X, setting)
    loss = NegativeBound(setting.bound)
    hidden = [vae.get_parameter(name) for name in HIDDEN_WEIGHTS]
    momenta = [torch.zeros_like(weight) for weight in hidden]
    others = [p for p in vae.parameters() if all(p is not weight for weight in hidden)]
    optimizer = torch.optim.AdamW(others, lr=5e-3, weight_decay=0.0, fused=True)
    for _ in range(setting.epochs):
        for rows in torch.randperm(len(x), device=x.device).split(setting.batch_size):
            batch = x[rows]
            eps = torch.randn(setting.draws, len(rows), setting.n_components, device=x.device)
            vae.zero_grad()
            loss(vae, batch, batch, eps).loss.backward()
            torch.nn.utils.clip_grad_norm_(vae.parameters(), 10.0)
            optimizer.step()
            for weight, momentum in zip(hidden, momenta, strict=True):
                take_orthogonal_step(weight, momentum, lr=5e-3)
    return vae


@torch.no_grad()
def take_orthogonal_step(weight, momentum, lr):
    """Take a step of Muon."""
    momentum.lerp_(weight.grad, 0.05)
    direction = weight.grad.lerp(momentum, 0.95)
    is_tall = len(weight) > weight.shape[1]
    step = orthogonalise((direction.T if is_tall else direction).unsqueeze(0))[0]
    weight.sub_(step.T if is_tall else step, alpha=0.4 * lr * max(weight.shape) ** 0.5)


class Bound(nn.Module):
    """The bound of each row, as a module that skorch can train."""

    def __init__(self, vae, bound, draws):
        super().__init__()
        self.vae, self.bound, self.draws = vae, bound, draws

    def forward(self, x):
        """Return the bound of each row."""
        eps = torch.randn(self.draws, len(x), self.vae.encoder.out_features, device=x.device)
        return self.bound(self.vae, x, x, eps).value


class NegativeMean(nn.Module):
    """A skorch criterion."""

    def forward(self, bound, target):
        """Return the loss."""
        return -bound.mean()


def plain_skorch(X, setting):
    """Train the same network and bound with NeuralNet: its loop, DataLoader, callbacks, AdamW."""
    X = X[: n_training_rows(X)]
    module = Bound(new_module(X, setting), setting.bound, setting.draws)
    net = NeuralNet(
        module,
        NegativeMean,
        optimizer=torch.optim.AdamW,
        optimizer__fused=True,
        lr=5e-3,
        batch_size=setting.batch_size,
        iterator_train__shuffle=True,
        max_epochs=setting.epochs,
        train_split=None,
        verbose=0,
        device=setting.device,
    )
    return net.fit(X, X)


def mlp_regressor(X, setting):
    """Fit scikit-learn's MLPRegressor with the same layers, X → X: no draws, no variances."""
    X = X[: n_training_rows(X)]
    model = MLPRegressor(
        hidden_layer_sizes=(*HIDDEN, setting.n_components, *reversed(HIDDEN)),
        batch_size=setting.batch_size,
        max_iter=setting.epochs,
        n_iter_no_change=setting.epochs + 1,
        tol=0.0,
        random_state=0,
    )
    return model.fit(X, X)


def pythae_vae(X, setting):
    """Fit pythae's VAE: one draw, unit variance."""
    from pythae.models import VAE, VAEConfig
    from pythae.pipelines import TrainingPipeline
    from pythae.trainers import BaseTrainerConfig

    X = X[: n_training_rows(X)]
    config = VAEConfig(input_dim=(X.shape[1],), latent_dim=setting.n_components)
    encoder, decoder = pythae_networks(X.shape[1], setting.n_components)
    with tempfile.TemporaryDirectory() as folder, quiet():
        training = BaseTrainerConfig(
            output_dir=folder,
            num_epochs=setting.epochs,
            per_device_train_batch_size=setting.batch_size,
            learning_rate=1e-3,
            keep_best_on_train=True,  # there are no other rows to choose by
            no_cuda=setting.device == "cpu",
        )
        TrainingPipeline(VAE(config, encoder, decoder), training)(X)


def pythae_networks(n_columns, n_components):
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    class Encoder(BaseEncoder):
        def __init__(self):
            super().__init__()
            self.hidden = layers(n_columns, HIDDEN)
            self.loc = nn.Linear(HIDDEN[-1], n_components)
            self.log_variance = nn.Linear(HIDDEN[-1], n_components)

        def forward(self, x):
            h = self.hidden(x)
            return ModelOutput(embedding=self.loc(h), log_covariance=self.log_variance(h))

    class Decoder(BaseDecoder):
        def __init__(self):
            super().__init__()
            self.hidden = layers(n_components, HIDDEN[::-1])
            self.loc = nn.Linear(HIDDEN[0], n_columns)

        def forward(self, z):
            return ModelOutput(reconstruction=self.loc(self.hidden(z)))

    return Encoder(), Decoder()


def layers(width, widths):
    modules = []
    for out in widths:
        modules += [nn.Linear(width, out), nn.SiLU()]
        width = out
    return nn.Sequential(*modules)


def pyod_vae(X, setting):
    """Fit PyOD's VAE: one draw, unit variance, ReLU; it scores its training rows at the end."""
    from pyod.models.vae import VAE

    detector = VAE(
        lr=1e-3,
        epoch_num=setting.epochs,
        batch_size=setting.batch_size,
        encoder_neuron_list=list(HIDDEN),
        decoder_neuron_list=list(reversed(HIDDEN)),
        latent_dim=setting.n_components,
        dropout_rate=0.0,
        device=torch.device(setting.device),
        verbose=0,
    )
    return detector.fit(X[: n_training_rows(X)])


@contextlib.contextmanager
def quiet():
    """Keep progress bars and logs out of the tables."""
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)


FITS = {
    "ours": ours,
    "ours, as peers": ours_as_peers,
    "hand-written loop": hand_written,
    "plain skorch": plain_skorch,
    "pythae VAE": pythae_vae,
    "PyOD VAE": pyod_vae,
    "MLPRegressor": mlp_regressor,
}
