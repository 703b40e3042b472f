"""What a served HyTRec is compared with: other ways to serve `hytrec_rank`, each a Triton repository of its own.

    eager     the trained model in PyTorch eager, the whole history encoded again for every request
    compiled  the same under torch.compile
    softmax   causal softmax attention (SASRec's shape) over the last 10,000 events, in onnxruntime

All keep their users' histories in the memory of the model's process, speak the tensors of `hytrec_append` and
`hytrec_rank`, and so take the very traffic that a served HyTRec takes. They neither store nor deduplicate anything:
what they leave out makes them faster.

options -> history_traffic, competitors -> at_length -> comparison -> figures     the measurement (`__main__`)
queries, encoders, softmax, repository, triton_model, servers                     the peers themselves
python_client                                                                     figures that perf_analyzer has not
"""
