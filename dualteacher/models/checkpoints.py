"""Checkpoint files of other programs: reading them, and finding the backbone among the networks they hold.

Training programs wrap their weights: `state_dict`, `student` and `teacher`, `module.`, `model.backbone.`. A file is
therefore flattened to dotted keys, and every dotted prefix is a candidate. A candidate fits if, under our names
(conversion.py), it has every tensor of the backbone in the right shape and no layer that the backbone lacks: a
resnet34 holds all of a resnet18's tensors, but is none.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from dualteacher.models import backbones, conversion, tensors
from dualteacher.models.conversion import State
from dualteacher.system import files
from dualteacher.system.errors import UserError

# What torch.compile, FSDP, activation checkpointing and whole pickled modules put between the parts of a key.
INSERTED = frozenset(
    (
        *("_orig_mod", "_fsdp_wrapped_module", "_fpw_module", "_checkpoint_wrapped_module"),
        *("_modules", "_parameters", "_buffers"),
    )
)
MAPPINGS = (
    "dict",
    "config",
    "cfg",
)  # in the name of a class: it is a dict (defaultdict, EasyDict, ConfigDict, CfgNode)
LISTED = 8  # names in a message


class Stub(list[Any]):
    """Stands for an object of an unknown class in a checkpoint: keeps its attributes, runs nothing."""

    __hash__ = object.__hash__  # type: ignore[assignment]  # may be a key, as an enum's member is

    def __init__(self, *_: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, Mapping):
            vars(self).update({str(key): value for key, value in state.items()})


class MappingStub:
    """The same for a subclass of dict, whose items torch sets only on a plain or ordered one."""

    def __new__(cls, *_: Any) -> OrderedDict[Any, Any]:  # type: ignore[misc]
        return OrderedDict()


def read(path: Path) -> Any:
    """What a .safetensors file or a PyTorch checkpoint holds; code in a checkpoint is never run."""
    if not files.is_file(path):
        raise UserError(f"{path}: no such file (model.weights in params.yaml)")
    if path.suffix == ".safetensors":
        return tensors.read_safetensors(path)[0]
    with open(path, "rb") as file:
        return load(file, str(path))


def load(file: IO[bytes], origin: str) -> Any:
    """The content of an open PyTorch checkpoint, loaded by `weights_only`: unknown classes become stubs."""
    try:
        with safe_globals(_stubs(file)):
            content = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(
            f"{origin}: not a PyTorch file of plain tensors, or truncated ({reason}…); save its state_dict again"
        ) from None
    if not isinstance(content, Mapping | Stub):
        raise UserError(f"{origin}: contains a {type(content).__name__}, not a mapping of names to tensors")
    return content


def _stubs(file: IO[bytes]) -> list[Any]:
    """What takes the place of each class or function in the file that torch does not know."""
    try:
        names = get_unsafe_globals_in_checkpoint(file)  # type: ignore[arg-type]
    except ValueError:  # written before torch 1.6, or TorchScript: torch.load says what it cannot read
        names = []
    finally:
        file.seek(0)
    return [(MappingStub if any(part in name.lower() for part in MAPPINGS) else Stub, name) for name in names]


def flatten(content: Any) -> State:
    """All tensors in nested mappings, lists and stubs, by dotted keys without the inserted parts."""
    found: State = {}
    for parts, value in _leaves(content, (), ()):
        raw = ".".join(parts)
        key = ".".join(part for part in raw.split(".") if part not in INSERTED)
        found[raw if key in found else key] = value
    return found


def _leaves(content: Any, parts: tuple[str, ...], above: tuple[int, ...]) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    """(key's parts, tensor) of each tensor; above: ids of what holds `content`, which may hold itself."""
    if isinstance(content, Tensor):
        yield parts, content.detach()
    elif id(content) not in above:
        for key, value in _children(content):
            yield from _leaves(value, (*parts, str(key)), (*above, id(content)))


def _children(content: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(content, Stub):
        yield from vars(content).items()
    elif isinstance(content, Mapping):
        yield from content.items()
    elif isinstance(content, list | tuple):
        yield from enumerate(content)


@dataclass(frozen=True, eq=False)
class Network:
    """The tensors below one prefix of a file, under our names."""

    name: str  # the prefix; "" for the whole file
    state: State
    loaded: int  # tensors of the backbone that it has in the right shape
    differs: str  # from the backbone; "" where it fits


def find(backbone: str, content: Any, origin: str, wanted: str = "") -> Network:
    """The network in a checkpoint that fits the backbone; wanted: its name, where there are several.

    UserError in one line: no tensors, none that fits, several that differ, or none of that name.
    """
    flat = flatten(content)
    if not flat:
        raise UserError(f"{origin}: contains no tensors; name a checkpoint of {backbone}, or set model.weights to none")
    expected = backbones.expected(backbone)
    networks = [_network(backbone, prefix, state, expected) for prefix, state in _below_prefixes(flat).items()]
    fitting = [network for network in networks if not network.differs]
    if wanted:
        networks, fitting = _named(networks, wanted), _named(fitting, wanted)
        if not networks:
            top = dict.fromkeys(key.partition(".")[0] for key in flat)
            raise UserError(f"{origin}: contains no network called {wanted}; at its top are {_listed(list(top))}")
    if not fitting:
        raise UserError(_unfit(max(networks, key=lambda network: network.loaded), backbone, expected, origin))
    distinct = _distinct(fitting)
    if len(distinct) > 1:
        names = [network.name for network in distinct]
        raise UserError(
            f"{origin}: contains {len(distinct)} different networks that fit {backbone}: {_listed(names)}; name one:"
            f" model.weights: {origin}#{names[-1]}"
        )
    _check_finite(distinct[0], origin)
    return distinct[0]


def _below_prefixes(flat: State) -> dict[str, State]:
    """The tensors below every dotted prefix, in the file's order; a prefix stands before the longer ones below it."""
    found: dict[str, State] = {}
    for key, value in flat.items():
        parts = key.split(".")
        for depth in range(len(parts)):
            found.setdefault(".".join(parts[:depth]), {})[".".join(parts[depth:])] = value
    return found


def _network(backbone: str, prefix: str, state: State, expected: Mapping[str, Tensor]) -> Network:
    converted = conversion.convert(backbone, state)
    return Network(
        prefix, converted, conversion.matching(converted, expected), conversion.differences(converted, expected)
    )


def _named(networks: Sequence[Network], wanted: str) -> list[Network]:
    """The network of exactly that name, else all that have it as a part: `teacher` means `teacher.backbone`."""
    exact = [network for network in networks if network.name == wanted]
    return exact or [network for network in networks if f".{wanted}." in f".{network.name}."]


def _distinct(networks: Sequence[Network]) -> list[Network]:
    """The first of each group of networks with equal values."""
    found: list[Network] = []
    for network in networks:
        if not any(_equal(network.state, other.state) for other in found):
            found.append(network)
    return found


def _equal(one: State, other: State) -> bool:
    """Of two networks that fit: their keys differ at most in counters."""
    return all(_same(value, other[key]) for key, value in one.items() if not conversion.is_counter(key))


def _same(one: Tensor, other: Tensor) -> bool:
    return one is other or (one.dtype == other.dtype and torch.equal(one, other))


def _unfit(best: Network, backbone: str, expected: Mapping[str, Tensor], origin: str) -> str:
    """The message for a file without a network that fits."""
    total = conversion.count(expected)
    where = f"`{best.name}` comes closest with" if best.name else "it gives"
    return (
        f"{origin}: contains no network that fits {backbone}: {where} {best.loaded} of {total} tensors; {best.differs}"
    )


def _check_finite(network: Network, origin: str) -> None:
    for key, value in network.state.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise UserError(f"{origin}: {key} has NaN or infinite values; use an earlier checkpoint")


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
