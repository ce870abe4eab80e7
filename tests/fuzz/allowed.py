"""What a mutated call may answer although it is not finite and no status says so, each with its reason."""

ALLOWED: tuple[tuple[str, str], ...] = (
    ("jaxsci.gp.append['gp'].chol", "the caller's own factor is handed on, with one more row"),
    ("jaxsci.pfn.bars.reflect['dist'].", "the caller's own numbers are handed on in another order"),
)
