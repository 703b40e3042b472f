"""What a served HyTRec is compared with: other ways to answer `hytrec_rank`, each a Triton repository of its own.

    eager     the trained model in PyTorch eager, the whole history encoded again on every call
    compiled  the same under torch.compile
    softmax   causal softmax attention (SASRec's shape) over the last 10,000 events, in onnxruntime

All keep their users' histories in the memory of the model's process, speak the tensors of `hytrec_append` and
`hytrec_rank`, and so take the very traffic that a served HyTRec takes. They neither store nor deduplicate anything:
what they leave out makes them faster.
"""
