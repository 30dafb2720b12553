"""Linear probe of an MAE ViT on ImageNet-1k, as facebookresearch/mae (arXiv:2111.06377).

Numbers of its FINETUNE.md and main_linprobe.py: class token, no weight decay. Different here: a
crop that does not fit is drawn again, up to ten times, there it is cut to the image at the first
draw; batch norm takes the whole batch, there the 512 images of a GPU; float32, there mixed
precision. The batch cannot be accumulated from slices: with 32 devices 512 images are on each, with
fewer lower run.batch_size (the learning rate follows). Not run here at this scale.

    size  epochs  expect: top-1 from mae_vit_in1k.py  cost: GMAC per image (head alone learns)
    b16   90      67.8 % (published)                  17.6
    l16   50      76.0 % (published)                  61.6
    h14   50      77.2 % (published)                  167

Run: python main.py --config=configs/linear_mae_vit_in1k.py:b16 --workdir=runs/mae-b-linear \
         --config.data.path=/data/imagenet --config.model.init_from=runs/mae-b
"""

from maskfeat_jax.configs import common

SIZES = {
    "b16": dict(model=dict(encoder="vit_b16"), run=dict(epochs=90.0)),
    "l16": dict(model=dict(encoder="vit_l16"), run=dict(epochs=50.0)),
    "h14": dict(model=dict(encoder="vit_h14"), run=dict(epochs=50.0)),
}


def get_config(size="b16"):
    config = common.imagenet("probe")
    config.model = dict(positions="sincos")
    config.head = dict(name="linear_probe", num_classes=1000)
    config.optim = dict(name="lars", lr=0.1, warmup_epochs=10.0)
    config.run = dict(batch_size=16384, log_every_steps=10)
    config.run.update(evaluate_every_epochs=5.0, pictures_every_epochs=0.0)
    config.update(common.pick(SIZES, size))
    return config
