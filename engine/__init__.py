"""Inference only: weights, KV cache, adapter bank, scheduler, sampling, the worker process."""
