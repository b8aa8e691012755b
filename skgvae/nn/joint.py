"""The auto-encoder and a classifier on top of it, trained together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .linear import Linear, check_positive, hidden_layers
from .vae import GaussianVAEModule, VAEOutput


class ClassifierHead(nn.Module):
    r"""A multi-layer perceptron that scores classes from v1 and an estimate of v2.

    .. math:: W x + V f(x) + b, \quad x = (v_1, \hat v_2)

    with the hidden layers :math:`f`. W, V and b start at zero: all classes equally likely.

    Parameters
    ----------
    in_features, target_features : int
        Widths of v1 and v2.
    n_classes : int
        Number of classes.
    hidden_features : sequence of int
        Widths of the hidden layers; may be empty.
    activation : callable
        Makes the activation module of a hidden layer.
    generator : torch.Generator, optional
        Source of the initial weights; torch's global generator by default.

    Examples
    --------
    >>> import torch
    >>> from skgvae.nn import ClassifierHead
    >>> ClassifierHead(4, 2, n_classes=3)(torch.zeros(5, 4), torch.zeros(5, 2)).shape
    torch.Size([5, 3])
    """

    takes_model_axis = True

    def __init__(
        self,
        in_features: int,
        target_features: int,
        n_classes: int,
        hidden_features: Sequence[int] = (64,),
        activation: Callable[[], nn.Module] = nn.SiLU,
        *,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        hidden_features = tuple(hidden_features)
        check_positive(
            in_features=in_features,
            target_features=target_features,
            n_classes=n_classes,
            hidden_features=hidden_features,
        )
        widths = (in_features + target_features, *hidden_features)
        self.hidden = hidden_layers(widths[0], hidden_features, activation)
        self.linear = Linear(widths[0], n_classes, bias=False)
        self.logits = Linear(widths[-1], n_classes)
        self.reset_parameters(generator)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw new weights for the hidden layers, set the others to zero."""
        for module in self.hidden.modules():
            if isinstance(module, Linear):
                module.reset_parameters(generator)
        for parameter in (self.linear.weight, self.logits.weight, self.logits.bias):
            parameter.zero_()

    def forward(self, v1: Tensor, v2_estimate: Tensor) -> Tensor:
        """Return the logits.

        Parameters
        ----------
        v1 : Tensor of shape (*, in_features)
            Input.
        v2_estimate : Tensor of shape (*, target_features)
            Estimate of the target.

        Returns
        -------
        Tensor of shape (*, n_classes)
            Logits.
        """
        x = torch.cat([v1, v2_estimate], -1)
        return self.linear(x) + self.logits(self.hidden(x))

    @torch.no_grad()
    def scale_logits_(self, factor: float) -> None:
        """Multiply the logits by a factor for every input, one over a temperature."""
        for parameter in (self.linear.weight, self.logits.weight, self.logits.bias):
            parameter.mul_(factor)


class FilledClassifier(nn.Module):
    """A classifier of v1 without unknown cells, called with v1 and where its cells are unknown.

    Parameters
    ----------
    classifier : nn.Module
        Called as ``classifier(v1, v2_estimate)``.
    by_estimate : bool
        Whether an unknown cell is filled with that of the estimate of v2, where v2 is v1;
        otherwise with zero, the mean.

    Examples
    --------
    >>> import torch
    >>> from skgvae.nn import ClassifierHead, FilledClassifier
    >>> classifier = FilledClassifier(ClassifierHead(4, 4, n_classes=3), by_estimate=True)
    >>> cells, is_unknown = torch.zeros(5, 4), torch.ones(5, 4)
    >>> classifier(torch.cat([cells, is_unknown], -1), torch.zeros(5, 4)).shape
    torch.Size([5, 3])
    """

    def __init__(self, classifier: nn.Module, by_estimate: bool):
        super().__init__()
        self.classifier, self.by_estimate = classifier, by_estimate

    def forward(self, v1: Tensor, v2_estimate: Tensor) -> Tensor:
        """Return the logits.

        Parameters
        ----------
        v1 : Tensor of shape (*, 2 in_features)
            Cells, zero where they are unknown, and beside them one where they are unknown.
        v2_estimate : Tensor of shape (*, target_features)
            Estimate of the target.
        """
        cells, is_unknown = v1.chunk(2, -1)
        if self.by_estimate:
            cells = torch.where(is_unknown > 0, v2_estimate, cells)
        return self.classifier(cells, v2_estimate)


