"""What all scenes need: a folder that can be written, and one line about the machine."""

import pathlib

from jaxsci.core.provenance import versions


def writable(folder: pathlib.Path) -> None:
    """Make the folder, or raise the OSError that names the remedy."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OSError(
            f"cannot write into {str(folder)!r} ({error.strerror}); choose another folder with --out"
        ) from error


def environment(device: dict) -> str:
    """Versions and device, for the foot of a page."""
    known = versions()
    return (
        f"jaxsci {known['jaxsci']}, jax {known['jax']}, Python {known['python']}, {device['count']} x {device['kind']}"
    )


__all__ = ["environment", "writable"]
