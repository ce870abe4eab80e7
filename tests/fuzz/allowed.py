"""What a mutated call may answer although it is not finite and no status says so, each with its reason."""

ALLOWED: tuple[tuple[str, str], ...] = (
    ("jaxsci.gp.append['gp'].chol", "the caller's own factor is handed on, with one more row"),
    ("jaxsci.gp.append['gp'].x: ", "the caller's own inputs are handed on, with one more row"),
    *(
        (
            f"jaxsci.diffusion.correctors.sample['beta']: {change} -> .variance_ratio",
            "powers so small that the cloud's variance has no limit: variance_ratio is inf, as documented",
        )
        for change in ("tiny", "zero", "zero in one entry")
    ),
    (
        "jaxsci.diffusion.step[",
        "the status of a state tells of the states before it; the next step or finish judges it",
    ),
    *(
        (f"jaxsci.rl.three_body.{rule}['bodies'].position: huge", "bodies so far apart never meet: time inf")
        for rule in (
            "hermite.integrate",
            "integrators.hermite",
            "integrators.leapfrog",
            "integrators.runge_kutta",
            "integrators.yoshida",
        )
    ),
    ("jaxsci.diffusion.tables.pad[", "the caller's own table is handed on, with more rows"),
    ("jaxsci.diffusion.tables.stack[", "the caller's own tables are handed on, side by side"),
    ("jaxsci.pfn.bars.reflect['dist'].", "the caller's own numbers are handed on in another order"),
)
