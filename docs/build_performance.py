"""Write the generated parts of ``docs/performance.md`` and its chart from ``bench/results``.

Usage: ``python -m docs.build_performance [--check]``. With ``--check`` nothing is written; the exit status is 1 if the
text or the chart is not what this script makes of the results. ``make figures`` measures anew and then calls it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, cast

from bench.harness import RESULTS
from docs import performance_chart
from docs.performance_chart import BETWEEN, PARTS, Bar

TEXT: Final = Path(__file__).with_name("performance.md")
CHART: Final = Path(__file__).with_name("performance.svg")
BENCHES: Final = ("round", "flower", "suites", "masking", "wire", "scale", "large", "links")
DEFAULT: Final = ("n10_d1e6.bytes_up_per_entry", "n10_d1e6.bytes_down_per_entry")
SLOWEST: Final = "n1000_d1e5_k52_drop50.seconds"
COUNTED: Final = (  # what the profile also counts, and in which unit
    ("signatures verified", "ed25519_verifications", 1),
    ("X25519 multiplications", "x25519_multiplications", 1),
    ("megabytes hashed", "sha_256_bytes", 10**6),
    ("megabytes of key stream", "key_stream_bytes", 10**6),
    ("megabytes added", "added_bytes", 10**6),
)

Figures = dict[str, float]


def results(bench: str) -> tuple[dict[str, object], Figures]:
    """Return the machine and the figures of a benchmark's kept results."""
    kept = json.loads((RESULTS / f"{bench}.json").read_text())
    return cast("dict[str, object]", kept["machine"]), cast("Figures", kept["figures"])


def _figures(bench: str) -> Figures:
    return results(bench)[1]


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(heads)} |"
    yield f"|{'---|' * len(heads)}"
    yield from (f"| {' | '.join(row)} |" for row in rows)


def _cases(figures: Figures, key: str) -> list[str]:
    return [name.removesuffix(f".{key}") for name in figures if name.endswith(f".{key}")]


def _by_case(bench: str, columns: Mapping[str, tuple[str, str]]) -> Iterator[str]:
    """Return a table with a row for each case; a column has a key of the figures and a format."""
    figures = _figures(bench)
    first = next(iter(columns.values()))[0]
    rows = [
        [f"`{name}`", *(format(figures[f"{name}.{key}"], form) for key, form in columns.values())]
        for name in _cases(figures, first)
    ]
    yield from _table(["case", *columns], rows)


def _machines() -> Iterator[str]:
    for bench in BENCHES:
        machine, _ = results(bench)
        where = f"{machine['processor']}, {machine['cores']} cores, Python {machine['python']}"
        yield f"- `bench.{bench}`: {machine['date']}, {where}"


def _marks() -> Iterator[str]:
    rounds, masks = _figures("round"), _figures("masking")
    default = [rounds[key] for key in DEFAULT if key in rounds]  # results that are older have none
    peak = "the coordinator's peak memory with 100 participants over that with 10"
    rows = [
        *(
            _mark(f"speed of masks over their floor, `{name}`", masks[f"{name}.speed_over_floor"], least=0.85)
            for name in ("d1e6_k9", "d1e6_k40", "d1e7_k9")
        ),
        _mark("bytes per entry, packed", masks["packed_d1e6_k9.bytes_per_entry"], most=2.7),
        *(_mark("bytes up per entry, `n10_d1e6`, a default plan", up, most=2.05) for up in default[:1]),
        *(_mark("bytes up and down per entry, the same", sum(default), most=4.1) for _ in default[:1]),
        _mark(peak, rounds["d1e6.peak_n100_over_n10"], most=1.3),
        _mark("seconds of a round of 1000 participants, all in one process", rounds[SLOWEST], most=60),
        *(_mark(f"Flower's time over ours, {one.title}", one.flower / one.ours, least=one.mark) for one in _bars()),
    ]
    wire = _figures("wire")
    rows += [
        _mark(
            f"a round over the network over one in memory, `{name}`",
            wire[f"{name}.wire_over_memory"],
            most=1.6 if name == "n10_d1e6" else 3,
        )
        for name in _cases(wire, "wire_over_memory")
    ]
    crowds, far, long = _figures("scale"), _figures("links"), _figures("large")
    rows += [
        _mark(
            f"what a round holds over its masked bytes, {side}, `{name}`",
            long[f"{name}.{side}_round_over_masked"],
            most=2,
        )
        for name in _cases(long, "round_seconds")
        for side in ("participant", "coordinator")
    ]
    rows += [
        _mark(f"the coordinator's processor time over that in memory, `{name}`", crowds[f"{name}.over_memory"], most=2)
        for name in _cases(crowds, "over_memory")
    ]
    rows += [
        _mark(
            f"a round over a bad link over 1.25 times its bytes and eight round trips, `{name}`",
            far[f"{name}.over_bound"],
            most=1,
        )
        for name in _cases(far, "over_bound")
    ]
    yield from _table(["what", "mark", "measured", ""], rows)


def _mark(what: str, value: float, *, least: float = 0, most: float = 0) -> list[str]:
    met = value <= most if most else value >= least
    return [
        what,
        f"at most {most:g}" if most else f"at least {least:g}",
        f"{value:.4g}",
        "met" if met else "**missed**",
    ]