class JointOutput(NamedTuple):
    """Class scores, the estimate of v2 they were made from, and the auto-encoder's output."""

    logits: Tensor
    v2_estimate: Tensor
    vae: VAEOutput


class GaussianVAEClassifierModule(nn.Module):
    r"""Class scores from v1 and a draw of v2 from its distribution given v1.

    .. math::

        z \sim q(z | v_1), \quad \hat v_2 \sim p(v_2 | z), \quad
        \text{logits} = \text{classifier}(v_1, \hat v_2)

    Both draws are reparameterised, so that a loss of the logits trains the auto-encoder too.

    Parameters
    ----------
    vae : GaussianVAEModule
        Encoder, prior and decoder.
    classifier : nn.Module
        Called as ``classifier(v1, v2_estimate)`` with two matrices, returns logits.

    Examples
    --------
    >>> import torch
    >>> from skgvae.nn import ClassifierHead, GaussianVAEClassifierModule, GaussianVAEModule
    >>> vae = GaussianVAEModule(in_features=4, latent_features=2, out_features=3)
    >>> joint = GaussianVAEClassifierModule(vae, ClassifierHead(4, 3, n_classes=5))
    >>> joint(torch.zeros(10, 4)).logits.shape
    torch.Size([10, 5])
    """

    def __init__(self, vae: GaussianVAEModule, classifier: nn.Module):
        super().__init__()
        self.vae = vae
        self.classifier = classifier

    @property
    def encoder(self) -> nn.Module:
        """q(z | v1)."""
        return self.vae.encoder

    @property
    def decoder(self) -> nn.Module:
        """p(v2 | z)."""
        return self.vae.decoder

    @property
    def prior(self) -> nn.Module:
        """p(z)."""
        return self.vae.prior

    def forward(
        self,
        v1: Tensor,
        n_draws: int | None = None,
        generator: torch.Generator | None = None,
    ) -> JointOutput:
        """Encode v1, draw z, draw v2, classify.

        Parameters
        ----------
        v1 : Tensor of shape (*, in_features)
            Input.
        n_draws : int, optional
            Number of draws of (z, v2); without it there is no leading axis.
        generator : torch.Generator, optional
            Source of the draws.

        Returns
        -------
        JointOutput
            Logits of shape ([n_draws,] *, n_classes), the draws of v2, the output of the
            auto-encoder.
        """
        out = self.vae(v1, n_draws, generator)
        cells = out.likelihood.base_dist
        loc, scale = cells.loc, cells.scale
        eps = torch.randn(loc.shape, generator=generator, dtype=loc.dtype, device=loc.device)
        v2_estimate = self.decoder.family.draw(loc, scale.log(), eps)
        return JointOutput(self.classify(v1, v2_estimate), v2_estimate, out)

    def classify(self, v1: Tensor, v2_estimate: Tensor) -> Tensor:
        """Return the logits for each estimate of v2.

        Parameters
        ----------
        v1 : Tensor of shape (*, in_features)
            Input.
        v2_estimate : Tensor of shape ([n_draws,] *, out_features)
            Estimates of v2.

        Returns
        -------
        Tensor of shape ([n_draws,] *, n_classes)
            Logits.
        """
        v1 = v1.expand(*v2_estimate.shape[:-1], -1)
        if isinstance(self.classifier, ClassifierHead):
            return self.classifier(v1, v2_estimate)
        # As matrices, and in the classifier's own precision: what most are written for.
        shape, dtype = v2_estimate.shape[:-1], v1.dtype
        own_dtype = next((p.dtype for p in self.classifier.parameters()), dtype)
        vectors = v1, v2_estimate
        logits = self.classifier(*(v.reshape(-1, v.shape[-1]).to(own_dtype) for v in vectors))
        return logits.view(*shape, logits.shape[-1]).to(dtype)

    def squared_weights(self) -> Tensor:
        """Return the sum of the squared weights, not biases, of the classifier."""
        if isinstance(self.classifier, ClassifierHead):
            layers = (m for m in self.classifier.modules() if isinstance(m, Linear))
            return sum(layer.weight.square().sum((-2, -1)) for layer in layers)
        squares = (p.square().sum() for p in self.classifier.parameters() if p.ndim > 1)
        return sum(squares, next(self.parameters()).new_zeros(()))
