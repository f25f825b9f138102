"""Several processes of one run, as `torchrun` starts them, on the CPU."""

import multiprocessing
import os
import warnings

import torch.multiprocessing

from benchmarks.service_process import free_port
from training import processes

PRELOADED = ["torch", "training.align", "training.fit"]


def run_together(count, function, *arguments):
    """Call a function in each of some new processes; raises what one of them raised."""
    # forked from a server that has imported torch once
    multiprocessing.set_forkserver_preload(PRELOADED)
    torch.multiprocessing.start_processes(
        _call,
        (count, free_port(), function, arguments),
        nprocs=count,
        start_method="forkserver",
    )


def _call(number, count, port, function, arguments):
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(number),
        "LOCAL_RANK": str(number),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
    with processes.joined():
        function(*arguments)
