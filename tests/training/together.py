"""Several processes of one run, as `torchrun` starts them, on the CPU."""

import multiprocessing
import os
import socket
import warnings

import torch.distributed as dist
import torch.multiprocessing

PRELOADED = ["torch", "training.align", "training.fit"]


def run_together(processes, function, *arguments):
    """Call a function in each of some new processes; raises what one of them raised."""
    # forked from a server that has imported torch once
    multiprocessing.set_forkserver_preload(PRELOADED)
    torch.multiprocessing.start_processes(
        _call,
        (processes, _free_port(), function, arguments),
        nprocs=processes,
        start_method="forkserver",
    )


def _call(number, processes, port, function, arguments):
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(number),
        "LOCAL_RANK": str(number),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
    function(*arguments)
    if dist.is_initialized():
        dist.destroy_process_group()


def _free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]
