"""The processes that train one policy together: their number, and what they add up and share.

Outside of `joined` a process is alone: its rank is 0, the size is 1, and nothing is sent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Literal, NamedTuple, TypeVar, get_args

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from genrec.errors import UsageError, counted

Value = TypeVar("Value")
Strategy = Literal["ddp", "zero1"]  # what each process holds: the whole state of the optimizer, or its share of it
HOST = "127.0.0.1"
SHARE_UNIT = 32  # numbers in the longest vector of a CPU; AdamW rounds what is left after whole vectors in another way
MEETING_TIMEOUT = timedelta(minutes=30)  # for a launcher to start all processes
TIMEOUT = timedelta(hours=6)  # a validation of the first process, for which the others wait, may take long

_strategy: Strategy = "ddp"  # of the processes that have joined
_partners: tuple[int, ...] = ()  # of `beside`
_groups: dict[tuple[int, ...], Any] = {}  # of torch, for partners that are not all processes


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if _is_joined() else 0


def size() -> int:
    """Return the number of processes that train together."""
    return dist.get_world_size() if _is_joined() else 1


def leads() -> bool:
    """Return whether this process validates, prints and writes files."""
    return rank() == 0


def strategy() -> Strategy:
    """Return what each of the processes that train together holds."""
    return _strategy


class Meeting(NamedTuple):
    """A place where the processes meet."""

    store: Any  # torch.distributed.Store
    port: int = 0  # on this machine; 0 for a store of a launcher

    def all_are_ready(self, others: int) -> bool:
        """Return whether all other processes are about to join."""
        return bool(self.store.check([_ready(number) for number in range(1, others + 1)]))


def meeting(port: int | None = None) -> Meeting:
    """Return the meeting at a port that another process has opened. Without a port, open one at a free port."""
    is_new = port is None
    store = dist.TCPStore(HOST, port or 0, is_master=is_new, wait_for_workers=False)  # type: ignore[attr-defined]
    return Meeting(store, store.port)


def _ready(number: int) -> str:
    return f"process {number} is ready"


@contextmanager
def joined(place: Meeting, number: int, count: int, local_number: int | None = None, strategy: Strategy = "ddp") -> Iterator[None]:
    """Join the others as process `number` of `count` within this context. All take the `strategy` of the first one.

    Where there are GPUs, use that of `local_number`, the number of the process on its machine (None: `number`); a process that sees
    one GPU uses this one.
    """
    global _strategy  # beside the process group of torch, which is global as well
    if number == 0:
        place.store.set("strategy", strategy)
    place.store.set(_ready(number), "")
    has_gpu = torch.cuda.is_available()
    if has_gpu:
        torch.cuda.set_device(0 if torch.cuda.device_count() == 1 else number if local_number is None else local_number)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if has_gpu else "gloo", store=place.store, rank=number, world_size=count, timeout=TIMEOUT
    )
    _strategy = _known_strategy(place.store.get("strategy").decode())
    try:
        yield
    finally:
        _strategy = "ddp"
        _groups.clear()
        dist.destroy_process_group()


def _known_strategy(name: str) -> Strategy:
    return next(each for each in get_args(Strategy) if each == name)


def is_lost(error: BaseException) -> bool:
    """Return whether an error says that another process can't be reached."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and says_lost(str(error)))


def says_lost(message: str) -> bool:
    """Return whether the message of an error is one of gloo, which has no class of its own for a connection that is closed."""
    return "gloo" in message


def launched_store() -> Any:
    """Return the store of the processes that a launcher has started, which MASTER_ADDR and MASTER_PORT name. Waits for all of them."""
    store, _, _ = next(iter(rendezvous("env://", timeout=MEETING_TIMEOUT)))
    return store


def part_of(store: Any, name: str) -> Meeting:
    """Return a meeting whose entries in a store are apart from all others."""
    return Meeting(dist.PrefixStore(name, store))  # type: ignore[attr-defined]


def check_count(count: int) -> None:
    """Raise UsageError if the machine has GPUs, but fewer than processes, or GPUs between which PyTorch can't add up."""
    if torch.backends.mps.is_available():
        raise UsageError(f"--trainer.devices {count} needs CPUs or CUDA devices; PyTorch can't add up gradients over Apple GPUs")
    found = torch.cuda.device_count() if torch.cuda.is_available() else count
    if count > found:
        raise UsageError(f"this machine has {counted(found, 'GPU')}, and each process needs one, got --trainer.devices {count}")


def check_strategy(name: str, count: int) -> Strategy:
    """Return the strategy of a name. Raises UsageError if there is none, or if it needs more than `count` processes."""
    if name not in get_args(Strategy):
        hint = "; parameters are not divided over processes, zero1 divides the optimizer's state" if "fsdp" in name.lower() else ""
        raise UsageError(f"--trainer.strategy must be {' or '.join(get_args(Strategy))}, got {name!r}{hint}")
    if name == "zero1" and count < 2:
        raise UsageError(
            f"--trainer.strategy zero1 divides the optimizer's state over processes; add --trainer.devices 2 or more, got {count}"
        )
    return _known_strategy(name)


