"""What the tests of several modules share."""

import pytest


@pytest.fixture(scope="module")
def one_thread():
    """Small matrices gain nothing from more than one thread, and lose much on a busy machine."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
