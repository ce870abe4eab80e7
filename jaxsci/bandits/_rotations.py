r"""Least squares one row at a time: the triangular factor (R, z) of all rows so far takes one more row.

With rows $\phi_i^\top$ and values $y_i$, $R^\top R = \sum\phi_i\phi_i^\top$ and $R^\top z = \sum y_i\phi_i$. A new row
$(\phi^\top, y)$ is put below $(R, z)$, and one plane rotation for each column makes it triangular again: $d^2$
operations. $\sum\phi\phi^\top$, whose condition number is the square of that of R, is never formed.

The rotation of the rows $r$ (of R) and $\phi$ with cosine c and sine s is written as the change
$s\phi - \frac{s^2}{1 + c}\,r$ of r, which is small once many rows have gone in, and what rounding leaves of the sum of
these changes is kept (two-sum). So the rounding errors of thousands of rows do not add up.

References: Golub and Van Loan 2013, Matrix Computations, section 6.5.2; Knuth 1997, The Art of Computer Programming,
volume 2, section 4.2.2, theorem B (two-sum).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def append_row(
    factor: Float[Array, "d d+1"], rest: Float[Array, "d d+1"], row: Float[Array, " d+1"]
) -> tuple[Float[Array, "d d+1"], Float[Array, "d d+1"], Float[Array, ""]]:
    """(R, z) with one more row, what rounding has left of it, and the part of the row's value that no fit explains.

    Args:
        factor: R, upper triangular with a diagonal >= 0, and z as its last column.
        rest: what rounding has left of the sums in `factor`; zeros at first.
        row: features and value of the new row; a row of zeros changes nothing.
    """

    def rotate(row, numbered):
        j, own, rest = numbered
        length = jnp.hypot(own[j], row[j])
        cosine, sine = (v / jnp.where(length > 0, length, 1) for v in (own[j], row[j]))
        cosine = jnp.where(length > 0, cosine, 1)
        change = rest + (sine * row - sine**2 / (1 + cosine) * own)
        new = own + change
        part = new - own
        rest = (own - (new - part)) + (change - part)
        return (cosine * row - sine * own).at[j].set(0), (new, rest)

    # Four columns at a time: at a few columns the loop itself costs as much as the rotations.
    row, (factor, rest) = jax.lax.scan(rotate, row, (jnp.arange(factor.shape[0]), factor, rest), unroll=4)
    return factor, rest, row[-1]
