"""One worker of a Slurm step: `srun python slurm_worker.py train NAME -o FOLDER`.

TensorFlow's SlurmClusterResolver lists the workers of the step. They are handed on as TF_CONFIG,
so that kerasunsup checks them, waits for them, and names the one that does not come; and because
the resolver sorts nodes by name, where Slurm need not, so that its own rank may be another's.
"""

import json
import os

import tensorflow as tf

from kerasunsup.cli import main

PORT = 12345  # of the first worker on a node, then one more for each

resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(
    port_base=PORT,
    gpus_per_node=int(os.environ["SLURM_STEP_NUM_TASKS"]),  # enough for its arithmetic
    gpus_per_task=1,
    auto_set_gpu=False,  # Slurm has done that: --gpus-per-task
)
workers = resolver.cluster_spec().as_dict()["worker"]
own = f"{os.environ['SLURMD_NODENAME']}:{PORT + int(os.environ['SLURM_LOCALID'])}"
os.environ["TF_CONFIG"] = json.dumps(
    {"cluster": {"worker": workers}, "task": {"type": "worker", "index": workers.index(own)}}
)
main()
