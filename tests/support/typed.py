"""Whether JSON is what a type says: a `TypedDict` with all of its fields and no other, down to the last number."""

from __future__ import annotations

from types import NoneType, UnionType
from typing import Any, Literal, NotRequired, get_args, get_origin, get_type_hints, is_typeddict


def mismatches(value: Any, hint: Any, path: str = "results") -> list[str]:
    """Where a value is not of a type, by its path; none where it is."""
    arguments = get_args(hint)
    if hint is Any:
        return []
    if is_typeddict(hint):
        return _fields(value, hint, path)
    match get_origin(hint):
        case kind if kind is UnionType:
            found = [mismatches(value, one, path) for one in arguments]
            return [] if [] in found else [problem for problems in found for problem in problems]
        case kind if kind is Literal:
            return [] if value in arguments else [f"{path}: {value!r} is none of {arguments}"]
        case kind if kind is list and isinstance(value, list):
            inner = ((f"{path}[{i}]", item, arguments[0]) for i, item in enumerate(value))
        case kind if kind is dict and isinstance(value, dict) and all(isinstance(name, str) for name in value):
            inner = ((f"{path}.{name}", item, arguments[1]) for name, item in value.items())
        case _:
            return [] if _is_plain(value, hint) else [f"{path}: {value!r:.40} is no {hint}"]
    return [problem for place, item, of in inner for problem in mismatches(item, of, place)]


def _fields(value: Any, hint: Any, path: str) -> list[str]:
    if not isinstance(value, dict):
        return [f"{path}: {value!r:.40} is no {hint.__name__}"]
    hints = get_type_hints(hint, include_extras=True)
    optional = {name: get_args(of)[0] for name, of in hints.items() if get_origin(of) is NotRequired}
    problems = [f"{path}.{name}: absent" for name in hints if name not in value and name not in optional]
    problems += [f"{path}.{name}: no field of {hint.__name__}" for name in value if name not in hints]
    for name in hints.keys() & value.keys():
        problems += mismatches(value[name], optional.get(name, hints[name]), f"{path}.{name}")
    return problems


def _is_plain(value: Any, hint: Any) -> bool:
    if isinstance(value, bool):
        return hint is bool
    # JSON has one kind of number: one without a fraction may be read as an int.
    kinds = {float: int | float, int: int, str: str, None: NoneType, NoneType: NoneType}
    return hint in kinds and isinstance(value, kinds[hint])
