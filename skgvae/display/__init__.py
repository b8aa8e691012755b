"""Figures of fitted models, as scikit-learn's displays.

``from_estimator`` takes a fitted model, or a Pipeline or search that ends in one.
``from_predictions`` takes arrays. Both plot, and return a display. The display keeps the arrays
and plots them again with ``plot(ax=None)``. The figure is ``figure_``. A display of one panel
keeps the panel in ``ax_``, a display of several panels keeps them in ``axes_``. Displays need
matplotlib: ``skgvae[plot]``.
"""

from .latent import LatentDirectionsDisplay, LatentSpaceDisplay
from .outliers import OutlierDisplay
from .predictive import PITDisplay, PredictiveIntervalDisplay
from .reconstruction import ReconstructionDisplay
from .training import KLPerComponentDisplay, TrainingCurveDisplay
from .traversal import LatentTraversalDisplay

__all__ = [
    "KLPerComponentDisplay",
    "LatentDirectionsDisplay",
    "LatentSpaceDisplay",
    "LatentTraversalDisplay",
    "OutlierDisplay",
    "PITDisplay",
    "PredictiveIntervalDisplay",
    "ReconstructionDisplay",
    "TrainingCurveDisplay",
]
