"""Seeds: the one place that reads ``random_state``."""

import threading
from contextlib import contextmanager

import numpy as np
import torch
from sklearn.utils import check_random_state

# All threads share torch's global generator, so only one of them may seed it at a time. That
# thread may do so again before it is done: a callback may fit another classifier.
SEEDING = threading.RLock()


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

    These are the generator of the CPU and that of the device. Threads wait for each other here.
    """
    device = torch.device(device)
    devices = [device] if device.type == "cuda" else []
    with SEEDING, torch.random.fork_rng(devices):
        torch.default_generator.manual_seed(seed)
        for used in devices:
            with torch.cuda.device(used):
                torch.cuda.manual_seed(seed)
        yield
