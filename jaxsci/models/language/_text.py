"""Text that every Python ships: the chapters on topics of the language, as numbers of symbols.

The chapters of ``pydoc_data.topics``, in the order of their names, are joined by line breaks; what is not ASCII becomes
"?". The first nine tenths train, the rest validates. Text and number of symbols differ from one Python to the next.
"""

import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

_TRAINED = 0.9


class Text(NamedTuple):
    """A text as whole numbers.

    Attributes:
        symbols: all of them, in the order of their numbers.
        train: numbers of the symbols to train on.
        validation: those of the rest.
    """

    symbols: str
    train: Int[np.ndarray, " n"]
    validation: Int[np.ndarray, " m"]


@functools.cache
def data() -> Text:
    """The documentation of Python's own topics.

    Example:
        >>> from jaxsci.models import language
        >>> text = language.data()
        >>> print(len(text.symbols) > 90, len(text.train) > 8 * len(text.validation))
        True True
    """
    from pydoc_data.topics import topics

    joined = "\n".join(topics[name] for name in sorted(topics)).encode("ascii", "replace")
    codes = np.frombuffer(joined, np.uint8)
    symbols, numbers = np.unique(codes, return_inverse=True)
    numbers = numbers.astype(np.int32)
    cut = int(_TRAINED * len(numbers))
    return Text(symbols.tobytes().decode(), numbers[:cut], numbers[cut:])


def encode(text: str) -> Int[np.ndarray, " n"]:
    """Numbers of the symbols of a text.

    Raises:
        ValueError: a symbol that the training text does not have.

    Example:
        >>> from jaxsci.models import language
        >>> print(language.decode(language.encode("def f(x):")))
        def f(x):
    """
    symbols = data().symbols
    missing = sorted(set(text) - set(symbols))
    if missing:
        raise ValueError(f"language.encode: text must be made of the {len(symbols)} symbols of data(), got {missing}")
    return np.array([symbols.index(symbol) for symbol in text], np.int32)


def decode(tokens: Int[np.ndarray, " n"]) -> str:
    """The text of a sequence of numbers.

    Raises:
        ValueError: a number that belongs to no symbol.

    Example:
        >>> from jaxsci.models import language
        >>> print(language.decode(language.encode("yield x")))
        yield x
    """
    symbols, tokens = data().symbols, np.asarray(tokens)
    if tokens.size and not 0 <= tokens.min() <= tokens.max() < len(symbols):
        raise ValueError(f"language.decode: tokens must lie in [0, {len(symbols)}), got {tokens.min()}..{tokens.max()}")
    return "".join(symbols[token] for token in tokens)


__all__ = ["Text", "data", "decode", "encode"]
