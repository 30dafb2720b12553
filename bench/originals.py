"""Imports the PyTorch originals from checkouts, without their dependencies.

| variable             | checkout of                 | contains                    |
|----------------------|-----------------------------|-----------------------------|
| `SLOWFAST_DIR`       | facebookresearch/SlowFast   | `slowfast/` and `configs/`  |
| `MAE_ST_DIR`         | facebookresearch/mae_st     | `models_mae.py`, `util/`    |
| `MAE_DIR`            | facebookresearch/mae        | `models_mae.py`, `util/`    |
| `MMPRETRAIN_DIR`     | open-mmlab/mmpretrain       | `mmpretrain/`               |
| `DALL_E_DIR`         | openai/DALL-E               | `dall_e/`                   |
| `VIDEOMAE_DIR`       | MCG-NJU/VideoMAE            | `modeling_pretrain.py`      |
| `DETECTRON2_DIR`     | facebookresearch/detectron2 | `detectron2/`               |
| `TOKEN_LABELING_DIR` | zihangJiang/TokenLabeling   | `tlt/`, `generate_label.py` |
| `ACTIVITYNET_DIR`    | activitynet/ActivityNet     | `Evaluation/`               |

detectron2 need not be compiled. `TRANSFORMERS_4_DIR` is not a checkout but a folder into which pip
has installed transformers 4 (`pip install --target`), as another version is installed in the
environment.

Their modules import many packages that are never called here; empty stand-ins replace these while a
module is imported and are removed afterwards. The required classes of timm are in `timm_parts.py`.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import functools
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import types
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any

import numpy as np

STOOD_IN = {
    "av",
    "cv2",
    "detectron2",
    "fairscale",
    "fvcore",
    "iopath",
    "matplotlib",
    "pandas",
    "psutil",
    "pytorchvideo",
    "simplejson",
    "sklearn",
    "tensorboard",
    "torchvision",
    # Modules of the originals: logging and third-party models, not used here.
    "slowfast.models.ptv_model_builder",
    "slowfast.utils.misc",
}


# A file that identifies a checkout.
KNOWN_BY = {
    "SLOWFAST_DIR": "slowfast/models/masked.py",
    "MAE_ST_DIR": "util/video_vit.py",
    "MAE_DIR": "util/lars.py",
    "VIDEOMAE_DIR": "modeling_pretrain.py",
    "DETECTRON2_DIR": "detectron2/modeling/backbone/vit.py",
    "MMPRETRAIN_DIR": "mmpretrain/models/selfsup/maskfeat.py",
    "DALL_E_DIR": "dall_e/encoder.py",
    "TOKEN_LABELING_DIR": "tlt/data/mixup.py",
    "ACTIVITYNET_DIR": "Evaluation/get_ava_performance.py",
    "TRANSFORMERS_4_DIR": "transformers/models/videomae/feature_extraction_videomae.py",
}


def available(name: str = "SLOWFAST_DIR") -> bool:
    """Whether torch and the package are installed, or the variable is set to a checkout."""
    if not importlib.util.find_spec("torch"):
        return False
    if name not in KNOWN_BY:
        return importlib.util.find_spec(name) is not None
    folder = os.environ.get(name, "")
    return bool(folder) and (Path(folder) / KNOWN_BY[name]).exists()


def make_importable(name: str) -> None:
    """Makes an original importable under its usual name.

    Args:
      name: of a variable, as for `available`, or of a package.

    Raises:
      ValueError: torch is not installed, or the variable is not set to a checkout.
    """
    let_torchvision_import()
    if name == "SLOWFAST_DIR":
        for module in ("slowfast.config.defaults", "slowfast.models.masked"):
            original(module)
    elif name == "MAE_ST_DIR":
        for module in ("models_mae", "models_vit"):
            mae_st(module)
    elif name == "VIDEOMAE_DIR":
        videomae("modeling_pretrain")
    elif name in KNOWN_BY:
        folder = _checkout(name)
        if folder not in sys.path:
            sys.path.append(folder)
    if name in _UNUSED:
        module, stood_in = _UNUSED[name]
        with stand_ins(stood_in):
            importlib.import_module(module)


# Missing modules of OpenMMLab packages, or of their dependencies, that are never called here.
_UNUSED = {
    "MMPRETRAIN_DIR": ("mmpretrain.models", {"modelindex", "mat4py"}),
    "DALL_E_DIR": ("dall_e", {"requests"}),
    "mmseg": ("mmseg.models.backbones.mae", {"mmcv.ops"}),
    "mmaction": (
        "mmaction.models",
        {"decord", "mmaction.models.localizers.drn", "mmaction.models.multimodal"},
    ),
}


@functools.cache
def let_torchvision_import() -> Any:
    """Declares the compiled operators of torchvision if those of its wheel cannot be loaded.

    Without them torchvision, timm and transformers cannot be imported; MViT calls none.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return None
    import torch

    with contextlib.suppress(OSError, StopIteration):
        torch.ops.load_library(str(next(Path(spec.origin).parent.glob("_C*"))))
        return None
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms", "roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool"):
        library.define(f"{name}(Tensor a) -> Tensor")
        library.define(f"_{name}_backward(Tensor a) -> Tensor")
    library.define("deform_conv2d(Tensor a) -> Tensor")
    library.define("_deform_conv2d_backward(Tensor a) -> Tensor")
    return library  # the declarations exist as long as it does


