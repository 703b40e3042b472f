"""HyTRec: linear (TADN) attention over a user's whole history, softmax attention over recent events.

The paper is arXiv 2602.18283. Nothing is imported here, so that clients and servers that need only
`hytrec.signature` or `hytrec.data.vocabulary` never load torch.
"""

__version__ = "0.1.0"
__all__ = ["__version__"]
