"""The chart of ``docs/performance.md``: where the time of a round goes, and how short a mark asks it to be.

Guarantees: the same results give the same bytes; colours differ for colour-blind readers; what the picture says stands
in its description, and in the page's table, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from bench.flower import MARKS

# What is shown together: a name, a colour, and the primitives of bench.floor.
PARTS: Final[tuple[tuple[str, str, tuple[str, ...]], ...]] = (
    ("signatures", "#0072b2", ("ed25519_verifications", "ed25519_signatures")),
    ("key agreement", "#cc79a7", ("x25519_multiplications",)),
    ("hashes", "#e69f00", ("sha_256_calls", "sha_256_bytes")),
    ("key streams", "#009e73", ("key_stream_bytes",)),
    ("additions", "#56b4e9", ("added_bytes",)),
    ("encoding", "#f0e442", ("entries_encoded", "entries_decoded")),
    (
        "shares and derivations",
        "#7f5fc0",
        ("hkdf_calls", "aes_gcm_boxes", "shamir_terms_dealt", "shamir_terms_combined"),
    ),
)
BETWEEN: Final = ("between the calls", "#9aa7b0")
_COLOURS: Final = dict([*((name, colour) for name, colour, _ in PARTS), BETWEEN])

WIDTH: Final = 860
LEFT: Final = 20
LONGEST: Final = 700  # pixels of a row's longest bar or mark
ROW: Final = 84
TOP: Final = 92
STYLE: Final = """<style>
    .ground { fill: #ffffff } text { fill: #1d2429 } .quiet { fill: #4a555d; font-size: 13px }
    .mark { stroke: #c1272d; stroke-width: 3 } .asked { fill: #c1272d; font-size: 13px }
    @media (prefers-color-scheme: dark) {
      .ground { fill: #14191d } text { fill: #eef2f5 } .quiet { fill: #bcc7ce }
      .mark { stroke: #ff8a80 } .asked { fill: #ff8a80 }
    }
  </style>"""


@dataclass(frozen=True, slots=True)
class Bar:
    """One side of one case, in milliseconds of processor time."""

    case: str
    side: str
    ours: float
    flower: float
    floor: float
    mark: int  # of the ratio
    parts: Mapping[str, float]  # of the floor

    @property
    def asked(self) -> float:
        """What the mark asks of us, at Flower's time."""
        return self.flower / self.mark

    @property
    def between(self) -> float:
        """What is no primitive: messages, comparisons, page faults."""
        return max(0.0, self.ours - self.floor)

    @property
    def title(self) -> str:
        """Who, and in what."""
        return f"{'participant' if self.side == 'client' else self.side}, {self.case}"


def bars(figures: Mapping[str, float]) -> list[Bar]:
    """Return the bars that the figures of ``bench.flower`` make."""
    return [
        Bar(
            case=case,
            side=side,
            ours=figures[f"{case}.{side}_ms"],
            flower=figures[f"{case}.flower_{side}_ms"],
            floor=figures[f"{case}.{side}_floor_ms"],
            mark=mark,
            parts={
                name: sum(figures.get(f"{case}.{side}_floor.{one}_ms", 0.0) for one in primitives)
                for name, _, primitives in PARTS
            },
        )
        for (case, side), mark in MARKS.items()
    ]


def drawn(rows: Sequence[Bar]) -> str:
    """Return the chart as SVG."""
    height = TOP + ROW * len(rows) + 10
    said = "; ".join(
        f"{one.title}: {one.ours:.1f} ms, {one.floor:.1f} ms of it primitives; the mark asks for {one.asked:.1f} ms"
        for one in rows
    )
    size = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    labels = 'role="img" aria-labelledby="title text" font-family="system-ui, sans-serif" font-size="15"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} {labels}>',
        '  <title id="title">Where the time of a round goes</title>',
        f'  <desc id="text">Processor time by part. {escape(said)}.</desc>',
        f"  {STYLE}",
        f'  <rect class="ground" width="{WIDTH}" height="{height}"/>',
        *_legend(),
    ]
    for place, one in enumerate(rows):
        lines += _row(one, TOP + ROW * place)
    return "\n".join([*lines, "</svg>"]) + "\n"


def _legend() -> Iterator[str]:
    for place, (name, colour) in enumerate(_COLOURS.items()):
        x, y = LEFT + 205 * (place % 4), 18 + 26 * (place // 4)
        yield f'  <rect x="{x}" y="{y}" width="14" height="14" fill="{colour}"/>'
        yield f'  <text class="quiet" x="{x + 20}" y="{y + 12}">{name}</text>'


def _row(one: Bar, y: int) -> Iterator[str]:
    parts = {**one.parts, BETWEEN[0]: one.between}
    scale, x = LONGEST / max(sum(parts.values()), one.asked), float(LEFT)
    yield f'  <text x="{LEFT}" y="{y + 12}">{one.title}: {one.ours:.1f} ms; Flower {one.flower:.0f} ms</text>'
    for name, milliseconds in parts.items():
        width = milliseconds * scale
        yield f'  <rect x="{x:.1f}" y="{y + 22}" width="{width:.1f}" height="26" fill="{_COLOURS[name]}"/>'
        x += width
    at = LEFT + one.asked * scale
    yield f'  <line class="mark" x1="{at:.1f}" y1="{y + 17}" x2="{at:.1f}" y2="{y + 53}"/>'
    yield f'  <text class="asked" x="{at + 6:.1f}" y="{y + 66}">the mark: {one.asked:.1f} ms</text>'