def original(name: str) -> types.ModuleType:
    """A module of PySlowFast, e.g. `original("slowfast.models.masked")`.

    Raises:
      ValueError: torch is not installed, or `SLOWFAST_DIR` is not a checkout.
    """
    folder = _checkout("SLOWFAST_DIR")
    if folder not in sys.path:
        sys.path.append(folder)
    with stand_ins(STOOD_IN):
        return importlib.import_module(name)


def mae_st(name: str) -> types.ModuleType:
    """A module of mae_st, MAE for video, e.g. `mae_st("models_mae")`.

    Raises:
      ValueError: torch is not installed, or `MAE_ST_DIR` is not a checkout.
    """
    # Its modules import the checkout as `mae_st`; its logging has many dependencies.
    return _module("mae_st", _checkout("MAE_ST_DIR"), name, {"mae_st.util.logging"})


def videomae(name: str) -> types.ModuleType:
    """A module of VideoMAE, e.g. `videomae("modeling_finetune")`.

    With timm it would replace models of that package which have the same names.

    Raises:
      ValueError: torch is not installed, or `VIDEOMAE_DIR` is not a checkout.
    """
    from bench import timm_parts

    folder = _checkout("VIDEOMAE_DIR")
    if folder not in sys.path:
        sys.path.append(folder)
    with stand_ins({"timm"}, timm__models__layers=_public(timm_parts)):
        return importlib.import_module(name)


def mae(name: str) -> types.ModuleType:
    """A module of image MAE, e.g. `mae("models_mae")`.

    Raises:
      ValueError: torch is not installed, or `MAE_DIR` is not a checkout.
    """
    folder = _checkout("MAE_DIR")
    positions = _module("image_mae", folder, "util.pos_embed")
    # `np.float`, which NumPy 1.24 removed, was an alias of Python's float.
    positions.np = types.SimpleNamespace(**vars(np), float=float)  # type: ignore[attr-defined]
    return _module("image_mae", folder, name, {"util"}, util__pos_embed=_public(positions))


def _checkout(variable: str) -> str:
    if not available(variable):
        raise ValueError(f"needs torch, and {variable}=<a folder with {KNOWN_BY[variable]}>")
    return os.environ[variable]


def _module(
    package: str, folder: str, name: str, stood_in: Set[str] = frozenset(), **contents: Any
) -> types.ModuleType:
    """A module of a folder imported as a package, with stand-ins for timm and `stood_in`."""
    from bench import timm_parts

    if package not in sys.modules:
        sys.modules[package] = types.ModuleType(package)
        sys.modules[package].__path__ = [folder]
    timm = _public(timm_parts)
    contents |= {"timm__models__layers": timm, "timm__models__vision_transformer": timm}
    with stand_ins({"timm", *stood_in}, **contents):
        return importlib.import_module(f"{package}.{name}")


