"""The latent space of an estimator: rows to z, z to what is decoded."""

import numpy as np
import torch
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_array, check_is_fitted

from ._inference import DTYPES, InferenceMixin
from ._validation import refuse_dates
from .nn import pullback_metric


class LatentSpaceMixin(InferenceMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin):
    """A transformer: encoder and decoder of the first module, in the units of the rows."""

    @property
    def _n_features_out(self):
        return self.n_components_

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def transform(self, X):
        """Return the posterior means of the latent components.

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
            Rows.
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
        X = self._validate_rows(X)

        def posterior(modules, v1):
            loc, log_scale = modules[0].encoder.loc_and_log_scale(v1)
            return (loc, log_scale.exp()) if return_std else (loc,)

        found = self._by_rows(posterior, X, scalers=[self._scaler], n_modules=1)
        return tuple(found) if return_std else found[0]

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
        Z = self._validate_latent(Z)

        def decoded(modules, z):
            decoder = modules[0].decoder
            loc, log_scale = decoder.loc_and_log_scale(z)
            return loc, decoder.family.variance**0.5 * log_scale.exp().expand_as(loc)

        scaler = self._target_scaler
        inverses = scaler.inverse, scaler.inverse_scale
        mean, std = self._by_rows(decoded, Z, inverses=inverses, n_modules=1)
        return (mean, std) if return_std else mean

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
        zero. Of several models it is the decoder of the one whose latent space ``transform``
        returns, as in ``decode``. An eigenvalue below about 1e-7 (for float64: 1e-15) times the
        largest of its point is zero but for rounding.

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

        def eigen(modules, z):
            eigenvalues, vectors = torch.linalg.eigh(pullback_metric(modules[0].decoder, z))
            vectors = vectors.mT
            largest = vectors.gather(-1, vectors.abs().argmax(-1, keepdim=True))
            return eigenvalues.clamp(min=0), vectors * largest.sign()

        width = max(max(p.shape, default=1) for p in self.module_.decoder.parameters())
        size = self.n_components_ * width
        eigenvalues, directions = self._by_rows(eigen, Z, size=size, n_modules=1)
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
