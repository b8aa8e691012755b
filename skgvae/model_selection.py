"""scikit-learn's searches, in which models of one structure are trained together."""

from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import chain
from numbers import Real

from joblib import effective_n_jobs, parallel_config
from joblib.parallel import ParallelBackendBase
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV
from sklearn.utils import gen_even_slices
from sklearn.utils.parallel import Parallel, delayed

from ._base import BaseGaussianVAE
from ._fit import DOC_LINK
from ._together import drain, idle_seconds, run_together

__all__ = ["StackedGridSearchCV", "StackedRandomizedSearchCV"]

_ALL = 10**5  # joblib calculates with less than 10**6
_OWN_TO_MODEL = "kl_weight", "min_noise", "random_state", "n_draws"


class StackedGridSearchCV(GridSearchCV):  # numpydoc ignore=PR02
    """Exhaustive search over parameters that trains many candidates at the price of few.

    It is :class:`sklearn.model_selection.GridSearchCV`, with the same parameters, attributes
    and results, up to rounding (see Notes). Only training differs: the networks of all
    candidates and folds that are alike take their steps together. A step of a small network is
    mostly overhead, so a common step costs little more than the step of one network.

    Two fits are alike if all of these are equal:

    - the architecture: the number of models (``n_estimators``), their layers (``n_components``,
      ``hidden_layer_sizes``, ``activation``), the ``noise`` and the kind of ``prior``;
    - the recipe: ``max_epochs``, ``lr``, ``vae_weight`` and all other settings of training, or
      what "auto" makes of them;
    - the number of batches in an epoch, and the number of rows that judge a model;
    - for GaussianVAERegressor, and if some rows have no label, also the number of training rows
      of each model: there the loss of a row depends on the other rows of its batch. The share of
      labels must be the same, too.

    ``kl_weight``, the penalty on the weights of the classifier's head, ``min_noise``,
    ``random_state``, ``n_draws`` and the number of Gaussians in a mixture prior may differ.

    A fit is trained alone if no other is like it. So is a fit with callbacks, a verbose fit, and
    a fit with a network of the user's own (``classifier``, or ``module`` in ``net_params``).
    Estimators of other packages are fitted as ever.

    The estimator may be, or contain, a model of this package, as the last step of a
    :class:`~sklearn.pipeline.Pipeline` does; the other steps are fitted for each candidate and
    fold as ever.

    Parameters
    ----------
    estimator : estimator
        As for GridSearchCV.
    param_grid : dict or list of dict
        As for GridSearchCV.
    scoring : str, callable, list, tuple or dict, default=None
        As for GridSearchCV. By default the estimator's ``score``: a log density in nats for
        GaussianVAE.
    n_jobs : int, default=None
        Number of processes, among which the candidates are shared out such that those that
        are alike stay together. One process trains a whole stack, on as many threads as pay.
    refit : bool, str or callable, default=True
        As for GridSearchCV.
    cv : int, cross-validation generator or iterable, default=None
        As for GridSearchCV.
    verbose : int, default=0
        As for GridSearchCV.
    pre_dispatch : int or str, default="2*n_jobs"
        A number limits how many candidates and folds are trained together; an expression in
        ``n_jobs`` does not.
    error_score : "raise" or numeric, default=nan
        As for GridSearchCV.
    return_train_score : bool, default=False
        As for GridSearchCV.

    See Also
    --------
    StackedRandomizedSearchCV : Search over random draws of the parameters.
    sklearn.model_selection.GridSearchCV : The same search, one fit after the other.

    Notes
    -----
    Memory is bounded: fits start, one after the other, until what they hold (rows, weights,
    the state of the optimizer) is more than 1 GiB; then these are trained, scored and
    forgotten before more start. A stack whose step would take more than 1 GiB is trained in
    parts. This changes results by rounding alone.

    Sums in a stack are rounded differently. After a few epochs scores agree to six digits, or to
    four if columns nearly determine each other. Longer training amplifies the difference, as it
    amplifies a change of the data by 1e-7: after many epochs scores may differ in the second
    digit after the point, or in the first.

    An interrupt ends the whole search.

    ``cv_results_["mean_fit_time"]`` is the time of a fit's own preparation and an equal share
    of the common training.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.model_selection import KFold
    >>> from skgvae import GaussianVAE
    >>> from skgvae.model_selection import StackedGridSearchCV
    >>> X, _ = load_iris(return_X_y=True)
    >>> grid = {"n_components": [1, 2], "kl_weight": [0.5, 1.0, 2.0]}
    >>> vae = GaussianVAE(max_epochs=5, random_state=0)
    >>> folds = KFold(3, shuffle=True, random_state=0)
    >>> search = StackedGridSearchCV(vae, grid, cv=folds).fit(X)
    >>> search.cv_results_["mean_test_score"].shape
    (6,)
    >>> search.best_params_["n_components"]
    2
    """

    _doc_link_module = "skgvae"
    _doc_link_template = DOC_LINK

    def fit(self, X, y=None, **params):
        """Run fit with all sets of parameters.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training rows.
        y : array-like of shape (n_samples,) or (n_samples, n_targets), default=None
            Targets, where the estimator has any.
        **params : dict
            Parameters of the estimator's ``fit``, of the scorer and of the splitter, as for
            GridSearchCV.

        Returns
        -------
        self : StackedGridSearchCV
            The fitted search.
        """
        with _training_together(self.estimator):
            return super().fit(X, y, **params)


