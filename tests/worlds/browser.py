"""Pages in headless Chromium: what axe-core finds, how wide they are, what they fetch, how many pages they print.

A test is skipped by name where there is no Chromium, or no axe-core (``ONLYSUM_AXE`` names its ``axe.min.js``;
``.ci/browser.sh`` fetches it).
"""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

FLAGS: Final = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
DARK: Final = "--blink-settings=preferredColorScheme=0"
SECONDS: Final = 60
GRAVE: Final = frozenset({"serious", "critical"})

_RUN_AXE: Final = """
axe.run(document, {resultTypes: ["violations"]}).then(found => {
  const out = document.createElement("script");
  out.type = "application/json"; out.id = "found";
  out.textContent = JSON.stringify({
    violations: found.violations.map(one => [one.id, one.impact, one.nodes.map(node => node.html)]),
    rules: found.passes.length,
    dark: matchMedia("(prefers-color-scheme: dark)").matches,
    fetched: performance.getEntriesByType("resource").map(one => one.name),
  }).replaceAll("<", "\\\\u003c");
  document.body.append(out);
});
"""


@dataclass(frozen=True)
class Found:
    """What axe-core says about a page, and what the page did."""

    violations: list[tuple[str, str, list[str]]]  # rule, impact, elements
    rules: int  # that passed
    dark: bool
    fetched: list[str]

    @property
    def grave(self) -> list[tuple[str, str, list[str]]]:
        """Serious and critical violations."""
        return [violation for violation in self.violations if violation[1] in GRAVE]


def chromium() -> str:
    """Return the program, or skip the test."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    pytest.skip("chromium is not installed; .ci/browser.sh installs it")


def axe_core() -> str:
    """Return the source of axe-core, or skip the test."""
    path = os.environ.get("ONLYSUM_AXE", "")
    if not path or not Path(path).is_file():
        pytest.skip("axe-core is not here; set ONLYSUM_AXE to its axe.min.js (.ci/browser.sh fetches it)")
    return Path(path).read_text()


def run(*words: str) -> str:
    """Run Chromium with a fresh profile and return its standard output."""
    with tempfile.TemporaryDirectory(prefix="onlysum-browser-", ignore_cleanup_errors=True) as profile:
        done = subprocess.run(
            [chromium(), *FLAGS, f"--user-data-dir={profile}", *words],
            capture_output=True, text=True, timeout=SECONDS, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def examined(page: str, directory: Path, *, dark: bool = False) -> Found:
    """Return what axe-core finds on a page."""
    source = axe_core()
    copy = directory / "examined.html"
    copy.write_text(page.replace("</body>", f"<script>{source}</script><script>{_RUN_AXE}</script></body>"))
    dom = run("--virtual-time-budget=20000", "--dump-dom", *((DARK,) if dark else ()), copy.as_uri())
    match = re.search(r'<script type="application/json" id="found">(.*?)</script>', dom, re.DOTALL)
    assert match, "axe-core did not come to an end"
    values: dict[str, Any] = json.loads(match[1])
    return Found(
        violations=[(rule, impact, nodes) for rule, impact, nodes in values["violations"]],
        rules=values["rules"],
        dark=values["dark"],
        fetched=values["fetched"],
    )


def scroll_width(page: str, directory: Path, *, width: int) -> int:
    """Return how wide a page is in a window of some width: more means that it scrolls sideways."""
    copy = directory / "narrow.html"
    copy.write_text(
        f'<body><iframe style="width:{width}px;height:9000px;border:0" srcdoc="{html.escape(page, quote=True)}"'
        ' onload="document.title = this.contentDocument.documentElement.scrollWidth"></iframe></body>'
    )
    dom = run("--virtual-time-budget=5000", "--dump-dom", copy.as_uri())
    match = re.search(r"<title>(\d+)</title>", dom)
    assert match
    return int(match[1])


def printed_pages(page: str, directory: Path) -> int:
    """Return on how many pages of its own format a page prints."""
    copy, pdf = directory / "printed.html", directory / "printed.pdf"
    copy.write_text(page)
    run(f"--print-to-pdf={pdf}", "--no-pdf-header-footer", copy.as_uri())
    return len(re.findall(rb"/Type\s*/Page\b", pdf.read_bytes()))
