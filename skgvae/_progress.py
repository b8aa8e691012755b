"""A bar for the progress of a training."""

from skorch.callbacks import Callback


class ProgressBar(Callback):
    """Show one bar for the whole fit, with the monitored loss."""

    def on_train_begin(self, net, X=None, y=None, **kwargs):
        from tqdm.auto import tqdm

        self.bar_ = tqdm(total=net.max_epochs, unit="epoch")

    def on_epoch_begin(self, net, **kwargs):
        self.bar_.total = net.planned_epochs_  # which partial_fit may have been told

    def on_epoch_end(self, net, **kwargs):
        record = net.history[-1]
        name = "valid_loss" if "valid_loss" in record else "train_loss"
        self.bar_.set_postfix({name: f"{record[name]:.4g}"}, refresh=False)
        self.bar_.update()

    def on_train_end(self, net, X=None, y=None, **kwargs):
        self.bar_.close()
        del self.bar_
