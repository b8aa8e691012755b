"""A network that returns a diagonal Gaussian: encoder and decoder alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from .cells import MixedNoise
from .linear import Linear, along, check_positive, hidden_layers, plus_linear
from .noise import NOISE_MODELS

# Widest range of a standard deviation, in standardised units. Factor analysis of strongly
# correlated columns needs posterior scales far below 1e-3: a narrower range costs nats.
MIN_SCALE = 4e-5
MAX_SCALE = 150.0


def diagonal_normal(loc: Tensor, log_scale: Tensor) -> Independent:
    """Return N(loc, diag exp(log_scale)²) over the last axis."""
    normal = Normal(loc, log_scale.expand_as(loc).exp(), validate_args=False)
    return Independent(normal, 1, validate_args=False)


def log_bounds(low: float | Tensor, high: float | Tensor) -> tuple[Tensor, Tensor]:
    """Return the logarithms of the bounds of a scale, in float32.

    Parameters
    ----------
    low, high : float or Tensor of shape (out_features,)
        Bounds. ValueError unless 0 < low < high, high is finite, and float32 can tell them apart.
    """
    bounds = [torch.as_tensor(b, dtype=torch.float32, device="cpu") for b in (low, high)]
    if not ((bounds[0] > 0) & (bounds[0] < bounds[1]) & bounds[1].isfinite()).all():
        raise ValueError(
            f"Bounds of a scale must satisfy 0 < low < high < inf in float32, got {low}, {high}."
        )
    log_low, log_high = (b.log().to(torch.get_default_device()) for b in bounds)
    return log_low, log_high


class SoftBound(nn.Module):
    r"""Squash a log standard deviation smoothly into (log low, log high).

    .. math:: c + h \tanh((t - c) / h), \quad c \pm h = \log low, \log high

    The slope is one at the centre and never exactly zero before rounding, so that a value
    near a bound can still leave it (a hard clamp kills its gradient).

    Parameters
    ----------
    low, high : float or Tensor of shape (out_features,)
        Bounds of the standard deviation, 0 < low < high.
    """

    takes_model_axis = True

    def __init__(self, low: float | Tensor, high: float | Tensor):
        super().__init__()
        log_low, log_high = log_bounds(low, high)
        # Numbers have an axis too: that of the models may come before it.
        self.register_buffer("centre", torch.atleast_1d((log_high + log_low) / 2))
        self.register_buffer("half_width", torch.atleast_1d((log_high - log_low) / 2))

    def forward(self, t: Tensor) -> Tensor:
        """Return the log standard deviation for any real t."""
        centre, half_width = along(self.centre, t), along(self.half_width, t)
        return torch.addcmul(centre, half_width, torch.tanh((t - centre) / half_width))

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
    noise : str
        A name in ``NOISE_MODELS``, which says the family of the noise and whether its scale σ is a
        function of x ("heteroscedastic"), one number per feature, or one number.
    min_scale, max_scale : float or Tensor of shape (out_features,)
        Bounds of σ. If all features have one σ, it has the largest lower bound.
    linear : bool
        Whether there is a linear path to the mean.
    cells : dict, optional
        Kinds of the outputs, parameters of :class:`~skgvae.nn.MixedNoise` beside the family; all
        are continuous by default.
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

    takes_model_axis = True

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
        cells: dict | None = None,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        if noise not in NOISE_MODELS:
            raise ValueError(f"noise must be one of {tuple(NOISE_MODELS)}, got {noise!r}.")
        hidden_features = tuple(hidden_features)
        check_positive(
            in_features=in_features, out_features=out_features, hidden_features=hidden_features
        )
        log_min, _ = log_bounds(min_scale, max_scale)
        for bound in (min_scale, max_scale):
            shape = tuple(torch.as_tensor(bound).shape)
            if shape not in ((), (1,), (out_features,)):
                raise ValueError(
                    f"Bounds of a scale must be numbers or of shape ({out_features},), got shape "
                    f"{shape}."
                )
        self.in_features, self.out_features = in_features, out_features
        self.noise = noise
        self.family, self.per_row, tied = NOISE_MODELS[noise]
        if cells is not None:
            self.family = MixedNoise(self.family, **cells)

        self.hidden = hidden_layers(in_features, hidden_features, activation)
        self.linear = Linear(in_features, out_features, bias=False) if linear else None
        width = (in_features, *hidden_features)[-1]
        self.loc = Linear(width, out_features)
        if self.per_row:
            self.log_scale = Linear(width, out_features)
            self.bound = SoftBound(min_scale, max_scale)
        else:
            log_min = log_min.expand(out_features)
            if tied:
                log_min = log_min.max(0, keepdim=True).values
            self.shared_log_scale = nn.Parameter(torch.empty(len(log_min)))
            self.register_buffer("min_log_scale", log_min.clone())
        self.reset_parameters(generator)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw new weights: torch's default for layers, σ = 1 for shared noise."""
        for module in self.modules():
            if isinstance(module, Linear):
                module.reset_parameters(generator)
        if not self.per_row:
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
            loc = plus_linear(loc, x, self.linear.weight)
        if self.per_row:
            return loc, self.bound(self.log_scale(h))
        # The floor, with a gradient below it too: there a hard maximum would have none.
        lift = (self.min_log_scale - self.shared_log_scale).clamp(min=0)
        return loc, along(self.shared_log_scale + lift.detach(), loc)

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
        loc, log_scale = self.loc_and_log_scale(x)
        cells = self.family.distribution(loc, log_scale.expand_as(loc).exp())
        return Independent(cells, 1, validate_args=False)

    @torch.no_grad()
    def set_linear_(self, weight: Tensor, bias: Tensor, log_scale: Tensor) -> None:
        """Make the network equal N(weight x + bias, diag exp(log_scale)²) for every x.

        The locations of a category's levels become what goes with such a model of their columns.

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
        weight, bias, log_scale = self.family.linear_start(weight, bias, log_scale)
        self.linear.weight.copy_(weight)
        self.loc.weight.zero_()
        self.loc.bias.copy_(bias)
        if self.per_row:
            self.log_scale.weight.zero_()
            self.log_scale.bias.copy_(self.bound.inverse(log_scale.to(self.bound.centre)))
        else:
            self.shared_log_scale.copy_(log_scale[: len(self.shared_log_scale)])
            self.floor_shared_noise_()

    @torch.no_grad()
    def scale_noise_(self, log_factor: Tensor) -> None:
        """Multiply σ by a factor for every x; its bounds too.

        Parameters
        ----------
        log_factor : Tensor of shape (out_features,)
            Logarithm of the factor of each output. If all outputs have one σ, the mean counts.
        """
        if self.per_row:
            log_factor = log_factor.to(self.log_scale.bias)
            self.log_scale.bias.add_(log_factor)
            self.bound.centre = self.bound.centre + log_factor
        else:
            log_factor = log_factor.to(self.shared_log_scale)
            if len(self.shared_log_scale) < self.out_features:
                log_factor = log_factor.mean(0, keepdim=True)
            self.shared_log_scale.add_(log_factor)
            self.min_log_scale.add_(log_factor)

    @torch.no_grad()
    def reset_outputs_(self, which: Tensor) -> None:
        """Make some outputs N(0, 1) whatever the input.

        Parameters
        ----------
        which : Tensor of bool, of shape (out_features,)
            The outputs.
        """
        parts = [self.loc.weight, self.loc.bias]
        if self.linear is not None:
            parts.append(self.linear.weight)
        if self.per_row:
            parts.append(self.log_scale.weight)
            standard = self.bound.inverse(torch.zeros_like(self.log_scale.bias))
            self.log_scale.bias[which] = standard[which]
        elif len(self.shared_log_scale) == len(which):
            parts.append(self.shared_log_scale)
        for part in parts:
            part[which] = 0.0

    @torch.no_grad()
    def update_shared_noise_(
        self, rate: float, weight: float = 1.0, gradient: Tensor | None = None
    ) -> None:
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
        weight : float
            Positive weight of the negative log density in the loss.
        gradient : Tensor like the shared noise, optional
            Of the loss with respect to log σ; by default what torch has found.
        """
        gradient = (self.shared_log_scale.grad if gradient is None else gradient) / weight
        n_tied = self.out_features // self.shared_log_scale.shape[-1]
        # r² is never negative, so no batch may shrink the variance by more than 1 - ρ.
        factor = (1 - rate * gradient / n_tied).clamp(min=1 - rate)
        self.shared_log_scale.add_(0.5 * factor.log())
        self.floor_shared_noise_()

    @torch.no_grad()
    def floor_shared_noise_(self) -> None:
        """Lift shared noise to its floor."""
        self.shared_log_scale.copy_(torch.maximum(self.shared_log_scale, self.min_log_scale))

    def extra_repr(self) -> str:
        """Return what repr shows."""
        return f"{self.in_features}, {self.out_features}, noise={self.noise!r}"