def _rounds() -> Iterator[str]:
    columns = {
        "participant, ms": ("client_ms", ".1f"),
        "coordinator, ms": ("coordinator_ms", ".1f"),
        "bytes per entry": ("bytes_per_entry", ".3f"),
        "coordinator's peak, MiB": ("coordinator_peak_mib", ".1f"),
        "all of it in one process, s": ("seconds", ".1f"),
    }
    yield from _by_case("round", columns)


def _wire() -> Iterator[str]:
    figures = _figures("wire")
    keys = ("round_seconds", "memory_seconds", "steps_seconds", "wire_over_memory")
    rows = [
        [f"`{name}`", *(f"{figures[f'{name}.{key}']:.2f}" for key in keys)] for name in _cases(figures, "round_seconds")
    ]
    yield from _table(["case", "between daemons, s", "in memory, s", "everybody's steps, s", "ratio"], rows)


def _scale() -> Iterator[str]:
    columns = {
        "a round, s": ("round_seconds", ".1f"),
        "coordinator's process, CPU s": ("coordinator_cpu", ".2f"),
        "in memory, CPU s": ("memory_cpu", ".2f"),
        "ratio": ("over_memory", ".2f"),
        "of a core while all poll": ("idle_cpu", ".4f"),
        "MiB after the first round": ("resident_first_mib", ".0f"),
        "MiB after the last": ("resident_last_mib", ".0f"),
    }
    yield from _by_case("scale", columns)


def _large() -> Iterator[str]:
    columns = {
        "masked, MiB": ("masked_mib", ".0f"),
        "participant, round": ("participant_round_over_masked", ".2f"),
        "coordinator, round": ("coordinator_round_over_masked", ".2f"),
        "participant, step": ("participant_step_over_masked", ".2f"),
        "coordinator, step": ("coordinator_step_over_masked", ".2f"),
        "a round, s": ("round_seconds", ".1f"),
    }
    yield from _by_case("large", columns)


def _links() -> Iterator[str]:
    figures = _figures("links")
    keys = {"a round, s": "round_seconds", "bound, s": "bound_seconds", "bytes over vectors": "bytes_over_vectors"}
    rows = [
        [f"`{name}`", *(f"{figures[f'{name}.{key}']:.2f}" for key in keys.values())]
        for name in _cases(figures, "over_bound")
    ]
    yield from _table(["case", *keys], rows)


def _suites() -> Iterator[str]:
    figures = _figures("suites")
    keys = ("client_ms", "coordinator_ms", "up_kib", "down_kib")
    rows = [
        [f"`{name.removesuffix('_suite2')}`", "2" if name.endswith("_suite2") else "1"]
        + [f"{figures[f'{name}.{key}']:.1f}" for key in keys]
        for name in _cases(figures, "client_ms")
    ]
    yield from _table(["case", "suite", "participant, ms", "coordinator, ms", "sent, KiB", "received, KiB"], rows)


def _bars() -> list[Bar]:
    return performance_chart.bars(_figures("flower"))


def _flower() -> Iterator[str]:
    rows = []
    for one in _bars():
        numbers = (one.ours, one.flower, one.flower / one.ours, one.mark, one.floor, one.flower / one.floor)
        rows.append([one.title, *(f"{number:.1f}" for number in numbers)])
    heads = ["side and case", "onlysum, ms", "Flower, ms", "ratio", "mark", "our floor, ms", "ceiling of the ratio"]
    yield from _table(heads, rows)


def _profile() -> Iterator[str]:
    figures, bars = _figures("flower"), _bars()
    rows = [[f"{name}, ms", *(f"{one.parts[name]:.2f}" for one in bars)] for name, _, _ in PARTS]
    rows.append(["**floor, ms**", *(f"**{one.floor:.2f}**" for one in bars)])
    rows.append([f"{BETWEEN[0]}, ms", *(f"{one.between:.2f}" for one in bars)])
    for name, key, unit in COUNTED:
        counts = (figures.get(f"{one.case}.{one.side}_floor.{key}", 0) / unit for one in bars)
        rows.append([name, *(f"{count:.4g}" for count in counts)])
    yield from _table(["", *(one.title for one in bars)], rows)


def _threads() -> Iterator[str]:
    figures = _figures("masking")
    rows = [
        [f"`{name}`", f"{figures[f'{name}.key_stream_mib']:.0f}", f"{figures[f'{name}.two_threads_speedup']:.2f}"]
        for name in _cases(figures, "two_threads_speedup")
    ]
    yield from _table(["entries and neighbours", "key stream, MiB", "speed of two threads over one"], rows)


BLOCKS: Final = {
    "machines": _machines,
    "marks": _marks,
    "rounds": _rounds,
    "wire": _wire,
    "scale": _scale,
    "large": _large,
    "links": _links,
    "flower": _flower,
    "profile": _profile,
    "suites": _suites,
    "threads": _threads,
}


def rebuilt(text: str) -> str:
    """Return the text with its generated parts made anew."""
    for name, lines in BLOCKS.items():
        begin, end = f"<!-- begin {name}: generated by docs/build_performance.py -->\n", f"<!-- end {name} -->"
        before, rest = text.split(begin)
        text = before + begin + "\n".join(lines()) + "\n" + end + rest.split(end)[1]
    return text


def chart() -> str:
    """Return the chart."""
    return performance_chart.drawn(_bars())


def main() -> int:
    """Write the files, or with ``--check`` return whether they are current."""
    text, picture = rebuilt(TEXT.read_text()), chart()
    if "--check" in sys.argv:
        return int((TEXT.read_text(), CHART.read_text()) != (text, picture))
    TEXT.write_text(text)
    CHART.write_text(picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
