"""The processes of one run: `torchrun` starts one per GPU, or several on a CPU; or there is one.

All do the same steps on the same data with the same seeds. Each has a part of every batch and of
the users that are evaluated; the first one alone writes. So their number changes the speed only.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist

# Its functions take the group of the moment as a default. Imported later, by a library that needs
# it, they would keep ours, whose threads then die with the interpreter and abort the process.
import torch.distributed.nn
from torch import Tensor

from lsvcr.errors import DataError


@contextmanager
def joined() -> Iterator[None]:
    """Join the other processes while the block runs; alone, it does nothing.

    Raises:
        DataError: If there are GPUs, but not one for each process.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    # Multicast over NVLink needs rights that containers often lack, and our messages are small.
    os.environ.setdefault("NCCL_NVLS_ENABLE", "0")
    gpus, local = torch.cuda.device_count(), int(os.environ["LOCAL_WORLD_SIZE"])
    if 0 < gpus < local:
        raise DataError(
            f"{local} processes were started, but there are {gpus} GPUs: start one for each GPU"
        )
    if gpus:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo")
    yield
    # Not after an error: it would wait for the others, and `torchrun` for it.
    dist.destroy_process_group()


def count() -> int:
    """How many there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which one this is, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_first() -> bool:
    """Whether this is the one that writes and tells."""
    return rank() == 0


def wait_for_all() -> None:
    """Wait until all have come here; what the first one wrote before is then there for all."""
    gather([])


@contextmanager
def first_goes_ahead() -> Iterator[None]:
    """The first process does the block before the others do."""
    if not is_first():
        wait_for_all()
    yield
    if is_first():
        wait_for_all()


def own_part(total: int) -> slice:
    """Which of `total` rows are this process's: as many as the others', or one more or less."""
    return slice(total * rank() // count(), total * (rank() + 1) // count())


def check_shares(setting: str, batch: int) -> None:
    """Raise DataError, naming the setting, if a batch cannot be shared equally."""
    if batch % count():
        raise DataError(
            f"{setting}: a batch of {batch:,} cannot be shared equally by {count()} processes"
        )


def gather(own: list[Any]) -> list[Any]:
    """The lists of all processes, joined in their order."""
    if count() == 1:
        return own
    lists: list[list[Any]] = [[] for _ in range(count())]
    dist.all_gather_object(lists, own)
    return [value for one in lists for value in one]


def add_up(tensors: list[Tensor]) -> None:
    """Replace tensors by their sums over all processes, in one message.

    They are of one type, on the device that trains; a CUDA graph may record it.
    """
    if count() == 1:
        return
    flat_N = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat_N)
    parts = flat_N.split([tensor.numel() for tensor in tensors])
    sums = [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]
    torch._foreach_copy_(tensors, sums)


def take_from_first(tensors: list[Tensor]) -> None:
    """Replace tensors by the first process's."""
    if count() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, 0)
