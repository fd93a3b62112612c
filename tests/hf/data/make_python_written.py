"""Writes python_written.safetensors with the Python library (safetensors 0.8.0, torch 2.15), and prints how
huggingface_hub would cut tensors of given sizes into shards: the expected values of tests/hf/test_hf_safetensors_*.c."""
import os

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file

here = os.path.dirname(os.path.abspath(__file__))
ramp = lambda n: torch.arange(n, dtype=torch.float32)
tensors = {
    "scalar": torch.tensor(2.5, dtype=torch.float64),
    "empty": torch.zeros((0, 7), dtype=torch.float32),
    "empty_too": torch.zeros((3, 0), dtype=torch.bfloat16),
    "ramp.f32": ramp(60).reshape(3, 4, 5) * 0.1,
    "ramp.bf16": (ramp(24).reshape(4, 6) * 0.37 - 3).to(torch.bfloat16),
    "ramp.f16": (ramp(10) * 1.7 - 5).to(torch.float16),
    "e4m3": torch.tensor([0.0, -0.5, 448.0, 0.0625, 1.125]).to(torch.float8_e4m3fn),
    "e5m2": torch.tensor([1.0, -57344.0, 0.25]).to(torch.float8_e5m2),
    "ids.i64": torch.tensor([-(2**63), -1, 0, 2**63 - 1], dtype=torch.int64),
    "ids.i32": torch.tensor([[-(2**31)], [2**31 - 1]], dtype=torch.int32),
    "ids.i16": torch.tensor([-7, 32767], dtype=torch.int16),
    "ids.i8": torch.tensor([-128, 127, 5], dtype=torch.int8),
    "ids.u8": torch.tensor([0, 255], dtype=torch.uint8),
    "mask": torch.tensor([True, False, True]),
    'odd "name"\\ü\n': torch.tensor([42], dtype=torch.uint8),
}
save_file(tensors, os.path.join(here, "python_written.safetensors"), metadata={"format": "pt"})

sizes = [3, 5, 12, 4, 4, 10, 1, 0, 11, 2]  # bytes, at most 10 a shard
state = {f"t{i}": torch.zeros(n, dtype=torch.uint8) for i, n in enumerate(sizes)}
print(split_torch_state_dict_into_shards(state, max_shard_size=10, filename_pattern="model{suffix}.safetensors"))
