"""What the reference changes in docstrings before it shows them, as an extension of griffe.

The section that this project calls `Example:` is the one that griffe calls `Examples:`; under the other name its
doctests would be shown as quotations.
"""

import re

import griffe


class Examples(griffe.Extension):
    """Give the section of doctests the name under which griffe knows it."""

    def on_object(self, *, obj: griffe.Object, **_) -> None:
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"^( *)Example:$", r"\1Examples:", obj.docstring.value, flags=re.M)
