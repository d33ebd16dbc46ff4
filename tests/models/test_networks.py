import inspect
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torchvision
from omegaconf import OmegaConf

from fedlit.core.errors import ConfigError
from fedlit.experiment.config.instantiate import instantiate_checked
from fedlit.models import MLP, CharLSTM, Classifier, LeNet, Logistic, McMahanCNN, ResNet18, SimpleCNN

CONF = Path(__file__).parents[2] / "conf" / "model"


def parameters(network):
    return sum(p.numel() for p in network.parameters())


with torch.device("meta"):  # counting parameters needs no initial values
    COUNTS = [
        (SimpleCNN([3, 32, 32], 10), 545_098),
        (SimpleCNN([3, 32, 32], 10, norm="batch"), 545_290),
        (SimpleCNN([3, 32, 32], 10, norm="group"), 545_290),
        (McMahanCNN([1, 28, 28], 10), 1_663_370),
        (LeNet([1, 28, 28], 10), 44_426),
        (LeNet([3, 32, 32], 10), 62_006),
        (ResNet18([3, 32, 32], 10, norm="batch"), 11_173_962),
        (ResNet18([3, 32, 32], 10, norm="group"), 11_173_962),
        (ResNet18([1, 28, 28], 62), 11_173_962 - 2 * 9 * 64 + 52 * 513),
        (CharLSTM([80], 80), 819_920),
        (CharLSTM([5], 3, embedding=2, hidden=4, layers=1), 3 * 2 + 4 * 4 * (2 + 4 + 2) + 3 * (4 + 1)),
        (MLP([1, 28, 28], 10), 199_210),
        (Logistic([13], 2), 14),
        (Logistic([1, 28, 28], 10), 7850),
    ]


@pytest.mark.parametrize(("network", "count"), COUNTS)
def test_networks_have_the_expected_parameter_counts(network, count):
    assert parameters(network) == count


@pytest.mark.parametrize("shape", [[1, 8, 8], [3, 32, 32], [4, 5, 9]])
@pytest.mark.parametrize("norm", ["none", "batch", "group"])
def test_simple_cnn_takes_any_channels_sizes_and_classes(shape, norm):
    assert SimpleCNN(shape, 7, norm=norm)(torch.randn(2, *shape)).shape == (2, 7)


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (McMahanCNN, [1, 4, 4]),
        (McMahanCNN, [3, 32, 32]),
        (McMahanCNN, [2, 7, 10]),
        (LeNet, [1, 16, 16]),
        (LeNet, [3, 32, 32]),
        (LeNet, [2, 17, 30]),
        (ResNet18, [1, 8, 8]),
        (ResNet18, [4, 9, 20]),
    ],
)
def test_the_papers_networks_take_any_channels_sizes_and_classes(network, shape):
    assert network(shape, 7)(torch.randn(2, *shape)).shape == (2, 7)


@pytest.mark.parametrize(("network", "buffers"), [(SimpleCNN, 2 * 3), (ResNet18, 20 * 3)])
def test_batch_norm_has_buffers_and_group_norm_has_none(network, buffers):
    with torch.device("meta"):
        assert len(list(network([1, 9, 9], 2, norm="batch").buffers())) == buffers
        assert not list(network([1, 9, 9], 2, norm="group").buffers())


def test_simple_cnn_equals_the_tutorials_layer_by_layer():
    torch.manual_seed(0)
    ours = SimpleCNN([3, 32, 32], 10).eval()
    tensors = dict(ours.named_parameters())
    x = torch.randn(2, 3, 32, 32)
    h = x
    for weight, bias in (("features.0.weight", "features.0.bias"), ("features.3.weight", "features.3.bias")):
        h = torch.max_pool2d(torch.relu(torch.conv2d(h, tensors[weight], tensors[bias], padding=1)), 2)
    h = torch.relu(h.flatten(1) @ tensors["classifier.1.weight"].T + tensors["classifier.1.bias"])
    h = h @ tensors["classifier.4.weight"].T + tensors["classifier.4.bias"]
    assert torch.allclose(ours(x), h, atol=1e-5)
    assert ours.classifier[3].p == 0.5


def test_mcmahans_cnn_equals_the_papers_layer_by_layer():
    torch.manual_seed(0)
    ours = McMahanCNN([1, 28, 28], 10)
    w1, b1, w2, b2, w3, b3, w4, b4 = ours.parameters()
    x = torch.randn(2, 1, 28, 28)
    h = F.max_pool2d(F.relu(F.conv2d(x, w1, b1, padding=2)), 2)
    h = F.max_pool2d(F.relu(F.conv2d(h, w2, b2, padding=2)), 2)
    assert (w1.shape, h.shape[1:]) == ((32, 1, 5, 5), (64, 7, 7))
    h = F.relu(F.linear(h.flatten(1), w3, b3))
    assert torch.allclose(ours(x), F.linear(h, w4, b4), atol=1e-5)


