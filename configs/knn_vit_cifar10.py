"""k nearest neighbours by the features of the small ViT of mae_vit_cifar10.py, CIFAR-10.

Nothing is trained: of the 50,000 training images the nearest 20 vote, with temperature 0.07. See
docs/experiments.md.

Expect: top-1 of 41 % after MAE on pixels.
Cost: one minute of processor time.
Run: python main.py --config=configs/knn_vit_cifar10.py --workdir=runs/cifar-mae-knn \
         --config.data.path=cifar10 --config.model.init_from=runs/cifar-mae
"""

from maskfeat_jax.configs import common


def get_config():
    config = common.cifar10("knn")
    config.eval_view.size = 32
    config.head = dict(name="features", pool="mean")
    config.knn = dict(num_classes=10)
    config.run = dict(batch_size=250)
    return config
