"""gRPC clients of the HyTRec ensembles."""
