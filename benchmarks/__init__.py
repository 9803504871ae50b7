"""Speed, memory and accuracy of icobench, watched by asv (asv.conf.json)."""

import os

# torch then counts GPUs without waking them, and benchmarks forked from this process may still use them.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
