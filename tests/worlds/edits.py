"""The running code with a rule changed: what the mutation run and the span oracle's deletions have in common.

A function keeps its identity and gets another code object, compiled from an edited syntax tree of its module; so
classes, imports and states made before stay as they are, and the change ends with the ``with`` block. A check is found
by the text of its refusal or of its condition, in whatever module it stands.
"""

from __future__ import annotations

import ast
import copy
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

PACKAGES = ("participant", "coordinator", "privacy", "audit", "authoring")
FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Function:
    """A function or method of a module of this project, by name, as it stands in the module's tree."""

    module: str
    qualname: str
    node: FunctionNode

    @property
    def name(self) -> str:
        """Its module and name."""
        return f"{self.module}.{self.qualname}"

    @property
    def sets(self) -> bool:
        """Whether it is the setter of a property, which has the getter's name."""
        return any(isinstance(one, ast.Attribute) and one.attr == "setter" for one in self.node.decorator_list)

    @property
    def line(self) -> int:
        """The line of its module on which it begins, as its code object says it."""
        return min([self.node.lineno, *(decorator.lineno for decorator in self.node.decorator_list)])

    @property
    def live(self) -> FunctionType:
        """The function object whose code is replaced."""
        found: Any = sys.modules[self.module]
        for name in self.qualname.split("."):
            found = found.__dict__[name]
        if isinstance(found, property):
            found = found.fset if self.sets else found.fget
        for attribute in ("__func__", "__wrapped__", "func"):  # classmethod, lru_cache or cached_property
            found = getattr(found, attribute, found)
        assert isinstance(found, FunctionType), f"{self.module}.{self.qualname} is no function"
        return found


@cache
def tree(module: str) -> ast.Module:
    """Return a module's syntax tree; the same one each time."""
    return ast.parse(Path(str(sys.modules[module].__file__)).read_text())


def loaded(*prefixes: str) -> list[str]:
    """Return the modules of this project that are imported now and whose names begin so, sorted."""
    ours = (name for name in sys.modules if name.partition(".")[0] in PACKAGES and sys.modules[name].__file__)
    return sorted(name for name in ours if name.startswith(prefixes))


def functions(module: str) -> Iterator[Function]:
    """Yield the functions of a module and the methods of its classes, outermost only."""

    def inside(body: Iterable[ast.stmt], prefix: str) -> Iterator[Function]:
        for node in body:
            if isinstance(node, FunctionNode):
                yield Function(module, prefix + node.name, node)
            elif isinstance(node, ast.ClassDef):
                yield from inside(node.body, f"{prefix}{node.name}.")

    yield from inside(tree(module).body, "")


def compiled(function: Function, changes: dict[ast.AST, ast.AST]) -> CodeType:
    """Return the code of a function in which nodes of its tree are replaced."""
    places = {id(node): index for index, node in enumerate(ast.walk(tree(function.module)))}
    wanted = {places[id(node)]: new for node, new in changes.items()}
    fresh = copy.deepcopy(tree(function.module))
    replacements = {id(node): wanted[index] for index, node in enumerate(ast.walk(fresh)) if index in wanted}

    class Replace(ast.NodeTransformer):
        def visit(self, node: ast.AST) -> Any:
            new = replacements.get(id(node))
            return super().visit(node) if new is None else ast.copy_location(new, node)

    edited = ast.fix_missing_locations(Replace().visit(fresh))
    return _code_of(compile(edited, f"<{function.module}, edited>", "exec"), function)


def announcing(module: str, call: str, chosen: Iterable[Function]) -> dict[Function, CodeType]:
    """Return the code of functions of a module that first call a builtin of this name with their own name."""
    original = {id(node): index for index, node in enumerate(ast.walk(tree(module)))}
    fresh = copy.deepcopy(tree(module))
    nodes, functions_ = list(ast.walk(fresh)), list(chosen)
    for function in functions_:
        node = nodes[original[id(function.node)]]
        assert isinstance(node, FunctionNode)
        node.body[:0] = ast.parse(f"{call}({function.name!r})").body
    code = compile(ast.fix_missing_locations(fresh), f"<{module}, announcing>", "exec")
    return {function: _code_of(code, function) for function in functions_}


def _code_of(code: CodeType, function: Function) -> CodeType:
    pending = [code]
    while pending:
        one = pending.pop()
        if (one.co_qualname, one.co_firstlineno) == (function.qualname, function.line):
            return one
        pending += [constant for constant in one.co_consts if isinstance(constant, CodeType)]
    raise AssertionError(f"{function.module}.{function.qualname} has no code")


def install(function: Function, code: CodeType) -> CodeType:
    """Replace a function's code, forget what was cached, and return the code that it had."""
    live: Any = function.live
    before: CodeType = live.__code__
    live.__code__ = code
    for module in loaded(*PACKAGES):
        for value in list(vars(sys.modules[module]).values()):
            if hasattr(value, "cache_clear"):
                value.cache_clear()
    return before


@dataclass(frozen=True)
class Refusal:
    """A check, by a part of what its refusal says; to be deleted."""

    says: str

    def found_in(self, function: Function) -> dict[ast.AST, ast.AST]:
        """Return the replacement of the condition, if the check stands in this function."""
        guards = [one for one in ast.walk(function.node) if isinstance(one, ast.If)]
        refusals = [guard for guard in guards if isinstance(guard.body[-1], ast.Raise)]
        return {
            refusal.test: ast.Constant(False)
            for refusal in refusals
            if self.says in "".join(map(ast.unparse, refusal.body))
        }


@dataclass(frozen=True)
class Instead:
    """An expression of a named function that is to read otherwise."""

    function: str
    of: str
    comes: str

    def found_in(self, function: Function) -> dict[ast.AST, ast.AST]:
        """Return the replacements of the expression in this function."""
        if self.function not in (function.node.name, function.qualname):
            return {}
        return {
            node: ast.parse(self.comes, mode="eval").body
            for node in ast.walk(function.node)
            if isinstance(node, ast.expr) and ast.unparse(node) == self.of
        }


Edit = Refusal | Instead


@contextmanager
def edited(*edits: Edit, prefixes: Iterable[str] = ("participant", "privacy.secagg")) -> Iterator[None]:
    """Run a block with the rules changed; each edit must find exactly one place."""
    changes: dict[tuple[str, str], tuple[Function, dict[ast.AST, ast.AST]]] = {}
    for edit in edits:
        places = 0
        for module in loaded(*prefixes):
            for function in functions(module):
                if found := edit.found_in(function):
                    places += len(found)
                    changes.setdefault((module, function.qualname), (function, {}))[1].update(found)
        assert places == 1, f"{edit} stands in {places} places"
    before: list[tuple[Function, CodeType]] = []
    try:
        for function, replacements in changes.values():
            before.append((function, install(function, compiled(function, replacements))))
        yield
    finally:
        for function, code in before:
            install(function, code)
