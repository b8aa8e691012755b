"""Encoder, prior and decoder together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from .gaussian import MAX_SCALE, GaussianMLP, diagonal_normal
from .linear import check_positive
from .prior import PRIORS, MixturePrior


class VAEOutput(NamedTuple):
    """What :class:`GaussianVAEModule` returns: q(z | v1), a draw z from it, and p(v2 | z)."""

    posterior: Distribution
    z: Tensor
    likelihood: Distribution


class GaussianVAEModule(nn.Module):
    """Encoder, prior and decoder: a distribution of v2 given v1 through a latent z.

    Parameters
    ----------
    in_features : int
        Width of v1.
    latent_features : int
        Width of z.
    out_features : int, optional
        Width of v2; that of v1 by default.
    hidden_features : sequence of int
        Widths of the encoder's hidden layers; the decoder has them in reverse order.
    activation : callable
        Makes the activation module of a hidden layer.
    noise : str
        Noise model of the decoder: a name in ``NOISE_MODELS``.
    min_noise : float or Tensor of shape (out_features,)
        Floor of the decoder's σ, which keeps the likelihood bounded (Mattei & Frellsen,
        "Leveraging the Exact Likelihood of Deep Latent Variable Models", 2018,
        arXiv:1802.04826).
    max_noise : float or Tensor of shape (out_features,)
        Ceiling of the decoder's σ(z), wide enough not to matter for standardised targets.
    linear : bool
        Whether the means have linear paths beside the hidden layers.
    cells : dict, optional
        Kinds of the columns of v2, as for :class:`GaussianMLP`.
    prior : str or nn.Module
        p(z), or its name in ``PRIORS``: "standard" is :class:`StandardNormalPrior`.
    n_prior_components : int, optional
        Makes p(z) a :class:`MixturePrior` of so many components, in place of ``prior``.
    generator : torch.Generator, optional
        Source of the initial weights; torch's global generator by default.

    Examples
    --------
    >>> import torch
    >>> from skgvae.nn import GaussianVAEModule
    >>> vae = GaussianVAEModule(in_features=4, latent_features=2)
    >>> q, z, p = vae(torch.zeros(10, 4), n_draws=3)
    >>> z.shape, p.log_prob(torch.zeros(10, 4)).shape
    (torch.Size([3, 10, 2]), torch.Size([3, 10]))
    """

    def __init__(
        self,
        in_features: int,
        latent_features: int,
        out_features: int | None = None,
        *,
        hidden_features: Sequence[int] = (64,),
        activation: Callable[[], nn.Module] = nn.SiLU,
        noise: str = "heteroscedastic",
        min_noise: float | Tensor = 0.01,
        max_noise: float | Tensor = MAX_SCALE,
        linear: bool = True,
        cells: dict | None = None,
        prior: str | nn.Module = "standard",
        n_prior_components: int | None = None,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        out_features = in_features if out_features is None else out_features
        check_positive(
            in_features=in_features, latent_features=latent_features, out_features=out_features
        )
        self.encoder = GaussianMLP(
            in_features,
            latent_features,
            hidden_features,
            activation,
            linear=linear,
            generator=generator,
        )
        self.decoder = GaussianMLP(
            latent_features,
            out_features,
            tuple(reversed(hidden_features)),
            activation,
            noise=noise,
            min_scale=min_noise,
            max_scale=max_noise,
            linear=linear,
            cells=cells,
            generator=generator,
        )
        if n_prior_components is not None:
            prior = MixturePrior(latent_features, n_prior_components, generator)
        elif isinstance(prior, str):
            if prior not in PRIORS:
                raise ValueError(
                    f"prior must be one of {tuple(PRIORS)} or a module, got {prior!r}."
                )
            prior = PRIORS[prior](latent_features, generator=generator)
        self.prior = prior

    def forward(
        self,
        v1: Tensor,
        n_draws: int | None = None,
        generator: torch.Generator | None = None,
    ) -> VAEOutput:
        """Encode v1, draw z by the reparameterisation trick, decode.

        Parameters
        ----------
        v1 : Tensor of shape (*, in_features)
            Input.
        n_draws : int, optional
            Number of draws of z; without it z has no leading axis.
        generator : torch.Generator, optional
            Source of the draws.

        Returns
        -------
        VAEOutput
            q(z | v1), z of shape ([n_draws,] *, latent_features), p(v2 | z).
        """
        loc, log_scale = self.encoder.loc_and_log_scale(v1)
        shape = loc.shape if n_draws is None else (n_draws, *loc.shape)
        eps = torch.randn(shape, generator=generator, dtype=loc.dtype, device=loc.device)
        z = torch.addcmul(loc, log_scale.exp(), eps)
        return VAEOutput(diagonal_normal(loc, log_scale), z, self.decoder(z))

    @torch.no_grad()
    def start_at_factor_analysis(
        self, loadings: Tensor, noise_variance: Tensor, mean: Tensor | None = None
    ) -> None:
        r"""Make the module equal a factor analysis: its bound is then the log-likelihood.

        For v1 = v2 = W z + mean + noise of variance Ψ the exact posterior is
        :math:`N(A (v1 - mean), (I + W^T Ψ^{-1} W)^{-1})`. It is diagonal, and so within
        reach of the encoder, once W is rotated such that :math:`W^T Ψ^{-1} W` is diagonal;
        the rotation leaves the distribution as it is (Lucas, Tucker, Grosse & Norouzi, 2019,
        arXiv:1911.02469, for principal components).

        Parameters
        ----------
        loadings : Tensor of shape (out_features, n_factors)
            W; latents beyond ``n_factors`` start unused, the prior being their posterior.
        noise_variance : Tensor of shape (out_features,)
            Diagonal of Ψ; values below the floor are lifted to it.
        mean : Tensor of shape (out_features,), optional
            Mean of the data; zero by default.
        """
        loadings = loadings.double()
        mean = torch.zeros_like(loadings[:, 0]) if mean is None else mean.double()
        # The decoder first: it says which noise it really has, above its floor.
        self.decoder.set_linear_(self._pad(loadings), mean, self._log_scale(noise_variance))
        log_scale = self.decoder.loc_and_log_scale(self.prior().mean)[1].double()
        noise_variance = self.decoder.family.cell_variance(mean, log_scale)
        weighted = loadings / noise_variance[:, None]  # Ψ⁻¹ W
        precision, rotation = torch.linalg.eigh(loadings.T @ weighted)
        precision, rotation = precision.clamp(min=0).flip(0), rotation.flip(1)
        loadings = self._pad(loadings @ rotation)
        posterior_variance = torch.ones_like(loadings[0])
        posterior_variance[: len(precision)] /= 1 + precision

        weight, bias, _ = self.decoder.family.linear_start(loadings, mean, log_scale)
        self.decoder.linear.weight.copy_(weight)
        self.decoder.loc.bias.copy_(bias)
        gain = posterior_variance[:, None] * self._pad(weighted @ rotation).T
        self._start_encoder(gain, -gain @ mean, 0.5 * posterior_variance.log())

    @torch.no_grad()
    def start_at_mixture(
        self,
        loadings: Tensor,
        noise_variance: Tensor,
        mean: Tensor,
        weights: Tensor,
        means: Tensor,
        covariances: Tensor,
    ) -> None:
        r"""Make the module equal a mixture of Gaussians, or of factor analysers.

        v1 = v2 = W z + mean + noise of variance Ψ, where p(z) is a mixture, has the density

        .. math:: \sum_c w_c N(W \mu_c + mean, \; W \Sigma_c W^T + \operatorname{diag} Ψ)

        The posterior is a mixture too. The encoder starts at the best linear prediction of z,
        which is its mean for one component, and at the variance that is then best: one over
        the diagonal of the average posterior precision. With Ψ small against each
        :math:`W \Sigma_c W^T` the bound is near the log-likelihood.

        Parameters
        ----------
        loadings : Tensor of shape (out_features, n_factors)
            W; latents beyond ``n_factors`` start unused.
        noise_variance : Tensor of shape (out_features,)
            Diagonal of Ψ; values below the floor are lifted to it.
        mean : Tensor of shape (out_features,)
            Offset of the data.
        weights : Tensor of shape (n_components,)
            Of the mixture, which the module gets as its prior, a :class:`MixturePrior`.
        means : Tensor of shape (n_components, n_mixed)
            Means of the first latents; the others are standard normal.
        covariances : Tensor of shape (n_components, n_mixed, n_mixed)
            Covariances of the first latents.
        """
        loadings, mean, weights = self._pad(loadings.double()), mean.double(), weights.double()
        like = {"dtype": torch.float64, "device": covariances.device}
        rest = torch.eye(self.encoder.out_features - means.shape[1], **like)
        covariances = torch.stack([torch.block_diag(c, rest) for c in covariances.double()])
        means = self._pad(means.double())
        generator = torch.Generator()  # of a start that is not kept
        own = self.decoder.loc.weight
        with own.device:
            self.prior = MixturePrior(means.shape[1], len(weights), generator).to(own)
        self.prior.set_(weights, means, covariances)
        self.decoder.set_linear_(loadings, mean, self._log_scale(noise_variance))
        log_scale = self.decoder.loc_and_log_scale(self.prior.means[0])[1].double()
        noise_variance = self.decoder.family.cell_variance(mean, log_scale)
        weighted = loadings / noise_variance[:, None]  # Ψ⁻¹ W
        information = loadings.T @ weighted  # Wᵀ Ψ⁻¹ W

        centre = weights @ means
        spread = torch.einsum("c,ci,cj->ij", weights, means - centre, means - centre)
        total = torch.einsum("c,cij->ij", weights, covariances) + spread
        identity = torch.eye(len(total), **like)
        gain = torch.linalg.solve(identity + total @ information, total)
        gain = gain @ weighted.T  # T (I + WᵀΨ⁻¹W T)⁻¹ WᵀΨ⁻¹, T the covariance of z
        precision = torch.einsum("c,cij->ij", weights, torch.linalg.inv(covariances)) + information
        self._start_encoder(
            gain, centre - gain @ (mean + loadings @ centre), -0.5 * precision.diagonal().log()
        )

    def _start_encoder(self, gain, bias, log_scale):
        # What v1 holds beside the cells of v2, such as which of them are known, says nothing yet.
        missing = self.encoder.in_features - gain.shape[1]
        self.encoder.set_linear_(nn.functional.pad(gain, (0, missing)), bias, log_scale)

    def _log_scale(self, variance: Tensor) -> Tensor:
        variance = variance.double() / self.decoder.family.variance
        return 0.5 * variance.clamp(min=1e-30).log()

    def _pad(self, loadings: Tensor) -> Tensor:
        missing = self.encoder.out_features - loadings.shape[1]
        return nn.functional.pad(loadings, (0, missing))