@pytest.mark.parametrize(("shape", "side"), [([1, 28, 28], 4), ([3, 32, 32], 5)])
def test_lenet_equals_niid_benchs_layer_by_layer(shape, side):
    torch.manual_seed(0)
    ours = LeNet(shape, 10)
    w1, b1, w2, b2, w3, b3, w4, b4, w5, b5 = ours.parameters()
    x = torch.randn(2, *shape)
    h = F.max_pool2d(F.relu(F.conv2d(x, w1, b1)), 2)
    h = F.max_pool2d(F.relu(F.conv2d(h, w2, b2)), 2)
    assert (w1.shape, h.shape[1:]) == ((6, shape[0], 5, 5), (16, side, side))
    h = F.relu(F.linear(h.flatten(1), w3, b3))
    h = F.relu(F.linear(h, w4, b4))
    assert torch.allclose(ours(x), F.linear(h, w5, b5), atol=1e-5)


def test_resnet18_equals_torchvisions_except_for_its_stem():
    torch.manual_seed(0)
    ours, theirs = (
        ResNet18([3, 16, 16], 10, norm="batch").eval(),
        torchvision.models.resnet18(weights=None, num_classes=10).eval(),
    )
    weights = {name.removeprefix("network."): tensor for name, tensor in ours.state_dict().items()}
    stem = weights.pop("conv1.weight")
    assert theirs.load_state_dict(weights, strict=False) == (["conv1.weight"], [])
    x = torch.randn(2, 3, 16, 16)
    h = theirs.relu(theirs.bn1(F.conv2d(x, stem, padding=1)))
    for layer, side in ((theirs.layer1, 16), (theirs.layer2, 8), (theirs.layer3, 4), (theirs.layer4, 2)):
        h = layer(h)
        assert h.shape[2:] == (side, side)
    assert torch.allclose(ours(x), theirs.fc(h.mean((2, 3))), atol=1e-5)


def test_resnet18s_stem_is_initialised_as_torchvisions_convolutions():
    torch.manual_seed(0)
    stem = ResNet18([3, 32, 32], 10).network.conv1.weight
    assert stem.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)


@pytest.mark.parametrize("groups", [1, 2, 32])
def test_the_groups_of_resnet18_can_be_chosen(groups):
    with torch.device("meta"):
        resnet, default = ResNet18([3, 8, 8], 10, groups=groups), ResNet18([3, 8, 8], 10)
    norms = [m for m in resnet.modules() if isinstance(m, torch.nn.GroupNorm)]
    assert [norm.num_groups for norm in norms] == [groups] * 20
    assert {m.num_groups for m in default.modules() if isinstance(m, torch.nn.GroupNorm)} == {2}


def test_the_smallest_images_of_resnet18_train_one_at_a_time():
    for norm, side in (("batch", 9), ("group", 8)):
        ResNet18([1, side, side], 3, norm=norm).train()(torch.randn(1, 1, side, side)).sum().backward()


def test_the_next_character_depends_on_the_order_and_on_every_character():
    torch.manual_seed(0)
    network = CharLSTM([4], 7)
    x = torch.tensor([[1, 2, 3, 4], [2, 1, 3, 4], [0, 2, 3, 4], [1, 2, 3, 5]])
    logits = network(x)
    assert logits.shape == (4, 7)
    for other in logits[1:]:
        assert not torch.allclose(logits[0], other, atol=1e-6)
    assert torch.allclose(network(x[:1]), logits[:1], atol=1e-6)  # texts are independent of each other


def test_characters_are_looked_up_in_the_embedding():
    network = CharLSTM([3], 5)
    with pytest.raises(RuntimeError):
        network(torch.zeros(2, 3))
    with pytest.raises(IndexError):
        network(torch.tensor([[0, 1, 5]]))
    network(torch.tensor([[0, 3, 3]])).sum().backward()
    assert network.embedding.weight.grad.abs().sum(1).gt(0).tolist() == [True, False, False, True, False]


