"""Which feature to predict? Targets and both heads, a small ViT, CIFAR-10 with 2,000 labels.

Pre-training once, then fine-tuning with three seeds, a linear probe and nearest neighbours, see
docs/experiments.md, which also says how the 2,000 images are chosen. A row of MAE has the name of
its target with `mae_` before it. What follows the colon is the folder of `cifar10` and
`cifar10-2000`.

Run: python main.py sweep --config=configs/sweeps/cifar10_targets.py:. --workdir=runs/cifar10
"""

from ml_collections import ConfigDict

HOG = dict(name="hog", cell=4)
TARGETS = dict(
    pixels=dict(name="pixels"),
    hog=HOG,
    hog_unnormalised=dict(**HOG, normalise="none"),
    hog_pixels=dict(
        name="sum", parts=dict(hog=dict(cell=4), pixels=dict()), weights=dict(hog=1.0, pixels=1.0)
    ),
)
# Of one target, where it needs something else than the others.
OWN = dict()
EPOCHS = 20.0


def get_config(folder="."):
    config = ConfigDict(dict(seeds=3))
    config.common = dict(data=dict(path=f"{folder}/cifar10"))
    few = dict(data=dict(path=f"{folder}/cifar10-2000"), eval_data=dict(path=f"{folder}/cifar10"))
    config.stages = dict(
        pretrain=dict(
            config="configs/maskfeat_vit_cifar10.py",
            seeds=1,
            metrics=("loss", "loss_of_best_constant"),
            changes=dict(run=dict(epochs=EPOCHS)),
        ),
        finetune=dict(config="configs/finetune_vit_cifar10.py", init_from="pretrain", changes=few),
        linear=dict(config="configs/linear_vit_cifar10.py", init_from="pretrain", changes=few),
        knn=dict(config="configs/knn_vit_cifar10.py", init_from="pretrain", seeds=1),
    )
    scratch = dict(optim=dict(layer_decay=1.0))
    config.rows = [dict(name="none", pretrain=None, linear=None, knn=None, finetune=scratch)]
    for target, section in TARGETS.items():
        change = dict(target=section, **OWN.get(target, {}))
        config.rows.append(dict(name=target, pretrain=change))
    for target, section in TARGETS.items():
        change = dict(config="configs/mae_vit_cifar10.py", target=section)
        config.rows.append(dict(name=f"mae_{target}", pretrain=change))
    return config
