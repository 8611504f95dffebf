"""A process whose address space is limited: samples with more rows at once than fit. Run by test_memory.py.

python out_of_memory.py ROWS NEW_TOKENS
"""

from __future__ import annotations

import logging
import resource
import sys

import torch
from conftest import make_model, make_tokenizer

from bstar_trl.engines import Job, TransformersEngine
from bstar_trl.errors import OutOfMemoryError

rows, new_tokens = map(int, sys.argv[1:])
torch.set_num_threads(1)
logging.basicConfig(format="%(message)s")
model = make_model(hidden_size=64, num_hidden_layers=2, eos_token_id=None, max_position_embeddings=4096)
model.generation_config.eos_token_id = None
engine = TransformersEngine(model, make_tokenizer(), batch_size=rows, max_new_tokens=new_tokens)
jobs = [Job([5, 9, 13], 1.0, seed) for seed in range(rows)]
list(engine.run(jobs[:2]))  # what is loaded lazily is loaded
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()  # noqa: SIM115
resource.setrlimit(resource.RLIMIT_AS, (used + (192 << 20), resource.RLIM_INFINITY))
try:
    chunks = [positions for positions, _ in engine.run(jobs)]
except OutOfMemoryError as error:
    print("error:", error)
else:
    print("chunks:", [len(chunk) for chunk in chunks])
