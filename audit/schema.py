"""The published JSON Schema of a report; ``python -m audit.schema`` writes it anew.

Guarantees: the file ``audit/schema/report.schema.json`` is exactly what the model says (a test compares them).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from privacy.report_model import SignedReport

FILE: Final = Path(__file__).parent / "schema" / "report.schema.json"


def generated() -> str:
    """Return the schema's text."""
    schema = SignedReport.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["$id"] = "urn:onlysum:report:1"
    return json.dumps(schema, indent=1, sort_keys=True) + "\n"


def main() -> None:
    """Write the schema."""
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(generated())


if __name__ == "__main__":
    main()
