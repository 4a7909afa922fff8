"""How many images are generated at once: as many as fit into memory."""

from __future__ import annotations

from pathlib import Path

import torch

from image_transformer.likelihoods.base import NUM_VALUES
from image_transformer.model import ImageModel

CONTAINER = Path("/sys/fs/cgroup")
MOST_AT_ONCE = 256  # images; more do not make a step cheaper an image
MEMORY_SHARE = 0.5  # of what is free
TABLES = 6  # of the size of a draw, in float64, are there at once


def images_at_once(model: ImageModel, decoding_bytes: int, drawn: int, by_table: bool) -> int:
    """How many images fit into `MEMORY_SHARE` of the free memory.

    decoding_bytes: what the decoder needs for one. drawn: positions drawn together at most; by_table: whether from
    tables of the masses of all values.
    """
    numbers = NUM_VALUES * model.likelihood.table if by_table else model.likelihood.num_params
    bytes_each = decoding_bytes + drawn * numbers * TABLES * 8
    return max(1, min(MOST_AT_ONCE, int(MEMORY_SHARE * free_memory(model.device) / bytes_each)))


def free_memory(device: torch.device) -> int:
    """Bytes that can be allocated on the device now; 4 GiB where the system does not say."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    try:
        meminfo = Path("/proc/meminfo").read_text()
        free = int(meminfo.split("MemAvailable:")[1].split()[0]) * 1024
    except (OSError, IndexError):
        return 4 * 2**30
    try:  # the limit of a container, whose cache of files makes room when it is needed
        limit, used = (int((CONTAINER / f"memory.{name}").read_text()) for name in ("max", "current"))
        cached = int((CONTAINER / "memory.stat").read_text().split("inactive_file ")[1].split()[0])
        return max(0, min(free, limit - used + cached))
    except (OSError, ValueError, IndexError):
        return free
