"""One module a room, each with `ENTRIES: dict[public name, kind]`; `tests/registry.py` joins them."""
