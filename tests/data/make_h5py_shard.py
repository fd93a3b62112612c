#!/usr/bin/env python3
"""Write files/h5py_small.hdf5 with h5py: the shard that test_data_shard reads to show that the format is what
the documentation says, not what this project's writer happens to make."""
import os

import h5py
import numpy as np

here = os.path.dirname(os.path.abspath(__file__))
lengths = [5, 1, 9]
tokens = np.concatenate([np.arange(n, dtype=np.uint32) * 3 + 10 * i for i, n in enumerate(lengths)])
mask = np.array([0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 1, 0, 1, 1, 0], dtype=np.uint8)
offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.uint64)
targets = np.array([mask[a + 1:b].sum() for a, b in zip(offsets[:-1], offsets[1:])], dtype=np.uint32)

with h5py.File(os.path.join(here, "files", "h5py_small.hdf5"), "w") as f:
    options = dict(chunks=(4,), maxshape=(None,), fletcher32=True, compression="gzip", track_times=False)
    f.create_dataset("tokens", data=tokens, **options)
    f.create_dataset("loss_mask", data=mask, **options)
    f.create_dataset("sequence_offsets", data=offsets, **options)
    f.create_dataset("sequence_targets", data=targets, **options)
    f.attrs["format_version"] = 1
    f.attrs["vocab_size"] = np.int64(64)
    f.attrs["tokenizer_sha256"] = "ab" * 32
    f.attrs["chat_template_sha256"] = ""
    f.attrs["source_files"] = ["one.jsonl", "zwei-ü.jsonl"]
    f.attrs["num_sequences"] = len(lengths)
    f.attrs["num_tokens"] = len(tokens)
    f.attrs["num_supervised"] = int(targets.sum())
