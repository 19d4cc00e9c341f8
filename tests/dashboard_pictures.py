"""Pictures of the dashboard, from synthetic rows: `make dashboard-pictures`.

Guarantees: one PNG per page, width and colour scheme, with 3 and with 50 members.
Leaves to others: the rows (``tests.worlds.dashboard``), the browser (``tests.worlds.live_browser``).
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Final

from tests.worlds.coordinator import RUN_ID
from tests.worlds.dashboard import PASSWORD, seed, served
from tests.worlds.live_browser import browsing

PAGES: Final = {
    "login": "/login", "runs": "/", "run": f"/runs/{RUN_ID}", "members": "/members", "inbox": "/inbox",
    "reports": "/reports", "security": "/security",
}  # fmt: skip
WIDTHS: Final = {"desktop": 1280, "telephone": 360}


def draw(directory: Path, n: int) -> list[Path]:
    """Write the pictures of a federation of n members, and return where they are."""
    written = []
    with tempfile.TemporaryDirectory() as scratch:
        world = seed(Path(scratch), n=n)
        with served(world.opened, world.clock) as site, browsing() as browser:
            for name, path in PAGES.items():
                for size, width in WIDTHS.items():
                    for dark in (False, True):
                        browser.window(width, dark=dark, phone=size == "telephone")
                        browser.visit(site.url + path)
                        file = directory / f"{name}-{n}-members-{size}-{'dark' if dark else 'light'}.png"
                        browser.picture(file)
                        written.append(file)
                if name == "login":
                    fill = f"name.value = 'operator-ann'; password.value = '{PASSWORD}'; name.form.submit()"
                    browser.submit(f"const [name, password] = document.querySelectorAll('main input'); {fill}")
    return written


def main() -> None:
    """Write all pictures."""
    directory = Path(sys.argv[1] if len(sys.argv) > 1 else "dashboard-pictures")
    directory.mkdir(parents=True, exist_ok=True)
    written = [file for n in (3, 50) for file in draw(directory, n)]
    sys.stdout.write(f"{len(written)} pictures in {directory}/\n")


if __name__ == "__main__":
    main()
