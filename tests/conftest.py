"""What holds for every test: one thread, fixed seeds, no network.

It is loaded before jaxtyping's import hook is installed, so it must not import `mhmoe`. But it imports what `mhmoe`
and the tests do: the hook looks for the byte code of whatever a module of ours imports first under names of its own,
so that each process compiled a thousand files of torch and transformers anew.
"""

import os

# Before torch and transformers are imported, and inherited by the processes that tests start.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"

import importlib
import ipaddress
import random
import sys

import hypothesis
import jaxtyping
import numpy as np
import pytest
import torch

from tests.checked_types import checked
from tests.commands import LIBRARIES

if "PYTEST_XDIST_WORKER" in os.environ or "-n0" in sys.argv:  # else this process runs no test, and waits for others
    for library in LIBRARIES:
        importlib.import_module(library)

torch.set_num_threads(1)
jaxtyping.jaxtyped = checked  # with which the hook decorates every function and class

# Derandomised: a red test is red for everybody. No deadline: CI machines stall.
hypothesis.settings.register_profile("mhmoe", derandomize=True, deadline=None, print_blob=True)
hypothesis.settings.load_profile("mhmoe")


def _is_local(host: str) -> bool:
    try:
        return host in ("", "localhost") or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _refuse_the_network(event: str, arguments: tuple[object, ...]) -> None:
    """An audit hook: connecting anywhere but to this machine (gloo does that) is an error."""
    if event != "socket.connect":
        return
    address = arguments[1]
    if isinstance(address, tuple) and not _is_local(str(address[0])):
        raise PermissionError(f"a test tried to reach {address[0]}; tests run without a network")


sys.addaudithook(_refuse_the_network)


@pytest.fixture(autouse=True)
def _fixed_seeds() -> None:
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  the global state is what third-party code draws from
    torch.manual_seed(0)
