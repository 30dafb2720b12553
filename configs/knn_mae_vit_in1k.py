"""Nearest neighbours of an MAE ViT on ImageNet-1k; nothing is trained.

The protocol, 20 neighbours that vote with temperature 0.07, is that of facebookresearch/dino's
eval_knn.py: centre crops of training and validation images, the class token. Not run here at this
scale.

    size  expect: top-1 from mae_vit_in1k.py  cost: GMAC per image, once; features of
    b16   unknown, none is published          17.6, 3.9 GB             training images, spread
    l16   unknown, none is published          61.6, 5.2 GB             over the devices
    h14   unknown, none is published          167, 6.6 GB

Run: python main.py --config=configs/knn_mae_vit_in1k.py:b16 --workdir=runs/mae-b-knn \
         --config.data.path=/data/imagenet --config.model.init_from=runs/mae-b
"""

from maskfeat_jax.configs import common

SIZES = {
    "b16": dict(encoder="vit_b16"),
    "l16": dict(encoder="vit_l16"),
    "h14": dict(encoder="vit_h14"),
}


def get_config(size="b16"):
    config = common.imagenet("knn")
    config.model = dict(positions="sincos", **common.pick(SIZES, size))
    config.head = dict(name="features")
    config.knn = dict(num_classes=1000)
    config.run = dict(batch_size=1024)
    return config
