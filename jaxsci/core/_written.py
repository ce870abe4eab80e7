"""Signatures that print as they are written: `help(f)` shows ``tol: ArrayLike = 1e-08``.

An alias is gone as soon as it is evaluated: `ArrayLike` is then a union of nine types, and a signature that prints it
at every argument is a page of text in which the arguments are lost. The signatures made here hold the same objects as
before, for those who check types by them; only when one is printed are the words taken from the source, where they are
short. Without a source (a function made by `exec`) the objects are printed as Python prints them.
"""

import ast
import functools
import inspect
import textwrap
from collections.abc import Callable


class Parameter(inspect.Parameter):
    """One argument that prints its annotation as written in `source`, a function or a record."""

    __slots__ = ("source",)

    def __str__(self) -> str:
        return str(plain(self))

    def replace(self, **changes) -> "Parameter":
        """A copy with other fields; another annotation has no words of the source."""
        new = super().replace(**changes)
        if "annotation" not in changes:
            new.source = getattr(self, "source", None)
        return new


class Signature(inspect.Signature):
    """The signature of `source`, a function or a record."""

    __slots__ = ("source",)

    def __str__(self) -> str:
        return str(self._plain())

    def format(self, **options) -> str:
        """What `help` of Python 3.13 and later prints."""
        return self._plain().format(**options)

    def _plain(self) -> inspect.Signature:
        returned = _said("return", self.return_annotation, getattr(self, "source", None))
        return inspect.Signature(map(plain, self.parameters.values()), return_annotation=returned)


class _Words:
    """An annotation that prints as text without quotation marks."""

    def __init__(self, text: str):
        self.text = text

    def __repr__(self) -> str:
        return self.text


def plain(parameter: inspect.Parameter) -> inspect.Parameter:
    """The same argument with its words in the place of its annotation."""
    said = _said(parameter.name, parameter.annotation, getattr(parameter, "source", None))
    return inspect.Parameter(parameter.name, parameter.kind, default=parameter.default, annotation=said)


def _said(name: str, annotation, source: Callable | None):
    words = _words(source).get(name) if source is not None and annotation is not inspect.Parameter.empty else None
    return annotation if words is None else _Words(words)


@functools.cache
def _words(source: Callable) -> dict[str, str]:
    """Annotations as they stand in the source, by argument or field; that of the result under "return"."""
    try:
        (node, *_) = ast.parse(textwrap.dedent(inspect.getsource(source))).body
    except (OSError, TypeError, SyntaxError):
        return {}
    if isinstance(node, ast.ClassDef):
        found = {each.target.id: each.annotation for each in node.body if isinstance(each, ast.AnnAssign)}
    elif isinstance(node, ast.FunctionDef):
        given = node.args
        nodes = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
        found = {each.arg: each.annotation for each in nodes if each is not None} | {"return": node.returns}
    else:
        return {}
    return {name: _unparsed(annotation) for name, annotation in found.items() if annotation is not None}


def _unparsed(annotation: ast.expr) -> str:
    for node in ast.walk(annotation):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node.value = node.value.strip()  # the shape " n" has its space for the sake of linters
    return annotation.value if isinstance(annotation, ast.Constant) else ast.unparse(annotation)


def signature(function: Callable) -> Signature | None:
    """The signature of a function or a class, None if Python knows none."""
    try:
        known = inspect.signature(function)
    except (TypeError, ValueError):
        return None
    source, parameters = inspect.unwrap(function), []
    for each in known.parameters.values():
        parameter = Parameter(each.name, each.kind, default=each.default, annotation=each.annotation)
        parameter.source = source
        parameters.append(parameter)
    found = Signature(parameters, return_annotation=known.return_annotation, __validate_parameters__=False)
    found.source = source
    return found


__all__ = ["Parameter", "Signature", "plain", "signature"]
