"""What is the model? Gaussian networks for torch, free of numpy, scaling and labels.

The three factors of a variational auto-encoder with a Gaussian decoder are modules:

- ``encoder(v1)`` is q(z | v1) = N(m(v1), diag s²(v1)),
- ``decoder(z)`` is p(v2 | z) = N(μ(z), diag σ²(z)),
- ``prior()`` is p(z).

Each returns a :class:`torch.distributions.Distribution`, so that a larger graph uses them
as it uses any other distribution. See Kingma & Welling, "Auto-Encoding Variational Bayes",
2013, arXiv:1312.6114, appendix C.2.
"""

from .cells import CategoryCells, GridCells, MixedNoise
from .gaussian import MAX_SCALE, MIN_SCALE, GaussianMLP, SoftBound, diagonal_normal
from .geometry import pullback_metric
from .joint import ClassifierHead, FilledClassifier, GaussianVAEClassifierModule, JointOutput
from .linear import Linear, takes_model_axis
from .noise import NOISE_MODELS, GaussianNoise, Noise, StudentNoise
from .prior import PRIORS, MixturePrior, StandardNormalPrior
from .vae import GaussianVAEModule, VAEOutput

__all__ = [
    "MAX_SCALE",
    "MIN_SCALE",
    "NOISE_MODELS",
    "PRIORS",
    "CategoryCells",
    "ClassifierHead",
    "FilledClassifier",
    "GaussianMLP",
    "GaussianNoise",
    "GaussianVAEClassifierModule",
    "GaussianVAEModule",
    "GridCells",
    "JointOutput",
    "Linear",
    "MixedNoise",
    "MixturePrior",
    "Noise",
    "SoftBound",
    "StandardNormalPrior",
    "StudentNoise",
    "VAEOutput",
    "diagonal_normal",
    "pullback_metric",
    "takes_model_axis",
]
