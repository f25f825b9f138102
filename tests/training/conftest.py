import torch

torch.set_num_threads(1)  # the tests' models are smaller than a thread pool's overhead
