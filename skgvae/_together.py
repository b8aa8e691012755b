"""Fits that know nothing of each other, trained as one.

Each fit runs in a thread of its own, of which only one is awake at a time. When it comes to
train its net it stops there; once all have come that far, nets that are alike are trained in
one stack, and each fit goes on with its own part of it.
"""

import copy
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cached_property

import joblib
import numpy as np
import torch
from skorch.helper import predefined_split

from ._rows import StackedRows, count_batches
from ._threads import one_openmp_thread
from .net import GaussianVAENet
from .nn.prior import with_equal_priors

# Bytes that waiting calls may hold together, and that a step of one stack may take.
MAX_BYTES = 2**30
# float32: a weight, its gradient, the optimizer's two moments, the best epoch's, the average, a
# copy while that takes its place, the net's own.
_BYTES_PER_WEIGHT = 8 * 4
# Of a row: in float64, in float32, and in the stack.
_BYTES_PER_NUMBER = 8 + 4 + 4
# Parameters that may differ between trainings of one stack, one for each model.
_OF_EACH = "criterion__kl_weight", "criterion__penalty"
# Those that training does not use, or that follow from the rows.
_OTHERS = "module", "seed", "train_split", "batch_size", "classes", "n_draws", "draws_seed"
# With these a row's loss depends on what else is in its batch.
_RELATIVE_TO_BATCH = "criterion__mean_power", "criterion__pseudo_weight"

_here = threading.local()


def train_among_others(
    net: GaussianVAENet,
    rows: StackedRows,
    valid: StackedRows | None,
    alone: Callable[[], object],
    may_join: bool,
) -> None:
    """Train a net: in a call made by :func:`run_together` with others, else alone.

    Parameters
    ----------
    net, rows, valid, alone, may_join
        As for :class:`Training`.
    """
    call = getattr(_here, "call", None)
    if call is None:
        alone()
    else:
        call.wait_for(Training(net, rows, valid, alone, may_join))


def compute_once(function: Callable, *args, **params):
    """Return what a function returns, computed once for equal arguments.

    That is in calls that wait together, as fits of one fold with several KL weights do.
    """
    computed = getattr(_here, "computed", None)
    if computed is None:
        return function(*args, **params)
    key = function, joblib.hash((args, params))
    if key not in computed:
        computed[key] = function(*args, **params)
    return computed[key]


class Training:
    """A net that waits for its training.

    Parameters
    ----------
    net : GaussianVAENet
        Initialised.
    rows, valid : StackedRows
        Training and validation rows of its modules; None where there are none.
    alone : callable
        Trains the net without others.
    may_join : bool
        Whether it may be trained with others: not if its modules might draw numbers, as those of
        a user, and not if its optimizer is to go on later.
    """

    def __init__(self, net, rows, valid, alone, may_join):
        self.net, self.rows, self.valid, self.alone = net, rows, valid, alone
        self.may_join = may_join
        self.seconds = 0.0
        self.error = None

    @cached_property
    def kind(self) -> str | None:
        """What trainings of one stack have in common; None if it can have no other."""
        net = self.net
        if not self.may_join or net.callbacks_ or len(net.history):
            return None
        params = net.get_params(deep=False)
        is_relative = any(params.get(name) for name in _RELATIVE_TO_BATCH)
        n_batches = count_batches(self.rows, net.batch_size)
        length = n_batches, tuple(self.rows.counts) if is_relative else None
        n_valid = None if self.valid is None else len(self.valid)
        for name in (*_OTHERS, *_OF_EACH):
            params.pop(name, None)
        member = net.stack_.members[0]
        named = (*member.named_parameters(), *member.named_buffers())
        # Members of a mixture prior may differ in their number of Gaussians.
        shapes = [
            (name, tuple(t.shape[1:] if "prior." in name else t.shape), t.requires_grad)
            for name, t in named
        ]
        parts = [
            (name, type(part), None if name.endswith("prior") else part.extra_repr())
            for name, part in member.named_modules()
        ]
        try:
            return joblib.hash((parts, shapes, len(net.stack_), params, length, n_valid))
        except Exception:  # what cannot be pickled cannot be compared
            return None

    @property
    def held_bytes(self) -> int:
        """Memory that it takes from its start to its end."""
        table = {id(part): part.numel() for part in self.rows._table[:2]}
        n_weights = self.net.stack_.weights.numel()
        return sum(table.values()) * _BYTES_PER_NUMBER + n_weights * _BYTES_PER_WEIGHT

    @property
    def step_bytes(self) -> int:
        """Memory that a step of its training takes, about.

        A unit of a layer holds 16 bytes for each row and draw: what it is before and after its
        activation, both with a gradient. With 16 inputs that is a byte for each of its weights.
        """
        n_rows = min(self.net.batch_size, len(self.rows)) * self.net.criterion_.n_draws
        return n_rows * self.net.stack_.weights.numel()


