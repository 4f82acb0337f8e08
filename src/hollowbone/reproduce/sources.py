"""A digest of the code that a finished run rests on: while it is unchanged, the run counts.

What is digested is the syntax tree without docstrings, so a comment, a line break or a better sentence changes nothing. A
source is a package or module (`hollowbone.train`), or a definition of a module with all that it uses of the same module
(`hollowbone.reproduce.mobilenetv2:run`).
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
"""The folder of the package `hollowbone`."""


def digest(*sources: str) -> str:
    """Hexadecimal digest of the sources, in whatever order they are given."""
    sha = hashlib.sha256()
    for source in sorted(set(sources)):
        name, _, definition = source.partition(":")
        for path in _files(name):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            nodes: Iterable[ast.AST] = used_by(definition, tree) if definition else [tree]
            sha.update(path.relative_to(ROOT).as_posix().encode())
            sha.update("".join(shape(node) for node in nodes).encode())
    return sha.hexdigest()[:16]


def used_by(name: str, tree: ast.Module) -> list[ast.stmt]:
    """The definition of that name at the top of a module and, of the same module, all that it uses, in order."""
    defined = {name: node for node in tree.body for name in _names(node)}
    if name not in defined:
        raise ValueError(f"the module defines no {name}")
    found, waiting = {name}, [name]
    while waiting:
        for node in ast.walk(defined[waiting.pop()]):
            if isinstance(node, ast.Name) and node.id in defined and node.id not in found:
                found.add(node.id)
                waiting.append(node.id)
    return [node for node in tree.body if found & set(_names(node))]


def shape(node: object) -> str:
    """A syntax tree as text that is the same in every version of Python that hollowbone runs on: no positions, no docstrings,
    and no field that is empty, since newer versions have more of them.
    """
    if isinstance(node, ast.AST):
        fields = [(name, value) for name, value in ast.iter_fields(node) if value is not None and value != []]
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            fields = [(name, _without_docstring(value) if name == "body" else value) for name, value in fields]
        return f"{type(node).__name__}({','.join(f'{name}={shape(value)}' for name, value in fields)})"
    if isinstance(node, list):
        return f"[{','.join(map(shape, node))}]"
    return repr(node)


def _without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    """Strings that stand alone say something to people and do nothing: those under a constant, too."""
    return [
        s
        for s in body
        if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant) and isinstance(s.value.value, str))
    ]


def _names(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Assign | ast.AnnAssign):
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            yield from (n.id for n in ast.walk(target) if isinstance(n, ast.Name))


def _files(name: str) -> list[Path]:
    first, *rest = name.split(".")
    base = ROOT.joinpath(*rest)
    files = sorted(base.rglob("*.py")) if base.is_dir() else [base.with_suffix(".py")]
    if first != ROOT.name or not files or not all(path.is_file() for path in files):
        raise ValueError(f"there is no source {name}")
    return files
