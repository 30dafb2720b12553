"""Fine-tuning of the small ViT of maskfeat_vit_cifar10.py on 2,000 labelled images of CIFAR-10.

Without `model.init_from` the same network from scratch, for the same budget. See
docs/experiments.md, which also says how the 2,000 images are chosen.

Expect: top-1 of 42 % after pre-training on pixels, of 33 % from scratch.
Cost: one minute of processor time.
Run: python main.py --config=configs/finetune_vit_cifar10.py --workdir=runs/cifar-hog-ft \
         --config.data.path=cifar10-2000 --config.eval_data.path=cifar10 \
         --config.model.init_from=runs/cifar-hog
"""

from maskfeat_jax.configs import common


def get_config():
    config = common.cifar10("finetune")
    config.view = dict(size=32, crop_area=(0.3, 1.0))
    config.mix = dict(probability=0.0)
    config.model.drop_path = 0.1
    config.head = dict(name="classifier", num_classes=10)
    config.optim = dict(name="adamw", lr=1e-3, lr_batch=100, warmup_epochs=2.0, layer_decay=0.75)
    config.run = dict(epochs=15.0, batch_size=100, log_every_steps=100, **common.AT_THE_END)
    return config