class StackedRandomizedSearchCV(RandomizedSearchCV):  # numpydoc ignore=PR02
    """Search over random draws of parameters that trains many at the price of few.

    It is :class:`sklearn.model_selection.RandomizedSearchCV`, with the same parameters,
    attributes and results, up to rounding; what :class:`StackedGridSearchCV`
    says of training together, of memory and of times holds here too. Draw ``kl_weight``
    freely; let parameters that change the layers have few values.

    Parameters
    ----------
    estimator : estimator
        As for RandomizedSearchCV.
    param_distributions : dict or list of dict
        As for RandomizedSearchCV.
    n_iter : int, default=10
        Number of draws.
    scoring : str, callable, list, tuple or dict, default=None
        As for RandomizedSearchCV. By default the estimator's ``score``: a log density in nats
        for GaussianVAE.
    n_jobs : int, default=None
        Number of processes, among which the candidates are shared out such that those that
        are alike stay together. One process trains a whole stack, on as many threads as pay.
    refit : bool, str or callable, default=True
        As for RandomizedSearchCV.
    cv : int, cross-validation generator or iterable, default=None
        As for RandomizedSearchCV.
    verbose : int, default=0
        As for RandomizedSearchCV.
    pre_dispatch : int or str, default="2*n_jobs"
        A number limits how many candidates and folds are trained together; an expression in
        ``n_jobs`` does not.
    random_state : int, RandomState instance or None, default=None
        Seed of the draws.
    error_score : "raise" or numeric, default=nan
        As for RandomizedSearchCV.
    return_train_score : bool, default=False
        As for RandomizedSearchCV.

    See Also
    --------
    StackedGridSearchCV : Search over all combinations of values.
    sklearn.model_selection.RandomizedSearchCV : The same search, one fit after the other.

    Examples
    --------
    >>> from scipy.stats import loguniform
    >>> from sklearn.datasets import load_iris
    >>> from skgvae import GaussianVAE
    >>> from skgvae.model_selection import StackedRandomizedSearchCV
    >>> X, _ = load_iris(return_X_y=True)
    >>> vae = GaussianVAE(n_components=2, max_epochs=5, random_state=0)
    >>> draws = {"kl_weight": loguniform(0.1, 10)}
    >>> search = StackedRandomizedSearchCV(vae, draws, n_iter=4, cv=3, random_state=0).fit(X)
    >>> len(search.cv_results_["params"])
    4
    """

    _doc_link_module = "skgvae"
    _doc_link_template = DOC_LINK

    def fit(self, X, y=None, **params):
        """Run fit with all sets of parameters.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training rows.
        y : array-like of shape (n_samples,) or (n_samples, n_targets), default=None
            Targets, where the estimator has any.
        **params : dict
            Parameters of the estimator's ``fit``, of the scorer and of the splitter, as for
            RandomizedSearchCV.

        Returns
        -------
        self : StackedRandomizedSearchCV
            The fitted search.
        """
        with _training_together(self.estimator):
            return super().fit(X, y, **params)


def _training_together(estimator):
    """Return a context in which a search of this estimator's parameters trains together."""
    if isinstance(estimator, type):  # the search says what is wrong
        return nullcontext()
    parts = getattr(estimator, "get_params", dict)().values()
    if not any(isinstance(part, BaseGaussianVAE) for part in (estimator, *parts)):
        return nullcontext()
    backend = _StackedBackend()
    context = parallel_config(backend=backend)
    backend.leave_context = context.unregister
    return context


class _StackedBackend(ParallelBackendBase):
    """Collects the tasks of a search, and runs them together.

    joblib's backends are where a search asks how its fits are to be run.
    """

    supports_retrieve_callback = True

    def __init__(self):
        super().__init__(nesting_level=0)
        self.submitted = []

    def configure(self, n_jobs=1, parallel=None, **kwargs):
        # It is for the search alone, not for what runs within it: there others are in force.
        self.leave_context()
        self.n_processes = effective_n_jobs(n_jobs)
        return super().configure(n_jobs, parallel, **kwargs)

    def effective_n_jobs(self, n_jobs):
        return _ALL  # none waits for another to be submitted

    def submit(self, func, callback=None):
        self.submitted.append((func, callback))

    apply_async = submit  # its name in joblib < 1.5

    def retrieve_result_callback(self, out):
        return out

    @contextmanager
    def retrieval_context(self):
        while self.submitted:
            batches, callbacks = map(list, zip(*self.submitted, strict=True))
            self.submitted = []
            for callback, result in zip(callbacks, self._run(batches), strict=True):
                callback(result)
        yield

    def _run(self, batches):
        if self.n_processes == 1:
            return _run_together(batches)
        order = sorted(range(len(batches)), key=lambda i: _sort_key(batches[i]))
        chunks = [order[part] for part in gen_even_slices(len(order), self.n_processes)]
        results = Parallel(n_jobs=self.n_processes)(
            delayed(_run_together)([batches[i] for i in chunk]) for chunk in chunks
        )
        results = dict(zip(order, chain.from_iterable(results), strict=True))
        return [results[i] for i in range(len(batches))]


def _run_together(batches):
    return run_together(partial(_run_batch, batch) for batch in drain(batches))


def _run_batch(batch):
    results = batch()
    for result in results:
        result["fit_time"] -= idle_seconds()
    return results


def _sort_key(batch):
    """Return what brings fits side by side that are alike: a guess, before they start."""
    ((_, _, task),) = batch.items
    shared = {
        name: (0, value, "") if isinstance(value, Real) else (1, 0, repr(value))
        for name, value in task["parameters"].items()
        if name.split("__")[-1] not in _OWN_TO_MODEL
    }
    return sorted(shared.items()), len(task["train"])