def _public(module: types.ModuleType) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if not name.startswith("_")}


def recipe(path: str, **changes: Any) -> Any:
    """The settings of a file in `configs/`; `SOLVER__BASE_LR=1` sets `SOLVER.BASE_LR`."""
    import yaml

    settings = original("slowfast.config.defaults").get_cfg()
    text = (Path(os.environ["SLOWFAST_DIR"]) / "configs" / path).read_text()
    settings.merge(yaml.safe_load(text))
    for name, value in {"NUM_GPUS": 0, **changes}.items():
        *sections, key = name.split("__")
        section = settings
        for outer in sections:
            section = section[outer]
        section[key] = value
    return settings


@contextlib.contextmanager
def stand_ins(names: set[str], **contents: dict[str, Any]) -> Iterator[None]:
    """Replaces modules and their submodules by empty ones while the block runs.

    Args:
      names: dotted names of modules; those already imported are restored afterwards.
      **contents: attributes of a module, by its name with `__` for dots.
    """
    finder = _Finder(names, {k.replace("__", "."): v for k, v in contents.items()})
    real = {name: sys.modules.pop(name) for name in list(sys.modules) if finder.stands_in(name)}
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in finder.made:
            sys.modules.pop(name, None)
        sys.modules.update(real)


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Import hook that creates stand-ins."""

    def __init__(self, names: set[str], contents: dict[str, dict[str, Any]]):
        self.names, self.contents, self.made = names, {**_KNOWN, **contents}, set[str]()

    def stands_in(self, fullname: str) -> bool:
        """Whether the module is one of `names` or a submodule of one."""
        levels = fullname.split(".")
        return any(".".join(levels[: i + 1]) in self.names for i in range(len(levels)))

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        if not self.stands_in(fullname):
            return None
        self.made.add(fullname)
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: Any) -> types.ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        module.__dict__.update(self.contents.get(module.__name__, {}))


class _StandIn(types.ModuleType):
    """A module whose attributes are all `_Anything`."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything


class _AnythingType(type):
    """Metaclass that returns the class for any attribute."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return cls


class _Anything(metaclass=_AnythingType):
    """Usable as base class, callable or decorator, without effect."""

    def __init__(self, *args: Any, **settings: Any):
        pass

    def __call__(self, *args: Any, **settings: Any) -> Any:
        return args[0] if args else None


class _Settings(dict):
    """Nested settings with attribute access."""

    def __getattr__(self, name: str) -> Any:
        if name not in self:
            raise AttributeError(name)
        return self[name]

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def clone(self) -> _Settings:
        return copy.deepcopy(self)

    def merge(self, changes: dict[str, Any]) -> None:
        for key, value in changes.items():
            if isinstance(value, dict):
                self.setdefault(key, _Settings()).merge(value)
            else:
                self[key] = _literal(value)


def _literal(value: Any) -> Any:
    """Numbers that YAML reads as text, such as 1e-6."""
    with contextlib.suppress(ValueError, SyntaxError):
        return ast.literal_eval(value) if isinstance(value, str) else value
    return value


class _Table:
    """Registry of classes by name."""

    def __init__(self, name: str):
        self._members: dict[str, Any] = {}

    def register(self, member: Any = None) -> Any:
        if member is None:
            return self.register
        self._members[member.__name__] = member
        return member

    def get(self, name: str) -> Any:
        return self._members[name]


def _roi_align(*args: Any, **settings: Any) -> Any:
    """The layer of detectron2, which calls this operator."""
    from torchvision.ops import RoIAlign

    return RoIAlign(*args, **settings)


_KNOWN: dict[str, dict[str, Any]] = {
    "detectron2.layers": {"ROIAlign": _roi_align},
    "fvcore.common.config": {"CfgNode": _Settings},
    "fvcore.common.registry": {"Registry": _Table},
}
