"""Trainings of nets that may share a stack, and those that do."""

import copy
import time
from collections.abc import Sequence
from functools import cached_property

import joblib
import numpy as np
import torch
from skorch.helper import predefined_split
from torch import nn

from ._batches import StackedRows, TensorBatches
from ._callbacks import BestEpoch
from ._optimizer import StackOptimizer
from .net import GaussianVAEClassifierNet, GaussianVAENet
from .nn import MixturePrior
from .nn.prior import with_equal_priors
from .objectives import (
    JointLoss,
    NegativeBound,
    elbo,
    importance_weighted_bound,
    predictive_bound,
)

# Bytes that a step of one stack may take.
MAX_STEP_BYTES = 2**30
# Parameters of these criteria that may differ between the modules of a stack.
_OWN_TO_MODULE = {NegativeBound: ("kl_weight",), JointLoss: ("kl_weight", "penalty")}
# Parameters of the net that training does not use.
_OF_PREDICTION = "classes", "n_draws", "draws_seed"
# With these a row's loss depends on how many rows are in its batch.
_RELATIVE_TO_BATCH = ("criterion__mean_power", "criterion__pseudo_weight")
_KNOWN_BOUNDS = (None, elbo, importance_weighted_bound, predictive_bound)
# Modules that neither draw numbers nor keep a state beside their weights: others may depend on
# who else is in the stack.
_KNOWN_MODULES = ("skgvae.nn.", "torch.nn.modules.linear", "torch.nn.modules.container")
_KNOWN_ACTIVATIONS = (
    nn.CELU, nn.ELU, nn.GELU, nn.Hardtanh, nn.LeakyReLU, nn.Mish, nn.PReLU, nn.ReLU, nn.ReLU6,
    nn.SELU, nn.SiLU, nn.Sigmoid, nn.Softplus, nn.Softsign, nn.Tanh,
)  # fmt: skip
_MODULE_STATE = set(vars(nn.Module()))

# float32: a weight, its gradient, the optimizer's two moments, the best epoch's, the average, a
# copy while that takes its place, the net's own.
_BYTES_PER_WEIGHT = 8 * 4
# Of a row: in float64, in float32, and in the stack.
_BYTES_PER_NUMBER = 8 + 4 + 4
# What a unit holds for a row: before and after its activation, both with a gradient.
_BYTES_PER_UNIT = 4 * 4


