"""A Triton model repository on disk: configs, files, manifest."""
