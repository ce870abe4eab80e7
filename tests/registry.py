"""Every public name of both packages, and the entry under which the contract tests know it.

A name is public when it stands in the `__all__` of a module without an underscore in its path. Its canonical form
is the shortest path to it. Everything that users call needs an entry in `tests/registered/<room>.py`; records and
constants are told from the objects themselves. `python tests/registry.py` prints the table of kinds and skipped checks.
"""

import collections
import importlib
import pkgutil
import types
import typing

import equinox as eqx

PACKAGES = ("jaxsci", "pallas_kernels")


def public_modules() -> list[str]:
    """Dotted names of all importable public modules, shallow ones first."""
    names = []
    for package in PACKAGES:
        root = importlib.import_module(package)
        names.append(package)
        for info in pkgutil.walk_packages(root.__path__, f"{package}."):
            if not any(part.startswith("_") for part in info.name.split(".")):
                names.append(info.name)
    return sorted(names, key=lambda n: (n.count("."), n))


def public_names(modules: list[str] | None = None) -> dict[str, object]:
    """Canonical name -> object for everything that stands in some `__all__`."""
    found: dict[object, tuple[str, object]] = {}
    for module_name in modules or public_modules():
        module = importlib.import_module(module_name)
        exported = getattr(module, "__all__", None)
        if exported is None:
            raise AssertionError(f"{module_name} is public and has no __all__")
        for name in exported:
            value = getattr(module, name)
            if isinstance(value, types.ModuleType):
                continue
            shared = callable(value) or isinstance(value, type)
            identity = id(value) if shared else (name, repr(value))
            found.setdefault(identity, (f"{module_name}.{name}", value))
    return dict(sorted(found.values()))


def entries() -> dict[str, object]:
    """All registered entries; a name registered twice is an error."""
    import registered

    joined: dict[str, object] = {}
    for info in pkgutil.iter_modules(registered.__path__):
        for name, entry in importlib.import_module(f"registered.{info.name}").ENTRIES.items():
            if name in joined:
                raise AssertionError(f"{name} is registered twice")
            joined[name] = entry
    return joined


def inferred(value: object) -> str | None:
    """What a name without an entry is: "Record", "Alias", "Constant", or None if users call it, so that it needs one.

    A record is a NamedTuple, an equinox Module, a Protocol or an exception of this project; an alias is any type that
    comes from elsewhere (jaxtyping, typing) or has arguments.
    """
    if typing.get_origin(value) is not None:
        return "Alias"
    if not isinstance(value, type):
        return None if callable(value) else "Constant"
    if value.__module__.split(".")[0] not in PACKAGES:
        return "Alias"
    protocol = getattr(value, "_is_protocol", False)
    return "Record" if protocol or hasattr(value, "_fields") or issubclass(value, (eqx.Module, BaseException)) else None


def records(names: dict[str, object]) -> dict[str, type]:
    """The public names that are records."""
    return {name: value for name, value in names.items() if inferred(value) == "Record"}


def missing(names: dict[str, object], registered_names) -> list[str]:
    """Public names that need an entry and have none."""
    return sorted(name for name in set(names) - set(registered_names) if inferred(names[name]) is None)


def stale(names: dict[str, object], registered_names) -> list[str]:
    """Entries whose public name is gone."""
    return sorted(set(registered_names) - set(names))


def table() -> str:
    """Kinds and counts, and every skipped check with its reason."""
    names, joined = public_names(), entries()
    kinds = collections.Counter(type(joined[n]).__name__ if n in joined else inferred(v) for n, v in names.items())
    skips = [f"{n}: {check} skipped: {why}" for n, entry in sorted(joined.items()) for check, why in entry.skip.items()]
    head = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    return "\n".join([f"{len(names)} public names: {head}", *(skips or ["no check is skipped"])])


if __name__ == "__main__":
    print(table())
