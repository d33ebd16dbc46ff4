import warnings

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer

from fedlit.core.errors import ConfigError
from fedlit.data import TensorSamples
from fedlit.models import Classifier


def make(network="Logistic", classes=3, **more):
    return Classifier(f"fedlit.models.{network}", [4], classes, {"name": "sgd", "lr": 0.1, **more})


@pytest.mark.parametrize("network", ["Logistic", "MLP"])
@pytest.mark.parametrize("classes", [2, 3])
def test_loss_and_accuracy_equal_their_formulas(network, classes):
    torch.manual_seed(0)
    module = make(network, classes)
    logged = {}
    module.log = lambda name, value, **_: logged.update({name: value})
    x, y = torch.randn(20, 4), torch.randint(classes, (20,))
    loss = module.training_step((x, y), 0)
    logits = module(x)
    if logits.shape[1] == 1:
        logits = torch.cat([torch.zeros_like(logits), logits], 1)  # softmax over (0, l) is the sigmoid of l
    assert torch.allclose(loss, F.cross_entropy(logits, y), atol=1e-6)
    assert float(logged["train/accuracy"].compute()) == pytest.approx((logits.argmax(1) == y).float().mean().item())


def test_optimizers_and_schedulers_are_found_by_name_in_any_case():
    assert isinstance(make().configure_optimizers(), torch.optim.SGD)
    module = Classifier(
        "fedlit.models.MLP",
        [4],
        3,
        {"name": "AdamW", "lr": 0.1},
        {"name": "steplr", "step_size": 2, "interval": "step"},
    )
    configured = module.configure_optimizers()
    assert isinstance(configured["optimizer"], torch.optim.AdamW)
    assert configured["lr_scheduler"]["interval"] == "step"
    assert configured["lr_scheduler"]["scheduler"].step_size == 2


def test_an_unknown_optimizer_is_an_error_with_the_nearest_name():
    with pytest.raises(ConfigError, match="did you mean adam"):
        Classifier("fedlit.models.MLP", [4], 3, {"name": "adamm", "lr": 0.1})


@pytest.mark.slow
def test_lightning_trains_it_and_its_checkpoint_opens_with_weights_only(tmp_path):
    module = make("MLP")
    x = torch.randn(32, 4)
    rows = TensorSamples(x, torch.randint(3, (32,))).batches(None, 8)
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's own warnings, such as that about LeafSpec
        trainer.fit(module, rows, rows)
    assert {"train/loss", "train/accuracy", "val/loss", "val/accuracy"} <= set(trainer.callback_metrics)
    trainer.save_checkpoint(tmp_path / "m.ckpt")
    loaded = Classifier.load_from_checkpoint(tmp_path / "m.ckpt", weights_only=True)
    assert torch.equal(loaded(x), module(x))


@pytest.mark.parametrize("name", ["partial", "Counter", "Tensor"])
def test_other_classes_of_the_schedulers_module_are_no_schedulers(name):
    with pytest.raises(ConfigError, match=r"is not a class of torch\.optim\.lr_scheduler"):
        Classifier("fedlit.models.MLP", [4], 3, {"name": "sgd", "lr": 0.1}, {"name": name})
