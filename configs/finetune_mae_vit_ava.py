"""Fine-tuning of a video MAE ViT on AVA v2.2 (arXiv:2205.09113): what the people in a frame do.

No file of this is published. Optimiser, learning rate, batch, epochs, weight decay, drop path,
dropout and layer decay are what others quote of the paper's appendix; an issue of PySlowFast
confirms learning rate and batch. Threshold of the detector, sides, crop and flip are those of
PySlowFast's configs/AVA/SLOWFAST_32x2_R50_SHORT.yaml; that proposals are trained on is not known.
No clipping, and the ends of the schedule, 0, are ours; Nesterov momentum of 0.9 is PySlowFast's
default. Evaluation takes the centre crop, so boxes may lie outside;
--config.eval_view.full_frame=True takes whole frames.

The highest numbers of the paper come from models with the labels of Kinetics and with relative
positions, which this ViT does not have: it goes on with its separate ones. Not run here.

    size  expect: mAP, from mae_vit_kinetics                   cost: GMAC per clip (training x3)
    l16   31.1 %, pre-trained on Kinetics-600 32.5 %, on       597
          Kinetics-700 33.1 % (published); with labels and
          relative positions 38.4 and 39.5 % (as quoted)
    h16   with labels and relative positions 40.3 and 40.1 %   1192

By `estimate`, l16 needs 6.2 of 59 GiB of an H100 with 16 clips.

Run: python main.py --config=configs/finetune_mae_vit_ava.py:l16 --workdir=runs/mae-l-ava \
         --config.data.path=/data/ava --config.model.init_from=runs/mae-l-k400
"""

from maskfeat_jax.configs import common

SIZES = {
    "l16": dict(model=dict(encoder="vit_l16"), optim=dict(lr=7.2, layer_decay=0.75)),
    "h16": dict(model=dict(encoder="vit_h16"), optim=dict(lr=4.8, layer_decay=0.85)),
}


def get_config(size="l16"):
    config = common.ava()
    config.view.update(frames=16, stride=4, scale_jitter=(256, 320))
    config.eval_view = dict(resize=224)
    config.model = dict(tubelet=(2, 16, 16), positions="separate", init_parts=("encoder", "norm"))
    # remat: less memory for a third more computation; no effect on the result.
    config.model.update(drop_path=0.2, remat=True)
    config.optim = dict(name="sgd", lr_batch=128, warmup_epochs=5.0, weight_decay=1e-8)
    config.optim.nesterov = True
    config.run = dict(epochs=30.0, batch_size=128, evaluate_every_epochs=5.0)
    config.update(common.pick(SIZES, size))
    config.model.dtype = "bfloat16"
    return config
