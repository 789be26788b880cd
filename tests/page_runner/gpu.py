"""Says which GPU the pages will run on, and refuses a machine without one: python -m tests.page_runner.gpu"""

import sys

import torch

if __name__ == "__main__":
    found = torch.accelerator.current_accelerator(check_available=True)
    if found is None:
        sys.exit("expected a GPU, torch finds none; `make test` checks everything on the CPU")
    print(f"torch {torch.__version__} on {torch.get_device_module(found).get_device_name()}")
