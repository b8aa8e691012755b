"""Variational auto-encoders with a Gaussian decoder, behind scikit-learn's API."""

from ._base import PosteriorCollapseWarning
from ._classifier import GaussianVAEClassifier
from ._regressor import GaussianVAERegressor
from ._vae import GaussianVAE

__all__ = [
    "GaussianVAE",
    "GaussianVAEClassifier",
    "GaussianVAERegressor",
    "PosteriorCollapseWarning",
]
__version__ = "0.1.0"
