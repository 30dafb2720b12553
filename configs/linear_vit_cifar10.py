"""Linear probe of the small ViT of mae_vit_cifar10.py on 2,000 labelled images of CIFAR-10.

As MAE probes (batch norm, LARS, no weight decay); pool, learning rate and length are chosen for few
images. See docs/experiments.md, which also says how the 2,000 images are chosen. Attentive probe:
--config.head="{'name': 'attentive_probe', 'heads': 4, 'num_classes': 10}"
--config.optim="{'name': 'adamw', 'lr': 1e-3, 'warmup_epochs': 10.0}".

Expect: top-1 of 41 % after MAE on pixels.
Cost: one minute of processor time.
Run: python main.py --config=configs/linear_vit_cifar10.py --workdir=runs/cifar-mae-linear \
         --config.data.path=cifar10-2000 --config.eval_data.path=cifar10 \
         --config.model.init_from=runs/cifar-mae
"""

from maskfeat_jax.configs import common


def get_config():
    config = common.cifar10("probe")
    config.view = dict(size=32, crop_area=(0.3, 1.0))
    config.head = dict(name="linear_probe", num_classes=10, pool="mean")
    config.optim = dict(name="lars", lr=12.8, lr_batch=200, warmup_epochs=4.0)
    config.run = dict(epochs=40.0, batch_size=200, log_every_steps=100, **common.AT_THE_END)
    return config
