"""Seeds: the one place that reads ``random_state``."""

from contextlib import contextmanager

import numpy as np
import torch
from sklearn.utils import check_random_state


def draw_seeds(random_state, n_seeds):
    """Return seeds for what is random, leaving the global generators as they are.

    ``None`` takes fresh entropy, not numpy's global generator: fitting must not move it.
    """
    if random_state is None:
        return [int(s) for s in np.random.SeedSequence().generate_state(n_seeds)]
    high = np.iinfo(np.int32).max
    return check_random_state(random_state).randint(high, size=n_seeds).tolist()


@contextmanager
def torch_seed(seed, device="cpu"):
    """Seed torch's global generators for a while, for code that knows no other.

    That of the CPU, and that of the device: a machine may have more which are not ours.
    """
    device = torch.device(device)
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.default_generator.manual_seed(seed)
        for used in devices:
            with torch.cuda.device(used):
                torch.cuda.manual_seed(seed)
        yield