def test_the_next_characters_logits_equal_the_lstms_equations():
    torch.manual_seed(0)
    ours = CharLSTM([3], 5, embedding=2, hidden=4)
    x = torch.tensor([[0, 4, 2], [3, 3, 1]])
    series = list(ours.embedding.weight[x].unbind(1))
    for layer in range(2):
        names = [f"{kind}_l{layer}" for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        w, u, b, c = (getattr(ours.lstm, name) for name in names)
        h, cell = torch.zeros(2, 4), torch.zeros(2, 4)
        for step, value in enumerate(series):
            i, f, g, o = (value @ w.T + h @ u.T + b + c).chunk(4, 1)
            cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
            h = series[step] = o.sigmoid() * cell.tanh()
    assert torch.allclose(ours(x), F.linear(series[-1], ours.output.weight, ours.output.bias), atol=1e-6)


def test_the_classifier_trains_on_characters():
    torch.manual_seed(0)
    module = Classifier("fedlit.models.CharLSTM", [6], 9, {"name": "sgd", "lr": 0.8}, hidden=8)
    module.log = lambda *_, **__: None
    batch = torch.randint(9, (5, 6)), torch.randint(9, (5,))
    optimizer = module.configure_optimizers()
    before = module.training_step(batch, 0)
    before.backward()
    optimizer.step()
    assert module.training_step(batch, 0) < before


def test_two_classes_have_one_logit_in_logistic_regression():
    assert Logistic([13], 2)(torch.randn(5, 13)).shape == (5, 1)
    assert Logistic([13], 3)(torch.randn(5, 13)).shape == (5, 3)


def test_hidden_layers_can_be_chosen():
    assert parameters(MLP([4], 2, hidden=[3])) == 4 * 3 + 3 + 3 * 2 + 2


@pytest.mark.parametrize(
    ("network", "key", "arguments"),
    [
        (SimpleCNN, "shape", {"shape": [1, 3, 3]}),
        (SimpleCNN, "shape", {"shape": [10]}),
        (SimpleCNN, "norm", {"shape": [1, 8, 8], "norm": "bacth"}),
        (McMahanCNN, "shape", {"shape": [1, 3, 8]}),
        (McMahanCNN, "shape", {"shape": [28, 28]}),
        (LeNet, "shape", {"shape": [1, 15, 28]}),
        (LeNet, "shape", {"shape": [1, 28, 15]}),
        (ResNet18, "shape", {"shape": [3, 7, 32]}),
        (ResNet18, "shape", {"shape": [3, 8, 8], "norm": "batch"}),
        (ResNet18, "shape", {"shape": [1024]}),
        (ResNet18, "norm", {"shape": [3, 32, 32], "norm": "none"}),
        (ResNet18, "groups", {"shape": [3, 32, 32], "groups": 3}),
        (ResNet18, "groups", {"shape": [3, 32, 32], "groups": 0}),
        (CharLSTM, "shape", {"shape": [1, 8, 8]}),
        (CharLSTM, "shape", {"shape": [0]}),
        (CharLSTM, "hidden", {"shape": [80], "hidden": 0}),
        (CharLSTM, "layers", {"shape": [80], "layers": 0}),
        (CharLSTM, "embedding", {"shape": [80], "embedding": -1}),
    ],
)
def test_wrong_values_are_named(network, key, arguments):
    with pytest.raises(ConfigError) as error:
        network(**{"classes": 2, **arguments})
    assert error.value.key == key


@pytest.mark.parametrize(
    ("choice", "network", "shape"),
    [
        ("simple_cnn", SimpleCNN, [3, 32, 32]),
        ("cnn_mcmahan", McMahanCNN, [1, 28, 28]),
        ("lenet", LeNet, [1, 28, 28]),
        ("resnet18", ResNet18, [3, 32, 32]),
        ("char_lstm", CharLSTM, [80]),
        ("mlp", MLP, [1, 28, 28]),
        ("logistic", Logistic, [13]),
    ],
)
def test_a_models_yaml_lists_every_argument_with_the_networks_default(choice, network, shape):
    node = OmegaConf.to_container(OmegaConf.load(CONF / f"{choice}.yaml"))
    assert node.pop("init_from") is None
    module = instantiate_checked({**node, "shape": shape, "classes": 10})
    assert type(module.network) is network
    assert module.configure_optimizers().defaults["lr"] == node["optimizer"]["lr"]
    for name, parameter in list(inspect.signature(network).parameters.items())[2:]:
        default = parameter.default
        assert node[name] == (list(default) if isinstance(default, tuple) else default)


@pytest.mark.parametrize("network", [SimpleCNN, McMahanCNN, LeNet])
def test_a_network_for_images_names_the_models_for_texts_and_tables(network):
    with pytest.raises(ConfigError) as error:
        network((80,), 65)
    assert error.value.hint == "model=char_lstm reads texts; model=mlp and model=logistic read tables of features"
    with pytest.raises(ConfigError, match=r"data\.size"):
        network((1, 2, 2), 10)
