"""What several recipes share: data, its pixels and views. A recipe adds what is its own.

Costs of recipes are in GMAC, 1e9 multiply-adds, of a forward pass.
"""

from ml_collections import ConfigDict

# Of runs of minutes: nothing between start and end.
AT_THE_END = dict(checkpoint_every_epochs=0.0, evaluate_every_epochs=0.0, pictures_every_epochs=0.0)

# Targets of the tables of ablations. Teachers are looked for in the folder `teachers`.
HOG = dict(name="hog")
PIXELS = dict(name="pixels", normalise=False)  # but for mean and standard deviation of the data
DVAE = dict(name="dvae", file="teachers/dalle_encoder.pkl")
DINO = dict(name="features", file="teachers/dino_vit_b16.pth")
LABELS = dict(name="pseudo_label", file="teachers/classifier_vit_b16.safetensors")


def pick(table, name):
    """`table[name]`; a LookupError that says what there is."""
    if name not in table:
        raise LookupError(f"{name!r} is not one of {', '.join(table)}")
    return table[name]


def imagenet(task):
    """ImageNet-1k as train/<class>/*.JPEG and val/<class>/*.JPEG; pre-training takes any tree.

    Fine-tuning augments as PySlowFast, OpenMMLab and MAE do: RandAugment, erasing and, which are
    the defaults of `mix`, mixup 0.8, CutMix 1.0, label smoothing 0.1.
    """
    config = ConfigDict(dict(task=task, data=dict(name="image_folder")))
    if task != "pretrain":
        config.eval_data = dict(split="val")
    if task == "finetune":
        config.view = dict(rand_augment="rand-m9-mstd0.5-inc1")
        config.augment = dict(erase=0.25)
        config.head = dict(name="classifier", num_classes=1000)
    return config


def kinetics(task):
    """Clips of 16 frames, every fourth, as PySlowFast; it resizes without antialiasing.

    Lines "path label" of train.csv and val.csv; pre-training takes lines "path" too. The datasets
    `video_folder` and `video_records` take a path as well.
    """
    config = ConfigDict(dict(task=task, data=dict(name="video_list")))
    config.view = dict(frames=16, stride=4, short_side=256)
    config.view.update(interpolation="bilinear", antialias=False)
    config.normalise = dict(mean=(0.45, 0.45, 0.45), std=(0.225, 0.225, 0.225))
    if task == "pretrain":
        config.view.crop_area = (0.5, 1.0)
    else:
        config.eval_data = dict(split="val")
        config.view.update(rand_augment="rand-m7-mstd0.5-inc1")
        config.view.update(fill=(128, 128, 128), augment_first=True)
        config.augment = dict(erase=0.25)
    return config


def ssv2():
    """Fine-tuning on Something-Something v2, as PySlowFast's configs/SSv2/MVITv2_S_16x4.yaml.

    `data.path` has the published JSON files and the videos.
    """
    config = ConfigDict(dict(task="finetune", data=dict(name="ssv2")))
    config.eval_data = dict(split="validation")
    config.view = dict(frames=16, sampling="segment", scale_jitter=(256, 320))
    config.view.update(interpolation="bilinear", antialias=False)
    config.view.update(fill=(128, 128, 128), augment_first=True)
    config.eval_view = dict(resize=224, crops=3)
    config.normalise = dict(mean=(0.45, 0.45, 0.45), std=(0.225, 0.225, 0.225))
    config.augment = dict(flip=0.0, erase=0.25)  # left and right tell classes apart
    config.mix = dict(group=2)  # clips per GPU of the original
    config.head = dict(name="classifier", num_classes=174)
    return config


def ava():
    """Fine-tuning on AVA v2.2, as PySlowFast's configs/AVA/SLOWFAST_32x2_R50_SHORT.yaml.

    `data.path` has the frames, their lists and the annotations, as PySlowFast's DATASET.md says.
    """
    lists = "annotations/person_box_67091280_iou90/ava_detection_"  # PySlowFast's
    config = ConfigDict(dict(task="detect", data=dict(name="ava", threshold=0.8)))
    config.data.train_boxes = (f"{lists}train_boxes_and_labels_include_negative_v2.2.csv",)
    config.data.eval_boxes = (f"{lists}val_boxes_and_labels.csv",)
    config.eval_data = dict(split="val")
    config.view = dict(sampling="centred", interpolation="bilinear", antialias=False)
    config.normalise = dict(mean=(0.45, 0.45, 0.45), std=(0.225, 0.225, 0.225))
    config.head = dict(name="boxes", num_classes=80)
    return config


def cifar10(task):
    """CIFAR-10 as train/<class>/ and test/<class>/, and a ViT of 0.4 million parameters."""
    config = ConfigDict(dict(task=task, data=dict(name="image_folder")))
    config.eval_data = dict(split="test")
    config.eval_view = dict(resize=32)
    config.normalise = dict(mean=(0.491, 0.482, 0.447), std=(0.247, 0.243, 0.262))
    config.model = dict(encoder="vit_ti16", tubelet=(1, 8, 8), width=96, depth=3)
    return config


def ablation(tables, chosen, pretrain, finetune, scratch="", **changes):
    """A sweep of one of several tables, whose rows change sections of the pre-training.

    `chosen` is the table, and after commas the rows if not all are wanted. None instead of sections
    is a row without pre-training, with the recipe `scratch`.
    """
    name, *rows = chosen.split(",")
    table = pick(tables, name)
    config = ConfigDict()
    config.stages = dict(
        pretrain=dict(config=pretrain, changes=changes),
        finetune=dict(config=finetune, init_from="pretrain"),
    )
    config.rows = [
        dict(name=row, pretrain=pick(table, row))
        if pick(table, row) is not None
        else dict(name=row, pretrain=None, finetune=dict(config=scratch))
        for row in rows or table
    ]
    return config
