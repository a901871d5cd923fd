"""Two processes share what there is: the sum over both, or how the backend refuses. For gpu_first_run.sh.

torchrun --standalone --nproc_per_node 2 benchmarks/two_ranks.py
"""

import torch
from torch import distributed as dist

device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
total = torch.ones(1, device=device)
try:
    dist.all_reduce(total)
    print(f"rank {dist.get_rank()} on {device}: the sum over both is {total.item():g}")
except RuntimeError as error:
    print(f"rank {dist.get_rank()} on {device}: refused: {error}")
finally:
    dist.destroy_process_group()
