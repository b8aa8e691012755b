"""What is the model? Gaussian networks for torch, free of numpy, scaling and labels.

The three factors of a variational auto-encoder with a Gaussian decoder are modules:

- ``encoder(v1)`` is q(z | v1) = N(m(v1), diag s²(v1)),
- ``decoder(z)`` is p(v2 | z) = N(μ(z), diag σ²(z)),
- ``prior()`` is p(z).

Each returns a :class:`torch.distributions.Distribution`, so that a larger graph uses them
as it uses any other distribution. See Kingma & Welling, "Auto-Encoding Variational Bayes",
2013, arXiv:1312.6114, appendix C.2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

__all__ = [
    "NOISE_MODELS",
    "GaussianMLP",
    "GaussianVAEModule",
    "StandardNormalPrior",
    "VAEOutput",
]

NOISE_MODELS = ("heteroscedastic", "homoscedastic", "isotropic")

# Widest range of a standard deviation, in standardised units. Factor analysis of strongly
# correlated columns needs posterior scales far below 1e-3: a narrower range costs nats.
MIN_SCALE = 4e-5
MAX_SCALE = 150.0


def diagonal_normal(loc: Tensor, log_scale: Tensor) -> Independent:
    """Return N(loc, diag exp(log_scale)²) over the last axis."""
    normal = Normal(loc, log_scale.expand_as(loc).exp(), validate_args=False)
    return Independent(normal, 1, validate_args=False)


class SoftBound(nn.Module):
    r"""Squash a log standard deviation smoothly into (log low, log high).

    .. math:: c + h \tanh((t - c) / h), \quad c \pm h = \log low, \log high

    The slope is one at the centre and never exactly zero before rounding, so that a value
    near a bound can still leave it (a hard clamp kills its gradient).

    Parameters
    ----------
    low, high : float or Tensor of shape (out_features,)
        Bounds of the standard deviation.
    """

    def __init__(self, low: float | Tensor, high: float | Tensor):
        super().__init__()
        if not (
            float(torch.as_tensor(low).min()) > 0
            and bool((torch.as_tensor(low) < torch.as_tensor(high)).all())
        ):
            raise ValueError(f"Bounds of a scale must satisfy 0 < low < high, got {low}, {high}.")
        log_low, log_high = (
            torch.log(torch.as_tensor(b, dtype=torch.float32)) for b in (low, high)
        )
        self.register_buffer("centre", (log_high + log_low) / 2)
        self.register_buffer("half_width", (log_high - log_low) / 2)

    def forward(self, t: Tensor) -> Tensor:
        squashed = torch.tanh((t - self.centre) / self.half_width)
        return torch.addcmul(self.centre, self.half_width, squashed)

    def inverse(self, log_scale: Tensor) -> Tensor:
        """Return t with ``forward(t) = log_scale``; values outside are moved inside."""
        inside = ((log_scale - self.centre) / self.half_width).clamp(-0.9999, 0.9999)
        return self.centre + self.half_width * torch.atanh(inside)


class GaussianMLP(nn.Module):
    r"""A multi-layer perceptron that returns a diagonal Gaussian.

    .. math::

        h = f(x), \quad \mu = W x + W_4 h + b_4, \quad \log \sigma = B(W_5 h + b_5)

    with the hidden layers :math:`f`, a soft bound :math:`B`, and a linear path :math:`W x`
    beside them, which makes principal component and factor analysis special cases.

    Parameters
    ----------
    in_features, out_features : int
        Width of the input and of the Gaussian.
    hidden_features : sequence of int
        Widths of the hidden layers; may be empty.
    activation : callable
        Makes the activation module of a hidden layer.
    noise : {"heteroscedastic", "homoscedastic", "isotropic"}
        σ as a function of x, one σ per feature, or one σ.
    min_scale, max_scale : float or Tensor of shape (out_features,)
        Bounds of σ. ``isotropic`` noise uses the largest lower bound.
    linear : bool
        Whether there is a linear path to the mean.
    generator : torch.Generator, optional
        Source of the initial weights; torch's global generator by default.

    References
    ----------
    Kingma & Welling, "Auto-Encoding Variational Bayes", 2013, arXiv:1312.6114, C.2.

    Examples
    --------
    >>> import torch
    >>> from skgvae.nn import GaussianMLP
    >>> p = GaussianMLP(3, 2, hidden_features=(16,))(torch.zeros(5, 3))
    >>> p.batch_shape, p.event_shape
    (torch.Size([5]), torch.Size([2]))
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        hidden_features: Sequence[int] = (64,),
        activation: Callable[[], nn.Module] = nn.SiLU,
        *,
        noise: str = "heteroscedastic",
        min_scale: float | Tensor = MIN_SCALE,
        max_scale: float | Tensor = MAX_SCALE,
        linear: bool = True,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        if noise not in NOISE_MODELS:
            raise ValueError(f"noise must be one of {NOISE_MODELS}, got {noise!r}.")
        self.in_features, self.out_features = in_features, out_features
        self.noise = noise

        widths = (in_features, *hidden_features)
        layers = []
        for a, b in pairwise(widths):
            layers += [_linear(a, b), activation()]
        self.hidden = nn.Sequential(*layers)
        self.linear = _linear(in_features, out_features, bias=False) if linear else None
        self.loc = _linear(widths[-1], out_features)
        if noise == "heteroscedastic":
            self.log_scale = _linear(widths[-1], out_features)
            self.bound = SoftBound(min_scale, max_scale)
        else:
            log_min = torch.as_tensor(min_scale, dtype=torch.float32).log()
            if noise == "isotropic":
                log_min = log_min.max()
            self.shared_log_scale = nn.Parameter(
                torch.empty(out_features if noise == "homoscedastic" else 1)
            )
            self.register_buffer("min_log_scale", log_min)
        self.reset_parameters(generator)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw new weights: torch's default for layers, σ = 1 for shared noise."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                _reset_linear(module, generator)
        if self.noise != "heteroscedastic":
            nn.init.zeros_(self.shared_log_scale)
            self.floor_shared_noise_()

    def loc_and_log_scale(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return μ of shape (*, out_features) and log σ, which broadcasts against it.

        Parameters
        ----------
        x : Tensor of shape (*, in_features)
            Input.
        """
        h = self.hidden(x)
        loc = self.loc(h)
        if self.linear is not None:
            loc = loc + self.linear(x)
        if self.noise == "heteroscedastic":
            return loc, self.bound(self.log_scale(h))
        # The floor, with a gradient below it too: there a hard maximum would have none.
        lift = (self.min_log_scale - self.shared_log_scale).clamp(min=0)
        return loc, self.shared_log_scale + lift.detach()

    def forward(self, x: Tensor) -> Independent:
        """Return the Gaussian given x.

        Parameters
        ----------
        x : Tensor of shape (*, in_features)
            Input.

        Returns
        -------
        Independent
            Batch shape (*), event shape (out_features,).
        """
        return diagonal_normal(*self.loc_and_log_scale(x))

    @torch.no_grad()
    def set_linear_(self, weight: Tensor, bias: Tensor, log_scale: Tensor) -> None:
        """Make the network equal N(weight x + bias, diag exp(log_scale)²) for every x.

        The hidden layers keep their weights, the layers after them are set to zero: the
        gradient reaches the latter first and, through them, all others.

        Parameters
        ----------
        weight : Tensor of shape (out_features, in_features)
            Slope of the mean.
        bias, log_scale : Tensor of shape (out_features,)
            Offset of the mean and log standard deviation; values below the floor are set to it.
        """
        if self.linear is None:
            raise ValueError(
                "A linear start needs the linear path: use linear=True, or a random start."
            )
        self.linear.weight.copy_(weight)
        self.loc.weight.zero_()
        self.loc.bias.copy_(bias)
        if self.noise == "heteroscedastic":
            self.log_scale.weight.zero_()
            self.log_scale.bias.copy_(self.bound.inverse(log_scale.to(self.bound.centre)))
        else:
            self.shared_log_scale.copy_(log_scale[: len(self.shared_log_scale)])
            self.floor_shared_noise_()

    @torch.no_grad()
    def update_shared_noise_(self, rate: float) -> None:
        r"""Move shared noise towards its closed-form optimum, given the gradient of a loss.

        For the mean negative log density of a batch, :math:`g_j = \partial L / \partial
        \log\sigma_j = 1 - \overline{r_j^2} / \sigma_j^2` with residuals r. Hence

        .. math:: \sigma_j^2 (1 - \rho g_j) = (1 - \rho) \sigma_j^2 + \rho \overline{r_j^2}

        is the running average of the batch optimum ("optimal σ-VAE", Rybkin, Daniilidis &
        Levine 2021, arXiv:2006.13202). A gradient step on log σ would take thousands of steps.

        Parameters
        ----------
        rate : float
            Weight ρ of this batch, in [0, 1].
        """
        gradient = self.shared_log_scale.grad
        n_tied = self.out_features // len(self.shared_log_scale)
        # r² is never negative, so no batch may shrink the variance by more than 1 - ρ.
        factor = (1 - rate * gradient / n_tied).clamp(min=1 - rate)
        self.shared_log_scale += 0.5 * factor.log()
        self.floor_shared_noise_()

    @torch.no_grad()
    def floor_shared_noise_(self) -> None:
        """Lift shared noise to its floor."""
        self.shared_log_scale.copy_(torch.maximum(self.shared_log_scale, self.min_log_scale))

    def extra_repr(self) -> str:
        """Return what repr shows."""
        return f"{self.in_features}, {self.out_features}, noise={self.noise!r}"


class StandardNormalPrior(nn.Module):
    """p(z) = N(0, I).

    A prior is a module with three methods: ``forward()`` returns the distribution,
    ``log_prob(z)`` its density, ``kl(loc, log_scale, z)`` the divergence of a posterior from
    it. Any module that has them can take its place in :class:`GaussianVAEModule`.

    Parameters
    ----------
    latent_features : int
        Width of z.

    Examples
    --------
    >>> from skgvae.nn import StandardNormalPrior
    >>> StandardNormalPrior(2)().event_shape
    torch.Size([2])
    """

    def __init__(self, latent_features: int):
        super().__init__()
        self.latent_features = latent_features
        self.register_buffer("zeros", torch.zeros(latent_features), persistent=False)

    def forward(self) -> Distribution:
        """Return N(0, I)."""
        return diagonal_normal(self.zeros, self.zeros)

    def log_prob(self, z: Tensor) -> Tensor:
        """Return log p(z) in nats, of shape (*), for z of shape (*, latent_features)."""
        return -0.5 * (z.square().sum(-1) + self.latent_features * math.log(2 * math.pi))

    def kl(self, loc: Tensor, log_scale: Tensor, z: Tensor | None = None) -> Tensor:
        """Return KL(N(loc, diag exp(log_scale)²) ‖ p(z)) per latent, in nats.

        Closed form: ½ (loc² + scale² − 1) − log_scale.

        Parameters
        ----------
        loc, log_scale : Tensor of shape (*, latent_features)
            The posterior.
        z : Tensor, optional
            Draws from the posterior: not needed here, but by priors without a closed form.

        Returns
        -------
        Tensor of shape (*, latent_features)
            Their sum is the divergence.
        """
        return 0.5 * (loc.square() + torch.exp(2 * log_scale) - 1) - log_scale

    def sample(self, n_samples: int, generator: torch.Generator | None = None) -> Tensor:
        """Return draws of z, of shape (n_samples, latent_features)."""
        return torch.randn(
            n_samples,
            self.latent_features,
            generator=generator,
            dtype=self.zeros.dtype,
            device=self.zeros.device,
        )


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
    noise : {"heteroscedastic", "homoscedastic", "isotropic"}
        Noise model of the decoder.
    min_noise : float or Tensor of shape (out_features,)
        Floor of the decoder's σ, which keeps the likelihood bounded (Mattei & Frellsen,
        "Leveraging the Exact Likelihood of Deep Latent Variable Models", 2018,
        arXiv:1802.04826).
    max_noise : float or Tensor of shape (out_features,)
        Ceiling of the decoder's σ(z), wide enough not to matter for standardised targets.
    linear : bool
        Whether the means have linear paths beside the hidden layers.
    prior : nn.Module, optional
        p(z); :class:`StandardNormalPrior` by default.
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
        prior: nn.Module | None = None,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        out_features = in_features if out_features is None else out_features
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
            generator=generator,
        )
        self.prior = StandardNormalPrior(latent_features) if prior is None else prior

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
        self.decoder.set_linear_(
            self._pad(loadings), mean, 0.5 * noise_variance.double().clamp(min=1e-30).log()
        )
        log_scale = self.decoder.loc_and_log_scale(self.prior().mean)[1].double()
        weighted = loadings / torch.exp(2 * log_scale).expand_as(mean)[:, None]  # Ψ⁻¹ W
        precision, rotation = torch.linalg.eigh(loadings.T @ weighted)
        precision, rotation = precision.clamp(min=0).flip(0), rotation.flip(1)
        loadings = self._pad(loadings @ rotation)
        posterior_variance = torch.ones_like(loadings[0])
        posterior_variance[: len(precision)] /= 1 + precision

        self.decoder.linear.weight.copy_(loadings)
        gain = posterior_variance[:, None] * self._pad(weighted @ rotation).T
        self.encoder.set_linear_(gain, -gain @ mean, 0.5 * posterior_variance.log())

    def _pad(self, loadings: Tensor) -> Tensor:
        missing = self.encoder.out_features - loadings.shape[1]
        return nn.functional.pad(loadings, (0, missing))


def _linear(in_features: int, out_features: int, bias: bool = True) -> nn.Linear:
    # Unset weights: nn.Linear would draw them from torch's global generator.
    return nn.utils.skip_init(nn.Linear, in_features, out_features, bias=bias)


def _reset_linear(layer: nn.Linear, generator: torch.Generator | None) -> None:
    bound = 1 / math.sqrt(layer.in_features)
    nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
    if layer.bias is not None:
        nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
