"""Randomness as a function of (seed, step, purpose): no hidden state, nothing to save, nothing to replay."""

import hashlib

import numpy as np
import torch


def derive(seed: int, step: int, purpose: str) -> int:
    """A 63-bit seed that depends on all three arguments; the same on every machine and every run."""
    digest = hashlib.blake2b(f"{seed}/{step}/{purpose}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(seed: int, step: int, purpose: str) -> np.random.Generator:
    """NumPy generator for one purpose at one step (or sample position)."""
    return np.random.Generator(np.random.PCG64(derive(seed, step, purpose)))


def torch_generator(seed: int, step: int, purpose: str) -> torch.Generator:
    """CPU torch generator for one purpose at one step."""
    return torch.Generator().manual_seed(derive(seed, step, purpose))
