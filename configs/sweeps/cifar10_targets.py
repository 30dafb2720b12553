"""What to predict? Targets of MaskFeat and MAE, CIFAR-10, fine-tuned on 2,000 labelled images.

The table of docs/experiments.md, which says how the folders cifar10 and cifar10-2000 are made. They
are looked for where the command runs.

Run: python main.py sweep --config=configs/sweeps/cifar10_targets.py --workdir=runs/cifar10
"""

from ml_collections import ConfigDict

MAE = "configs/mae_vit_cifar10.py"
PIXELS = dict(name="pixels")
HOG = dict(name="hog", cell=4)
# The loss of the best constant is 0.061 for HOG and 0.99 for pixels.
SUM = dict(name="sum", parts=dict(hog=HOG, pixels=PIXELS), weights=dict(hog=16.0))
FEATURES = dict(name="features", file="{mae-pixels/pretrain}")


def get_config():
    config = ConfigDict(dict(seeds=3))
    config.common = dict(data=dict(path="cifar10"), eval_data=dict(path="cifar10"))
    labelled = dict(data=dict(path="cifar10-2000"))
    config.stages = dict(
        pretrain=dict(
            config="configs/maskfeat_vit_cifar10.py:hog",
            seeds=1,
            metrics=("loss", "loss_of_best_constant"),
        ),
        finetune=dict(
            config="configs/finetune_vit_cifar10.py", init_from="pretrain", changes=labelled
        ),
        linear=dict(
            config="configs/linear_vit_cifar10.py",
            init_from="pretrain",
            seeds=1,
            changes=labelled,
        ),
        knn=dict(config="configs/knn_vit_cifar10.py", init_from="pretrain", seeds=1),
    )
    scratch = dict(optim=dict(layer_decay=1.0))
    config.rows = [
        dict(name="none", pretrain=None, finetune=scratch, linear=None, knn=None),
        dict(name="pixels", pretrain=dict(target=PIXELS)),
        dict(name="hog"),
        dict(name="hog-plain", pretrain=dict(target=dict(normalise="none"))),
        dict(name="hog-pixels", pretrain=dict(target=SUM)),
        dict(name="features", pretrain=dict(target=FEATURES)),
        dict(name="mae-pixels", pretrain=dict(config=MAE)),
        dict(name="mae-hog", pretrain=dict(config=MAE, target=HOG)),
    ]
    return config
