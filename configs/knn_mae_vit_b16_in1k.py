"""Nearest neighbours of an MAE ViT-B/16 on ImageNet-1k; nothing is learnt.

The protocol, 20 neighbours that vote with temperature 0.07, is that of facebookresearch/dino's
eval_knn.py: centre crops of training and validation images, the class token. Not run here at this
scale.

Expect: unknown; no number is published by the authors of MAE.
Cost: about 17.6 GFLOP (multiply-adds) per image, each image once; the features of the training
images take 3.9 GB, spread over the devices.
Run: python main.py --config=configs/knn_mae_vit_b16_in1k.py --workdir=runs/mae-b-knn \
         --config.data.path=/data/imagenet \
         --config.model.init_from=runs/mae-b
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The recipe."""
    config = ConfigDict()
    config.seed = 0
    config.task = "knn"
    # Folders train/<class>/*.JPEG and val/<class>/*.JPEG.
    config.data = dict(name="image_folder", path="", split="train")
    path = config.data.get_oneway_ref("path")
    config.eval_data = dict(name="image_folder", path=path, split="val")
    config.eval_view = dict(size=224, resize=256)
    config.input = dict(workers=0, on_bad_in_evaluation="fail")
    config.bad_inputs = dict(max_fraction=0.01, max_consecutive=64)
    config.normalise = dict(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    config.model = dict(
        encoder="vit_b16",
        positions="sincos",
        init_from="",  # work directory or checkpoint of the pre-training
        init_resize=False,  # True interpolates positions of another size
        dtype="float32",
        scan=False,
        remat=False,
    )
    config.head = dict(name="features", pool="class")
    config.knn = dict(num_classes=1000, k=20, temperature=0.07)
    config.mesh = dict(parameters=1)
    config.run = dict(batch_size=1024)
    return config