class Training:
    """A net that waits for its training.

    Parameters
    ----------
    net : GaussianVAENet
        Initialised.
    train, valid : sequence of RowDataset
        Training and validation rows of each of its modules; None where there are none.
    alone : callable
        Trains the net without others.
    """

    def __init__(self, net, train, valid, alone):
        self.net, self.train, self.valid, self.alone = net, train, valid, alone
        self.seconds = 0.0
        self.error = None

    @cached_property
    def kind(self) -> str | None:
        """What trainings of one stack have in common; None if it can have no other."""
        net = self.net
        callbacks = [type(callback) for _, callback in net.callbacks_]
        known = type(net) in (GaussianVAENet, GaussianVAEClassifierNet)
        if not known or callbacks != [BestEpoch] or len(net.history):
            return None
        structure = _structure(net.stack_.members[0])
        if structure is None or net.max_epochs == 0:
            return None
        params = net.get_params(deep=False)
        for name in ("module", "seed", "train_split", *_OF_PREDICTION, *self.own_params):
            params.pop(name, None)
        n_valid = 0 if self.valid[0] is None else len(self.valid[0])
        try:
            return joblib.hash((structure, params, self.length, n_valid))
        except Exception:  # what cannot be pickled cannot be compared
            return None

    @property
    def length(self) -> tuple[str, int]:
        """Number of training rows; where that may differ, the number of batches instead."""
        net, n_rows = self.net, len(self.train[0])
        known = net.iterator_train is TensorBatches and net.criterion in _OWN_TO_MODULE
        known = known and getattr(net, "criterion__bound", None) in _KNOWN_BOUNDS
        if known and not any(getattr(net, name, 0) for name in _RELATIVE_TO_BATCH):
            return "batches", -(-n_rows // net.batch_size)
        return "rows", n_rows

    @property
    def own_params(self) -> list[str]:
        """What parameters of the net may differ between trainings of one kind."""
        net = self.net
        if getattr(net, "criterion__bound", None) not in _KNOWN_BOUNDS:
            return []
        names = [f"criterion__{name}" for name in _OWN_TO_MODULE.get(net.criterion, ())]
        return names + (["optimizer__weight_decay"] if net.optimizer is StackOptimizer else [])

    @property
    def held_bytes(self) -> int:
        """Memory that it takes from its start to its end."""
        tables = {id(rows._table): rows._table for rows in self.train}
        parts = {id(part): part for table in tables.values() for part in table[:2]}
        n_numbers = sum(part.numel() for part in parts.values())
        n_weights = self.net.stack_.weights.numel()
        return n_numbers * _BYTES_PER_NUMBER + n_weights * _BYTES_PER_WEIGHT

    @property
    def n_components(self) -> int:
        """Number of Gaussians in the prior; 0 of none that is a mixture."""
        prior = self.net.stack_.members[0].prior
        return prior.n_components if type(prior) is MixturePrior else 0

    def step_bytes(self, n_components: int) -> int:
        """Memory that a step of its training takes at most, or the evaluation after an epoch.

        Parameters
        ----------
        n_components : int
            Gaussians in the prior, to which its own is padded.
        """
        net = self.net
        n_rows = min(net.batch_size, len(self.train[0])) * net.criterion_.n_draws
        if self.valid[0] is not None:
            n_valid = min(net.iterator_valid__batch_size, len(self.valid[0]))
            n_rows = max(n_rows, n_valid * net.n_valid_draws)
        named = net.stack_.members[0].named_parameters()
        matrices = [w for name, w in named if w.ndim == 2 and "prior." not in name]
        n_units = len(net.stack_) * sum(len(w) for w in matrices)
        # z in the units of each component; its density.
        n_latents = net.stack_.encoder.out_features
        n_units += len(net.stack_) * n_components * (n_latents + 1)
        return n_rows * n_units * _BYTES_PER_UNIT


def train_together(trainings: Sequence[Training]) -> None:
    """Train all nets: those of one kind in stacks whose steps fit into ``MAX_STEP_BYTES``."""
    kinds = {}
    for training in trainings:
        kinds.setdefault(training.kind or id(training), []).append(training)
    for group in kinds.values():
        for part in _split(group, MAX_STEP_BYTES):
            start = time.perf_counter()
            _train_alike(part)
            for training in part:
                training.seconds = (time.perf_counter() - start) / len(part)


def _split(trainings, max_bytes):
    part, n_modules, n_components = [], 0, 0
    for training in trainings:
        n_own = len(training.net.stack_)
        most = max(training.n_components, n_components)  # to which all are padded
        n_bytes = training.step_bytes(most) * (n_modules + n_own) / n_own
        if part and n_bytes > max_bytes:
            yield part
            part, n_modules, most = [], 0, training.n_components
        part.append(training)
        n_modules, n_components = n_modules + n_own, most
    yield part


def _train_alike(trainings):
    if len(trainings) > 1:
        try:
            _train_as_one(trainings)
            return
        except Exception:  # which of them fail alone, and how, is seen alone
            pass
    for training in trainings:
        try:
            training.alone()
            if training.net.interrupt_ is not None:  # it ends the whole search
                raise training.net.interrupt_
        except Exception as error:
            training.error = error


def _train_as_one(trainings):
    first = trainings[0].net
    params = first.get_params(deep=False)
    modules = [copy.deepcopy(m) for t in trainings for m in t.net.stack_.members]
    params["module"] = with_equal_priors(modules)
    params["seed"] = [seed for training in trainings for seed in training.net.seed]
    for name in trainings[0].own_params:
        if hasattr(first, name):
            params[name] = _for_each_module(trainings, [getattr(t.net, name) for t in trainings])
    valid = [rows for training in trainings for rows in training.valid]
    params["train_split"] = None if valid[0] is None else predefined_split(StackedRows(valid))
    net = type(first)(**params).initialize()
    net.partial_fit(StackedRows([rows for training in trainings for rows in training.train]))
    if net.interrupt_ is not None:  # it ends the whole search
        raise net.interrupt_
    start = 0
    for training in trainings:
        part = slice(start, start + len(training.net.stack_))
        _take_part(training.net, net, part)
        start = part.stop


def _for_each_module(trainings, values):
    """Return the values of the trainings as one, if they are equal, or of shape (M, 1)."""
    if len(set(values)) == 1:
        return values[0]
    device = trainings[0].net.device
    repeats = torch.tensor([len(t.net.stack_) for t in trainings], device=device)
    values = torch.tensor(values, dtype=torch.float32, device=device)
    return values.repeat_interleave(repeats).unsqueeze(1)


@torch.no_grad()
def _take_part(own, net, part):
    """Leave a net as if it had been trained without the others in a common one."""
    for member, trained in zip(own.stack_.members, net.stack_.members[part], strict=True):
        for name, weight in member.named_parameters():
            without_padding = tuple(map(slice, weight.shape))  # of Gaussians in the prior
            weight.copy_(trained.get_parameter(name)[without_padding])
    (_, own_best), (_, best) = own.callbacks_[0], net.callbacks_[0]
    for name in ("best_losses_", "best_epochs_", "last_epochs_", "in_training_"):
        setattr(own_best, name, getattr(best, name)[part])
    for record in net.history[: own_best.last_epochs_.max()]:
        own.history.new_epoch()
        own.history.record("epoch", record["epoch"])
        entries = {name: np.array(values[part]) for name, values in record["modules"].items()}
        for name, values in entries.items():
            own.record_for_members({name: values}, np.any if values.dtype == bool else np.mean)
    if len(net.history):
        own.member_terms_ = {"train": {"loss": entries["train_loss"]}}


def _structure(member):
    """Return what modules must share to be stacked, or None if that cannot be known."""
    structure = []
    for name, module in member.named_modules():
        known = type(module).__module__.startswith(_KNOWN_MODULES)
        if not known and type(module) not in _KNOWN_ACTIVATIONS:
            return None
        own = {k: v for k, v in vars(module).items() if k not in _MODULE_STATE}
        own.pop("n_components", None)
        structure.append((name, type(module), module.training, own))
    for named in (member.named_parameters(), member.named_buffers()):
        for name, tensor in named:
            shape = tuple(tensor.shape)
            if type(member.prior) is MixturePrior and "prior." in name:
                shape = shape[1:]  # the number of Gaussians may differ
            structure.append((name, shape, str(tensor.dtype), tensor.requires_grad))
    return structure
