"""The node's NVIDIA GPUs: driver, NVML, processes, and how containers get them."""
