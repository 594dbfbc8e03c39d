"""Training as on a machine that rounds in another way: each step of an optimiser leaves each weight up to a millionth of itself off.

By how much, the weight itself decides, so that what has to be equal stays equal: the same run twice, networks side by side and alone.
WEIGHT_NOISE=1e-6 in the environment asks for it, and `make matrix` sets it.
"""
import os

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

SIZE = float(os.environ.get("WEIGHT_NOISE", 0))


@torch.no_grad()
def disturb(optimizer, args, kwargs):
    for group in optimizer.param_groups:
        for weight in group["params"]: weight.mul_(1 + SIZE * torch.sin(1000 * weight))


if SIZE: register_optimizer_step_post_hook(disturb)
