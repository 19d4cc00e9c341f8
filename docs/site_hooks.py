"""What the site has beyond the pages in ``docs/``: a list of the decisions, and no links that leave it.

``mkdocs.yml`` names this file; mkdocs calls the functions.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

DECISIONS: Final = "adr/index.md"
OUTSIDE: Final = re.compile(r"\[([^\]]+)\]\(\.\./[A-Z]+\.md[^)]*\)")  # CONTRIBUTING.md and its like


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the list of decisions, the newest first."""
    pages = sorted(Path(config.docs_dir, "adr").glob("[0-9]*.md"), reverse=True)
    lines = [f"- [{page.read_text().splitlines()[0].removeprefix('# ')}]({page.name})" for page in pages]
    files.append(File.generated(config, DECISIONS, content="\n".join(["# Decisions", "", *lines, ""])))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Turn a link to a file above ``docs/`` into its words."""
    return OUTSIDE.sub(r"\1", markdown)
