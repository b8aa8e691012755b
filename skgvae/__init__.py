"""Variational auto-encoders with a Gaussian decoder, behind scikit-learn's API."""

import importlib

from ._classifier import GaussianVAEClassifier
from ._fit import PosteriorCollapseWarning
from ._imputer import GaussianVAEImputer
from ._outliers import GaussianVAEOutlierDetector
from ._regressor import GaussianVAERegressor
from ._vae import GaussianVAE

__all__ = [
    "GaussianVAE",
    "GaussianVAEClassifier",
    "GaussianVAEImputer",
    "GaussianVAEOutlierDetector",
    "GaussianVAERegressor",
    "PosteriorCollapseWarning",
]
__version__ = "0.1.0"

# Imported when they are first asked for.
_SUBMODULES = {
    "display",
    "likelihood",
    "metrics",
    "model_selection",
    "net",
    "nn",
    "objectives",
}


def __getattr__(name):
    if name in _SUBMODULES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *_SUBMODULES})
