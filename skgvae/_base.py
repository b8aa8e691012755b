"""What do all estimators answer? Latent features, and moments and draws of v2."""

import copy
from numbers import Integral

import numpy as np
import torch
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_array, check_scalar
from sklearn.utils._param_validation import validate_parameter_constraints
from sklearn.utils._set_output import _get_output_config
from sklearn.utils.validation import check_is_fitted

from ._answers import by_rows, cached_draws, sample_components
from ._columns import table_of
from ._fit import DTYPES, FittedVAE
from ._random import draw_seeds
from ._sklearn_callbacks import CallbackSupportMixin
from ._validation import refuse_dates
from .likelihood import decoded_components, decoded_moments
from .nn import pullback_metric


class BaseGaussianVAE(
    CallbackSupportMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin, FittedVAE
):
    """An encoder of v1 and a Gaussian decoder of v2, behind scikit-learn's API."""

    _statistic = "mean"  # what a decoded cell is, of numbers
    _wide_share = 0.0  # of the predictive components
    _noise_root = None  # of the correlation of their noise, an array

    @property
    def _n_features_out(self):
        return self.n_components_

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        tags.input_tags.allow_nan = True
        tags.input_tags.categorical = True
        return tags

    def _answer(self, function, *arrays, n_modules=None, inverses=None, **params):
        """Call ``function(modules, *tensors)`` on chunks of rows; return ndarrays.

        The modules are the first ``n_modules``, or all if it is None. The arithmetic has the
        dtype of the rows: float64 rows are answered in float64, by the same weights.
        """
        modules = self._for_inference(arrays[0].dtype, n_modules)
        if inverses is not None and self._target_units is self._units:
            # Where v2 is X, in the precision of X; else in float64.
            inverses = [lambda part, f=f: f(part).astype(part.dtype, copy=False) for f in inverses]
        return by_rows(
            lambda *tensors: function(modules, *tensors),
            arrays,
            self.device_,
            inverses=inverses,
            **{"in_order": self._has_own_network(), **params},
        )

    def _answer_from_draws(self, function, X, **params):
        """Call ``function(modules, v1, draws)`` on chunks of validated rows."""
        draws = self._draws()
        return self._answer(
            lambda modules, v1: function(modules, v1, draws),
            X,
            forwards=[self._to_input],
            **params,
        )

    def _for_inference(self, dtype, n_modules=None):
        """Return the first modules, or all, with weights of a dtype."""
        modules = self.modules_[:n_modules]
        if dtype != np.float64:
            return [module.eval() for module in modules]
        if self._has_own_network():  # whose state may be more than weights
            return [self._to_double(module) for module in modules]
        return self._copies.of(modules, self._to_double)

    def _to_double(self, module):
        return copy.deepcopy(module).double().eval()

    def _draws(self, width=None):
        """Return the draws of z that all rows share, shared out between the modules."""
        n_draws = self._n_draws_per_module() * len(self.modules_)
        return cached_draws(n_draws, width or self.n_components_, self._draws_seed)

    def _n_draws_per_module(self):
        return -(-self._get_valid("n_draws") // len(self.modules_))

    def _get_valid(self, name):
        """Return a parameter that answers depend on: it may have been set since the fit."""
        value = getattr(self, name)
        validate_parameter_constraints(
            self._parameter_constraints, {name: value}, caller_name=type(self).__name__
        )
        return value

    def _noise_root_like(self, X):
        """Return the root of the noise's correlation in the precision of X; None without one."""
        if self._noise_root is None:
            return None
        return torch.tensor(self._noise_root.astype(X.dtype), device=self.device_)

    def _mean_and_std(self, X, statistic="mean", with_std=True):
        """Return mean and standard deviation of p(v2 | v1) in units of v2, of validated rows."""
        units, wide_share = self._target_units, self._wide_share
        if not (units.is_plain or (units.is_straight and statistic == "mean")):

            def summary(modules, v1, draws):
                components = decoded_components(modules, v1, draws, wide_share)
                return self._summary(modules, *components, statistic, with_std)

            size = self._get_valid("n_draws") * units.n_cells
            return self._answer_from_draws(summary, X, size=size)

        def function(modules, v1, draws):
            mean, noise, latent = decoded_moments(modules, v1, draws, wide_share)
            return mean, torch.sqrt(noise + latent)

        inverses = units.inverse_mean, units.inverse_scale
        return self._answer_from_draws(function, X, inverses=inverses)

    def _summary(self, modules, loc, scale, statistic, with_std=True, of_noise=False):
        """Return what stands for each cell of v2 and its standard deviation, in units of v2."""
        family = modules[0].decoder.family
        found = self._target_units.summary(family, loc, scale.log(), statistic, with_std, of_noise)
        return tuple(torch.from_numpy(part).to(loc.dtype) for part in found)

    def _sample_target(self, X, n_samples, random_state):
        """Draw v2 given v1, of shape (n_samples, n_rows, n_outputs)."""
        check_is_fitted(self)
        n_samples = check_scalar(n_samples, "n_samples", Integral, min_val=1)
        (seed,) = draw_seeds(random_state, 1)
        rng = np.random.default_rng(seed)
        X = self._validate_rows(X)
        components = self._draws(), self._wide_share, self._noise_root_like(X)
        (target,) = self._answer(
            lambda modules, v1: (sample_components(modules, v1, n_samples, *components, rng),),
            X,
            forwards=[self._to_input],
            inverses=[self._target_units.inverse],
            size=n_samples * max(self.n_components_, self._module_spec["out_features"]),
            in_order=True,  # of the random numbers
        )
        return self._to_table(target.transpose(1, 0, 2))

    def transform(self, X):
        """Return the posterior means of the latent components.

        They are those of one model, the first, whatever its scores are. In the first ``fit`` they
        are ordered by ``kl_per_component_``, the largest first, and each has the sign with which
        it goes up with the column that it goes with most. A continued fit keeps the order. Of
        ``GaussianVAE`` those of a row with unknown cells (NaN) are means of p(z | known cells).

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples, n_components)
            m(x) of q(z | x) = N(m(x), diag s²(x)).
        """
        return self.encode(X)

    def encode(self, X, return_std=False):
        """Return the posterior of the latent components.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows. Of ``GaussianVAE`` the moments for a row with unknown cells (NaN) are those of
            p(z | known cells).
        return_std : bool, default=False
            Whether to return s(x) too.

        Returns
        -------
        mean : ndarray of shape (n_samples, n_components)
            m(x) of q(z | x) = N(m(x), diag s²(x)).
        std : ndarray of shape (n_samples, n_components)
            s(x), if ``return_std``.
        """
        check_is_fitted(self)
        found = self._encode(self._validate_rows(X), return_std)
        return tuple(found) if return_std else found[0]

    def _encode(self, X, return_std):
        latents = self._latents

        def posterior(modules, v1):
            loc, log_scale = modules[0].encoder.loc_and_log_scale(v1)
            loc = latents.from_module(loc)
            return (loc, log_scale.exp()[:, latents.order]) if return_std else (loc,)

        return self._answer(posterior, X, forwards=[self._to_input], n_modules=1)

    def decode(self, Z, return_std=False):
        """Return mean and standard deviation of p(v2 | z) in the units of v2.

        Parameters
        ----------
        Z : array-like of shape (n_samples, n_components)
            Points of the latent space.
        return_std : bool, default=False
            Whether to return σ(z) too.

        Returns
        -------
        mean : ndarray of shape (n_samples, n_outputs)
            μ(z).
        std : ndarray of shape (n_samples, n_outputs)
            σ(z), if ``return_std``.
        """
        mean, std = self._decode(Z, return_std)
        mean, std = self._to_table(mean), self._with_all_columns(std)
        return (mean, std) if return_std else mean

    def _decode(self, Z, with_std):
        Z = self._validate_latent(Z)

        def decoded(modules, z):
            decoder = modules[0].decoder
            loc, log_scale = decoder.loc_and_log_scale(z)
            scale = log_scale.exp().expand_as(loc)
            if inverses is None:
                parts = loc[None], scale[None], self._statistic, with_std
                return self._summary(modules, *parts, of_noise=True)
            return loc, decoder.family.variance**0.5 * scale

        units, inverses = self._target_units, None
        if units.is_plain or (units.is_straight and self._statistic == "mean"):
            inverses = units.inverse_mean, units.inverse_scale
        return self._answer(
            decoded, Z, forwards=[self._latents.to_module], inverses=inverses, n_modules=1
        )

    def _to_table(self, cells, is_asked_for=False, index=None):
        """Return cells of v2, columns last, as the user gave them: all columns, with names."""
        cells = self._with_all_columns(cells)
        return self._with_names(cells, is_asked_for, index) if self._decodes_input() else cells

    def _with_names(self, rows, is_asked_for=False, index=None):
        """Return rows with names in place of codes; as a table where set_output asks for one."""
        container = _get_output_config("transform", self)["dense"] if is_asked_for else "default"
        return table_of(rows, self._levels, self._all_names(), container, self._dtypes, index)

    def latent_directions(self, Z):
        r"""Return the directions in which moving z changes what is decoded, least first.

        Eigenvalues and eigenvectors of the Fisher information metric that the decoder pulls
        back to the latent space [1]_ [2]_,

        .. math:: G(z) = J_\mu^T \Sigma^{-1} J_\mu
            + \tfrac12 J_{\log\sigma^2}^T J_{\log\sigma^2},

        with the Jacobians of μ(z) and log σ²(z) and Σ = diag σ²(z). A step of length t along an
        eigenvector changes p(v2 | z) by a divergence of ½ t² λ nats, for small t: with √λ times
        its length in standard deviations of the decoder's noise. Small eigenvalues belong to
        blurry directions, in which the noise hides what moves, large ones to sharp directions.

        Parameters
        ----------
        Z : array-like of shape (n_samples, n_components)
            Points of the latent space.

        Returns
        -------
        eigenvalues : ndarray of shape (n_samples, n_components)
            λ in ascending order, in nats over squared units of z (which are standard deviations
            of a standard normal prior). They do not depend on the units of v2.
        directions : ndarray of shape (n_samples, n_components, n_components)
            Unit vectors in rows, as in ``components_`` of PCA: ``directions[i, j]`` belongs to
            ``eigenvalues[i, j]``. The entry of largest magnitude is positive.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            If Z is not finite, or has another number of columns than the latent space.

        Notes
        -----
        With constant noise (``noise="homoscedastic"`` or ``"isotropic"``) the second term is
        zero. Of several models it is the decoder of the first, whose latent space
        ``transform`` returns, as in ``decode``. An eigenvalue below about 1e-7 (for float64:
        1e-15) times the largest of its point is zero but for rounding.

        References
        ----------
        .. [1] Arvanitidis, Hansen & Hauberg, "Latent Space Oddity: on the Curvature of Deep
           Generative Models", 2018, arXiv:1710.11379.
        .. [2] Arvanitidis, González-Duque, Pouplin, Kalatzis & Hauberg, "Pulling back
           information geometry", 2022, arXiv:2106.05367.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from skgvae import GaussianVAE
        >>> X, _ = load_iris(return_X_y=True)
        >>> vae = GaussianVAE(2, max_epochs=5, random_state=0).fit(X)
        >>> eigenvalues, directions = vae.latent_directions(vae.transform(X))
        >>> eigenvalues.shape, directions.shape
        ((150, 2), (150, 2, 2))
        """
        Z = self._validate_latent(Z)
        latents = self._latents

        def eigen(modules, z):
            eigenvalues, vectors = torch.linalg.eigh(pullback_metric(modules[0].decoder, z))
            vectors = latents.from_module(vectors.mT)
            largest = vectors.gather(-1, vectors.abs().argmax(-1, keepdim=True))
            return eigenvalues.clamp(min=0), vectors * largest.sign()

        width = max(max(p.shape, default=1) for p in self.module_.decoder.parameters())
        size = self.n_components_ * width
        eigenvalues, directions = self._answer(
            eigen, Z, forwards=[self._latents.to_module], size=size, n_modules=1
        )
        return eigenvalues, directions

    def _validate_latent(self, Z):
        check_is_fitted(self)
        refuse_dates(Z, "Z")
        Z = check_array(Z, dtype=DTYPES, input_name="Z")
        Z = np.require(Z, requirements=["C", "W"])  # torch knows no other views
        if Z.shape[1] != self.n_components_:
            raise ValueError(
                f"Z has {Z.shape[1]} columns, but the latent space has {self.n_components_} "
                "components."
            )
        return Z
