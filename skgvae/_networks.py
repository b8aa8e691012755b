"""Which modules does an estimator train? Made from its parameters, on a device that there is."""

import copy
from numbers import Integral

import torch
from torch import nn

ACTIVATIONS = {
    "identity": nn.Identity,
    "logistic": nn.Sigmoid,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
}


def make_module(module_class, spec, generator):
    """Return a module on the CPU, whatever torch's default device and default dtype are."""
    spec = dict(spec)
    if isinstance(spec["activation"], str):
        spec["activation"] = ACTIVATIONS[spec["activation"]]
    for bound in ("min_noise", "max_noise"):
        # A copy: torch would warn of a memory map.
        spec[bound] = torch.tensor(spec[bound], device="cpu")
    for name, value in spec.items():
        if isinstance(value, nn.Module):  # such as a prior: each module has its own
            spec[name] = copy.deepcopy(value)
    with torch.device("cpu"):
        return module_class(**spec, generator=generator).float()


def resolve_device(device, fall_back=False):
    """Return the name of a device that there is; without CUDA an error, or the CPU."""
    has_cuda = torch.cuda.is_available()
    if device == "auto":
        return "cuda" if has_cuda else "cpu"
    try:
        needs_cuda = torch.device(device).type == "cuda"
    except RuntimeError as error:
        raise ValueError(f"device={device!r} is no torch device: {error}") from error
    if needs_cuda and not has_cuda:
        if fall_back:
            return "cpu"
        raise ValueError(f"device={device!r}, but torch finds no CUDA device. Use device='auto'.")
    return str(device)


def hidden_features(sizes):
    """Return the widths of the hidden layers as a tuple of int."""
    sizes = (sizes,) if isinstance(sizes, Integral) else tuple(sizes)
    if not all(isinstance(s, Integral) and s >= 1 for s in sizes):
        raise ValueError(f"hidden_layer_sizes must hold integers from 1 on, got {sizes!r}.")
    return tuple(int(s) for s in sizes)


def module_params(net_params):
    """Return what the user's parameters of the net give to the module."""
    prefix = "module__"
    params = {k: v for k, v in net_params.items() if k.startswith(prefix)}
    params = {k.removeprefix(prefix): v for k, v in params.items()}
    fixed = {"in_features", "latent_features", "out_features", "n_prior_components"} & set(params)
    if fixed:
        raise ValueError(
            f"net_params sets {sorted(fixed)}, which follow from the data, from n_components and "
            "from prior."
        )
    return params