def have_gradients(parameters: Sequence[nn.Parameter]) -> list[bool]:
    """Return whether each parameter has a gradient in any of the processes."""
    is_given = torch.tensor([each.grad is not None for each in parameters], dtype=torch.int32)
    dist.all_reduce(is_given, dist.ReduceOp.MAX)
    return [bool(each) for each in is_given.tolist()]


def add_up_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Replace the gradient of each parameter by its sum over the processes, added up in the order of their ranks.

    A process without a gradient for a parameter adds 0. A parameter that has none anywhere keeps none, so that the optimizer skips it.
    """
    if size() == 1:
        return
    summed = [each for each, given in zip(parameters, have_gradients(parameters), strict=True) if given]
    gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in summed]
    if not gradients:
        return
    flat = sum_in_order(torch.cat([each.reshape(-1) for each in gradients]))
    for each, value in zip(summed, torch.split(flat, [each.numel() for each in summed]), strict=True):
        value = value.view_as(each)
        each.grad = value if each.is_contiguous() else torch.empty_like(each).copy_(value)  # AdamW needs the parameter's strides


def sum_in_order(values: Tensor) -> Tensor:
    """Return the sum of the values [V] of all processes, added up in the order of their ranks.

    The order of an all-reduce depends on the number of processes and the library, and with it the last bits of the sum. Here each
    process adds up its share of the places, as one process adds up the parts of a step; about as many bytes are sent.
    """
    count, share = size(), _share(len(values))
    padded = nn.functional.pad(values, (0, share * count - len(values)))
    received = torch.empty_like(padded)
    dist.all_to_all_single(received, padded)
    own, *others = received.view(count, share)
    for each in others:
        own += each
    dist.all_gather(list(padded.view(count, share)), own)
    return padded[: len(values)]


def own_share(values: Tensor) -> Tensor:
    """Return this process's share of values [V], a view: V / processes of them, rounded up to `SHARE_UNIT`, or those that are left."""
    share = _share(len(values))
    return values[rank() * share : (rank() + 1) * share]


def of_shares(own: Tensor, total: int) -> Tensor:
    """Return values [V] from the shares of all processes; `total` is V, `own` the share of this process."""
    count, share = size(), _share(total)
    found = own.new_empty(share * count)
    dist.all_gather(list(found.view(count, share)), nn.functional.pad(own, (0, share - len(own))))
    return found[:total]


def _share(total: int) -> int:
    return -(-total // (size() * SHARE_UNIT)) * SHARE_UNIT


def from_first(value: Value) -> Value:
    """Return the first process's value. It is sent by pickling."""
    if size() == 1:
        return value
    shared: list[Any] = [value]
    dist.broadcast_object_list(shared, src=0)
    found: Value = shared[0]
    return found


def of_all(value: Value) -> list[Value]:
    """Return the values of all processes, in order of their ranks."""
    if size() == 1:
        return [value]
    found: list[Any] = [None] * size()
    dist.all_gather_object(found, value)
    return found


@contextmanager
def beside(ranks: Sequence[int]) -> Iterator[None]:
    """Let this process exchange values with its partners within this context, in which all of them compute a part of the same step.

    `ranks` are those of the partners, this process among them, in ascending order. All make the same exchanges in the same order.
    """
    global _partners  # a loss far below the training loop asks for its partners
    _partners = tuple(ranks)
    try:
        yield
    finally:
        _partners = ()


def partners() -> tuple[int, ...]:
    """Return the ranks of the processes that compute a part of the same step now; outside of `beside` that of this process alone."""
    return _partners or (rank(),)


def sum_of_partners(values: Tensor) -> Tensor:
    """Return the sum of detached values over the partners of this process; the values themselves where it has none."""
    if len(partners()) == 1:
        return values
    found = values.detach().clone()
    dist.all_reduce(found, group=_group_of(partners()))
    return found


def of_partners(value: Value) -> list[Value]:
    """Return the values of the partners of this process, its own among them, in order of their ranks. Tensors must be on the CPU."""
    if len(partners()) == 1:
        return [value]
    found: list[Any] = [None] * len(partners())
    dist.all_gather_object(found, value, group=_group_of(partners()))
    return found


def _group_of(ranks: tuple[int, ...]) -> Any:
    """Return the group of torch for these processes, None for all. Each of them makes it at its first exchange."""
    if len(ranks) == size():
        return None
    if ranks not in _groups:
        _groups[ranks] = dist.new_group(list(ranks), use_local_synchronization=True)
    return _groups[ranks]


def _is_joined() -> bool:
    return dist.is_available() and dist.is_initialized()
