"""Checkpoints of other programs: read them, and find the backbone among the networks in them.

Training programs nest their weights: `state_dict`, `student` and `teacher`, `module.`, `model.backbone.`. So a file is
flattened to dotted keys, and every dotted prefix is a candidate. A candidate fits if, under our names (conversion.py),
it has every tensor of the backbone in the right shape, and no further layer: a resnet34 has all of a resnet18's tensors
but must not pass for one. Its first layer may take any number of channels (band_weights.py).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from dualteacher.models import backbones, band_weights, conversion, tensors
from dualteacher.models.conversion import State
from dualteacher.system import files
from dualteacher.system.errors import UserError

# Parts of keys inserted by torch.compile, FSDP, activation checkpointing and pickled modules.
INSERTED = frozenset(
    (
        *("_orig_mod", "_fsdp_wrapped_module", "_fpw_module", "_checkpoint_wrapped_module"),
        *("_modules", "_parameters", "_buffers"),
    )
)
MAPPINGS = ("dict", "config", "cfg")  # in the names of dict subclasses: defaultdict, EasyDict, CfgNode, …
LISTED = 8  # names in a message


class Stub(list[Any]):
    """Replaces objects of an unknown class in a checkpoint. Keeps their attributes and runs none of their code.

    A list, since torch appends only to lists.
    """

    __hash__ = object.__hash__  # type: ignore[assignment]  # a dict's key may be an enum's member

    def __init__(self, *_: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, Mapping):
            vars(self).update({str(key): value for key, value in state.items()})


class MappingStub:
    """The same for subclasses of dict: torch sets items of a plain or ordered dict only."""

    def __new__(cls, *_: Any) -> OrderedDict[Any, Any]:  # type: ignore[misc]
        return OrderedDict()


def read(path: Path) -> Any:
    """The content of a .safetensors file or PyTorch checkpoint. Never runs code from the file."""
    if not files.is_file(path):
        raise UserError(f"{path}: no such file (model.weights in params.yaml)")
    if path.suffix == ".safetensors":
        return tensors.read_safetensors(path)[0]
    with open(path, "rb") as file:
        return load(file, str(path))


def load(file: IO[bytes], origin: str) -> Any:
    """The content of an open PyTorch checkpoint, objects of unknown classes replaced by stubs."""
    try:
        with safe_globals(_stubs(file)):
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise any
        reason = " ".join(str(error).split())[:120]
        raise UserError(
            f"{origin}: not a PyTorch file of plain tensors, or truncated ({reason}…); save its state_dict again"
        ) from None
    if not isinstance(content, Mapping | Stub):
        raise UserError(f"{origin}: contains a {type(content).__name__}, not a mapping of names to tensors")
    return content


def _stubs(file: IO[bytes]) -> list[Any]:
    """(stub, name) for each class or function in the file that torch does not know."""
    try:
        names = get_unsafe_globals_in_checkpoint(file)  # type: ignore[arg-type]
    except ValueError:  # the format from before torch 1.6, or TorchScript, which torch.load refuses
        names = []
    finally:
        file.seek(0)
    return [(MappingStub if any(part in name.lower() for part in MAPPINGS) else Stub, name) for name in names]


def flatten(content: Any) -> State:
    """All tensors in nested mappings, lists and stubs, by dotted key without the inserted parts."""
    found: State = {}
    for parts, value in _leaves(content, (), ()):
        raw = ".".join(parts)
        key = ".".join(part for part in raw.split(".") if part not in INSERTED)
        found[raw if key in found else key] = value
    return found


def _leaves(content: Any, parts: tuple[str, ...], above: tuple[int, ...]) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    """(key's parts, tensor) of each tensor; above: ids of the containers around `content`, to stop at cycles."""
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
    state: State  # empty if it does not fit
    loaded: int  # tensors of the backbone that it has in the right shape
    differs: str  # why it does not fit; "" if it does


def find(backbone: str, content: Any, origin: str, wanted: str = "") -> Network:
    """The network in a checkpoint that fits the backbone; wanted: its name, if there are several.

    UserError if there are no tensors, no network that fits, several that fit but differ, or none of that name.
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
    """The tensors below every dotted prefix, in the file's order; shorter prefixes before those they contain."""
    found: dict[str, State] = {}
    for key, value in flat.items():
        parts = key.split(".")
        for depth in range(len(parts)):
            found.setdefault(".".join(parts[:depth]), {})[".".join(parts[depth:])] = value
    return found


def _network(backbone: str, prefix: str, state: State, expected: Mapping[str, Tensor]) -> Network:
    converted = conversion.convert(backbone, state)
    expected = band_weights.for_inputs_of(converted, expected)
    differs = conversion.differences(converted, expected)
    return Network(prefix, {} if differs else converted, conversion.matching(converted, expected), differs)


def _named(networks: Sequence[Network], wanted: str) -> list[Network]:
    """The network of exactly that name, else all that have it as part: `teacher` matches `teacher.backbone`."""
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
    """Whether two networks that fit have equal values; their keys differ in batch counters at most."""
    return all(_same(value, other[key]) for key, value in one.items() if not conversion.is_counter(key))


def _same(one: Tensor, other: Tensor) -> bool:
    return one is other or (one.dtype == other.dtype and torch.equal(one, other))


def _unfit(best: Network, backbone: str, expected: Mapping[str, Tensor], origin: str) -> str:
    """The error for a file without a network that fits."""
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
