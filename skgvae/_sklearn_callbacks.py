"""scikit-learn's own callbacks (``sklearn.callback``, from 1.9), told of every epoch."""

from skorch.callbacks import Callback

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:  # scikit-learn < 1.9

    class CallbackSupportMixin:
        """Stands in where scikit-learn has no callbacks."""

    def with_callbacks(method):
        """Return the method as it is."""
        return method


__all__ = ["CallbackSupportMixin", "SklearnCallbacks", "with_callbacks"]


class SklearnCallbacks(Callback):
    """Pass skorch's events to the callbacks set on an estimator by ``set_callbacks``.

    Parameters
    ----------
    estimator : estimator
        The estimator being fitted, its ``net_`` set.
    n_epochs : int
        How many there will be, at most.
    X, y : array-like
        Its training rows and targets, in the user's units.
    """

    def __init__(self, estimator, n_epochs, X, y=None):
        self.estimator = estimator
        self.n_epochs = n_epochs
        self.X = X
        self.y = y

    def on_train_begin(self, net, **kwargs):
        self.context_ = self.estimator._init_callback_context(max_subtasks=self.n_epochs)
        self._tell(self.context_.call_on_fit_task_begin)

    def on_epoch_begin(self, net, **kwargs):
        self.epoch_context_ = self.context_.subcontext(task_name="epoch")
        self._tell(self.epoch_context_.call_on_fit_task_begin)

    def on_epoch_end(self, net, **kwargs):
        if self._tell(self.epoch_context_.call_on_fit_task_end):
            net.stop_training_ = True

    def on_train_end(self, net, **kwargs):
        self._tell(self.context_.call_on_fit_task_end)

    def _tell(self, hook):
        return hook(estimator=self.estimator, X=self.X, y=self.y, reconstruction_attributes={})
