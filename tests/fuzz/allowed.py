"""What a mutated call may answer although it is not finite and no status says so, each with its reason."""

ALLOWED: tuple[tuple[str, str], ...] = ()
