"""Demo: a masked autoencoder on MP4 files of moving shapes, normalised pixels, 90 % masked.

Two clips are taken of each decoded video, so that 16 epochs decode every video 8 times.

Expect: loss 0.51 on test videos, of the best constant 0.98.
Cost: about four minutes on two CPU cores.
Run: python main.py --config=configs/demo_mae.py --workdir=runs/demo_mae
"""

from ml_collections import ConfigDict


def get_config():
    config = ConfigDict(dict(task="pretrain", data=dict(name="moving_shapes", size=32)))
    config.eval_data = dict(split="test", num_examples=200)
    config.view = dict(size=32, frames=8, stride=2, sampling="strided", crop_area=(0.6, 1.0))
    config.view.update(interpolation="bilinear", antialias=False, repeats=2, new_frames=True)
    config.eval_view = dict(resize=32)
    config.normalise = dict(mean=(0.45, 0.45, 0.45), std=(0.225, 0.225, 0.225))
    config.mask = dict(name="random", ratio=0.9)
    config.target = dict(name="pixels", channels="last")
    config.model = dict(encoder="vit_ti16", width=128, depth=4, heads=4)
    config.model.update(tubelet=(2, 4, 4), positions="separate")
    config.head = dict(name="mae", width=96, depth=2, heads=3)
    config.optim = dict(name="adamw", lr=3e-3, lr_batch=32, warmup_epochs=1.0, b2=0.95)
    config.optim.clip_norm = 1.0
    config.run = dict(epochs=16.0, batch_size=32, evaluate_every_epochs=4.0)
    config.run.update(checkpoint_every_epochs=4.0, pictures_every_epochs=8.0)
    return config
