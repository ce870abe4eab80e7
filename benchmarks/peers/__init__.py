"""Functions of other packages that jaxsci is compared with; each file needs NumPy and its peers alone (`_serve.py`)."""
