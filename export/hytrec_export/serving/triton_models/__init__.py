"""The models that run inside Triton's python backend; `1/model.py` of a repository is a shim into one of them."""
