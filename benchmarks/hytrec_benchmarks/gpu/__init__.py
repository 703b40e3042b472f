"""What can be proved on a GPU in minutes: `prepare` a folder anywhere, `run` it on a bare NVIDIA machine, `report`.

`run` needs this checkout, a CUDA build of PyTorch and numpy, and takes what else it finds.
"""
