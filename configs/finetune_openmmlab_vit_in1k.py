"""Fine-tuning of a MaskFeat ViT-B/16 on ImageNet-1k, 100 epochs, as OpenMMLab (mmpretrain).

Numbers of configs/maskfeat/benchmarks/vit-base-p16_8xb256-coslr-100e_in1k.py. Against PySlowFast
(finetune_vit_in1k.py): no decay on class token and positions, colour jitter besides RandAugment,
bilinear resize in evaluation. Different here: the cosine ends at 1e-6 times the factor of the
layer, there at 1e-6 in every layer; erasing follows normalisation, there it precedes it. Not run
here at this scale.

Expect: 83.4 % top-1 from maskfeat_openmmlab_vit_in1k.py (published).
Cost: 17.6 GMAC per image (training x3).
Run: python main.py --config=configs/finetune_openmmlab_vit_in1k.py --workdir=runs/mm-ft \
         --config.data.path=/data/imagenet --config.model.init_from=runs/mm
"""

from maskfeat_jax.configs import common


def get_config():
    config = common.imagenet("finetune")
    config.view.color_jitter = 0.4
    config.eval_view = dict(interpolation="bilinear")
    config.mix = dict(group=256)  # clips per GPU of the original
    config.model = dict(encoder="vit_b16", drop_path=0.1)
    config.optim = dict(name="adamw", lr=8e-3, lr_batch=2048, warmup_epochs=20.0, warmup_lr=8e-7)
    config.optim.update(layer_decay=0.65, no_decay=("cls_token$", "pos_embed$"))
    config.run = dict(epochs=100.0, batch_size=2048, pictures_every_epochs=0.0)
    config.model.dtype = "bfloat16"
    return config