def train_together(trainings: list[Training]) -> None:
    """Train all nets: those of one kind in stacks whose steps fit into ``MAX_BYTES``."""
    kinds = {}
    for training in trainings:
        kinds.setdefault(training.kind or id(training), []).append(training)
    for group in kinds.values():
        n_at_once = max(1, MAX_BYTES // max(training.step_bytes for training in group))
        for i in range(0, len(group), n_at_once):
            part, start = group[i : i + n_at_once], time.perf_counter()
            _train_alike(part)
            for training in part:
                training.seconds = (time.perf_counter() - start) / len(part)


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
        except Exception as error:
            training.error = error
        if training.net.result_ is not None and training.net.result_.interrupt is not None:
            raise training.net.result_.interrupt  # it ends the whole search


def _train_as_one(trainings):
    first = trainings[0].net
    params = first.get_params(deep=False)
    modules = [copy.deepcopy(m) for t in trainings for m in t.net.stack_.members]
    params["module"] = with_equal_priors(modules)
    params["seed"] = [seed for training in trainings for seed in training.net.seed]
    params["n_groups"] = len(trainings)
    for name in set(_OF_EACH) & set(params):
        params[name] = _for_each_module(trainings, [getattr(t.net, name) for t in trainings])
    rows = StackedRows.joined([training.rows for training in trainings])
    # As many batches as each has alone.
    n_batches = count_batches(trainings[0].rows, first.batch_size)
    params["batch_size"] = -(-len(rows) // n_batches)
    if count_batches(rows, params["batch_size"]) != n_batches:
        raise ValueError("No batch size gives all of them their number of batches.")
    if trainings[0].valid is not None:
        valid = StackedRows.joined([training.valid for training in trainings])
        params["train_split"] = predefined_split(valid)
    net = type(first)(**params).initialize()
    net.partial_fit(rows)
    if net.result_ is None:  # interrupted before the first step, of which skorch says nothing
        raise KeyboardInterrupt
    if net.result_.interrupt is not None:
        raise net.result_.interrupt  # it ends the whole search
    n_alike = len(first.stack_)
    for i, training in enumerate(trainings):
        _take_part(training.net, net, i, slice(i * n_alike, (i + 1) * n_alike))


def _for_each_module(trainings, values):
    """Return the values of the trainings as one, if they are equal, or of shape (M, 1)."""
    if len(set(values)) == 1:
        return values[0]
    net = trainings[0].net
    values = torch.tensor(values, dtype=torch.float32, device=net.device)
    return values.repeat_interleave(len(net.stack_)).unsqueeze(1)


@torch.no_grad()
def _take_part(own, net, i, part):
    """Leave a net as if it had been trained without the others in a common one."""
    for member, trained in zip(own.stack_.members, net.stack_.members[part], strict=True):
        named = dict(trained.named_parameters()) | dict(trained.named_buffers())
        for name, tensor in (*member.named_parameters(), *member.named_buffers()):
            without_padding = tuple(map(slice, tensor.shape))  # of Gaussians in the prior
            tensor.copy_(named[name][without_padding])
    own.stack_.pull_()
    ends = net.result_.last_epochs[i]
    records = net.result_.records[:ends]
    own.result_ = replace(
        net.result_,
        records=[{name: values[part] for name, values in record.items()} for record in records],
        best_epochs=net.result_.best_epochs[i : i + 1],
        best_losses=net.result_.best_losses[i : i + 1],
        last_epochs=np.array([ends]),
    )
    for record in own.result_.records:
        own.history.new_epoch()
        own.history.record("epoch", len(own.history))
        own.record(record)


def idle_seconds() -> float:
    """Return how long this call of :func:`run_together` has waited for others.

    Of a common training it counts an equal share as its own.
    """
    return _here.call.idle


def run_together(calls: Iterable[Callable[[], object]]) -> list:
    """Return what the calls return; nets that they train are trained together.

    Results are those of one call after the other, up to rounding. The first exception ends all.

    Parameters
    ----------
    calls : iterable of callable
        Called in this order, so many at a time that what they hold fits into ``MAX_BYTES``.
    """
    results, wave = [], _Wave()
    with warnings.catch_warnings():  # each call restores those that it found: in any order
        try:
            for function in calls:
                call = _Call(function, wave.computed)
                results.append(call)
                wave.add(call)
            wave.finish()
        finally:
            wave.abandon()
    return [call.result for call in results]


class _Wave:
    """Calls that wait for their training."""

    def __init__(self):
        self.waiting, self.size, self.computed = [], 0, {}

    def add(self, call):
        """Run a call as far as it comes."""
        self.waiting.append(call)
        call.proceed()
        while call.training is not None and call.training.kind is None:
            train_together([call.training])
            call.proceed()
        if call.training is None:
            self.waiting.remove(call)
            return
        self.size += call.training.held_bytes
        if self.size > MAX_BYTES:
            self.finish()

    def finish(self):
        """Train until no call waits."""
        while self.waiting:
            train_together([call.training for call in self.waiting])
            for call in list(self.waiting):
                call.proceed()
                if call.training is None:
                    self.waiting.remove(call)
        self.size = 0
        self.computed.clear()

    def abandon(self):
        """End the calls that still wait."""
        for call in self.waiting:
            call.abandon()


class _Abandoned(BaseException):
    """Ends a call whose result nobody wants."""


class _Call(threading.Thread):
    """A call that stops wherever it has to train a net."""

    def __init__(self, function, computed):
        super().__init__(daemon=True)
        self.function, self.computed = function, computed
        self.training = self.result = self.error = None
        self.idle = 0.0
        self._is_abandoned = False
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)

    def proceed(self):
        """Run, seen from outside, to the next training or to the end."""
        self.training = None
        if self.ident is None:
            self.start()
        else:
            self._go.release()
        self._stopped.acquire()
        if self.training is None:
            self.join()
        if self.error is not None:
            raise self.error

    def abandon(self):
        """End at the training that it waits for, or comes to."""
        self._is_abandoned = True
        self._go.release()
        if self.is_alive():  # it may run while this one is interrupted
            self.join()

    def run(self):
        _here.call, _here.computed, function = self, self.computed, self.function
        del self.function  # which holds the estimator
        try:
            with one_openmp_thread():  # each thread would have a team, which stays while it waits
                self.result = function()
        except BaseException as error:
            self.error = error
        finally:
            del _here.call, _here.computed
            self._stopped.release()

    def wait_for(self, training):
        """Stop, seen from inside, until a net is trained."""
        start = time.perf_counter()
        self.training = training
        self._stopped.release()
        self._go.acquire()
        if self._is_abandoned:
            raise _Abandoned
        self.idle += time.perf_counter() - start - training.seconds
        if training.error is not None:
            raise training.error


def drain(items: list) -> Iterator:
    """Yield the items of a list and drop them: what they hold is free once it is used."""
    while items:
        yield items.pop(0)
