"""Distributed: several processes train one model, also when one of them is killed."""

# --8<-- [start:imports]
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DistributedSampler

# --8<-- [end:imports]


# --8<-- [start:average]
def average_gradients(model: nn.Module, rows: int) -> None:
    """Turn gradients of this rank's mean into those of the mean over all rows.

    Raises ValueError on all ranks (rows < 0 on one, or no rows at all).
    """
    device = next(model.parameters()).device
    counts = torch.tensor([rows, rows < 0], device=device)
    dist.all_reduce(counts)
    total, negative = counts.tolist()
    if negative or total == 0:
        raise ValueError(f"expected rows >= 0, got {rows} of {total}")
    for p in model.parameters():
        if p.grad is None or rows == 0:  # every rank takes part in every sum
            p.grad = torch.zeros_like(p)
        p.grad *= rows / total
        dist.all_reduce(p.grad)
# --8<-- [end:average]


# --8<-- [start:ring]
def ring_all_reduce(x: Tensor) -> int:
    """Sum x over the ranks in place; return how many numbers this one sent.

    Raises ValueError (x is not contiguous).
    """
    if not x.is_contiguous():
        raise ValueError(f"expected a contiguous tensor, got {x.stride()}")
    rank, world, sent = dist.get_rank(), dist.get_world_size(), 0
    chunks = x.view(-1).tensor_split(world)
    for step in range(2 * (world - 1)):
        give = chunks[(rank - step) % world]
        take = chunks[(rank - step - 1) % world]
        received = torch.empty_like(take)
        pair = [dist.P2POp(dist.isend, give, (rank + 1) % world),
                dist.P2POp(dist.irecv, received, (rank - 1) % world)]
        for work in dist.batch_isend_irecv(pair):
            work.wait()
        take.copy_(take + received if step < world - 1 else received)
        sent += give.numel()
    return sent
# --8<-- [end:ring]


# --8<-- [start:start]
def start() -> torch.device:
    """Join the launcher's group, or be alone; return the device."""
    here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    device, options = torch.device("cpu"), {}
    if dist.is_nccl_available() and torch.cuda.device_count() >= here:
        local = int(os.environ.get("LOCAL_RANK", 0))
        torch.accelerator.set_device_index(local)
        device = torch.device(torch.accelerator.current_accelerator().type)
    if "RANK" not in os.environ:
        options = {"store": dist.HashStore(), "rank": 0, "world_size": 1}
    backend = dist.get_default_backend_for_device(device)
    dist.init_process_group(backend, timeout=timedelta(seconds=60), **options)
    return device
# --8<-- [end:start]


# --8<-- [start:save]
def save(file: Path, step: int, **parts) -> None:
    """Write the states of the parts, all or nothing."""
    state = {name: part.state_dict() for name, part in parts.items()}
    torch.save(state | {"step": step}, file.with_suffix(".new"))
    os.replace(file.with_suffix(".new"), file)


def load(file: Path, **parts) -> int:
    """Load the states into the parts; return the step, 0 without a file."""
    if not file.exists():
        return 0
    state = torch.load(file, map_location="cpu")
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return state["step"]
# --8<-- [end:save]


# --8<-- [start:begin]
def begin(device: torch.device) -> tuple:
    """Return rows (256, 8), targets (256, 1), model and optimizer."""
    torch.manual_seed(0)
    x = torch.randn(256, 8, dtype=torch.float64).to(device)
    y = x.prod(dim=1, keepdim=True).tanh()
    model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1)).to(x)
    sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return x, y, model, sgd
# --8<-- [end:begin]


# --8<-- [start:train]
def train(folder: Path, device: torch.device, steps: int = 24,
          batch: int = 32, after: Callable = lambda step: None) -> dict:
    """Train, from folder/last.pt if it is there; return the weights.

    All ranks together take a batch a step; after(step) follows it. Raises
    ValueError (batch does not divide 256, or has no equal shares).
    """
    rank, world = dist.get_rank(), dist.get_world_size()
    if batch < 1 or 256 % batch or batch % world:
        raise ValueError(f"no share of {batch} of 256 for {world} ranks")
    x, y, model, sgd = begin(device)
    first = load(folder / "last.pt", model=model, sgd=sgd) + 1
    ddp = DistributedDataParallel(model)
    sampler = DistributedSampler(range(256), world, rank, seed=0)
    share = batch // world
    for step in range(first, steps + 1):
        epoch, turn = divmod(step - 1, 256 // batch)
        sampler.set_epoch(epoch)
        mine = list(sampler)[turn * share:][:share]
        sgd.zero_grad()
        nn.functional.mse_loss(ddp(x[mine]), y[mine]).backward()
        sgd.step()
        if rank == 0 and step % 3 == 0:
            save(folder / "last.pt", step, model=model, sgd=sgd)
        after(step)
    return model.state_dict()
# --8<-- [end:train]


# --8<-- [start:work]
def work(folder: Path, kill_at: int = 0) -> None:
    """What each process does: train, then rank 0 leaves the weights in folder.

    Without a checkpoint in folder, rank 1 dies of SIGKILL after kill_at steps.
    """
    device, last = start(), folder / "last.pt"
    folder.mkdir(parents=True, exist_ok=True)
    rank, world = dist.get_rank(), dist.get_world_size()
    begun = torch.load(last)["step"] if last.exists() else 0

    def after(step: int) -> None:
        if (begun, rank, step) == (0, 1, kill_at):
            os.kill(os.getpid(), signal.SIGKILL)

    weights = train(folder, device, after=after)
    if rank == 0:
        torch.save(weights, folder / f"weights-{world}.pt")
        print(f"world size {world}, begun after step {begun}", flush=True)
    dist.destroy_process_group()
# --8<-- [end:work]


def main() -> None:
    """Train alone and in two processes, one of which is killed; compare the weights."""
    with tempfile.TemporaryDirectory() as name:
        work(Path(name))
        Path(name, "last.pt").unlink()  # the two begin anew
        options = ["--standalone", "--nproc-per-node=2", "--max-restarts=3", "-m", __spec__.name, name]
        own_store = os.environ | {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
        command = [sys.executable, "-m", "torch.distributed.run", *options]
        print(subprocess.check_output(command, env=own_store, text=True, timeout=200), end="")
        one, two = (torch.load(Path(name, f"weights-{n}.pt"), map_location="cpu") for n in (1, 2))
        print("equal to 1e-12:", all(torch.allclose(one[key], two[key], 0, 1e-12) for key in one))


if __name__ == "__main__":
    if "RANK" in os.environ:
        work(Path(sys.argv[1]), kill_at=13)
    else:
        main()
