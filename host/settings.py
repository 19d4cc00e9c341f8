"""A configuration file's text becomes a value, or a refusal that names the line.

Guarantees: a key that the model does not know is refused with the nearest known one, because a silent default could
switch a protection off; no text holds a character that cannot be shown, since these texts are printed and travel in
plans (line feeds are left to the model: ``plan_parts.Text`` refuses them too); every refusal names file and line.
Leaves to others: reading the file, and what the keys mean. Source: TOML 1.0.
"""

from __future__ import annotations

import difflib
import re
import tomllib
import types
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

from privacy.errors import LocalError
from privacy.patterns import in_words
from privacy.printable import first_unprintable, printable


class Section(BaseModel):
    """Base of every section of a configuration file: frozen and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


SectionT = TypeVar("SectionT", bound=Section)
_Path = tuple[str, ...]
_HEADER = re.compile(r"^\s*\[{1,2}\s*([^\[\]]+?)\s*\]{1,2}\s*(?:#.*)?$")
_ASSIGNMENT = re.compile(
    r"^\s*((?:[A-Za-z0-9_-]+|\"[^\"]*\"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|\"[^\"]*\"|'[^']*'))*)\s*="
)
_KEY = re.compile(r"\"([^\"]*)\"|'([^']*)'|([A-Za-z0-9_-]+)")


def parse(text: str, model: type[SectionT], *, file: str) -> SectionT:
    """Parse the text of a TOML file.

    Args:
        text: the whole file.
        model: the file's sections.
        file: its name, for the message.

    Raises:
        LocalError: ``E-CONFIG-INVALID`` or ``E-CONFIG-UNKNOWN-KEY``, naming the line.
    """
    try:
        value = tomllib.loads(text)
    except RecursionError:
        raise LocalError("E-CONFIG-INVALID", f"{file}: nested too deep") from None
    except ValueError as error:  # also a number of thousands of digits
        raise LocalError("E-CONFIG-INVALID", f"{file}: {error}") from None
    for path, character in _unprintable(value, ()):
        where = _where(path, text, file)
        raise LocalError("E-CONFIG-INVALID", f"{where}: has a character that cannot be shown, {character}")
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise _refusal(error, model, text, file) from None


def _refusal(error: ValidationError, model: type[Section], text: str, file: str) -> LocalError:
    problems = error.errors(include_url=False, include_input=False)
    unknown = [problem for problem in problems if problem["type"] == "extra_forbidden"]
    first = (unknown or problems)[0]
    path = tuple(str(part) for part in first["loc"])
    where = _where(path, text, file)
    if not unknown:
        return LocalError("E-CONFIG-INVALID", f"{where}: {in_words(first).removeprefix('Value error, ')}")
    near = difflib.get_close_matches(path[-1], _known_keys(model, path[:-1]), n=1, cutoff=0.5)
    return LocalError("E-CONFIG-UNKNOWN-KEY", where + (f"; did you mean {near[0]}?" if near else ""))


def _where(path: _Path, text: str, file: str) -> str:
    """Return file, line and key, as far as there are any."""
    return f"{file}, line {_line(text, path)}: {printable('.'.join(path))}" if path else file


def _unprintable(value: Any, path: _Path) -> Iterator[tuple[_Path, str]]:
    """Yield the path of every key and text that cannot be shown, with the first such character of each."""
    match value:
        case str():
            character = first_unprintable(value, line_breaks=True)
            yield from () if character is None else ((path, character),)
        case dict():
            for key, inner in value.items():
                inside = (*path, key)
                character = first_unprintable(key)
                yield from () if character is None else ((inside, character),)
                yield from _unprintable(inner, inside)
        case list():
            for number, item in enumerate(value):
                yield from _unprintable(item, (*path, str(number)))


def _known_keys(model: type[Section], path: _Path) -> list[str]:
    here: Any = model
    for part in path:
        here = _inside(here, part)
    return list(here.model_fields) if _is_section(here) else []


def _inside(annotation: Any, part: str) -> Any:
    if _is_section(annotation):
        field = annotation.model_fields.get(part)
        return _without_none(field.annotation) if field else None
    arguments = get_args(annotation)
    is_table = get_origin(annotation) in (dict, Mapping) or _is_mapping(get_origin(annotation))
    return _without_none(arguments[1]) if is_table and len(arguments) == 2 else None


def _is_mapping(origin: Any) -> bool:
    return isinstance(origin, type) and issubclass(origin, Mapping)


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Section)


def _without_none(annotation: Any) -> Any:
    if get_origin(annotation) in (Union, types.UnionType):
        return next((arg for arg in get_args(annotation) if arg is not type(None)), None)
    return annotation


def _line(text: str, path: _Path) -> int:
    """Return the line of the key, or of the closest table around it; 1 if neither is written down."""
    found: dict[_Path, int] = {}
    table: _Path = ()
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _HEADER.match(line):
            table = _parts(header[1])
            found.setdefault(table, number)
        elif job := _ASSIGNMENT.match(line):
            found.setdefault(table + _parts(job[1]), number)
    for length in range(len(path), 0, -1):
        if path[:length] in found:
            return found[path[:length]]
    return 1


def _parts(dotted: str) -> _Path:
    return tuple(next(group for group in match.groups() if group is not None) for match in _KEY.finditer(dotted))
