"""k nearest neighbours by the features of the small ViT of mae_vit_cifar10.py, CIFAR-10.

Nothing is trained: the 50,000 training images vote. See docs/experiments.md.

Expect: see docs/experiments.md.
Cost: about two minutes on two CPU cores.
Run: python main.py --config=configs/knn_vit_cifar10.py --workdir=runs/cifar-mae-knn \
         --config.data.path=cifar10 --config.model.init_from=runs/cifar-mae
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The recipe."""
    config = ConfigDict()
    config.seed = 0
    config.task = "knn"
    config.data = dict(name="image_folder", path="", split="train")
    path = config.data.get_oneway_ref("path")
    config.eval_data = dict(name="image_folder", path=path, split="test")
    config.eval_view = dict(size=32, resize=32)
    config.input = dict(workers=0, on_bad_in_evaluation="fail")
    config.bad_inputs = dict(max_fraction=0.01, max_consecutive=64)
    config.normalise = dict(mean=(0.491, 0.482, 0.447), std=(0.247, 0.243, 0.262))
    config.model = dict(
        encoder="vit_ti16",
        tubelet=(1, 4, 4),
        width=128,
        depth=4,
        heads=4,
        dtype="float32",
        init_from="",
        init_resize=False,  # True interpolates positions of another size
    )
    config.head = dict(name="features", pool="mean")
    config.knn = dict(num_classes=10, k=20, temperature=0.07)
    config.mesh = dict(parameters=1)
    config.run = dict(batch_size=250)
    return config
