"""Checkpoints: a run in one file, whole after a kill, refused if bad."""

# --8<-- [start:imports]
import io
import os
import random
import time
import warnings
from copy import deepcopy
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

Device = str | torch.device
# --8<-- [end:imports]


# --8<-- [start:rng]
def rng_state() -> dict:
    """States of the global generators, as tensors and plain values.

    Those of Python, NumPy, torch, and of the current accelerator.
    """
    name, keys, *rest = np.random.get_state()
    state = {"python": random.getstate(), "torch": torch.get_rng_state(),
             "numpy": (name, keys.tolist(), *rest)}
    if gpu := torch.accelerator.current_accelerator(check_available=True):
        state[gpu.type] = torch.get_device_module(gpu).get_rng_state()
    return state


def set_rng_state(state: dict) -> None:
    """Set the generators that state names; leave others as they are."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"].cpu())
    gpu = torch.accelerator.current_accelerator(check_available=True)
    if gpu and gpu.type in state:
        torch.get_device_module(gpu).set_rng_state(state[gpu.type].cpu())
# --8<-- [end:rng]


# --8<-- [start:capture]
def capture(**parts: Any) -> dict:
    """Copy the state_dict() of each part, and the generators' as rng."""
    states = {name: part.state_dict() for name, part in parts.items()}
    return dict(**deepcopy(states), rng=rng_state())


def restore(state: dict, **parts: Any) -> None:
    """Give the parts and the generators copies of their states back.

    Raises ValueError unless state is of these parts and no others.
    """
    if (got := sorted(state)) != (want := sorted({"rng", *parts})):
        raise ValueError(f"expected the state of {want}, got {got}")
    for name, part in parts.items():
        part.load_state_dict(deepcopy(state[name]))
    set_rng_state(state["rng"])
# --8<-- [end:capture]


# --8<-- [start:encode]
def load_plain(data: bytes, map_location: Device) -> Any:
    """Load tensors and plain values; ValueError names anything else."""
    find = torch.serialization.get_unsafe_globals_in_checkpoint
    if names := sorted(find(io.BytesIO(data))):
        raise ValueError(f"not plain values: {', '.join(names)}")
    return torch.load(io.BytesIO(data), map_location, weights_only=True)


def encode(step: int, state: dict) -> tuple[str, bytes]:
    """Name and bytes of a file; an error if they could not be loaded."""
    file = io.BytesIO()
    torch.save({"format": 1, "step": step, "state": {**state}}, file)
    data = file.getvalue()
    load_plain(data, "meta")  # all but the numbers
    return f"step-{step:08}-{sha256(data).hexdigest()[:16]}.pt", data
# --8<-- [end:encode]


# --8<-- [start:decode]
def decode(name: str, data: bytes, map_location: Device) -> dict:
    """State in the bytes of a file; an error unless they are good."""
    if b"/data.pkl" not in data[30:290]:  # the first name in a zip
        raise ValueError(f"not of torch.save, it starts with {data[:4]!r}")
    if data[-22:-18] != b"PK\5\6":  # in the record that ends a zip
        raise ValueError("cut off, its end is missing")
    if sha256(data).hexdigest()[:16] not in name:
        raise ValueError("damaged, its digest is not that in its name")
    content = load_plain(data, map_location)
    form = content.get("format") if isinstance(content, dict) else None
    if form != 1:
        raise ValueError(f"expected format 1, got {form!r}")
    return content["state"]
# --8<-- [end:decode]


# --8<-- [start:write]
def write_atomic(path: Path, data: bytes) -> None:
    """Let path hold all of data, or what it held. Raises OSError."""
    temporary = path.parent / f".new-{time.time_ns()}-{os.urandom(8).hex()}"
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()  # from this process to the system
            os.fsync(file.fileno())  # from the system to the disk
        os.replace(temporary, path)  # at once: the old or the new
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)  # the name as well
    os.close(folder)
# --8<-- [end:write]


# --8<-- [start:checkpoints]
class CheckpointError(ValueError):
    """A checkpoint that cannot be written, or must not be used."""


class Checkpoints:
    """The last checkpoints of a run, in a folder of its own.

    Raises ValueError for keep < 1, FileExistsError if folder is a file.
    """

    def __init__(self, folder: str | Path, keep: int = 3):
        if type(keep) is not int or keep < 1:
            raise ValueError(f"expected an int >= 1 as keep, got {keep!r}")
        self.folder, self.keep = Path(folder), keep
        self.start = f".new-{time.time_ns()}"
        self.folder.mkdir(parents=True, exist_ok=True)

    def files(self) -> list[Path]:
        """Return the files named as checkpoints, the newest first."""
        pattern = f"step-{'[0-9]' * 8}-{'[0-9a-f]' * 16}.pt"
        return sorted(self.folder.glob(pattern), reverse=True)

    def save(self, step: int, state: dict) -> Path:
        """Write a file, remove old ones, return the path of the new.

        Raises ValueError (step is no int of up to 8 digits) and
        CheckpointError (state could not be loaded again, disk full).
        """
        if type(step) is not int or not 0 <= step < 10**8:
            raise ValueError(f"expected 0 <= step < 10**8, got {step!r}")
        try:
            name, data = encode(step, state)
            old = self.replaced_by(name)
            write_atomic(self.folder / name, data)
            for file in old:
                file.unlink(missing_ok=True)
        except Exception as error:
            raise CheckpointError(f"step {step} not saved: {error}") from error
        return self.folder / name

    def replaced_by(self, name: str) -> list[Path]:
        """Files to remove once name is there, kills' leftovers included.

        Of the files up to its step, it and keep - 1 older ones stay.
        """
        step, files, here = name[:13], self.files(), self.folder
        old = [f for f in files if f.name[:13] < step][self.keep - 1:]
        old += [f for f in files if f.name[:13] == step and f.name != name]
        return old + [f for f in here.glob(".new-*") if f.name < self.start]

    def load(self, path: str | Path, map_location: Device = "cpu") -> dict:
        """Return the state in path, or raise a CheckpointError."""
        try:
            return decode(str(path), Path(path).read_bytes(), map_location)
        except Exception as error:
            raise CheckpointError(f"{Path(path).name}: {error}") from error

    def latest(self, map_location: Device = "cpu") -> tuple[int, dict] | None:
        """Return step and state of the newest good file, None without files.

        Warns of bad ones. Raises CheckpointError if there are no others.
        """
        for file in (files := self.files()):
            try:
                return int(file.name[5:13]), self.load(file, map_location)
            except CheckpointError as error:
                warnings.warn(f"passed over {error}", stacklevel=2)
        if files:
            raise CheckpointError(f"no good checkpoint in {self.folder}")
        return None
# --8<-- [end:checkpoints]


def main() -> None:
    """Save four times, and find the newest."""
    with TemporaryDirectory() as folder:
        run = Checkpoints(folder, keep=2)
        print([run.save(n, {}).name[:13] for n in range(4)], run.latest())


if __name__ == "__main__":
    main()
