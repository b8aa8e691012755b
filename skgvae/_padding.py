"""Modules that differ in size alone, brought to one shape for a stack.

Latents that are added have N(0, 1) as posterior and as prior, their draws are zero, and so are
the decoder's weights on them. Gaussians that are added to a mixture prior have weight zero. So a
loss stays what it was; :meth:`~skgvae.stack.ModuleStack.mask_gradients_` keeps it so in training.
"""

import copy
from collections.abc import Sequence

import torch
from torch import nn

from .nn import (
    GaussianMLP,
    GaussianVAEClassifierModule,
    GaussianVAEModule,
    MixturePrior,
    StandardNormalPrior,
)

# Where the latents lie: axes of the tensors of an auto-encoder that has hidden layers. Not all
# have all of them.
_LATENT_AXES = {
    "encoder.loc.weight": (0,),
    "encoder.loc.bias": (0,),
    "encoder.linear.weight": (0,),
    "encoder.log_scale.weight": (0,),
    "encoder.log_scale.bias": (0,),
    "decoder.hidden.0.weight": (1,),
    "decoder.linear.weight": (1,),
    "prior.zeros": (0,),
    "prior.means": (1,),
    "prior.log_scale": (1,),
    "prior.coefficients": (1, 2),
}
_SIZES = {"in_features", "out_features", "latent_features", "n_components"}


def of_one_shape(modules: Sequence[nn.Module]) -> list[nn.Module]:
    """Return the modules, or copies of them with parts that do nothing, of the largest size.

    Parameters
    ----------
    modules : sequence of nn.Module
        They differ at most in the number of latents and of Gaussians of a mixture prior; in the
        former only where :func:`can_have_latents` says so.
    """
    modules = list(modules)
    latents = {module.encoder.out_features for module in modules}
    if len(latents) > 1:
        modules = [_with_latents(module, max(latents)) for module in modules]
    if type(modules[0].prior) is MixturePrior:
        n_components = max(module.prior.n_components for module in modules)
        modules = [_with_prior_components(module, n_components) for module in modules]
    return modules


def sizeless(module: nn.Module, name: str, shape: Sequence[int]) -> tuple[int, ...]:
    """Return the part of a tensor's shape in which modules of one stack may not differ.

    Parameters
    ----------
    module : nn.Module
        An auto-encoder, alone or with a classifier.
    name : str
        Of one of its parameters or buffers.
    shape : sequence of int
        Its shape.
    """
    name, free = name.removeprefix("vae."), ()
    if can_have_latents(module):
        free = _LATENT_AXES.get(name, ())
    if type(module.prior) is MixturePrior and name.startswith("prior."):
        free = (0, *free)
    return tuple(n for axis, n in enumerate(shape) if axis not in free)


def fixed_settings(settings: dict) -> dict:
    """Return what is not a size, of the attributes of a known part: tensors tell the sizes."""
    return {name: value for name, value in settings.items() if name not in _SIZES}


def can_have_latents(module: nn.Module) -> bool:
    """Say whether latents can be added that do nothing.

    No more than the decoder's first layer has units: with more latents the orthogonal steps of
    that layer grow.
    """
    if type(module) not in (GaussianVAEModule, GaussianVAEClassifierModule):
        return False
    parts = type(module.encoder), type(module.decoder), type(module.prior)
    if parts not in [(GaussianMLP, GaussianMLP, p) for p in (StandardNormalPrior, MixturePrior)]:
        return False
    layers = list(module.decoder.hidden)
    return len(layers) > 0 and module.encoder.out_features <= layers[0].weight.shape[-2]


@torch.no_grad()
def _with_latents(module, n_latents):
    """Return a copy with so many latents, of which it uses as many as before."""
    module = copy.deepcopy(module)
    vae = getattr(module, "vae", module)
    encoder, decoder, prior = vae.encoder, vae.decoder, vae.prior
    n_added = n_latents - encoder.out_features
    for name, axes in _LATENT_AXES.items():
        path, _, attribute = name.rpartition(".")
        owner = vae
        for part in path.split("."):
            owner = getattr(owner, part, None)
        tensor = getattr(owner, attribute, None)
        if tensor is None:
            continue
        for axis in axes:
            added = list(tensor.shape)
            added[axis] = n_added
            tensor = torch.cat([tensor, tensor.new_zeros(added)], axis)
        if attribute in owner._parameters:
            tensor = nn.Parameter(tensor, owner._parameters[attribute].requires_grad)
        setattr(owner, attribute, tensor)
        if isinstance(owner, nn.Linear):
            owner.out_features, owner.in_features = owner.weight.shape
    # Without a centre the scale is exactly one.
    for name, fill in (("centre", 0.0), ("half_width", 1.0)):
        bound = getattr(encoder.bound, name)
        own = bound.expand(encoder.out_features)
        setattr(encoder.bound, name, torch.cat([own, own.new_full((n_added,), fill)]))
    module.n_used_latents = encoder.out_features
    encoder.out_features = decoder.in_features = prior.latent_features = n_latents
    return module


def _with_prior_components(module, n_components):
    if module.prior.n_components == n_components:
        return module
    module = copy.deepcopy(module)
    vae = getattr(module, "vae", module)
    vae.prior = vae.prior.padded(n_components)
    return module
