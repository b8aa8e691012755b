"""Seconds per epoch on CUDA: a part of speed.py.

Ours is timed from the second epoch on, by its own callbacks: the start of a fit is the same on
every device. The captured graph replays the whole step, with the next rows copied to a fixed
place: what is left is what the device needs.
"""

import statistics
import time
from itertools import pairwise

import torch
from skorch.callbacks import Callback
from speed_peers import ADAMW, DRAWS, Setting, data, n_training_rows, new_module, ours

from skgvae.objectives import NegativeBound

EPOCHS = 4


class EpochSeconds(Callback):
    """Record when epochs begin; the device has then done all its work."""

    def __init__(self):
        self.times = []

    def on_epoch_begin(self, net, **kwargs):
        """Wait for the device and record the time."""
        torch.cuda.synchronize()
        self.times.append(time.perf_counter())

    def on_train_end(self, net, **kwargs):
        """Record the end of the last epoch."""
        self.on_epoch_begin(net)

    def median(self):
        """Return the median of the seconds per epoch, without the first."""
        return statistics.median(b - a for a, b in pairwise(self.times[1:]))


def ours_seconds(X, setting):
    clock = EpochSeconds()
    ours(X, setting, net_params={"callbacks": [clock], **ADAMW})  # as in the others
    return clock.median()


def make_step(X, setting, capturable):
    """Return rows on the device, and a function that trains on a batch of them."""
    x = torch.from_numpy(X[: n_training_rows(X)]).to(setting.device)
    vae, loss = new_module(X, setting), NegativeBound(setting.bound)
    optimizer = torch.optim.AdamW(
        vae.parameters(), lr=5e-3, weight_decay=0.0, fused=True, capturable=capturable
    )

    def step(batch):
        eps = torch.randn(setting.draws, len(batch), setting.n_components, device=x.device)
        optimizer.zero_grad()
        loss(vae, batch, batch, eps).loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 10.0)
        optimizer.step()

    return x, step


def epoch_seconds(x, setting, step):
    """Return the median of the seconds per epoch, without the first."""
    clock = EpochSeconds()
    for _ in range(setting.epochs):
        clock.on_epoch_begin(None)
        for rows in torch.randperm(len(x), device=x.device).split(setting.batch_size):
            step(x[rows])
    clock.on_train_end(None)
    return clock.median()


def loop_seconds(X, setting):
    x, step = make_step(X, setting, capturable=False)
    return epoch_seconds(x, setting, step)


def graph_seconds(X, setting):
    x, step = make_step(X, setting, capturable=True)
    static = x[: setting.batch_size].clone()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # a capture wants some steps before it, on another stream
        for _ in range(3):
            step(static)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(static)

    def replay(batch):
        if len(batch) == len(static):  # the last one of an epoch is shorter: left out
            static.copy_(batch)
            graph.replay()

    return epoch_seconds(x, setting, replay)


def main(small=False):
    if not torch.cuda.is_available():
        print("There is no CUDA device: not run.")
        return
    X = data(20_000 if small else 1_000_000, 64)
    print(f"{torch.cuda.get_device_name()}, {len(X)} × 64, {DRAWS} draws\n")
    print("| batch | ours, s per epoch | loop | captured graph | ours / loop | ours / graph |")
    print("|---|---|---|---|---|---|")
    for batch_size in (256, 1024, 8192):
        setting = Setting(EPOCHS, batch_size, device="cuda")
        functions = ours_seconds, loop_seconds, graph_seconds
        mine, loop, graph = (function(X, setting) for function in functions)
        print(f"| {batch_size} | {mine:.3f} | {loop:.3f} | {graph:.3f} | {mine / loop:.2f} "
              f"| {mine / graph:.2f} |", flush=True)  # fmt: skip
