"""Threads and forked processes: what holds for the whole process, set in one place."""

import os
import threading
import warnings
from contextlib import contextmanager
from functools import cache

import torch
from sklearn import config_context
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import ThreadpoolController, threadpool_limits

from ._random import SEEDING
from .nn.geometry import FORWARD_MODE

_fitting = threading.Lock()
COPYING = threading.Lock()  # of modules, see _answers.py


@contextmanager
def quiet_classical_fit():
    """Fit one of scikit-learn's models on one BLAS thread, without its ConvergenceWarning.

    Such a fit is many small products, on which threads wait for each other longer than they
    share the work. Limits of BLAS and filters of warnings belong to the whole process, and two
    threads that set and restore them side by side would leave the wrong ones behind: so one
    thread is in here at a time.
    """
    with (
        _fitting,
        threadpool_limits(limits=1, user_api="blas"),
        warnings.catch_warnings(),
        config_context(array_api_dispatch=False),  # it is given numpy rows
    ):
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


@cache
def _openmp():
    return ThreadpoolController().select(user_api="openmp")


def limit_openmp():
    """Let this thread work alone; return what undoes it. The first call takes long."""
    torch.get_num_threads()  # torch sets the number at its first use in a thread
    return _openmp().limit(limits=1)


@contextmanager
def one_openmp_thread():
    """Let this thread work alone for a while.

    It is no ``with`` block of threadpoolctl: that restores BLAS too, as it was when the block
    began, and another thread may have limited it then.
    """
    limits = limit_openmp()
    try:
        yield
    finally:
        limits.restore_original_limits()


def _after_fork_in_child():
    # torch's pool of threads does not survive a fork: a child that waits for it hangs. Nor does
    # the thread of the parent that may have held a lock.
    for lock in (_fitting, COPYING, SEEDING, FORWARD_MODE):
        lock._at_fork_reinit()
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
