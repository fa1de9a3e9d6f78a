"""Parts of `gpu_training.py`: each module measures some lines of its table and enters itself by `part`."""
