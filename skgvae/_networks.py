"""Which networks does an estimator train, and by which net? Made from its parameters."""

import copy
from contextlib import nullcontext
from numbers import Integral

import torch
from torch import nn

from ._together import computing_once
from .net import GaussianVAENet
from .nn import GaussianVAEModule
from .nn.prior import with_equal_priors

ACTIVATIONS = {
    "identity": nn.Identity,
    "logistic": nn.Sigmoid,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
}


class NetworkMixin:
    """Making the modules and their net; needs the parameters of the estimators."""

    _net_class = GaussianVAENet

    def _make_module(self, generator):
        spec = dict(self._module_spec)
        if isinstance(spec["activation"], str):
            spec["activation"] = ACTIVATIONS[spec["activation"]]
        for bound in ("min_noise", "max_noise"):
            # A copy: torch would warn of a memory map.
            spec[bound] = torch.tensor(spec[bound], device="cpu")
        for name, value in spec.items():
            if isinstance(value, nn.Module):  # such as a prior: each module has its own
                spec[name] = copy.deepcopy(value)
        module_class = self._net_params.get("module", GaussianVAEModule)
        # Whatever torch's default device and default dtype are.
        with torch.device("cpu"):
            return module_class(**spec, generator=generator).float()

    def _new_modules(self, rows, starts, n_alike):
        # What is chosen from the rows is chosen once for each so many modules.
        modules = []
        with computing_once() if len(rows) > 1 else nullcontext():
            for i, (part, (seed, init)) in enumerate(zip(rows, starts, strict=True)):
                modules.append(self._make_module(torch.Generator().manual_seed(seed["weights"])))
                like = modules[i - i % n_alike]
                self._start(modules[-1], part, init, like)
        return with_equal_priors(modules)

    def _choose_optimizer(self):
        # Once for a net: copies and further passes go on with the same.
        rows = self._training["batch_size"] * self._training["criterion__n_draws"]
        self._is_orthogonal = rows >= self._orthogonal_from

    def _make_net(self, modules, **groups):
        params = {
            **self._training,
            **self._bound_params(),
            "device": self.device_,
            "seed": self._train_seeds,
            "verbose": int(self.verbose),
        }
        custom = dict(self._net_params)
        if not {"optimizer", "optimizer__param_groups"} & set(custom):
            params["optimizer__orthogonal"] = self._is_orthogonal
            params["optimizer__weight_decay"] = float(self._fixed["weight_decay"])
        elif "optimizer" not in custom:  # groups are something for an optimizer of torch
            params["optimizer"] = torch.optim.AdamW
            params["optimizer__weight_decay"] = float(self._fixed["weight_decay"])
        custom = {k: v for k, v in custom.items() if k.split("__")[0] != "module"}
        return self._net_class(list(modules), **{**params, **custom, **groups})

    def _update_net(self):
        """Give parameters that were changed after fitting to the net, for partial_fit."""
        net = self.net_
        prefix = "criterion__"
        for name, value in {**self._training, **self._bound_params()}.items():
            known = name.removeprefix(prefix) in vars(net.criterion_)
            if name.startswith(prefix) and known and name not in self._net_params:
                setattr(net.criterion_, name.removeprefix(prefix), value)
        net.batch_size = self._training["batch_size"]
        if "lr" not in self._net_params:
            for group in net.optimizer_.param_groups:
                group["initial_lr"] = self._training["lr"]

    def _keep_modules(self, kept):
        """Let the net hold these of its modules, in this order."""
        if kept != list(range(len(self.modules_))):
            for name in "_train_seeds", "_split_seeds":
                if hasattr(self, name):
                    setattr(self, name, [getattr(self, name)[i] for i in kept])
            self.net_.keep_modules(kept)


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
            "from n_prior_components."
        )
    return params
