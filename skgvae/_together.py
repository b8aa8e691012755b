"""Fits that know nothing of each other, trained as one.

Each fit runs in a thread of its own, of which only one is awake at a time. When it comes to
train its net it stops there; once all have come that far, nets that are alike are trained in
one stack, and each fit goes on with its own part of it.
"""

import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import joblib
import torch
from threadpoolctl import ThreadpoolController

from ._batches import RowDataset
from ._shared_stack import Training, train_together
from .net import GaussianVAENet

# Bytes that waiting calls may hold together.
MAX_HELD_BYTES = 2**30

_here = threading.local()


def train_among_others(
    net: GaussianVAENet,
    train: Sequence[RowDataset],
    valid: Sequence[RowDataset | None],
    alone: Callable[[], object],
) -> None:
    """Train a net: in a call made by :func:`run_together` with others, else alone.

    Parameters
    ----------
    net, train, valid, alone
        As for :class:`Training`.
    """
    call = getattr(_here, "call", None)
    if call is None:
        alone()
    else:
        call.wait_for(Training(net, train, valid, alone))


@contextmanager
def computing_once() -> Iterator[None]:
    """Let :func:`compute_once` remember, until the end if no call of others does so already."""
    is_outermost = getattr(_here, "computed", None) is None
    if is_outermost:
        _here.computed = {}
    try:
        yield
    finally:
        if is_outermost:
            del _here.computed


def compute_once(function: Callable, *args, **params):
    """Return what a function returns, computed once for equal arguments.

    That is within :func:`computing_once`, as for several starts on the same rows, and for calls
    that wait together, as fits of one fold with several KL weights do.
    """
    computed = getattr(_here, "computed", None)
    if computed is None:
        return function(*args, **params)
    key = function, joblib.hash((args, params))
    if key not in computed:
        computed[key] = function(*args, **params)
    return computed[key]


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
        Called in this order, so many at a time that what they hold fits into ``MAX_HELD_BYTES``.
    """
    results, wave = [], _Wave()
    try:
        with warnings.catch_warnings():  # each call restores those that it found: in any order
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
        if self.size > MAX_HELD_BYTES:
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
        if self.training is not None:
            self.join()

    def run(self):
        _here.call, _here.computed, function = self, self.computed, self.function
        del self.function  # which holds the estimator
        torch.get_num_threads()  # torch sets the number at its first use in a thread
        try:
            with _one_openmp_thread():
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


@contextmanager
def _one_openmp_thread():
    # Each thread would have a team of its own, which stays for as long as it waits. The limit is
    # no `with` block: of threads that wait in one only the first could limit BLAS.
    limits = ThreadpoolController().select(user_api="openmp").limit(limits=1)
    try:
        yield
    finally:
        limits.restore_original_limits()


def drain(items: list) -> Iterator:
    """Yield the items of a list and drop them: what they hold is free once it is used."""
    while items:
        yield items.pop(0)
