"""Every public name of both packages, and the entry under which the contract tests know it.

A name is public when it stands in the `__all__` of a module without an underscore in its path. Its canonical form
is the shortest path to it. Entries live in `tests/registered/<room>.py`; `python tests/registry.py` prints the table
of kinds and skipped checks.
"""

import importlib
import pkgutil
import types

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


def missing(names: dict[str, object], registered_names) -> list[str]:
    """Public names without an entry."""
    return sorted(set(names) - set(registered_names))


def stale(names: dict[str, object], registered_names) -> list[str]:
    """Entries whose public name is gone."""
    return sorted(set(registered_names) - set(names))


def table() -> str:
    """Kinds and counts, and every skipped check with its reason."""
    joined = entries()
    kinds: dict[str, int] = {}
    skips = []
    for name, entry in sorted(joined.items()):
        kinds[type(entry).__name__] = kinds.get(type(entry).__name__, 0) + 1
        skips += [f"{name}: {check} skipped: {reason}" for check, reason in entry.skip.items()]
    head = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    return "\n".join([f"{len(joined)} public names: {head}", *(skips or ["no check is skipped"])])


if __name__ == "__main__":
    print(table())
