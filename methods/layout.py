"""What goes up in a round of a method, and how many numbers that are: from its tensors and a recipe's sizes.

Guarantees: lengths follow from shapes and sizes alone, so that no update is longer or shorter for what is in it; a size
that a method does not have, or lacks, is refused.
Leaves to others: what an update is made of (``uploads``), which entries a mask chooses (``coin``).
Source: docs/methods.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Final, Literal, assert_never

from methods.coin import layer_of, layers_of
from methods.products import product_entries
from methods.sketches import sketch_entries
from methods.vectors import READS
from privacy.adapter_parts import (
    CountSketch,
    Differences,
    Gather,
    Opening,
    Own,
    Products,
    Role,
    Schedule,
    Sketch,
    StateStream,
    Stream,
    Tensor,
    Turn,
    Upload,
    Variates,
)
from privacy.errors import LocalError

if TYPE_CHECKING:
    from methods.method import Method

ADAPTER_STREAM: Final = "adapter"
VARIATES_STREAM: Final = "variates"
SKETCH_ROWS: Final = 5  # of a count sketch; odd, so that the median of a column is one of its entries
UploadKind = Literal["differences", "gather", "products", "sketch", "count-sketch", "variates", "own"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """The sizes that a recipe's ``[training]`` gives a method; ``None``: it says nothing.

    Attributes:
        mask: share of what a mask is over that trains in a round.
        sketch: columns of a sketch of products, or buckets of a count sketch's row.
        opening_rounds: rounds of the first turn, before the others.
    """

    mask: float | None = None
    sketch: int | None = None
    opening_rounds: int | None = None


NO_SIZES: Final = Sizes()


def upload_of(method: Method, state: Sequence[StateStream], sizes: Sizes, tensors: Sequence[Tensor]) -> Upload:
    """Return the form in which updates go up.

    Args:
        method: whose.
        state: the streams that travel down.
        sizes: of the recipe.
        tensors: the manifest.

    Raises:
        LocalError: ``E-CONFIG-INVALID``: a size without use, or none.
    """
    for name in (field.name for field in fields(sizes)):
        given = getattr(sizes, name)
        if given is not None and name not in method.takes:
            raise LocalError("E-CONFIG-INVALID", f"training.{name}: {method.title} has none")
        if given is None and name in method.takes:
            raise LocalError("E-CONFIG-INVALID", f"training.{name}: {method.title} needs it")
    match method.upload:
        case "differences":
            return Differences()
        case "products":
            return Products()
        case "variates":
            return Variates()
        case "own":
            return Own()
        case "sketch":
            return Sketch(columns=sizes.sketch or 0)
        case "count-sketch":
            return CountSketch(rows=SKETCH_ROWS, width=sizes.sketch or 0)
        case "gather":
            return _mask(method, state, sizes.mask or 0.0, tensors)
        case _ as unknown:
            assert_never(unknown)


def schedule_of(method: Method, opening_rounds: int, rounds: int) -> Schedule:
    """Return which round takes which turn.

    Args:
        method: whose.
        opening_rounds: of the first turn, where the method opens a run with some.
        rounds: of the run.

    Raises:
        LocalError: ``E-CONFIG-INVALID``: nothing is left after the opening.
    """
    if "opening_rounds" not in method.takes:
        return method.schedule
    if not 0 < opening_rounds < rounds:
        rule = (
            f"training.opening_rounds: {method.title} needs at least 1, and fewer than the {rounds} rounds of the run"
        )
        raise LocalError("E-CONFIG-INVALID", rule)
    return method.schedule.model_copy(update={"opening": (Opening(turn=0, rounds=opening_rounds),)})


def _mask(method: Method, state: Sequence[StateStream], share: float, tensors: Sequence[Tensor]) -> Gather:
    """Return a mask that lets a share through; at least one of what it chooses."""
    if not 0 < share < 1:
        raise LocalError("E-CONFIG-INVALID", f"training.mask: {method.title} needs a share above 0 and below 1")
    match method.mask_of:
        case "entries":
            whole = sum(stream.length for stream in state if stream.name in method.masked)
        case "ranks":
            whole = min(tensor.shape[0] for tensor in tensors if tensor.key.endswith(READS))
        case "layers":
            whole = len(layers_of(tensors))
            _require_equal_layers(method, tensors)
        case _ as unknown:
            assert_never(unknown)
    return Gather(entries=max(1, round(share * whole)), of=method.mask_of, lasting=method.mask_lasts)


def _require_equal_layers(method: Method, tensors: Sequence[Tensor]) -> None:
    """Refuse a single layer, and layers of several sizes: what goes up has one length, whichever are chosen."""
    for stream in method.masked:
        of_stream = [tensor for tensor in tensors if tensor.stream == stream]
        sizes = {
            sum(tensor.entries for tensor in of_stream if layer_of(tensor.key) == layer)
            for layer in layers_of(of_stream)
        }
        numbered = all(layer_of(tensor.key) is not None for tensor in of_stream)
        if len(sizes) != 1 or len(layers_of(of_stream)) < 2 or not numbered:
            rule = f"{method.title} needs adapters in at least two layers of one size; take method random-mask"
            raise LocalError("E-METHOD-REFUSED", rule)


def turns_of(
    method: Method, state: Sequence[StateStream], upload: Upload, tensors: Sequence[Tensor]
) -> tuple[Turn, ...]:
    """Return what trains and what is summed in each kind of round.

    Args:
        method: whose.
        state: the streams that travel down.
        upload: the form in which updates go up.
        tensors: the manifest, of which products are made.
    """
    shared = [stream for stream in state if stream.role is Role.SHARED]
    personal = (Role.PERSONAL.value,) if method.home in {"part", "mixed"} else ()
    own = [
        Stream(name=stream.name, length=stream.length)
        for stream in state
        if upload.kind == "own" and stream.role is Role.DERIVED
    ]
    turns = []
    for names in method.turns or (frozenset(stream.name for stream in shared),):
        trained = [stream for stream in shared if stream.name in names]
        sums = own + [Stream(name=one.name, length=_summed(method, one, upload, tensors)) for one in trained]
        if upload.kind == "variates":
            sums.append(Stream(name=VARIATES_STREAM, length=sum(stream.length for stream in trained)))
        turns.append(Turn(trains=(*(stream.name for stream in trained), *personal), sums=tuple(sums)))
    return tuple(turns)


def _summed(method: Method, stream: StateStream, upload: Upload, tensors: Sequence[Tensor]) -> int:
    """Return how many entries go up for a trained stream."""
    if isinstance(upload, Gather) and stream.name in method.masked:
        return min(_chosen(upload, stream, tensors), stream.length)
    if isinstance(upload, Products) and stream.name == ADAPTER_STREAM:
        return product_entries(tensors) + (stream.length if method.factors_beside else 0)
    if isinstance(upload, Sketch) and stream.name == ADAPTER_STREAM:
        return sketch_entries(tensors, upload.columns)
    if isinstance(upload, CountSketch) and stream.name == ADAPTER_STREAM:
        if upload.rows * upload.width >= stream.length:
            rule = f"training.sketch: {upload.rows} rows of {upload.width} are no fewer than {stream.length} entries"
            raise LocalError("E-CONFIG-INVALID", rule)
        return upload.rows * upload.width
    return stream.length


def _chosen(mask: Gather, stream: StateStream, tensors: Sequence[Tensor]) -> int:
    """Return how many entries of a stream a mask lets through."""
    if mask.of == "entries":
        return mask.entries
    if mask.of == "layers":
        return stream.length // len(layers_of(tensors)) * mask.entries
    of_stream = [tensor for tensor in tensors if tensor.stream == stream.name]
    return sum(
        tensor.entries // tensor.shape[0 if tensor.key.endswith(READS) else 1] * mask.entries for tensor in of_stream
    )
