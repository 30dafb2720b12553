"""Fine-tuning of a video MAE ViT-B/16 on Kinetics-400, 150 epochs, as in arXiv:2205.09113.

Numbers of PySlowFast's configs/masked_ssl/k400_VIT_B_16x4_FT.yaml: 75 passes with two clips of each
video, 150 epochs; batch, learning rates and epochs count clips here. Its batch of one video must be
a placeholder: there are eight GPUs. Ours is 32 videos a node on 16 nodes, with which the learning
rate of a clip is the same as in finetune_mae_vit_l16_k400.py. Not run here at this scale.

Expect: 81.3 % top-1, seven clips with three crops each, from mae_vit_b16_k400.py (published).
Cost: about 180 GFLOP (multiply-adds) forward per clip, three times that with the backward pass.
Run: python main.py --config=configs/finetune_mae_vit_b16_k400.py --workdir=runs/mae-b-k400-ft \
         --config.data.path=/data/k400 \
         --config.model.init_from=runs/mae-b-k400
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config() -> ConfigDict:
    """The recipe."""
    config = ConfigDict()
    config.seed = 0
    config.task = "finetune"
    # Lines "path label" of train.csv and val.csv; video_folder and video_records take a path too.
    config.data = dict(name="video_list", path="", root=placeholder(str), split="train")
    path = config.data.get_oneway_ref("path")
    root = config.data.get_oneway_ref("root")
    config.eval_data = dict(name="video_list", path=path, root=root, split="val")
    config.view = dict(
        size=224,
        frames=16,
        stride=4,
        short_side=256,
        crop_area=(0.08, 1.0),
        crop_ratio=(3 / 4, 4 / 3),
        interpolation="bilinear",
        antialias=False,
        rand_augment="rand-m7-mstd0.5-inc1",
        fill=(128, 128, 128),
        augment_first=True,
        repeats=2,
    )
    # Probabilities are averaged over 21 views of each video.
    config.eval_view = dict(size=224, frames=16, stride=4, resize=224, clips=7, crops=3)
    config.input = dict(workers=0, on_bad_in_evaluation="fail")
    config.bad_inputs = dict(max_fraction=0.01, max_consecutive=64)
    config.normalise = dict(mean=(0.45, 0.45, 0.45), std=(0.225, 0.225, 0.225))
    config.augment = dict(flip=0.5, erase=0.25)
    config.mix = dict(
        mixup=0.8,
        cutmix=1.0,
        probability=1.0,
        switch=0.5,
        group=8,  # clips per GPU: ours, see above
        smoothing=0.1,
    )
    config.model = dict(
        encoder="vit_b16",
        tubelet=(2, 16, 16),
        positions="separate",
        init_from="",  # work directory or checkpoint of the pre-training
        init_resize=False,  # True interpolates positions of another size
        init_parts=("encoder", "norm"),
        drop_path=0.1,
        dtype="float32",
        scan=False,
        remat=False,
    )
    config.head = dict(name="classifier", num_classes=400, dropout=0.3)
    config.optim = dict(
        name="adamw",
        lr=6e-4,
        lr_batch=64,  # 32 videos of a node (ours), two clips of each
        warmup_lr=1e-8,
        end_lr=1e-5,
        warmup_epochs=10.0,  # 5 passes
        weight_decay=0.05,
        layer_decay=0.65,
        clip_norm=5.0,
    )
    config.mesh = dict(parameters=1)
    config.run = dict(
        epochs=150.0,  # 75 passes
        batch_size=1024,
        accumulate=1,
        log_every_steps=50,
        checkpoint_every_epochs=2.0,
        evaluate_every_epochs=30.0,
        pictures_every_epochs=0.0,
    )
    return config
